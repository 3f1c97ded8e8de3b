//! What becomes of a body while somebody is asked who sends it.
//!
//! Left unread it would hold the window of its connection against its neighbours, so it is read meanwhile.
//! What is larger than that allows, or comes when many wait, is let go, and its sender told to come again,
//! when the answer will be known. Invariant: of senders nobody knows yet a listener holds at most
//! `PLACES` × `MOST` bytes.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::answer::Fault;
use super::body::{self, Bounds, Gathered, Unread};
use crate::pipeline::{Admitted, Refusal};

/// Requests of one listener whose bodies are kept while they wait.
const PLACES: usize = 64;
/// The largest body that is kept while it waits: what a stream may send unread by default.
const MOST: usize = 1 << 20;
/// When the others may come again; the question is answered by then.
const AGAIN: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Waiting(Semaphore);

impl Default for Waiting {
    fn default() -> Self {
        Self(Semaphore::new(PLACES))
    }
}

/// A body, as far as it was read.
pub(super) struct Begun<B> {
    pub(super) body: B,
    pub(super) gathered: Gathered,
}

impl Waiting {
    /// Waits for an answer until `deadline` and reads the body meanwhile, perhaps not to its end.
    ///
    /// # Errors
    /// What the answer says; what `unread` makes of a body that cannot be read; [`Refusal::Unverifiable`]
    /// where the body was let go.
    pub(super) async fn read<B>(
        &self,
        asked: impl Future<Output = Result<Admitted, Refusal>>,
        mut begun: Begun<B>,
        (bounds, deadline): (&Bounds, Instant),
        unread: impl FnOnce(Unread) -> Fault,
    ) -> Result<(Admitted, Begun<B>), Fault>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let answer = async {
            let answered = timeout_at(deadline, asked).await;
            Ok::<_, Fault>(answered.unwrap_or(Err(Refusal::DeadlineExceeded))?)
        };
        let mut answer = pin!(answer);
        let place = self.0.try_acquire();
        let within = Bounds { limit: bounds.limit.min(MOST), ..*bounds };
        if place.is_ok() {
            let read = tokio::select! {
                biased;
                admitted = answer.as_mut() => return Ok((admitted?, begun)),
                read = body::read(&mut begun.body, &mut begun.gathered, &within) => read,
            };
            match read {
                Ok(()) => return Ok((answer.await?, begun)),
                Err(Unread::TooLarge) if within.limit < bounds.limit => {}
                Err(why) => return Err(unread(why)),
            }
        }
        // A body that is gone holds no window.
        drop((begun, place));
        answer.await?;
        Err(Refusal::Unverifiable { retry_after: AGAIN }.into())
    }
}
