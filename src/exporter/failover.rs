//! Several destinations behind one queue: data goes to the first that works.
//!
//! ```text
//! level 1  works ── an attempt fails ──▶ left alone for retry_interval ──▶ one request tries it
//!            ▲                                ▲                                │        │
//!            └──────────── it answers ────────┼────────────────────────────────┘        │
//!                                             └──────────── it fails again ─────────────┘
//! ```
//!
//! A request that one level does not take goes to the next at once. Health is what attempts come to;
//! nothing is sent that is not data. Whoever is asked for patience or refuses data works. Invariant: a
//! request is given up only after every level failed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::SendFailure;
use crate::internal_telemetry::metrics::{Counter, FailoverMetrics};
use crate::otlp::status::ExportResponse;

use super::answer::{DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE};
use super::destination::{Destination, Outgoing, SendError};
use super::open::Single;

/// Which levels work.
#[derive(Debug)]
struct Health {
    /// Of each level that failed: from when on it may be tried again.
    failed: Vec<Option<Instant>>,
    retry_interval: Duration,
}

impl Health {
    fn new(levels: usize, retry_interval: Duration) -> Self {
        Self { failed: vec![None; levels], retry_interval }
    }

    /// Whether a request should try a level. One that failed is tried by one request in each interval.
    /// `chance` is in [0, 1).
    fn ask(&mut self, level: usize, now: Instant, chance: f64) -> bool {
        let next = self.next_try(now, chance);
        match self.failed.get_mut(level) {
            Some(Some(again)) if *again > now => false,
            Some(Some(again)) => {
                *again = next;
                true
            }
            _ => true,
        }
    }

    /// An attempt failed; whether the level worked until then.
    fn failed(&mut self, level: usize, now: Instant, chance: f64) -> bool {
        let next = self.next_try(now, chance);
        self.failed.get_mut(level).is_some_and(|failed| failed.replace(next).is_none())
    }

    /// An attempt was answered; whether the level had failed before.
    fn answered(&mut self, level: usize) -> bool {
        self.failed.get_mut(level).is_some_and(|failed| failed.take().is_some())
    }

    /// The first level that works, counted from 1; 0 if none does.
    fn in_use(&self) -> usize {
        self.failed.iter().position(Option::is_none).map_or(0, |level| level + 1)
    }

    /// Scattered by a tenth, so that many collectors do not come back together.
    fn next_try(&self, now: Instant, chance: f64) -> Instant {
        now + self.retry_interval.mul_f64(0.9 + 0.2 * chance)
    }
}

/// What the destinations of all workers share.
#[derive(Debug)]
pub(super) struct Shared {
    id: Arc<str>,
    health: Mutex<Health>,
    names: Vec<Arc<str>>,
    sent: Vec<Counter>,
    metrics: FailoverMetrics,
}

impl Shared {
    /// All levels work, as far as is known.
    pub(super) fn new(
        id: &Arc<str>,
        names: Vec<Arc<str>>,
        retry_interval: Duration,
        metrics: &FailoverMetrics,
    ) -> Self {
        metrics.level.set(1);
        let sent = names.iter().map(|name| metrics.sent_by(name)).collect();
        let health = Mutex::new(Health::new(names.len(), retry_interval));
        Self { id: id.clone(), health, names, sent, metrics: metrics.clone() }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, level: usize, failure: &SendFailure) {
        let mut health = self.health();
        let is_news = health.failed(level, Instant::now(), fastrand::f64());
        let in_use = health.in_use();
        drop(health);
        if is_news {
            self.show(in_use);
            let (code, message) = (failure.code, failure.message.as_str());
            tracing::warn!(name: "failover.level_failed", connector = %self.id, priority = level + 1,
                exporter = %self.names[level], in_use, code, message, "a level failed, data goes elsewhere");
        }
    }

    fn answered(&self, level: usize) {
        let mut health = self.health();
        let is_news = health.answered(level);
        let in_use = health.in_use();
        drop(health);
        if is_news {
            self.show(in_use);
            tracing::info!(name: "failover.level_works", connector = %self.id, priority = level + 1,
                exporter = %self.names[level], in_use, "a level works again");
        }
    }

    fn show(&self, in_use: usize) {
        let level = i64::try_from(in_use).unwrap_or_default();
        if self.metrics.level.get() != level {
            self.metrics.level.set(level);
            self.metrics.switches.add(1);
        }
    }
}

