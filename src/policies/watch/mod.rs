//! The plan in force, and the watch over the file it comes from.
//!
//! ```text
//! directory event, poll --> read --> same digest? done : prepare --good--> swap, persist as last good
//!          the API server's offer ----^                    `------bad----> the last good stays, reported
//! ```
//!
//! The directory is watched, not the file: a mounted ConfigMap swaps the link `..data`, editors rename.
//! Not here: what makes a text good (the caller's `prepare`), and who asks the API server (`kubernetes`). Invariant: the plan in force is always a
//! good one, and whoever loads it once sees one revision.

mod directory;
mod file;
mod sources;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::plan::Plan;
use crate::tasks::Scope;
use crate::yaml::{Problems, Source};

use directory::Events;
pub(super) use file::sha256;
use file::{File, Seen, absent};
use sources::Sources;

/// How long after an event the file is read: long enough for a writer's events to come together, short
/// enough that nobody waits for it.
const SETTLE: Duration = Duration::from_millis(10);
/// How long a bad file may still be in the middle of being written before it is reported.
const DOUBT: Duration = Duration::from_millis(50);
/// How often a bad file that keeps changing is looked at before it is reported.
const DOUBTS: usize = 10;

/// Checks, compiles and tests a text; also returns warnings.
pub type Prepare = dyn Fn(&Source) -> Result<(Plan, Problems), Problems> + Send + Sync;

/// Where the policies are and how often to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// How often to look without an event.
    pub poll_interval: Duration,
    /// Where the last good text is kept over restarts.
    pub last_good: Option<PathBuf>,
}

/// What is in force and how the last reload went.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// `revision` of the plan in force.
    pub revision: Option<String>,
    /// The digest of the plan in force.
    pub sha256: String,
    /// Where its text was found.
    pub origin: Origin,
    /// Since when it is in force.
    pub since: Timestamp,
    /// How many plans came into force, the first included.
    pub revisions: u64,
    /// Whether the file as it is now is the one in force.
    pub last_reload_success: bool,
    /// How long the last reload took, from reading to the swap.
    pub reload_duration: Duration,
    /// What is questionable about the plan in force.
    pub warnings: Problems,
    /// The text that was refused, until a good one comes.
    pub refused: Option<Refused>,
}

/// A text that did not come into force.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Its digest; `None` if it could not be read at all.
    pub sha256: Option<String>,
    /// Where it was found.
    pub origin: Origin,
    /// When it was looked at.
    pub at: Timestamp,
    /// Why.
    pub problems: Problems,
}

/// The plan in force.
pub struct InForce {
    plan: ArcSwap<Plan>,
    status: watch::Sender<Arc<Status>>,
    file: Option<File>,
    /// Held while a text is looked at, so that two sources take turns.
    sources: Mutex<Sources>,
}

/// Where a text was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// A path or a ConfigMap, for people.
    pub name: String,
    /// The resource version of the ConfigMap.
    pub version: Option<u64>,
}

/// What the API server says of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Where it was found; without a version there is no such object.
    pub origin: Origin,
    /// Whether a list said so; else a watch.
    pub listed: bool,
    /// The text, or why there is none.
    pub text: Result<String, String>,
}

/// What looking at the file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The text is the one in force, or was refused before.
    Same,
    /// A new plan is in force.
    Swapped,
    /// The last good plan stays.
    Refused,
}

impl InForce {
    /// A plan without a file.
    pub fn fixed(plan: Plan) -> Arc<Self> {
        Arc::new(Self::new(
            plan,
            Origin { name: "embedded".to_owned(), version: None },
            Problems::new(),
            None,
        ))
    }

    /// Loads the file, or in its place the last good text.
    ///
    /// # Errors
    /// What is wrong with the file, if there is no last good text either; the program cannot start.
    pub fn load(place: Place, prepare: Box<Prepare>) -> Result<Arc<Self>, Problems> {
        let begin = Instant::now();
        let file = File { place, prepare };
        let (origin, read) = (file.origin(), file.read());
        let prepared = read.as_ref().map_err(|error| file.unreadable(error));
        match prepared.and_then(|seen| file.prepared(&origin.name, seen)) {
            Ok((plan, warnings)) => {
                if let Ok(seen) = &read {
                    file.persist(seen);
                }
                let in_force = Self::new(plan, origin, warnings, Some(file));
                in_force.status.send_modify(|status| Arc::make_mut(status).reload_duration = begin.elapsed());
                Ok(Arc::new(in_force))
            }
            Err(problems) => {
                let Some((kept, plan, warnings)) = file.last_good() else { return Err(problems) };
                let in_force = Self::new(plan, kept, warnings, Some(file));
                in_force.refuse(read.ok().map(|seen| seen.sha256), &origin, problems, begin);
                Ok(Arc::new(in_force))
            }
        }
    }

