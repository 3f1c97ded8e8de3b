//! Reads a request's body: bounded in bytes, in silence and in time.
//!
//! Memory follows what arrived, never what was announced. A body that arrives in one piece is not copied.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use super::budget::Charge;
use super::grpc;

/// Reserved at once for a body that comes in pieces, however large it was announced.
const MOST_RESERVED: usize = 1 << 20;

/// How much and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The largest message, in bytes as sent.
    pub(super) limit: usize,
    /// The longest silence.
    pub(super) progress: Duration,
    /// The end of all patience.
    pub(super) deadline: Instant,
}

/// What the body of a request looks like.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// The message and nothing else, perhaps of announced length.
    Plain(Option<u64>),
    /// One gRPC frame.
    Frame,
}

impl Shape {
    /// The longest body that can hold a message of `limit` bytes.
    pub(super) fn most(self, limit: usize) -> u64 {
        let overhead = match self {
            Shape::Plain(_) => 0,
            Shape::Frame => grpc::PREFIX,
        };
        (limit + overhead) as u64
    }
}

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// Larger than the limit, announced or arrived.
    TooLarge,
    /// More bytes than one gRPC frame.
    Trailing,
    /// Silent for too long.
    Stalled,
    /// The deadline passed.
    Deadline,
    /// There is no memory for it now.
    NoMemory,
    /// The client went away or broke the protocol.
    Broken,
}

/// Reads a body to its end, or what is left of it.
///
/// # Errors
/// [`Unread`]; the rest of the body is not read.
///
/// # Cancel safety
/// What arrived is in `gathered`; reading can go on.
pub(super) async fn read<B>(body: &mut B, gathered: &mut Gathered, bounds: &Bounds) -> Result<(), Unread>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut alarm = Alarm::new(bounds);
    gathered.check(bounds.limit)?;
    // The timer exists only from the first time that there is nothing to read.
    let mut sleep = pin!(None);
    while !body.is_end_stream() {
        let next = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => Poll::Ready(Err(ready!(alarm.poll_ring(sleep.as_mut(), cx)))),
        });
        match next.await? {
            None => break,
            Some(Err(_broken)) => return Err(Unread::Broken),
            Some(Ok(frame)) => {
                // Trailers of requests mean nothing here.
                let Ok(piece) = frame.into_data() else { continue };
                gathered.add(piece, bounds.limit)?;
                alarm.quiet = true;
            }
        }
    }
    Ok(())
}

/// Rings at the deadline, and when the client was silent for too long.
struct Alarm {
    progress: Duration,
    deadline: Instant,
    /// Whether something arrived since the timer was set.
    quiet: bool,
}

impl Alarm {
    fn new(bounds: &Bounds) -> Self {
        Self { progress: bounds.progress, deadline: bounds.deadline, quiet: false }
    }

    fn poll_ring(&mut self, mut sleep: Pin<&mut Option<Sleep>>, cx: &mut Context<'_>) -> Poll<Unread> {
        let fresh = sleep.is_none();
        if fresh || self.quiet {
            self.quiet = false;
            let at = self.deadline.min(Instant::now() + self.progress);
            match sleep.as_mut().as_pin_mut() {
                Some(sleep) => sleep.reset(at),
                None => sleep.set(Some(tokio::time::sleep_until(at))),
            }
        }
        if let Some(sleep) = sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        Poll::Ready(if Instant::now() >= self.deadline { Unread::Deadline } else { Unread::Stalled })
    }
}

/// What arrived so far.
#[derive(Debug)]
pub(super) struct Gathered {
    shape: Shape,
    first: Bytes,
    /// The whole so far, once there was a second piece.
    joined: Option<BytesMut>,
    held: Charge,
}

impl Gathered {
    pub(super) fn new(shape: Shape, held: Charge) -> Self {
        Self { shape, first: Bytes::new(), joined: None, held }
    }

    fn add(&mut self, piece: Bytes, limit: usize) -> Result<(), Unread> {
        if !self.held.take(piece.len() as u64) {
            return Err(Unread::NoMemory);
        }
        if self.as_slice().is_empty() {
            self.first = piece;
        } else {
            self.join(&piece);
        }
        self.check(limit)
    }

    fn join(&mut self, piece: &[u8]) {
        let joined = match &mut self.joined {
            Some(joined) => joined,
            None => {
                let least = self.first.len() + piece.len();
                let expected = expected(self.shape, &self.first).unwrap_or(0);
                let reserved = usize::try_from(expected).unwrap_or(usize::MAX).min(MOST_RESERVED);
                let joined = self.joined.insert(BytesMut::with_capacity(reserved.max(least)));
                joined.extend_from_slice(&self.first);
                joined
            }
        };
        if joined.capacity() - joined.len() < piece.len() {
            // Who has sent so much means the rest too; to grow by doubling would hold the body twice.
            let rest = expected(self.shape, joined)
                .map_or(0, |expected| expected.saturating_sub(joined.len() as u64));
            joined.reserve(usize::try_from(rest).unwrap_or(0).max(piece.len()));
        }
        joined.extend_from_slice(piece);
    }

    fn check(&self, limit: usize) -> Result<(), Unread> {
        let most = self.shape.most(limit);
        let arrived = self.as_slice();
        let expected = expected(self.shape, arrived);
        if arrived.len() as u64 > most || expected.is_some_and(|expected| expected > most) {
            return Err(Unread::TooLarge);
        }
        match (self.shape, expected) {
            (Shape::Frame, Some(expected)) if arrived.len() as u64 > expected => Err(Unread::Trailing),
            _ => Ok(()),
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.joined.as_deref().unwrap_or(&self.first)
    }

    /// The whole body, if it was read to its end, and the memory it holds.
    pub(super) fn whole(self) -> (Bytes, Charge) {
        (self.joined.map_or(self.first, BytesMut::freeze), self.held)
    }
}

/// The announced length of the whole body, in bytes.
fn expected(shape: Shape, arrived: &[u8]) -> Option<u64> {
    match shape {
        Shape::Plain(announced) => announced,
        Shape::Frame => grpc::announced(arrived).map(|message| message + grpc::PREFIX as u64),
    }
}
