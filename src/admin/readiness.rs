//! Whether the collector takes data: starting, then ready, then draining. Never back.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::internal_telemetry::metrics::Gauge;

/// Where in its life the collector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Receivers do not listen yet.
    Starting,
    /// Data is taken.
    Ready,
    /// Data is not taken any more, queues are being emptied.
    Draining,
}

impl State {
    /// The state in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Draining => "draining",
        }
    }
}

/// The state, as the runtime sets it and probes read it; clones are the same.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<Since>>, Gauge);

#[derive(Debug, Clone, Copy)]
struct Since {
    state: State,
    ready_at: Option<(Timestamp, Instant)>,
}

impl Readiness {
    /// Starting; `gauge` is 1 while ready.
    pub fn new(gauge: Gauge) -> Self {
        let since = Since { state: State::Starting, ready_at: None };
        Self(Arc::new(watch::Sender::new(since)), gauge)
    }

    /// Data is taken from now on; after draining has begun this changes nothing.
    pub fn set_ready(&self) {
        self.advance(State::Ready);
    }

    /// Data is not taken any more.
    pub fn set_draining(&self) {
        self.advance(State::Draining);
    }

    fn advance(&self, to: State) {
        self.0.send_if_modified(|since| {
            let moved = to > since.state;
            if moved {
                since.state = to;
                since.ready_at =
                    (to == State::Ready).then(|| (Timestamp::now(), Instant::now())).or(since.ready_at);
                self.1.set(i64::from(to == State::Ready));
            }
            moved
        });
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.0.borrow().state
    }

    /// Since when data is taken; `None` if it is not.
    pub fn ready_since(&self) -> Option<(Timestamp, Instant)> {
        let since = self.0.borrow();
        since.ready_at.filter(|_| since.state == State::Ready)
    }

    /// Returns once `state` is reached or passed.
    pub async fn reached(&self, state: State) {
        // The sender lives in `self`, so waiting cannot fail.
        let mut changes = self.0.subscribe();
        let _reached = changes.wait_for(|since| since.state >= state).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readiness_only_moves_forward() {
        let gauge = Gauge::default();
        let readiness = Readiness::new(gauge.clone());
        assert_eq!((readiness.state(), gauge.get()), (State::Starting, 0));
        readiness.set_ready();
        readiness.reached(State::Ready).await;
        assert_eq!((readiness.state(), gauge.get()), (State::Ready, 1));
        assert!(readiness.ready_since().is_some());
        readiness.set_draining();
        readiness.set_ready();
        assert_eq!((readiness.state(), gauge.get()), (State::Draining, 0));
        assert!(readiness.ready_since().is_none());
    }
}
