//! What is known of a segment while the journal runs: which of its records have ended, and how large it is.

use std::ops::Range;

use super::ends::EndsFile;
use super::format::Identity;

/// A file of records.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) identity: Identity,
    /// One past the last ordinal that counts.
    pub(super) count: u32,
    ended: Vec<u64>,
    /// Records that have not ended.
    pub(super) live: u64,
    /// Their bytes, headers included.
    pub(super) live_bytes: u64,
    /// The length of the file.
    pub(super) bytes: u64,
    /// When its first record was received.
    pub(super) oldest: u64,
    /// It is written to.
    pub(super) is_open: bool,
    /// Something in it is broken: the file is kept when it is done with.
    pub(super) is_damaged: bool,
    /// What is left in it cannot be moved.
    pub(super) is_stuck: bool,
    pub(super) ends: Option<EndsFile>,
    /// What its ends say that it holds.
    pub(super) whole: Option<Range<u64>>,
    /// Sequence numbers that have ended and are not in the file of ends.
    pub(super) fresh: Vec<u64>,
    /// The file of ends has what is not synced.
    pub(super) is_unsynced: bool,
}

impl Segment {
    pub(super) fn new(identity: Identity, ends: Option<EndsFile>) -> Self {
        Self {
            identity,
            count: 0,
            ended: Vec::new(),
            live: 0,
            live_bytes: 0,
            bytes: 0,
            oldest: 0,
            is_open: false,
            is_damaged: false,
            is_stuck: false,
            ends,
            whole: None,
            fresh: Vec::new(),
            is_unsynced: false,
        }
    }

    /// A record was stored, or found at recovery; ordinals come in order and may skip.
    pub(super) fn add(&mut self, ordinal: u32, len: u32, received: u64) {
        if self.count == 0 {
            self.oldest = received;
        }
        self.count = ordinal + 1;
        self.live += 1;
        self.live_bytes += u64::from(len);
    }

    pub(super) fn has_ended(&self, ordinal: u32) -> bool {
        self.ended.get(ordinal as usize / 64).is_some_and(|word| word & (1 << (ordinal % 64)) != 0)
    }

    /// Marks a record without counting it; whether it had not ended before.
    pub(super) fn mark(&mut self, ordinal: u32) -> bool {
        if self.has_ended(ordinal) {
            return false;
        }
        let word = ordinal as usize / 64;
        if self.ended.len() <= word {
            self.ended.resize(word + 1, 0);
        }
        self.ended[word] |= 1 << (ordinal % 64);
        true
    }

    /// What may have been written behind the last record that counts, up to this sequence number, has ended: it
    /// must not come back, least of all a copy of what has ended elsewhere meanwhile.
    pub(super) fn void(&mut self, end: u64) {
        let end = u32::try_from(end.saturating_sub(self.identity.base)).unwrap_or(u32::MAX);
        self.mark_all(self.count..end);
    }

    /// Of the records that count, those that are not `there`, in order, have ended: they are lost.
    pub(super) fn end_all_but(&mut self, there: impl Iterator<Item = u32>) {
        let mut next = 0;
        for ordinal in there.chain([self.count]) {
            self.mark_all(next..ordinal);
            next = ordinal + 1;
        }
    }

    /// These are not live and have ended.
    fn mark_all(&mut self, ordinals: Range<u32>) {
        for ordinal in ordinals {
            if self.mark(ordinal) {
                self.fresh.push(self.identity.base + u64::from(ordinal));
            }
        }
    }

    /// A record of `len` bytes, header included, has ended; whether it had not before.
    pub(super) fn end(&mut self, ordinal: u32, len: u32) -> bool {
        let is_first = ordinal < self.count && self.mark(ordinal);
        if is_first {
            self.live = self.live.saturating_sub(1);
            self.live_bytes = self.live_bytes.saturating_sub(u64::from(len));
            self.fresh.push(self.identity.base + u64::from(ordinal));
        }
        is_first
    }

    /// One past the last sequence number.
    pub(super) fn next(&self) -> u64 {
        self.identity.base + u64::from(self.count)
    }

    /// What a note says when it is gone: nothing is missing here.
    pub(super) fn covers(&self) -> Range<u64> {
        self.identity.follows..self.next()
    }

    /// All that has ended, as ranges; what was written in vain too.
    pub(super) fn ended(&self) -> Vec<Range<u64>> {
        let ordinals = (0..self.ended.len() as u32 * 64).filter(|ordinal| self.has_ended(*ordinal));
        ranges(ordinals.map(|ordinal| self.identity.base + u64::from(ordinal)))
    }

    pub(super) fn ends_bytes(&self) -> u64 {
        self.ends.as_ref().map_or(0, |ends| ends.len)
    }

    pub(super) fn dead_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.live_bytes)
    }
}

/// Numbers in order as ranges.
pub(super) fn ranges(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match found.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => found.push(number..number + 1),
        }
    }
    found
}
