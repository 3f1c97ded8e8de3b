//! How many requests a destination takes at a time, found out by itself.
//!
//! Answers that become slow lower the number (Gradient2 of Netflix' concurrency-limits), a destination that
//! asks for patience or is unavailable halves it (additive increase, multiplicative decrease), at most once
//! in the time of an answer: what was under way together is one event. Retries have a budget, a fifth of what
//! succeeds: beyond it they wait as long as they may. Invariant: at least one request, at most the consumers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::internal_telemetry::metrics::Gauge;
use crate::queue::Queue;

/// Answers may take so many times what they usually take.
const TOLERANCE: f64 = 1.5;
/// What is added at each answer, before smoothing.
const HEADROOM: f64 = 4.0;
const SMOOTHING: f64 = 0.2;
/// Answers over which the usual time is averaged.
const WINDOW: f64 = 600.0;
/// The shortest time between two halvings.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Retries that may be made for each success, and at once.
const RETRIES_PER_SUCCESS: f64 = 0.2;
const MOST_RETRIES: f64 = 100.0;

/// The number, and what it goes by.
#[derive(Debug)]
struct Limit {
    limit: f64,
    most: f64,
    /// The usual time of an answer in seconds, and over how many answers it was averaged.
    usual: f64,
    answers: f64,
    halved_at: Option<Instant>,
    retries: f64,
}

impl Limit {
    fn new(most: usize) -> Self {
        // Any number of consumers is far below 2^53.
        let most = most.max(1) as f64;
        Self { limit: most, most, usual: 0.0, answers: 0.0, halved_at: None, retries: MOST_RETRIES }
    }

    fn whole(&self) -> usize {
        self.limit as usize
    }

    /// An answer came while so many requests were under way.
    fn answered(&mut self, time: Duration, in_flight: usize) {
        self.retries = (self.retries + RETRIES_PER_SUCCESS).min(MOST_RETRIES);
        let time = time.as_secs_f64().max(1e-6);
        self.answers = (self.answers + 1.0).min(WINDOW);
        self.usual += (time - self.usual) / self.answers;
        if self.usual > 2.0 * time {
            self.usual *= 0.95;
        }
        if (in_flight as f64) < self.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * self.usual / time).clamp(0.5, 1.0);
        let wanted = gradient * self.limit + HEADROOM;
        self.limit = (self.limit + SMOOTHING * (wanted - self.limit)).clamp(1.0, self.most);
    }

    /// The destination is overloaded or away.
    fn refused(&mut self, now: Instant) {
        let pause = Duration::from_secs_f64(self.usual).max(SHORTEST_PAUSE);
        if self.halved_at.is_none_or(|at| now.saturating_duration_since(at) >= pause) {
            self.halved_at = Some(now);
            self.limit = (self.limit / 2.0).max(1.0);
        }
    }

    /// Takes a retry from the budget, if there is one.
    fn may_retry(&mut self) -> bool {
        let may = self.retries >= 1.0;
        self.retries -= if may { 1.0 } else { 0.0 };
        may
    }
}

/// Lets so many consumers of an exporter work at a time as its destination takes requests.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    freed: Notify,
    queue: Queue,
    shown: Gauge,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    inside: usize,
}

/// One consumer at work; dropped, another may work.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Pace);

impl Pace {
    /// As many as there are consumers, until more is known.
    pub(super) fn new(consumers: usize, queue: &Queue, shown: &Gauge) -> Self {
        let state = Mutex::new(State { limit: Limit::new(consumers), inside: 0 });
        let pace = Self { state, freed: Notify::new(), queue: queue.clone(), shown: shown.clone() };
        pace.show(consumers);
        pace
    }