/// One destination of a group.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) destination: Single,
    /// How long one attempt may take.
    pub(super) timeout: Option<Duration>,
}

/// The destinations as one worker sees them, the best first.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) levels: Vec<Level>,
    pub(super) shared: Arc<Shared>,
}

impl Destination for Group {
    async fn send(&self, outgoing: Outgoing) -> Result<ExportResponse, SendError> {
        let mut left_alone = Vec::new();
        let mut last = None;
        for level in 0..self.levels.len() {
            if !self.shared.health().ask(level, Instant::now(), fastrand::f64()) {
                left_alone.push(level);
                continue;
            }
            match self.attempt(level, &outgoing).await {
                Attempt::Answered(answer) => return answer,
                Attempt::Failed(failure) => last = Some(failure),
            }
        }
        // None of those that should work does.
        for level in left_alone {
            match self.attempt(level, &outgoing).await {
                Attempt::Answered(answer) => return answer,
                Attempt::Failed(failure) => last = Some(failure),
            }
        }
        let none = || SendFailure { code: UNAVAILABLE, message: "no level".into(), retry_after: None };
        Err(SendError::Retryable(last.unwrap_or_else(none)))
    }
}

/// What became of an attempt at one level.
enum Attempt {
    /// The destination said something about the data.
    Answered(Result<ExportResponse, SendError>),
    /// It does not work.
    Failed(SendFailure),
}

impl Group {
    async fn attempt(&self, level: usize, outgoing: &Outgoing) -> Attempt {
        let Level { destination, timeout } = &self.levels[level];
        let timeout = match (*timeout, outgoing.timeout) {
            (Some(own), Some(left)) => Some(own.min(left)),
            (own, left) => own.or(left),
        };
        let sending = destination.send(Outgoing { timeout, ..outgoing.clone() });
        let answer = match timeout {
            None => sending.await,
            Some(timeout) => tokio::time::timeout(timeout, sending).await.unwrap_or_else(|_late| {
                let message = format!("no answer within {timeout:?}");
                let failure = SendFailure { code: DEADLINE_EXCEEDED, message, retry_after: None };
                Err(SendError::Retryable(failure))
            }),
        };
        match answer {
            // A limit of one tenant must not send everybody's data elsewhere.
            Err(SendError::Retryable(failure)) if failure.code != RESOURCE_EXHAUSTED => {
                self.shared.failed(level, &failure);
                Attempt::Failed(failure)
            }
            answer => {
                self.shared.answered(level);
                if let Ok(response) = &answer {
                    let taken = outgoing.size.items - response.rejected.min(outgoing.size.items);
                    self.shared.sent[level].add(taken);
                }
                Attempt::Answered(answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_failed_is_tried_by_one_request_in_each_interval() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut health = Health::new(3, Duration::from_secs(60));
        assert!((0..3).all(|level| health.ask(level, start, 0.5)) && health.in_use() == 1);
        assert!(health.failed(0, start, 0.5), "that is news");
        assert!(!health.failed(0, start, 0.5), "those that were under way as well are not");
        assert_eq!((health.in_use(), health.ask(1, start, 0.5)), (2, true));
        assert!(!health.ask(0, at(59), 0.5));
        assert!(health.ask(0, at(60), 0.5), "one may try");
        assert!(!health.ask(0, at(60), 0.5) && !health.ask(0, at(119), 0.5), "and only one");
        assert!(health.ask(0, at(120), 0.5), "also if nothing is heard of it");
        assert!(health.answered(0) && !health.answered(0));
        assert_eq!((health.in_use(), health.ask(0, at(121), 0.5)), (1, true));
    }

    #[test]
    fn intervals_are_scattered_by_a_tenth() {
        let start = Instant::now();
        for (chance, seconds) in [(0.0, 54), (0.5, 60), (0.999_999, 65)] {
            let mut health = Health::new(1, Duration::from_secs(60));
            health.failed(0, start, chance);
            assert_eq!(health.in_use(), 0);
            assert!(!health.ask(0, start + Duration::from_secs(seconds - 1), chance), "{chance}");
            assert!(health.ask(0, start + Duration::from_secs(seconds + 1), chance), "{chance}");
        }
    }
}