    fn new(plan: Plan, origin: Origin, warnings: Problems, file: Option<File>) -> Self {
        log(&warnings);
        let status = Status {
            revision: plan.revision.clone(),
            sha256: plan.sha256.clone(),
            origin,
            since: Timestamp::now(),
            revisions: 1,
            last_reload_success: true,
            reload_duration: Duration::ZERO,
            warnings,
            refused: None,
        };
        Self {
            plan: ArcSwap::from_pointee(plan),
            status: watch::Sender::new(Arc::new(status)),
            file,
            sources: Mutex::default(),
        }
    }

    /// The plan in force. Load it once per request and keep it: the next load may give another.
    pub fn plan(&self) -> Guard<Arc<Plan>> {
        self.plan.load()
    }

    /// The plan in force, to be kept for longer.
    pub fn plan_arc(&self) -> Arc<Plan> {
        self.plan.load_full()
    }

    /// What is in force and how the last reload went.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Follows the status: it changes with every reload, good or bad.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Starts the task that watches the file; without a file there is none. The texts are prepared on
    /// the runtime's blocking threads, so any runtime will do.
    pub fn watch(self: &Arc<Self>, scope: &Scope) {
        let Some(file) = &self.file else { return };
        let (mut events, watcher) = Events::start(&file.place.path);
        let (in_force, token) = (self.clone(), scope.token().clone());
        let interval = file.place.poll_interval;
        scope.spawn("policies.watch", async move {
            let watched = in_force.follow(&mut events, watcher, interval);
            token.run_until_cancelled(watched).await;
        });
    }

