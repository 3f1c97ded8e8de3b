//! Whether what is being sent gets on: how often and how long the other side let it wait.
//!
//! HTTP/2 gives bytes away only into a window the other side opens, HTTP/1 into a socket it reads. What is
//! handed over counts its own progress while the connection takes it, piece by piece, so that a stall is
//! seen where it happens and costs nothing elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Less than this is the ordinary way of a network.
const STALL: Duration = Duration::from_millis(100);

/// How often sending stalled, and for how long in all; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct WindowStalls(Arc<Sums>);

#[derive(Debug, Default)]
struct Sums {
    count: AtomicU64,
    micros: AtomicU64,
}

impl WindowStalls {
    /// Nothing got on for so long; counted if it is a stall.
    pub fn note(&self, waited: Duration) {
        if waited >= STALL {
            self.0.count.fetch_add(1, Ordering::Relaxed);
            self.0.micros.fetch_add(micros(waited), Ordering::Relaxed);
        }
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// How long in all.
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.0.micros.load(Ordering::Relaxed))
    }
}

/// How one message gets on; clones watch the same message.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Sending>);

#[derive(Debug)]
struct Sending {
    stalls: WindowStalls,
    made: Instant,
    /// When something last moved, in µs after `made`; 0 while nothing was handed over.
    last: AtomicU64,
    is_done: AtomicBool,
}

impl Progress {
    /// Of a message that was not handed over yet.
    pub fn new(stalls: &WindowStalls) -> Self {
        let (stalls, made) = (stalls.clone(), Instant::now());
        Self(Arc::new(Sending { stalls, made, last: AtomicU64::new(0), is_done: AtomicBool::new(false) }))
    }

    /// The message is handed over to its connection.
    pub fn begin(&self) {
        self.0.last.store(micros(self.0.made.elapsed()).max(1), Ordering::Relaxed);
    }

    /// The connection took some of it; `is_done`: that was all.
    pub fn moved(&self, is_done: bool) {
        let now = micros(self.0.made.elapsed()).max(1);
        let before = self.0.last.swap(now, Ordering::Relaxed);
        if before > 0 {
            self.0.stalls.note(Duration::from_micros(now - before.min(now)));
        }
        if is_done {
            self.0.is_done.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until nothing has moved for `bound` although something is left; for ever if all is sent.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn stalled(&self, bound: Duration) {
        loop {
            if self.0.is_done.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            let at = match self.0.last.load(Ordering::Relaxed) {
                // The wait for a connection is bounded elsewhere.
                0 => Instant::now() + bound,
                last => self.0.made + Duration::from_micros(last) + bound,
            };
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_get_on_is_stalled_and_counted_when_it_ends() {
        let stalls = WindowStalls::default();
        let progress = Progress::new(&stalls);
        let bound = Duration::from_secs(30);
        // Waiting for a connection is no stall.
        assert!(tokio::time::timeout(bound * 10, progress.stalled(bound)).await.is_err());
        progress.begin();
        tokio::time::advance(Duration::from_millis(99)).await;
        progress.moved(false);
        assert_eq!(stalls.count(), 0);
        let begun = Instant::now();
        progress.stalled(bound).await;
        assert!((bound..bound + Duration::from_millis(2)).contains(&begun.elapsed()));
        progress.moved(true);
        assert_eq!((stalls.count(), stalls.total().as_secs()), (1, 30));
        assert!(tokio::time::timeout(bound * 10, progress.stalled(bound)).await.is_err(), "all is sent");
    }
}
