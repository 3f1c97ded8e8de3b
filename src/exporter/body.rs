//! Request bodies: a few pieces that are sent as they are.
//!
//! Invariant: pieces of [`LARGE`] and more are never copied; smaller ones are put together, because every
//! piece costs a frame.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

/// From this size on sending a piece by itself is cheaper than copying it: the smallest frame size that
/// every peer takes.
const LARGE: usize = 16 * 1024;

/// A body whose length is known.
#[derive(Debug, Default)]
pub(super) struct Body {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl Body {
    /// The parts, one after the other.
    pub(super) fn new(parts: Vec<Bytes>) -> Self {
        Self::with_prefix(&[], parts)
    }

    /// A prefix, then the parts.
    pub(super) fn with_prefix(prefix: &[u8], parts: Vec<Bytes>) -> Self {
        let left = prefix.len() + parts.iter().map(Bytes::len).sum::<usize>();
        let mut pieces = VecDeque::with_capacity(2);
        let mut gathered = BytesMut::with_capacity(left.min(LARGE));
        gathered.extend_from_slice(prefix);
        for mut part in parts {
            if part.len() >= LARGE && !gathered.is_empty() {
                // The small piece before a large one is filled up to a whole frame.
                let fill = LARGE - gathered.len() % LARGE;
                gathered.extend_from_slice(&part.split_to(fill.min(part.len())));
            }
            if part.len() >= LARGE {
                if !gathered.is_empty() {
                    pieces.push_back(gathered.split().freeze());
                }
                pieces.push_back(part);
            } else {
                gathered.extend_from_slice(&part);
            }
        }
        if !gathered.is_empty() {
            pieces.push_back(gathered.freeze());
        }
        Self { pieces, left: left as u64 }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_parts_are_not_copied_and_small_ones_are_put_together() {
        let small = Bytes::from(vec![1; 100]);
        let large = Bytes::from(vec![2; 100_000]);
        let check = |prefix: &[u8], parts: &[&Bytes], expected: &[usize]| {
            let parts: Vec<Bytes> = parts.iter().copied().cloned().collect();
            let whole = [prefix, &parts.concat()].concat();
            let body = Body::with_prefix(prefix, parts);
            let sizes: Vec<_> = body.pieces.iter().map(Bytes::len).collect();
            assert_eq!(sizes, expected);
            assert_eq!(body.left, whole.len() as u64);
            assert_eq!(Vec::from(body.pieces).concat(), whole);
        };
        check(&[], &[], &[]);
        check(b"12345", &[], &[5]);
        check(b"12345", &[&small, &small, &small], &[305]);
        check(&[], &[&large], &[100_000]);
        check(b"12345", &[&large], &[LARGE, 100_005 - LARGE]);
        check(b"12345", &[&small, &large, &small], &[LARGE, 100_105 - LARGE, 100]);
        let body = Body::new(vec![large.clone()]);
        assert_eq!(body.pieces[0].as_ptr(), large.as_ptr());
    }
}
