//! Reads a segment: by its index if it is sealed and intact, else record by record.
//!
//! Whatever the bytes are, this ends, takes memory in proportion to the largest record, and gives out
//! nothing whose checksum fails.

use std::collections::HashMap;
use std::io;

use super::format::{
    BadHeader, Identity, KIND_NAME, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SEGMENT_MAGIC, TRAILER,
    Trailer, is_intact, padded,
};
use super::index::{Entry, Index};
use super::storage::{StoredFile, read_full};

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) identity: Identity,
    pub(super) index: Index,
    /// Behind the last record, in bytes from the start.
    pub(super) end: u64,
    /// Stretches between records that are none.
    pub(super) damaged: u32,
    /// Everything before this sequence number had been synced: what of it is missing was damaged.
    pub(super) floor: u64,
    /// The first entry behind one that is missing and was never acknowledged, unlike, perhaps, this one.
    pub(super) gap: Option<usize>,
    pub(super) is_sealed: bool,
    /// Its header was damaged; the identity comes from elsewhere.
    pub(super) is_headless: bool,
}

impl Contents {
    /// One past the last sequence number.
    pub(super) fn next(&self) -> u64 {
        self.identity.base + self.index.entries.last().map_or(0, |entry| u64::from(entry.ordinal) + 1)
    }
}

/// Why a segment gives nothing.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// A newer build wrote it.
    Newer(u32),
    /// Without its identity no record of it can be checked.
    Nothing,
    /// The file does not say how long it is.
    Disk(io::Error),
}

/// Reads the segment in `file`; `known` is its identity if another file says it. What the disk does not give
/// is damage like any other: one bad block must not hide the rest.
pub(super) fn read(file: &dyn StoredFile, known: Option<Identity>) -> Result<Contents, Unreadable> {
    let len = file.size().map_err(Unreadable::Disk)?;
    let mut header = [0; SEGMENT_HEADER];
    let filled = read_full(file, &mut header, 0).unwrap_or(0);
    let own = match Identity::decode(&header[..filled], SEGMENT_MAGIC) {
        Err(BadHeader::Newer(version)) => return Err(Unreadable::Newer(version)),
        other => other.ok(),
    };
    let trailer = trailer(file, len).filter(|trailer| own.is_none_or(|own| own == trailer.identity));
    let identity = own.or(trailer.map(|trailer| trailer.identity)).or(known).ok_or(Unreadable::Nothing)?;
    let is_headless = own.is_none();
    if let Some(trailer) = trailer
        && let Some((index, end)) = sealed_index(file, len, &trailer)
    {
        let floor = identity.base + index.entries.last().map_or(0, |entry| u64::from(entry.ordinal) + 1);
        let damaged = trailer.damaged;
        return Ok(Contents {
            identity,
            index,
            end,
            damaged,
            floor,
            gap: None,
            is_sealed: true,
            is_headless,
        });
    }
    let mut scan = Scan::new(file, len, identity);
    scan.run();
    let gap = scan.look_at_the_last_write();
    let Scan { index, end, damaged, floor, .. } = scan;
    Ok(Contents { identity, index, end, damaged, floor, gap, is_sealed: false, is_headless })
}

fn trailer(file: &dyn StoredFile, len: u64) -> Option<Trailer> {
    let mut bytes = [0; TRAILER];
    let filled = read_full(file, &mut bytes, len.checked_sub(TRAILER as u64)?).ok()?;
    Trailer::decode(&bytes[..filled])
}

/// The index of a sealed segment and where the records before it end; nothing if it is damaged.
fn sealed_index(file: &dyn StoredFile, len: u64, trailer: &Trailer) -> Option<(Index, u64)> {
    let start = len.checked_sub(u64::from(trailer.index_len) + TRAILER as u64)?;
    if start < SEGMENT_HEADER as u64 {
        return None;
    }
    let mut bytes = vec![0; trailer.index_len as usize];
    let is_whole = read_full(file, &mut bytes, start).ok()? == bytes.len();
    if !is_whole || crc32c::crc32c_append(trailer.identity.seed(), &bytes) != trailer.index_crc {
        return None;
    }
    let index = Index::decode(&bytes)?;
    let fits = |entry: &Entry| {
        entry.len as usize > RECORD_HEADER && u64::from(entry.offset) + u64::from(entry.len) <= start
    };
    let is_ordered = index.entries.windows(2).all(|pair| pair[0].ordinal < pair[1].ordinal);
    (is_ordered && index.entries.iter().all(fits)).then_some((index, start))
}

/// How many times the length of a file may be read for checksums that turn out wrong: hostile bytes could
/// make every word look like the header of a large record.
const MAX_VAIN: u64 = 8;

