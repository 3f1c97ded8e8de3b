//! Request bodies: the parts of a request, sent as they are.
//!
//! The body is one piece of data that names its parts, so that one write takes many of them and a frame may
//! span them. Invariant: parts of [`LARGE`] and more are never copied; smaller ones are put together, because
//! every part costs a slot of the write.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::internal_telemetry::{Progress, WindowStalls};

/// From this size on a part is not copied: a write takes 16 of them, which is as much as a socket takes.
const LARGE: usize = 4 * 1024;
/// Small parts are put together in buffers of about this size: above it allocators ask the system.
const GATHERED: usize = 64 * 1024;

/// A body whose length is known.
#[derive(Debug, Default)]
pub(super) struct Body(Option<Pieces>);

impl Body {
    /// The parts, one after the other.
    pub(super) fn new(parts: Vec<Bytes>) -> Self {
        Self::with_prefix(&[], parts)
    }

    /// Counts stalls there; what is returned tells how sending gets on.
    pub(super) fn watched(&mut self, stalls: &WindowStalls) -> Progress {
        let progress = Progress::new(stalls);
        match &mut self.0 {
            Some(pieces) => pieces.progress = Some(progress.clone()),
            None => progress.moved(true),
        }
        progress
    }

    /// A prefix, then the parts.
    pub(super) fn with_prefix(prefix: &[u8], parts: Vec<Bytes>) -> Self {
        let mut pieces = Pieces::default();
        let mut gathered = BytesMut::with_capacity(prefix.len() + small_bytes(&parts));
        gathered.extend_from_slice(prefix);
        let mut parts = VecDeque::from(parts);
        while let Some(part) = parts.pop_front() {
            if part.len() < LARGE {
                if gathered.len() + part.len() > gathered.capacity() {
                    pieces.push(gathered.freeze());
                    gathered = BytesMut::with_capacity(part.len() + small_bytes(&parts));
                }
                gathered.extend_from_slice(&part);
            } else {
                pieces.push(gathered.split().freeze());
                pieces.push(part);
            }
        }
        pieces.push(gathered.freeze());
        Self(Some(pieces).filter(Buf::has_remaining))
    }
}

/// Bytes of the small parts before the first large one, as far as they go into one buffer.
fn small_bytes<'a>(parts: impl IntoIterator<Item = &'a Bytes>) -> usize {
    let mut sum = 0;
    for part in parts {
        if part.len() >= LARGE || sum + part.len() > GATHERED {
            break;
        }
        sum += part.len();
    }
    sum
}

impl http_body::Body for Body {
    type Data = Pieces;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Pieces>, Infallible>>> {
        let pieces = self.0.take();
        if let Some(progress) = pieces.as_ref().and_then(|pieces| pieces.progress.as_ref()) {
            progress.begin();
        }
        Poll::Ready(pieces.map(|pieces| Ok(Frame::data(pieces))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Buf::remaining) as u64)
    }
}

/// Several buffers that are read as one; none of them is empty.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    list: VecDeque<Bytes>,
    left: usize,
    progress: Option<Progress>,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left += piece.len();
            self.list.push_back(piece);
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // A stall may end with the request.
        if let Some(progress) = self.progress.take().filter(|_| self.left > 0) {
            progress.moved(true);
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.list.front().map_or(&[], Bytes::chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.list);
        filled.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        if let Some(progress) = &self.progress {
            progress.moved(self.left == 0);
        }
        while let Some(front) = self.list.front_mut() {
            if front.len() > count {
                return front.advance(count);
            }
            count -= front.len();
            self.list.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(prefix: &[u8], parts: &[&Bytes]) -> Pieces {
        let parts = parts.iter().copied().cloned().collect();
        Body::with_prefix(prefix, parts).0.unwrap_or_default()
    }

    #[test]
    fn large_parts_are_not_copied_and_small_ones_are_put_together() {
        let small = Bytes::from(vec![1; 100]);
        let large = Bytes::from(vec![2; 100_000]);
        let check = |prefix: &[u8], parts: &[&Bytes], expected: &[usize]| {
            let pieces = body(prefix, parts);
            let sizes: Vec<_> = pieces.list.iter().map(Bytes::len).collect();
            assert_eq!(sizes, expected);
            assert_eq!(pieces.remaining(), sizes.iter().sum::<usize>());
            let whole = [prefix, &parts.iter().map(|part| &part[..]).collect::<Vec<_>>().concat()].concat();
            let mut pieces = pieces;
            assert_eq!(Vec::from(std::mem::take(&mut pieces.list)).concat(), whole);
        };
        check(&[], &[], &[]);
        check(b"12345", &[], &[5]);
        check(b"12345", &[&small, &small, &small], &[305]);
        check(&[], &[&large], &[100_000]);
        check(b"12345", &[&large, &large], &[5, 100_000, 100_000]);
        check(b"12345", &[&small, &large, &small, &small], &[105, 100_000, 200]);
        check(&[], &[&Bytes::new(), &large], &[100_000]);
        check(b"12345", &[&small; 1000], &[5 + 65_500, 100_000 - 65_500]);
        assert_eq!(body(&[], &[&large]).list[0].as_ptr(), large.as_ptr());
    }

    #[test]
    fn pieces_are_read_as_one() {
        let large = Bytes::from((0..=255).cycle().take(10_000).collect::<Vec<u8>>());
        let mut pieces = body(b"12345", &[&large, &large]);
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(pieces.chunks_vectored(&mut slices), 2);
        assert_eq!((&slices[0][..], &slices[1][..]), (&b"12345"[..], &large[..]));
        pieces.advance(5 + 9_999);
        assert_eq!(pieces.chunk(), &large[9_999..]);
        let rest = pieces.copy_to_bytes(pieces.remaining());
        assert_eq!(rest, [&large[9_999..], &large[..]].concat());
        assert_eq!((pieces.remaining(), pieces.chunk()), (0, &[][..]));
    }
}
