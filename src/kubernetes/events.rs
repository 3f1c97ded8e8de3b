//! Kubernetes Events on the ConfigMap: which revision was taken, which was refused and why.
//!
//! A fleet writes one Event per version and outcome, whose name says both: whoever comes second is told that it
//! is there. Invariants: at most [`BURST`] Events at once and one per [`EVERY`] after that from one process; a
//! text of at most [`MAX_NOTE`] bytes; a failure costs only the Event.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::time::{Instant, timeout};

use super::client::REQUEST_TIMEOUT;
use super::config_map::Followed;
use crate::policies::watch::{Origin, Status};

/// What the API server takes at most as the text of an Event.
const MAX_NOTE: usize = 1024;
/// Events that may be written one after the other.
const BURST: u32 = 5;
/// One more may be written after this.
const EVERY: Duration = Duration::from_secs(30);
/// A fleet does not write at the same moment.
const SCATTER: Duration = Duration::from_millis(1000);
/// Our name as the one who reports.
const CONTROLLER: &str = "tollgate";

/// What became of a revision.
struct News {
    outcome: &'static str,
    reason: &'static str,
    action: &'static str,
    kind: &'static str,
    /// The version of the ConfigMap, else a digest: the same for the whole fleet.
    about: String,
    note: String,
}

/// Writes an Event whenever a revision is taken or refused, for ever; what was in force at the call is no news,
/// what was refused is.
///
/// # Cancel safety
/// May be dropped.
pub async fn announce(followed: Followed, pod: String) {
    let mut statuses = followed.in_force().subscribe();
    let mut budget = Budget { left: BURST, since: Instant::now() };
    let first = statuses.borrow_and_update().clone();
    let mut before = Status { refused: None, ..(*first).clone() };
    loop {
        let status = statuses.borrow_and_update().clone();
        for news in [refused(&before, &status), taken(&before, &status)].into_iter().flatten() {
            match budget.take(Instant::now()) {
                true => write(&followed, &pod, news).await,
                false => {
                    tracing::debug!(name: "kubernetes.event_left_out", about = news.about, "too many Events")
                }
            }
        }
        before = (*status).clone();
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

fn taken(before: &Status, now: &Status) -> Option<News> {
    let revision = now.revision.as_deref().unwrap_or("without a name");
    (before.revisions != now.revisions).then(|| News {
        outcome: "taken",
        reason: "PoliciesTaken",
        action: "Reload",
        kind: "Normal",
        about: about(&now.origin, Some(&now.sha256)),
        note: format!("revision {revision} is in force, sha256 {}", now.sha256),
    })
}

fn refused(before: &Status, now: &Status) -> Option<News> {
    let refused = now.refused.as_ref().filter(|refused| before.refused.as_ref() != Some(refused))?;
    let revision = now.revision.as_deref().unwrap_or("without a name");
    let problems = refused.problems.lines().join("; ");
    Some(News {
        outcome: "refused",
        reason: "PoliciesRefused",
        action: "Reload",
        kind: "Warning",
        about: about(&refused.origin, refused.sha256.as_deref()),
        note: format!("revision {revision} stays in force: {problems}"),
    })
}

fn about(origin: &Origin, sha256: Option<&str>) -> String {
    match (origin.version, sha256) {
        (Some(version), _) => version.to_string(),
        (None, Some(digest)) => digest[..digest.len().min(16)].to_owned(),
        (None, None) => "absent".to_owned(),
    }
}

async fn write(followed: &Followed, pod: &str, news: News) {
    let (namespace, name, uid) = followed.object();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{}.{}", news.about, news.outcome)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        action: Some(news.action.to_owned()),
        reason: Some(news.reason.to_owned()),
        note: Some(cut(&news.note, MAX_NOTE)),
        type_: Some(news.kind.to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("ConfigMap".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            uid,
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(pod.to_owned()),
        ..Event::default()
    };
    tokio::time::sleep(SCATTER.mul_f64(fastrand::f64())).await;
    let api: Api<Event> = Api::namespaced(followed.client().clone(), namespace);
    let problem = match timeout(REQUEST_TIMEOUT, api.create(&PostParams::default(), &event)).await {
        Ok(Ok(_)) => return,
        // Another pod was first.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => return,
        Ok(Err(error)) => error.to_string(),
        Err(_late) => "no answer in time".to_owned(),
    };
    let reason = news.reason;
    tracing::warn!(name: "kubernetes.event_not_written", problem, reason, "no Event tells of the policies");
}

/// At most `max` bytes of a text, and a sign that there was more.
fn cut(text: &str, max: usize) -> String {
    const MORE: &str = " …";
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max - MORE.len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{MORE}", &text[..end])
}

/// How many Events may be written now.
struct Budget {
    left: u32,
    since: Instant,
}

impl Budget {
    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now >= self.since + EVERY {
            self.left += 1;
            self.since += EVERY;
        }
        if self.left == BURST {
            self.since = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("short", 10), "short");
        for text in ["x".repeat(2000), "ö".repeat(1000), "…".repeat(700)] {
            let note = cut(&text, MAX_NOTE);
            assert!(note.len() <= MAX_NOTE && note.len() > MAX_NOTE - 8 && note.ends_with('…'));
        }
    }

    #[test]
    fn events_are_bounded_over_time() {
        let start = Instant::now();
        let mut budget = Budget { left: BURST, since: start };
        let in_first_minute =
            (0..60).filter(|second| budget.take(start + Duration::from_secs(*second))).count();
        assert_eq!(in_first_minute, 6);
        let later = (60..660).filter(|second| budget.take(start + Duration::from_secs(*second))).count();
        assert_eq!(later, 20);
    }
}