    async fn follow(
        self: &Arc<Self>,
        events: &mut mpsc::Receiver<()>,
        mut watcher: Events,
        interval: Duration,
    ) {
        // Between loading and watching the file may have changed: the first tick comes at once.
        let mut poll = tokio::time::interval(interval);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => watcher.attach(),
                Some(()) = events.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    // What came while the writer was busy is answered by this look.
                    while events.try_recv().is_ok() {}
                }
            }
            self.look_twice().await;
        }
    }

    /// Looks at the file, and again before it reports a bad one that changes while it is looked at.
    async fn look_twice(self: &Arc<Self>) {
        let mut last = None;
        for _ in 0..DOUBTS {
            let in_force = self.clone();
            let looked = tokio::task::spawn_blocking(move || in_force.look(last)).await;
            match looked {
                Ok(Err(seen)) => last = Some(seen),
                Ok(Ok(_)) | Err(_) => return,
            }
            tokio::time::sleep(DOUBT).await;
        }
    }

    /// Reads the file and acts on it now. A bad file is reported at once.
    pub fn reload(&self) -> Look {
        let sources = self.sources();
        let Some(file) = &self.file else { return Look::Same };
        if sources.is_file_behind(Instant::now()) {
            return Look::Same;
        }
        let begin = Instant::now();
        let read = file.read();
        match self.is_known(&read) || self.is_back(&read) {
            true => Look::Same,
            false => self.take(file, &file.origin(), read, begin),
        }
    }

    /// As [`InForce::reload`], but a bad text is reported only if it is the one seen `before`;
    /// otherwise it is returned, to be looked at again.
    fn look(&self, before: Option<Option<String>>) -> Result<Look, Option<String>> {
        let sources = self.sources();
        let Some(file) = &self.file else { return Ok(Look::Same) };
        if sources.is_file_behind(Instant::now()) {
            return Ok(Look::Same);
        }
        let begin = Instant::now();
        let (origin, read) = (file.origin(), file.read());
        if self.is_known(&read) || self.is_back(&read) {
            return Ok(Look::Same);
        }
        let digest = read.as_ref().ok().map(|seen| seen.sha256.clone());
        let is_good = || read.as_ref().is_ok_and(|seen| file.prepared(&origin.name, seen).is_ok());
        if before.as_ref() != Some(&digest) && !is_good() {
            return Err(digest);
        }
        Ok(self.take(file, &origin, read, begin))
    }

    /// Acts on what the API server says. From now on the file is not listened to as long as
    /// [`InForce::api_followed`] was said last, and two minutes after [`InForce::api_lost`]. It blocks while the
    /// text is prepared.
    pub fn offer(&self, offer: Offer) -> Look {
        let mut sources = self.sources();
        let Some(file) = &self.file else { return Look::Same };
        sources.followed();
        match offer.origin.version {
            Some(version) if !sources.is_news(version, offer.listed) => return Look::Same,
            None if !sources.knows_object() => {
                let origin = offer.origin.name;
                tracing::warn!(name: "policies.no_config_map", origin, "there is no such ConfigMap; the file is followed");
                return Look::Same;
            }
            _ => {}
        }
        let begin = Instant::now();
        let text = match offer.text {
            Ok(text) => Ok(Seen::new(text)),
            Err(why) => Err(io::Error::new(io::ErrorKind::NotFound, why)),
        };
        match self.is_known(&text) || self.is_back(&text) {
            true => Look::Same,
            false => self.take(file, &offer.origin, text, begin),
        }
    }

    /// The API server is followed: what it said last holds.
    pub fn api_followed(&self) {
        self.sources().followed();
    }

    /// The API server does not answer.
    pub fn api_lost(&self) {
        self.sources().lost(Instant::now());
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this was acted on before.
    fn is_known(&self, read: &io::Result<Seen>) -> bool {
        let status = self.status();
        match (read, &status.refused) {
            (Ok(seen), Some(refused)) => refused.sha256.as_ref() == Some(&seen.sha256),
            (Ok(seen), None) => status.sha256 == seen.sha256,
            (Err(_), refused) => refused.as_ref().is_some_and(|refused| refused.sha256.is_none()),
        }
    }

    /// Whether the text in force has come back after a refused one, which is then forgotten.
    fn is_back(&self, read: &io::Result<Seen>) -> bool {
        let back = read.as_ref().is_ok_and(|seen| self.status().sha256 == seen.sha256);
        if back {
            self.status.send_modify(|status| {
                let status = Arc::make_mut(status);
                (status.last_reload_success, status.refused) = (true, None);
            });
        }
        back
    }

    fn take(&self, file: &File, origin: &Origin, read: io::Result<Seen>, begin: Instant) -> Look {
        let seen = match read {
            Ok(seen) => seen,
            Err(error) => {
                let problems = absent(&origin.name, format!("cannot be read: {error}"));
                return self.refuse(None, origin, problems, begin);
            }
        };
        match file.prepared(&origin.name, &seen) {
            Err(problems) => self.refuse(Some(seen.sha256), origin, problems, begin),
            Ok((plan, warnings)) => {
                self.accept(plan, origin, warnings, begin);
                file.persist(&seen);
                Look::Swapped
            }
        }
    }

    fn accept(&self, plan: Plan, origin: &Origin, warnings: Problems, begin: Instant) {
        let (revision, sha256) = (plan.revision.clone(), plan.sha256.clone());
        self.plan.store(Arc::new(plan));
        let reload_duration = begin.elapsed();
        tracing::info!(
            name: "policies.reloaded",
            revision, sha256, origin = origin.name, warnings = warnings.len(), ?reload_duration, "policies are in force"
        );
        log(&warnings);
        self.status.send_modify(|status| {
            *status = Arc::new(Status {
                revision,
                sha256,
                origin: origin.clone(),
                since: Timestamp::now(),
                revisions: status.revisions + 1,
                last_reload_success: true,
                reload_duration,
                warnings,
                refused: None,
            });
        });
    }

    fn refuse(&self, sha256: Option<String>, origin: &Origin, problems: Problems, begin: Instant) -> Look {
        let in_force = self.status();
        tracing::error!(
            name: "policies.refused",
            problems = problems.lines().join("\n"),
            in_force = in_force.sha256,
            revision = in_force.revision,
            origin = origin.name,
            "the policies file is refused; the last good one stays in force"
        );
        let reload_duration = begin.elapsed();
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.last_reload_success = false;
            status.reload_duration = reload_duration;
            let origin = origin.clone();
            status.refused = Some(Refused { sha256, origin, at: Timestamp::now(), problems });
        });
        Look::Refused
    }
}

fn log(warnings: &Problems) {
    for warning in warnings.lines() {
        tracing::warn!(name: "policies.warning", warning, "policies are questionable");
    }
}

#[cfg(test)]
mod tests;
