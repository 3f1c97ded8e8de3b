//! The plan in force, and the watch over the file it comes from.
//!
//! ```text
//! directory event, poll --> read --> same digest? done : prepare --good--> swap, persist as last good
//!                                                          `------bad----> the last good stays, reported
//! ```
//!
//! The directory is watched, not the file: a mounted ConfigMap swaps the link `..data`, editors rename.
//! Not here: what makes a text good (the caller's `prepare`). Invariant: the plan in force is always a
//! good one, and whoever loads it once sees one revision.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::document::MAX_BYTES;
use super::plan::Plan;
use crate::tasks::Scope;
use crate::yaml::{Location, Problems, Source};

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
}

struct File {
    place: Place,
    prepare: Box<Prepare>,
}

/// What was found at the file's place.
#[derive(PartialEq)]
struct Seen {
    text: String,
    sha256: String,
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
        Arc::new(Self::new(plan, Problems::new(), None))
    }

    /// Loads the file, or in its place the last good text.
    ///
    /// # Errors
    /// What is wrong with the file, if there is no last good text either; the program cannot start.
    pub fn load(place: Place, prepare: Box<Prepare>) -> Result<Arc<Self>, Problems> {
        let begin = Instant::now();
        let file = File { place, prepare };
        let read = file.read();
        let prepared = read.as_ref().map_err(|error| file.unreadable(error));
        match prepared.and_then(|seen| file.prepared(seen)) {
            Ok((plan, warnings)) => {
                if let Ok(seen) = &read {
                    file.persist(seen);
                }
                let in_force = Self::new(plan, warnings, Some(file));
                in_force.status.send_modify(|status| Arc::make_mut(status).reload_duration = begin.elapsed());
                Ok(Arc::new(in_force))
            }
            Err(problems) => {
                let Some((plan, warnings)) = file.last_good() else { return Err(problems) };
                let in_force = Self::new(plan, warnings, Some(file));
                in_force.refuse(read.ok().map(|seen| seen.sha256), problems, begin);
                Ok(Arc::new(in_force))
            }
        }
    }

    fn new(plan: Plan, warnings: Problems, file: Option<File>) -> Self {
        log(&warnings);
        let status = Status {
            revision: plan.revision.clone(),
            sha256: plan.sha256.clone(),
            since: Timestamp::now(),
            revisions: 1,
            last_reload_success: true,
            reload_duration: Duration::ZERO,
            warnings,
            refused: None,
        };
        Self { plan: ArcSwap::from_pointee(plan), status: watch::Sender::new(Arc::new(status)), file }
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
        let Some(file) = &self.file else { return Look::Same };
        let begin = Instant::now();
        let read = file.read();
        match self.is_known(&read) || self.is_back(&read) {
            true => Look::Same,
            false => self.take(file, read, begin),
        }
    }

    /// As [`InForce::reload`], but a bad text is reported only if it is the one seen `before`;
    /// otherwise it is returned, to be looked at again.
    fn look(&self, before: Option<Option<String>>) -> Result<Look, Option<String>> {
        let Some(file) = &self.file else { return Ok(Look::Same) };
        let begin = Instant::now();
        let read = file.read();
        if self.is_known(&read) || self.is_back(&read) {
            return Ok(Look::Same);
        }
        let digest = read.as_ref().ok().map(|seen| seen.sha256.clone());
        if before.as_ref() != Some(&digest) && !read.as_ref().is_ok_and(|seen| file.prepared(seen).is_ok()) {
            return Err(digest);
        }
        Ok(self.take(file, read, begin))
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

    fn take(&self, file: &File, read: io::Result<Seen>, begin: Instant) -> Look {
        let seen = match read {
            Ok(seen) => seen,
            Err(error) => return self.refuse(None, file.unreadable(&error), begin),
        };
        match file.prepared(&seen) {
            Err(problems) => self.refuse(Some(seen.sha256), problems, begin),
            Ok((plan, warnings)) => {
                self.accept(plan, warnings, begin);
                file.persist(&seen);
                Look::Swapped
            }
        }
    }

    fn accept(&self, plan: Plan, warnings: Problems, begin: Instant) {
        let (revision, sha256) = (plan.revision.clone(), plan.sha256.clone());
        self.plan.store(Arc::new(plan));
        let reload_duration = begin.elapsed();
        tracing::info!(
            name: "policies.reloaded",
            revision, sha256, warnings = warnings.len(), ?reload_duration, "policies are in force"
        );
        log(&warnings);
        self.status.send_modify(|status| {
            *status = Arc::new(Status {
                revision,
                sha256,
                since: Timestamp::now(),
                revisions: status.revisions + 1,
                last_reload_success: true,
                reload_duration,
                warnings,
                refused: None,
            });
        });
    }

    fn refuse(&self, sha256: Option<String>, problems: Problems, begin: Instant) -> Look {
        let in_force = self.status();
        tracing::error!(
            name: "policies.refused",
            problems = problems.lines().join("\n"),
            in_force = in_force.sha256,
            revision = in_force.revision,
            "the policies file is refused; the last good one stays in force"
        );
        let reload_duration = begin.elapsed();
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.last_reload_success = false;
            status.reload_duration = reload_duration;
            status.refused = Some(Refused { sha256, at: Timestamp::now(), problems });
        });
        Look::Refused
    }
}

