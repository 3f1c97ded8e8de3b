//! Limits what one place in the program can log: the first lines of a tick, then a share of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;

use crate::config::service::LogSampling;

/// Whether a line is logged.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is, and says how many of the same place were left out before it.
    Log {
        /// Lines since the last one that was logged.
        left_out: u64,
    },
    /// It is not.
    LeaveOut,
}

/// One counter for each place that logs; there are as many as the program's text has.
#[derive(Debug)]
pub(super) struct Limiter {
    tick: Duration,
    initial: u64,
    thereafter: u64,
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug)]
struct Place {
    tick_began: Instant,
    in_tick: u64,
    left_out: u64,
}

impl Limiter {
    pub(super) fn new(config: &LogSampling) -> Self {
        let LogSampling { tick, initial, thereafter, .. } = *config;
        Self { tick, initial, thereafter, places: Mutex::default() }
    }

    pub(super) fn admit(&self, place: Identifier, now: Instant) -> Admission {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Place { tick_began: now, in_tick: 0, left_out: 0 };
        let place = places.entry(place).or_insert(new);
        if now.saturating_duration_since(place.tick_began) >= self.tick {
            place.tick_began = now;
            place.in_tick = 0;
        }
        place.in_tick += 1;
        let past = place.in_tick.saturating_sub(self.initial);
        if past == 0 || (self.thereafter > 0 && past.is_multiple_of(self.thereafter)) {
            return Admission::Log { left_out: std::mem::take(&mut place.left_out) };
        }
        place.left_out += 1;
        Admission::LeaveOut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Identifier {
        struct Here;
        impl tracing::Callsite for Here {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &tracing::Metadata<'_> {
                unreachable!("only its identity is asked for")
            }
        }
        static HERE: Here = Here;
        tracing::callsite::Identifier(&HERE)
    }

    #[test]
    fn past_the_first_lines_a_share_is_logged_and_says_what_is_missing() {
        let config = LogSampling { initial: 2, thereafter: 3, ..LogSampling::default() };
        let limiter = Limiter::new(&config);
        let start = Instant::now();
        let admitted: Vec<_> = (0..8).map(|_| limiter.admit(place(), start)).collect();
        let log = |left_out| Admission::Log { left_out };
        let out = || Admission::LeaveOut;
        assert_eq!(admitted, [log(0), log(0), out(), out(), log(2), out(), out(), log(2)]);
    }

    #[test]
    fn a_new_tick_starts_anew() {
        let config = LogSampling { initial: 1, thereafter: 0, ..LogSampling::default() };
        let limiter = Limiter::new(&config);
        let start = Instant::now();
        assert_eq!(limiter.admit(place(), start), Admission::Log { left_out: 0 });
        assert_eq!(limiter.admit(place(), start), Admission::LeaveOut);
        assert_eq!(limiter.admit(place(), start + config.tick), Admission::Log { left_out: 1 });
    }
}
