//! A lease that is worked on piece by piece.
//!
//! Invariant: dropped, all pieces that have not ended go back at once, so that nobody leases what is younger
//! while a part of them is still out.

use super::Lease;

/// The pieces of one lease that have not ended, the youngest first.
#[derive(Debug)]
#[must_use]
pub struct Pieces(Vec<Lease>);

impl Pieces {
    /// The whole lease, as one piece.
    pub fn new(lease: Lease) -> Self {
        Self(vec![lease])
    }

    /// The piece with the oldest batches, if one is left.
    pub fn oldest(&mut self) -> Option<&mut Lease> {
        self.0.last_mut()
    }

    /// Takes out the piece with the oldest batches, to be ended.
    pub fn take_oldest(&mut self) -> Option<Lease> {
        self.0.pop()
    }

    /// Cuts the piece with the oldest batches in two.
    pub fn halve(&mut self) {
        if let Some(piece) = self.0.last_mut() {
            let first = piece.take_first(piece.count() / 2);
            self.0.push(first);
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        let Some(mut whole) = self.0.pop() else { return };
        while let Some(younger) = self.0.pop() {
            whole.append(younger);
        }
    }
}
