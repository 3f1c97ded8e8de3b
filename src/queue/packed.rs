//! What waits on disk in one line, in a few bytes a batch.
//!
//! ```text
//! chunk: owners [A][B]   bytes │ which columns differ from what is foreseen, u8 │ zigzag varint of each │ …
//! ```
//!
//! Each batch is a row of numbers that the row before foresees: the next sequence number, the place right
//! behind, the same length, items and owner. Only what differs is written down. First in, first out; not
//! here: the bytes of the batches, which the log has. Invariants: a batch comes out as it went in, received
//! a millisecond earlier at most; one that is let go with the rest ends like any other.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::schedule::Entry;
use crate::batch::{Batch, Numbers, Owner};
use crate::journal::Place;
use crate::wire::{Reader, put_varint};

/// How many batches share a list of owners.
const CHUNK: u32 = 128;

const COLUMNS: usize = 8;
const SEQUENCE: usize = 0;
const ID: usize = 1;
const SEGMENT: usize = 2;
const OFFSET: usize = 3;
const LEN: usize = 4;
const ITEMS: usize = 5;
/// In milliseconds since the epoch of the line, before it in two's complement.
const RECEIVED: usize = 6;
/// The number among the owners of its chunk, doubled; and one if it joins another's request.
const OWNER: usize = 7;

type Row = [u64; COLUMNS];

/// Batches of one line that a log on disk has, oldest first.
#[derive(Debug)]
pub(super) struct Packed {
    chunks: VecDeque<Chunk>,
    /// The place of the line's flow.
    place: u32,
    epoch: Instant,
    written: Row,
    read: Row,
}

#[derive(Debug, Default)]
struct Chunk {
    owners: Vec<Owner>,
    bytes: Vec<u8>,
    /// Up to where they were read.
    at: usize,
    rows: u32,
    rows_read: u32,
}

impl Packed {
    /// One batch, which the log has at `kept`.
    pub(super) fn beginning_with(entry: Entry, kept: Place) -> Self {
        let epoch = entry.batch.received_at();
        let [id, segment, offset, len] = kept.numbers();
        let first = [entry.sequence, id, segment, offset, len, entry.batch.items(), 0, 0];
        let (chunks, place) = (VecDeque::with_capacity(1), entry.place);
        let mut packed = Self { chunks, place, epoch, written: first, read: first };
        packed.push(entry, kept);
        packed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes of memory, without what the owners share with others.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        let of = |chunk: &Chunk| chunk.bytes.capacity() + chunk.owners.capacity() * size_of::<Owner>();
        let chunks = self.chunks.iter().map(of).sum::<usize>();
        size_of::<Self>() + self.chunks.capacity() * size_of::<Chunk>() + chunks
    }

    /// Adds the youngest batch, which the log has at `kept`.
    pub(super) fn push(&mut self, entry: Entry, kept: Place) {
        debug_assert_eq!((entry.place, entry.batch.size()), (self.place, kept.payload_bytes()));
        let (owner, numbers) = entry.batch.parted();
        if self.chunks.back().is_none_or(|last| last.rows == CHUNK) {
            if let Some(full) = self.chunks.back_mut() {
                full.bytes.shrink_to_fit();
                full.owners.shrink_to_fit();
            }
            self.chunks.push_back(Chunk::default());
        }
        let Some(chunk) = self.chunks.back_mut() else { return };
        let owner = chunk.number_of(owner);
        let [id, segment, offset, len] = kept.numbers();
        let received = since(self.epoch, numbers.received_at);
        let owner = owner << 1 | u64::from(!numbers.opens_request);
        let row = [entry.sequence, id, segment, offset, len, numbers.items, received, owner];
        chunk.write(&self.written, &row);
        self.written = row;
    }
}

/// Takes the oldest batch out.
impl Iterator for Packed {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let chunk = self.chunks.front_mut()?;
        let row = chunk.read(&self.read)?;
        self.read = row;
        let kept = Place::of_numbers([row[ID], row[SEGMENT], row[OFFSET], row[LEN]]);
        let numbers = Numbers {
            items: row[ITEMS],
            size: kept.payload_bytes(),
            received_at: at(self.epoch, row[RECEIVED]),
            opens_request: row[OWNER] & 1 == 0,
        };
        let batch = Batch::joined(chunk.owners.get((row[OWNER] >> 1) as usize)?, numbers);
        if chunk.rows_read == chunk.rows {
            self.chunks.pop_front();
        }
        Some(Entry { sequence: row[SEQUENCE], place: self.place, batch, kept: Some(kept) })
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        // Each notes in the books how it ended.
        self.for_each(drop);
    }
}

impl Chunk {
    fn number_of(&mut self, owner: Owner) -> u64 {
        // Who came last comes again.
        let known = self.owners.iter().rposition(|known| known.is(&owner));
        let number = known.unwrap_or_else(|| {
            self.owners.push(owner);
            self.owners.len() - 1
        });
        number as u64
    }

    fn write(&mut self, before: &Row, row: &Row) {
        let head = self.bytes.len();
        self.bytes.push(0);
        for column in 0..COLUMNS {
            let difference = row[column].wrapping_sub(foreseen(column, before, row));
            if difference != 0 {
                self.bytes[head] |= 1 << column;
                put_varint(&mut self.bytes, zigzag(difference as i64));
            }
        }
        self.rows += 1;
    }

    fn read(&mut self, before: &Row) -> Option<Row> {
        let differs = *self.bytes.get(self.at)?;
        let mut reader = Reader::starting_at(&self.bytes, self.at + 1);
        let mut row = [0; COLUMNS];
        for column in 0..COLUMNS {
            row[column] = foreseen(column, before, &row);
            if differs & (1 << column) != 0 {
                row[column] = row[column].wrapping_add(unzigzag(reader.varint().ok()?) as u64);
            }
        }
        (self.at, self.rows_read) = (reader.at(), self.rows_read + 1);
        Some(row)
    }
}

/// What a column of a row will be, from the row before and the columns before it: other lines store what is
/// like their own.
fn foreseen(column: usize, before: &Row, row: &Row) -> u64 {
    let step = |column: usize| row[column].wrapping_sub(before[column]);
    match column {
        SEQUENCE => before[SEQUENCE] + 1,
        ID => before[ID].wrapping_add(step(SEQUENCE)),
        OFFSET => before[OFFSET].wrapping_add(step(ID).wrapping_mul(Place::padded(before[LEN]))),
        _ => before[column],
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn since(epoch: Instant, then: Instant) -> u64 {
    match then.checked_duration_since(epoch) {
        Some(later) => later.as_millis() as u64,
        None => (epoch.duration_since(then).as_micros().div_ceil(1000) as u64).wrapping_neg(),
    }
}

fn at(epoch: Instant, since: u64) -> Instant {
    let millis = since as i64;
    let distance = Duration::from_millis(millis.unsigned_abs());
    let then = if millis < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    then.unwrap_or(epoch)
}