    /// Waits for a place.
    ///
    /// # Cancel safety
    /// No place is taken unless it returns.
    pub(super) async fn enter(&self) -> Place<'_> {
        loop {
            let freed = self.freed.notified();
            if self.take() {
                return Place(self);
            }
            freed.await;
        }
    }

    fn take(&self) -> bool {
        let mut state = self.state();
        let has_room = state.inside < state.limit.whole();
        state.inside += usize::from(has_room);
        has_room
    }

    /// An attempt succeeded, or was refused for good, while so many were under way.
    pub(super) fn answered(&self, time: Duration, in_flight: usize) {
        self.change(|limit| limit.answered(time, in_flight));
    }

    /// An attempt failed and may be made again.
    pub(super) fn refused(&self) {
        self.change(|limit| limit.refused(Instant::now()));
    }

    /// Whether a retry is within the budget.
    pub(super) fn may_retry(&self) -> bool {
        self.state().limit.may_retry()
    }

    fn change(&self, change: impl FnOnce(&mut Limit)) {
        let mut state = self.state();
        let before = state.limit.whole();
        change(&mut state.limit);
        let now = state.limit.whole();
        drop(state);
        if now != before {
            // A tenant has its share of what there is.
            self.show(now);
            self.freed.notify_waiters();
        }
    }

    fn show(&self, limit: usize) {
        self.queue.set_slots(limit);
        self.shown.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().inside -= 1;
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A destination that takes `capacity` requests at a time; more wait for each other.
    fn settle(limit: &mut Limit, capacity: f64, answers: usize) -> f64 {
        for _ in 0..answers {
            let in_flight = limit.whole();
            let time = 0.010 * (in_flight as f64 / capacity).max(1.0);
            limit.answered(Duration::from_secs_f64(time), in_flight);
        }
        limit.limit
    }

    #[test]
    fn the_limit_stays_high_while_answers_are_fast_and_falls_when_they_are_slow() {
        let mut limit = Limit::new(200);
        assert_eq!(settle(&mut limit, 1000.0, 1000), 200.0);
        // Ten times as slow as usual: far down within a few dozen answers.
        let slow = settle(&mut limit, 20.0, 60);
        assert!((8.0..=60.0).contains(&slow), "{slow}");
        let back = settle(&mut limit, 1000.0, 400);
        assert!(back > 190.0, "{back}");
    }

    #[test]
    fn an_idle_exporter_does_not_raise_its_limit() {
        let mut limit = Limit::new(100);
        limit.limit = 10.0;
        (0..100).for_each(|_| limit.answered(Duration::from_millis(10), 4));
        assert_eq!(limit.limit, 10.0);
        (0..100).for_each(|_| limit.answered(Duration::from_millis(10), 100));
        assert!(limit.whole() > 80, "{}", limit.limit);
    }

    #[test]
    fn refusals_of_one_moment_halve_it_once_and_never_below_one() {
        let (start, mut limit) = (Instant::now(), Limit::new(64));
        let at = |millis| start + Duration::from_millis(millis);
        (0..64).for_each(|_| limit.refused(start));
        assert_eq!(limit.whole(), 32);
        limit.refused(at(99));
        assert_eq!(limit.whole(), 32);
        (1..=20).for_each(|n| limit.refused(at(100 * n)));
        assert_eq!(limit.whole(), 1);
        (0..10).for_each(|_| limit.answered(Duration::from_millis(10), 64));
        assert!(limit.whole() > 5, "{}", limit.limit);
    }

    #[test]
    fn retries_are_a_fifth_of_what_succeeds() {
        let mut limit = Limit::new(1);
        let retries = |limit: &mut Limit| (0..1000).filter(|_| limit.may_retry()).count();
        assert_eq!((retries(&mut limit), retries(&mut limit)), (100, 0));
        (0..50).for_each(|_| limit.answered(Duration::from_millis(1), 1));
        assert!((9..=10).contains(&retries(&mut limit)));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_consumers_work_than_the_limit_says() {
        let metrics = crate::internal_telemetry::metrics::ExporterMetrics::default();
        let bounds = crate::queue::Bounds {
            sizer: crate::queue::Sizer::Items,
            capacity: 1,
            max_bytes: 1,
            max_batches: 1,
        };
        let queue = Queue::new(bounds, crate::queue::Wanted::up_to(1), &metrics);
        let pace = Pace::new(4, &queue, &metrics.in_flight_limit);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(pace.enter().await);
        }
        let soon = || tokio::time::timeout(Duration::from_secs(1), pace.enter());
        assert!(soon().await.is_err());
        pace.refused();
        assert_eq!(metrics.in_flight_limit.get(), 2);
        places.truncate(2);
        assert!(soon().await.is_err(), "two work, and no more may");
        places.truncate(1);
        assert!(soon().await.is_ok());
    }
}
