//! What of a segment has ended, durably: a file of ranges beside it, appended to and lazily synced.
//!
//! ```text
//! header, 64 bytes, as of the segment, own magic │ range, 24 bytes: first u64 │ count u64 │ kind u32 │ crc u32 …
//! ```
//!
//! A range that is damaged is ignored: its records are sent again, never lost. When a segment is gone its
//! ends stay, with a range of kind 1, as a note that nothing is missing there; notes of neighbours are merged
//! into the newest. When a journal is closed, a range of kind 2 says what its newest segment holds: no later
//! one follows it that would.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::format::{BadHeader, ENDS_MAGIC, Identity, SEGMENT_HEADER, put, u32_at, u64_at};
use super::storage::{Storage, StoredFile, is_full, read_full, write_all};

const RANGE: usize = 24;

/// Records that have ended.
const ENDED: u32 = 0;
/// All there ever was, in a segment that is gone.
const NOTE: u32 = 1;
/// All that was stored in the segment.
const WHOLE: u32 = 2;

/// The file of one segment; opened when it is written to, as there may be thousands.
#[derive(Debug)]
pub(super) struct EndsFile {
    seed: u32,
    pub(super) len: u64,
}

impl EndsFile {
    /// Writes a new file with what has ended and what is `whole`, and syncs it; its directory is the caller's.
    pub(super) fn create(
        storage: &dyn Storage,
        path: &Path,
        identity: Identity,
        (ended, whole): (&[Range<u64>], Option<&Range<u64>>),
    ) -> io::Result<Self> {
        let file = storage.create(path)?;
        let mut bytes = identity.encode(ENDS_MAGIC).to_vec();
        ended.iter().for_each(|range| bytes.extend(encode(identity.seed(), range, ENDED)));
        whole.iter().for_each(|range| bytes.extend(encode(identity.seed(), range, WHOLE)));
        write_all(&*file, &bytes, 0)?;
        file.sync()?;
        Ok(Self { seed: identity.seed(), len: bytes.len() as u64 })
    }

    /// Goes on with a file that was read, behind the last whole range.
    pub(super) fn resume(identity: Identity, len: u64) -> Self {
        let whole = len.saturating_sub(SEGMENT_HEADER as u64) / RANGE as u64;
        Self { seed: identity.seed(), len: SEGMENT_HEADER as u64 + whole * RANGE as u64 }
    }

    /// Appends `ranges` to its file and syncs it.
    pub(super) fn append(&mut self, file: &dyn StoredFile, ranges: &[Range<u64>]) -> io::Result<()> {
        let bytes: Vec<u8> = ranges.iter().flat_map(|range| encode(self.seed, range, ENDED)).collect();
        self.write(file, &bytes)?;
        file.sync()
    }

    /// Notes that `covers` is all there was, and syncs it: at the end of the file, or, if the disk is full, in
    /// the place of the last range, which the note includes.
    pub(super) fn note(&mut self, file: &dyn StoredFile, covers: &Range<u64>) -> io::Result<()> {
        let note = encode(self.seed, covers, NOTE);
        match self.write(file, &note) {
            Err(error) if is_full(&error) && self.len >= (SEGMENT_HEADER + RANGE) as u64 => {
                write_all(file, &note, self.len - RANGE as u64)?;
            }
            written => written?,
        }
        file.sync()
    }

    /// Says that `whole` is what the segment holds, and syncs it.
    pub(super) fn vouch(&mut self, file: &dyn StoredFile, whole: &Range<u64>) -> io::Result<()> {
        self.write(file, &encode(self.seed, whole, WHOLE))?;
        file.sync()
    }

    fn write(&mut self, file: &dyn StoredFile, bytes: &[u8]) -> io::Result<()> {
        write_all(file, bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// What a file of ends says.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) identity: Identity,
    /// What has ended, in order, without overlaps.
    pub(super) ranges: Vec<Range<u64>>,
    /// The segment is gone, and this is what the note covers.
    pub(super) note: Option<Range<u64>>,
    /// What the segment held when the journal was closed.
    pub(super) whole: Option<Range<u64>>,
    /// The length of the file.
    pub(super) len: u64,
}

impl Ends {
    pub(super) fn has_ended(&self, seq: u64) -> bool {
        let before = self.ranges.partition_point(|range| range.start <= seq);
        let last = before.checked_sub(1).and_then(|at| self.ranges.get(at));
        last.into_iter().chain(&self.note).any(|range| range.contains(&seq))
    }
}

/// Reads a file of ends; nothing if its header is damaged or newer.
pub(super) fn read(file: &dyn StoredFile) -> io::Result<Result<Ends, BadHeader>> {
    let mut bytes = vec![0; usize::try_from(file.size()?).unwrap_or(usize::MAX)];
    let filled = read_full(file, &mut bytes, 0)?;
    bytes.truncate(filled);
    let identity = match Identity::decode(&bytes, ENDS_MAGIC) {
        Ok(identity) => identity,
        Err(bad) => return Ok(Err(bad)),
    };
    let mut ends = Ends { identity, ranges: Vec::new(), note: None, whole: None, len: filled as u64 };
    for (range, kind) in
        bytes[SEGMENT_HEADER..].chunks(RANGE).filter_map(|bytes| decode(identity.seed(), bytes))
    {
        match kind {
            NOTE => ends.note = Some(range),
            WHOLE => ends.whole = Some(range),
            _ => ends.ranges.push(range),
        }
    }
    ends.ranges = in_order(ends.ranges);
    Ok(Ok(ends))
}

fn in_order(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

fn encode(seed: u32, range: &Range<u64>, kind: u32) -> [u8; RANGE] {
    let mut bytes = [0; RANGE];
    put(&mut bytes, 0, &range.start.to_le_bytes());
    put(&mut bytes, 8, &(range.end - range.start).to_le_bytes());
    put(&mut bytes, 16, &kind.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &bytes[..20]);
    put(&mut bytes, 20, &crc.to_le_bytes());
    bytes
}

fn decode(seed: u32, bytes: &[u8]) -> Option<(Range<u64>, u32)> {
    let is_intact = bytes.len() == RANGE && crc32c::crc32c_append(seed, &bytes[..20]) == u32_at(bytes, 20);
    let start = u64_at(bytes, 0);
    is_intact.then_some((start..start.checked_add(u64_at(bytes, 8))?, u32_at(bytes, 16)))
}
