//! A socket that notices when its client sends HTTP/2 frames that cost us and ask for nothing.
//!
//! PING and SETTINGS must be answered, PRIORITY, WINDOW_UPDATE, unknown frames and empty DATA looked at;
//! the HTTP/2 library sets them no bound. Here they are paid from a credit that time and requests refill.
//! Once it is used up nothing more is read, and [`Flood::seen`] tells the connection to leave. Not here:
//! resets, CONTINUATION and small DATA, which the library bounds. Invariant: no byte is changed or held
//! back before that.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What HTTP/2 connections begin with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length, type, flags, stream.
const HEAD: usize = 9;
/// The credit of a connection, and the most it ever has. Clients begin with a few such frames.
const CREDIT: u64 = 1000;
/// Frames a second that no request explains.
const PER_SECOND: u64 = 100;
/// For each request: some clients measure the line with a PING an answer, and open windows for it.
const PER_REQUEST: u64 = 4;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// Tells that a client floods its connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Flood(Arc<Notify>);

impl Flood {
    /// Waits for it.
    ///
    /// # Cancel safety
    /// It can be waited for again.
    pub(super) async fn seen(&self) {
        self.0.notified().await;
    }
}

/// Counts the frames that are read through it.
pub(super) struct FrameGuard<S> {
    socket: S,
    frames: Frames,
    flood: Flood,
}

impl<S> FrameGuard<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, frames: Frames::new(Instant::now()), flood: Flood::default() }
    }

    pub(super) fn flood(&self) -> Flood {
        self.flood.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if guard.frames.is_flood {
            // The connection says its farewell and is cut; nobody needs to be woken for more.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut guard.socket).poll_read(cx, buffer);
        guard.frames.pass(&buffer.filled()[before..], Instant::now);
        if guard.frames.is_flood {
            guard.flood.0.notify_one();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, content: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, content)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

/// Where in the stream of bytes we are.
#[derive(Debug)]
enum At {
    /// So many bytes of the preface have passed.
    Preface(usize),
    /// In the head of a frame.
    Head,
    /// So many bytes of a payload are to come.
    Payload(usize),
    /// Not HTTP/2.
    Elsewhere,
}

/// The frames of one connection.
#[derive(Debug)]
struct Frames {
    at: At,
    head: [u8; HEAD],
    known: usize,
    credit: u64,
    refilled: Instant,
    is_flood: bool,
}

impl Frames {
    fn new(now: Instant) -> Self {
        Self { at: At::Preface(0), head: [0; HEAD], known: 0, credit: CREDIT, refilled: now, is_flood: false }
    }

    fn pass(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) {
        while !bytes.is_empty() && !self.is_flood {
            match self.at {
                At::Elsewhere => return,
                At::Preface(passed) => {
                    let taken = bytes.len().min(PREFACE.len() - passed);
                    let (piece, rest) = bytes.split_at(taken);
                    bytes = rest;
                    self.at = match piece == &PREFACE[passed..passed + taken] {
                        false => At::Elsewhere,
                        true if passed + taken == PREFACE.len() => At::Head,
                        true => At::Preface(passed + taken),
                    };
                }
                At::Head => {
                    let taken = bytes.len().min(HEAD - self.known);
                    self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
                    (self.known, bytes) = (self.known + taken, &bytes[taken..]);
                    if self.known == HEAD {
                        self.known = 0;
                        self.frame(&now);
                    }
                }
                At::Payload(left) => {
                    let taken = bytes.len().min(left);
                    bytes = &bytes[taken..];
                    self.at = if taken == left { At::Head } else { At::Payload(left - taken) };
                }
            }
        }
    }

    /// A head is complete.
    fn frame(&mut self, now: &impl Fn() -> Instant) {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        self.at = if length == 0 { At::Head } else { At::Payload(length) };
        match kind {
            HEADERS => self.credit = (self.credit + PER_REQUEST).min(CREDIT),
            RST_STREAM | GOAWAY | CONTINUATION => {}
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            _ => self.pay(now()),
        }
    }

    fn pay(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.refilled).as_secs();
        if seconds > 0 {
            self.credit = (self.credit + seconds.saturating_mul(PER_SECOND)).min(CREDIT);
            self.refilled = now;
        }
        match self.credit.checked_sub(1) {
            Some(left) => self.credit = left,
            None => self.is_flood = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Passes the preface and the frames, cut in pieces of every small size.
    fn flood(frames: &[Vec<u8>], after: Duration) -> bool {
        let start = Instant::now();
        let verdicts: Vec<bool> = [1, 2, 7, 9, 64, 100_000]
            .into_iter()
            .map(|piece| {
                let mut guard = Frames::new(start);
                for bytes in [PREFACE.to_vec(), frames.concat()].concat().chunks(piece) {
                    guard.pass(bytes, || start + after);
                }
                guard.is_flood
            })
            .collect();
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
        verdicts[0]
    }

    #[test]
    fn frames_that_ask_for_nothing_use_up_the_credit() {
        for (kind, payload) in
            [(2, &[0; 5][..]), (4, &[]), (6, &[0; 8]), (8, &[0; 4]), (99, &[]), (DATA, &[])]
        {
            let many = |count: u64| vec![frame(kind, 0, payload); count as usize];
            assert!(!flood(&many(CREDIT), Duration::ZERO), "{kind}");
            assert!(flood(&many(CREDIT + 1), Duration::ZERO), "{kind}");
        }
    }

    #[test]
    fn requests_their_bodies_and_what_goes_with_them_are_no_flood() {
        let ping = frame(6, 0, &[0; 8]);
        let request = [frame(HEADERS, 4, b"x"), frame(8, 0, &[0; 4]), frame(DATA, 1, b""), ping.clone()];
        assert!(!flood(&vec![request.concat(); 10_000], Duration::ZERO));
        assert!(!flood(&vec![frame(DATA, 0, b"x"); 10_000], Duration::ZERO));
        assert!(!flood(&vec![ping; 100_000][..1000], Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_not_http2_is_not_looked_at() {
        let mut guard = Frames::new(Instant::now());
        guard.pass(b"POST / HTTP/1.1\r\n", Instant::now);
        guard.pass(&vec![0; 1_000_000], Instant::now);
        assert!(!guard.is_flood);
    }
}
