//! When to try again. Pure: time and chance are arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::exporter::RetryOnFailure;

/// A destination that asks for more is asked again anyway.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 60 * 60);

/// The waits between the attempts of one request: exponential, scattered, never shorter than what the
/// destination asks for.
#[derive(Debug)]
pub(super) struct Backoff<'a> {
    config: &'a RetryOnFailure,
    /// Past what the request is given up; 0: never.
    most: Duration,
    started: Instant,
    interval: Duration,
}

impl<'a> Backoff<'a> {
    /// Before the first attempt to send what is in memory.
    #[cfg(test)]
    pub(super) fn new(config: &'a RetryOnFailure, now: Instant) -> Self {
        Self::until(config, config.gives_up_after(false), now)
    }

    /// Before the first attempt; the last is within `most`, or there is no last if it is 0.
    pub(super) fn until(config: &'a RetryOnFailure, most: Duration, now: Instant) -> Self {
        Self { config, most, started: now, interval: config.initial_interval }
    }

    /// How long to wait after a failure; `None` if the request is to be given up. `chance` is in [0, 1).
    pub(super) fn next(&mut self, now: Instant, asked: Option<Duration>, chance: f64) -> Option<Duration> {
        if !self.config.enabled {
            return None;
        }
        let factor = self.config.randomization_factor;
        let scattered = self.interval.mul_f64(1.0 - factor + 2.0 * factor * chance);
        self.interval = self.interval.mul_f64(self.config.multiplier).min(self.config.max_interval);
        let wait = scattered.max(asked.unwrap_or_default().min(LONGEST_ASKED));
        let elapsed = now.saturating_duration_since(self.started);
        let is_late = !self.most.is_zero() && elapsed + wait > self.most;
        (!is_late).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn waits_grow_to_the_longest_and_are_scattered() {
        let config = RetryOnFailure { max_elapsed_time: Some(Duration::ZERO), ..RetryOnFailure::default() };
        let now = Instant::now();
        let mut middle = Backoff::new(&config, now);
        let waits: Vec<_> = (0..7).map(|_| middle.next(now, None, 0.5).unwrap().as_millis()).collect();
        assert_eq!(waits, [5000, 7500, 11250, 16875, 25312, 30000, 30000]);
        assert_eq!(Backoff::new(&config, now).next(now, None, 0.0), Some(Duration::from_millis(2500)));
        let longest = Backoff::new(&config, now).next(now, None, 0.999_999).unwrap();
        assert!(longest > Duration::from_millis(7499) && longest < Duration::from_millis(7500));
    }

    #[test]
    fn the_destination_may_ask_for_a_longer_wait_but_not_for_a_shorter() {
        let config = RetryOnFailure::default();
        let now = Instant::now();
        assert_eq!(Backoff::new(&config, now).next(now, Some(seconds(60)), 0.5), Some(seconds(60)));
        assert_eq!(Backoff::new(&config, now).next(now, Some(seconds(1)), 0.5), Some(seconds(5)));
    }

    #[test]
    fn a_request_is_given_up_when_the_next_attempt_would_be_late() {
        let config = RetryOnFailure::default();
        let start = Instant::now();
        let mut backoff = Backoff::new(&config, start);
        assert_eq!(backoff.next(start + seconds(295), None, 0.5), Some(seconds(5)));
        assert_eq!(backoff.next(start + seconds(295), None, 0.5), None);
        assert_eq!(Backoff::new(&config, start).next(start, Some(seconds(301)), 0.5), None);
        let forever = RetryOnFailure { max_elapsed_time: Some(Duration::ZERO), ..config.clone() };
        assert!(Backoff::new(&forever, start).next(start + seconds(1 << 30), None, 0.5).is_some());
        let off = RetryOnFailure { enabled: false, ..config };
        assert_eq!(Backoff::new(&off, start).next(start, Some(seconds(1)), 0.5), None);
    }
}
