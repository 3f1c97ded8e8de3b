//! Builds a message from ranges of two buffers and new length prefixes, then writes it in one go.
//!
//! A message is opened before its length is known and closed after; adjacent ranges become one, so
//! what is kept whole is copied whole.
//!
//! ```text
//! old:      | kept | left out | kept | kept |
//! pieces:   Header(key, length) Kept(..) Kept(..........)
//! ```

use super::{put_varint, varint_len};

/// The list of what a new message is made of; reused between messages.
#[derive(Debug, Default)]
pub struct Splice {
    pieces: Vec<Piece>,
    size: usize,
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Kept { start: usize, end: usize },
    New { start: usize, end: usize },
    Header { key: u32, length: usize },
}

/// A message that is open, or a place to go back to.
#[derive(Debug)]
#[must_use]
pub struct Mark {
    pieces: usize,
    size: usize,
}

impl Splice {
    /// Forgets everything; keeps the memory, unless it was a giant.
    pub fn clear(&mut self) {
        /// Pieces a request of some megabytes comes to at most.
        const KEPT: usize = 16 << 10;
        self.pieces.clear();
        self.pieces.shrink_to(KEPT);
        self.size = 0;
    }

    /// Bytes written so far, length prefixes of closed messages included.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Appends a range of the old message.
    #[inline]
    pub fn keep(&mut self, start: usize, end: usize) {
        self.size += end - start;
        if let Some(Piece::Kept { end: last, .. }) = self.pieces.last_mut()
            && *last == start
        {
            *last = end;
            return;
        }
        self.pieces.push(Piece::Kept { start, end });
    }

    /// Appends a range of the buffer of new bytes.
    pub fn insert(&mut self, start: usize, end: usize) {
        self.size += end - start;
        self.pieces.push(Piece::New { start, end });
    }

    /// Opens a length-prefixed message; close it with [`Splice::close`] or undo it with
    /// [`Splice::forget`].
    pub fn open(&mut self, key: u32) -> Mark {
        let mark = Mark { pieces: self.pieces.len(), size: self.size };
        self.pieces.push(Piece::Header { key, length: 0 });
        mark
    }

    /// Closes the message opened at `mark`: its length is what was appended since.
    pub fn close(&mut self, mark: Mark) {
        let written = self.size - mark.size;
        if let Some(Piece::Header { key, length }) = self.pieces.get_mut(mark.pieces) {
            *length = written;
            self.size += varint_len(u64::from(*key)) + varint_len(written as u64);
        }
    }

    /// Undoes everything since `mark`.
    pub fn forget(&mut self, mark: Mark) {
        self.pieces.truncate(mark.pieces);
        self.size = mark.size;
    }

    /// Writes the message into a buffer of its exact size; ranges outside the buffers count as empty.
    pub fn write(&self, old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size);
        for piece in &self.pieces {
            match *piece {
                Piece::Kept { start, end } => out.extend_from_slice(old.get(start..end).unwrap_or_default()),
                Piece::New { start, end } => out.extend_from_slice(new.get(start..end).unwrap_or_default()),
                Piece::Header { key, length } => {
                    put_varint(&mut out, u64::from(key));
                    put_varint(&mut out, length as u64);
                }
            }
        }
        debug_assert_eq!(out.len(), self.size, "a range outside the buffers");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_messages_get_their_lengths_and_the_size_is_exact() {
        let mut splice = Splice::default();
        let outer = splice.open(10);
        let inner = splice.open(18);
        splice.keep(0, 100);
        splice.keep(100, 200);
        splice.insert(1, 3);
        splice.close(inner);
        let undone = splice.open(18);
        splice.keep(0, 7);
        splice.forget(undone);
        splice.close(outer);
        let out = splice.write(&[b'x'; 200], b"abcd");
        assert_eq!(out[..6], [10, 205, 1, 18, 202, 1]);
        assert_eq!(&out[206..], b"bc");
        assert_eq!((out.len(), out.capacity()), (splice.size(), splice.size()));
        assert_eq!(splice.pieces.len(), 4);
    }
}
