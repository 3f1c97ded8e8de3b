//! Keeps frequent log events rare.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// At most one event in this time.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets one event through every ten seconds and counts the others.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Whether to tell of this event; then how many were not told of since the last.
    pub(super) fn due(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if state.0.is_some_and(|last| now - last < PAUSE) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_are_let_through_every_ten_seconds() {
        let seldom = Seldom::default();
        assert_eq!(seldom.due(), Some(0));
        assert_eq!((seldom.due(), seldom.due()), (None, None));
        tokio::time::advance(PAUSE).await;
        assert_eq!((seldom.due(), seldom.due()), (Some(2), None));
    }
}
