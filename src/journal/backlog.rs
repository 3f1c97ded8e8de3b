//! What a journal had when it was opened: the indexes of its segments, of which each is let go once all of it
//! has been handed out.
//!
//! Memory is 56 bytes a record and less with each. Invariant: what is in it has not ended.

use std::collections::{BTreeMap, VecDeque};

use super::index::{Entry, Index};
use super::shared::Moved;
use super::types::{Place, Waiting};

/// Records that wait, in the order in which they were first stored.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    /// By the first sequence number of the segment, in order.
    segments: VecDeque<(u64, Index)>,
    /// How many of the first segment were handed out.
    at: usize,
    /// Copies, by the sequence number of the first of all: where the last one is.
    moved: BTreeMap<u64, (Waiting, u32)>,
    records: usize,
}

impl Backlog {
    /// Adds a segment that is younger than all there are. Of records that it has copies of, the places of
    /// earlier copies, with their ordinals there.
    pub(super) fn add(&mut self, base: u64, mut index: Index) -> Vec<(Place, u32)> {
        let is_copy = |entry: &Entry| entry.first != base + u64::from(entry.ordinal);
        let (before, mut older) = (self.moved.len(), Vec::new());
        for entry in index.entries.iter().filter(|entry| is_copy(entry)) {
            let Some(waits) = index.waiting(entry, base) else { continue };
            let copy = self.moved.insert(entry.first, (waits, entry.ordinal));
            older.extend(copy.map(|(waits, ordinal)| (waits.place, ordinal)));
        }
        index.entries.retain(|entry| !is_copy(entry));
        self.records += index.entries.len() + self.moved.len() - before;
        self.segments.push_back((base, index));
        older
    }

    /// Takes out all records of which there are copies: their places, and their ordinals there.
    pub(super) fn without_originals(&mut self) -> Vec<(Place, u32)> {
        let mut originals = Vec::new();
        for (base, index) in &mut self.segments {
            if self.moved.range(*base..).next().is_some() {
                index.entries.retain(|entry| {
                    let is_original = self.moved.contains_key(&entry.first);
                    originals.extend(is_original.then(|| (entry.place(*base), entry.ordinal)));
                    !is_original
                });
            }
        }
        self.records -= originals.len();
        originals
    }

    /// Where the copies are, by the sequence number of the first of all.
    pub(super) fn moved(&self) -> impl Iterator<Item = (u64, Moved)> {
        self.moved.iter().map(|(id, (waits, ordinal))| (*id, Moved { place: waits.place, ordinal: *ordinal }))
    }
}

impl Iterator for Backlog {
    type Item = Waiting;

    fn next(&mut self) -> Option<Waiting> {
        while self.segments.front().is_some_and(|(_, index)| self.at == index.entries.len()) {
            self.segments.pop_front();
            self.at = 0;
        }
        let next =
            self.segments.front().and_then(|(base, index)| Some((index.entries.get(self.at)?, *base, index)));
        let copy = self.moved.first_key_value().map(|(id, _)| *id);
        let waits = match next {
            Some((entry, base, index)) if copy.is_none_or(|copy| entry.first < copy) => {
                self.at += 1;
                index.waiting(entry, base)
            }
            _ => self.moved.pop_first().map(|(_, (waits, _))| waits),
        };
        self.records -= usize::from(waits.is_some());
        waits
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.records, Some(self.records))
    }
}

impl ExactSizeIterator for Backlog {}