impl File {
    fn read(&self) -> io::Result<Seen> {
        read_text(&self.place.path)
    }

    fn source(&self, text: String) -> Source {
        Source::new(self.place.path.display().to_string(), text)
    }

    fn prepared(&self, seen: &Seen) -> Result<(Plan, Problems), Problems> {
        (self.prepare)(&self.source(seen.text.clone()))
    }

    fn unreadable(&self, error: &io::Error) -> Problems {
        let mut problems = Problems::new();
        let place = Location::start_of(Arc::new(self.source(String::new())));
        let help = "a missing file is never \"no rules\"".to_owned();
        problems.error(&place, "", format!("cannot be read: {error}"), Some(help));
        problems
    }

    /// Keeps a good text for a start at which the file is bad. A failure costs only that.
    fn persist(&self, seen: &Seen) {
        let Some(path) = &self.place.last_good else { return };
        if read_text(path).is_ok_and(|kept| kept.sha256 == seen.sha256) {
            return;
        }
        if let Err(error) = write_whole(path, seen.text.as_bytes()) {
            let path = path.display();
            tracing::warn!(name: "policies.not_persisted", %path, %error, "the last good policies are not on disk");
        }
    }

    fn last_good(&self) -> Option<(Plan, Problems)> {
        let path = self.place.last_good.as_ref()?;
        let seen = read_text(path).ok()?;
        (self.prepare)(&Source::new(path.display().to_string(), seen.text)).ok()
    }
}

fn log(warnings: &Problems) {
    for warning in warnings.lines() {
        tracing::warn!(name: "policies.warning", warning, "policies are questionable");
    }
}

/// Reads a text of at most one byte more than policies may have, so that a huge file costs nothing.
fn read_text(path: &Path) -> io::Result<Seen> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_string(&mut text)?;
    let sha256 = sha256(&text);
    Ok(Seen { text, sha256 })
}

/// The digest of a text, in lower-case hexadecimal digits.
pub(super) fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Replaces a file so that a crash leaves the old or the new one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}

/// The directory watch; without one (no such directory, no inotify left) the poll remains.
struct Events {
    watcher: Option<RecommendedWatcher>,
    directory: PathBuf,
}

impl Events {
    fn start(path: &Path) -> (mpsc::Receiver<()>, Self) {
        // One event waiting says as much as a hundred.
        let (sender, receiver) = mpsc::channel(1);
        let told = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_change(&event.kind)) {
                // Full: the look that is due sees this change too.
                let _full = sender.try_send(());
            }
        };
        let watcher = match notify::recommended_watcher(told) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(name: "policies.unwatched", %error, "no directory watch; changes are found by polling");
                None
            }
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        if !directory.join("..data").exists() {
            tracing::debug!(
                name: "policies.plain_directory",
                directory = %directory.display(),
                "no mounted ConfigMap; one mounted by subPath would never change"
            );
        }
        let mut events = Self { watcher, directory };
        events.attach();
        (receiver, events)
    }

    /// Watches the directory that stands there now; it may be another one than before.
    fn attach(&mut self) {
        if let Some(watcher) = &mut self.watcher
            && let Err(error) = watcher.watch(&self.directory, RecursiveMode::NonRecursive)
        {
            tracing::debug!(name: "policies.unwatched", %error, "no directory watch; changes are found by polling");
        }
    }
}

/// Whether an event may mean another content. Our own reading does not; a writer's data is looked at
/// when it closes the file, where the system tells.
fn is_change(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_)) => !cfg!(target_os = "linux"),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
