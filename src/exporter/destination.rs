//! The seam between consumers and what sends.
//!
//! Not here: when to try again. Invariant: one call is one attempt, and dropping it stops it.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;

use crate::batch::SendFailure;
use crate::otlp::Signal;
use crate::otlp::status::ExportResponse;
use crate::queue::Size;

/// One request, ready to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// The signal of all items.
    pub(super) signal: Signal,
    /// Encoded requests that are one when put together.
    pub(super) parts: Vec<Bytes>,
    /// What the parts come to.
    pub(super) size: Size,
    /// How long the attempt may take; the caller stops it then.
    pub(super) timeout: Option<Duration>,
}

impl Outgoing {
    /// The parts as one piece.
    pub(super) fn whole(&self) -> Bytes {
        match &self.parts[..] {
            [one] => one.clone(),
            parts => parts.concat().into(),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SendError {
    /// The same request may succeed later.
    Retryable(SendFailure),
    /// The same request will fail again.
    Permanent(SendFailure),
}

/// Where requests go.
pub(super) trait Destination: Send + Sync + 'static {
    /// Sends once.
    ///
    /// # Cancel safety
    /// Dropped, the attempt is given up; the destination may have taken the request.
    fn send(&self, request: Outgoing) -> impl Future<Output = Result<ExportResponse, SendError>> + Send;
}