struct Scan<'a> {
    window: Window<'a>,
    seed: u32,
    base: u64,
    index: Index,
    end: u64,
    damaged: u32,
    floor: u64,
    /// The sequence number the next record has, if none is missing.
    next: u64,
    /// Bytes that may still be read for nothing.
    vain: u64,
}

impl<'a> Scan<'a> {
    fn new(file: &'a dyn StoredFile, len: u64, identity: Identity) -> Self {
        Self {
            window: Window { file, len, bytes: Vec::new(), start: 0 },
            seed: identity.seed(),
            base: identity.base,
            index: Index { entries: Vec::new(), names: HashMap::new() },
            end: SEGMENT_HEADER as u64,
            damaged: 0,
            floor: identity.base,
            next: identity.base,
            vain: len.saturating_mul(MAX_VAIN),
        }
    }

    fn run(&mut self) {
        let (mut at, mut is_lost) = (self.end, false);
        while at + RECORD_HEADER as u64 <= self.window.len {
            match self.record(at) {
                Some(len) => {
                    self.damaged += u32::from(is_lost);
                    is_lost = false;
                    at += padded(len);
                    self.end = at.min(self.window.len);
                }
                None if self.vain == 0 => break,
                None => {
                    is_lost = true;
                    at += 8;
                }
            }
        }
    }

    /// Leaves out records of the last write whose names are missing: a power loss tore it, or nobody could say
    /// whose they are. Finds the first record of the last write that is behind a missing one.
    fn look_at_the_last_write(&mut self) -> Option<usize> {
        let (base, floor) = (self.base, self.floor);
        let is_synced = |entry: &Entry| base + u64::from(entry.ordinal) < floor;
        let Index { entries, names } = &mut self.index;
        let named = |number: u32| number == 0 || names.contains_key(&number);
        let has_names = |entry: &Entry| {
            names.contains_key(&entry.tenant) && named(entry.principal) && named(entry.revision)
        };
        entries.retain(|entry| is_synced(entry) || has_names(entry));
        let synced = entries.iter().take_while(|entry| is_synced(entry)).count();
        let behind = entries[synced..].iter().zip(floor..);
        let gap = behind.take_while(|(entry, seq)| base + u64::from(entry.ordinal) == *seq).count() + synced;
        (gap < entries.len()).then_some(gap)
    }

    /// Takes the record at `at` into the index; its length, or nothing if there is none.
    fn record(&mut self, at: u64) -> Option<u64> {
        let header = RecordHeader::decode(self.window.get(at, RECORD_HEADER))?;
        let len = u64::from(header.len);
        let most = self.window.len / RECORD_HEADER as u64;
        let is_in_order = header.seq >= self.next && header.seq - self.next <= most;
        if !is_in_order || at + len > self.window.len {
            return None;
        }
        let bytes = self.window.get(at, header.len as usize);
        if !is_intact(self.seed, bytes) {
            self.vain = self.vain.saturating_sub(len);
            return None;
        }
        if header.kind == KIND_NAME {
            if let Ok(name) = std::str::from_utf8(&bytes[RECORD_HEADER..]) {
                self.index.names.insert(header.tenant, name.into());
            }
        } else {
            let offset = u32::try_from(at).ok()?;
            self.index.entries.push(Entry::new(&header, self.base, offset));
            self.next = header.seq + 1;
        }
        self.floor = self.floor.max(header.seq.saturating_sub(u64::from(header.back)));
        Some(len)
    }
}

/// How much is read at a time.
const WINDOW: usize = 1 << 20;

/// A part of the file in memory.
struct Window<'a> {
    file: &'a dyn StoredFile,
    len: u64,
    bytes: Vec<u8>,
    start: u64,
}

impl Window<'_> {
    /// `len` bytes at `at`, which lie within the file; zeros for what the disk does not give.
    fn get(&mut self, at: u64, len: usize) -> &[u8] {
        let is_here = at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64;
        if !is_here {
            let size = (self.len - at).min(len.max(WINDOW) as u64) as usize;
            self.bytes.clear();
            self.bytes.resize(size, 0);
            self.start = at;
            if read_full(self.file, &mut self.bytes, at).is_err() {
                self.salvage(at);
            }
        }
        let from = (at - self.start) as usize;
        self.bytes.get(from..from + len).unwrap_or_default()
    }

    /// Reads block by block what cannot be read at once.
    fn salvage(&mut self, at: u64) {
        for (number, block) in self.bytes.chunks_mut(BLOCK).enumerate() {
            if read_full(self.file, block, at + (number * BLOCK) as u64).is_err() {
                block.fill(0);
            }
        }
    }
}

/// What a disk loses at once.
const BLOCK: usize = 4 << 10;
