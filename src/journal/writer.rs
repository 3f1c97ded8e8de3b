//! Writes records to the end of a segment: names first, then pieces of at most 256 KiB, then one sync.
//!
//! Invariant: after a failure nothing more is written to the file, unless [`Writer::cut_back`] succeeded.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{
    Identity, KIND_NAME, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, SEGMENT_MAGIC, TRAILER, Trailer,
    padded, signal_number,
};
use super::index::{Entry, Index};
use super::storage::{StoredFile, write_all};
use super::types::Head;

/// One write: larger ones cost a multiple of system time per byte.
const PIECE: usize = 256 << 10;

/// The longest name, in bytes; longer ones are cut.
const MAX_NAME: usize = 4 << 10;

/// What is to be written.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) head: Head,
    pub(super) payload: Bytes,
    pub(super) kind: u8,
    /// Of a record that is moved: the number it got at first.
    pub(super) first: Option<u64>,
}

impl Draft {
    fn names(&self) -> [&str; 3] {
        [self.head.tenant.as_str(), cut(&self.head.principal), cut(&self.head.revision)]
    }

    /// The most it takes of a segment, its line of the index included.
    pub(super) fn most_bytes(&self) -> u64 {
        let names: usize = self.names().iter().map(|name| 2 * (RECORD_HEADER + name.len() + 8)).sum();
        padded((RECORD_HEADER + self.payload.len()) as u64) + names as u64 + 64
    }
}

/// A name as it is stored.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(MAX_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Why records were not stored.
#[derive(Debug)]
pub(super) enum Failed {
    /// A write failed.
    Write(io::Error),
    /// The sync failed: what was written may be gone.
    Sync(io::Error),
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) identity: Identity,
    file: Arc<dyn StoredFile>,
    seed: u32,
    /// All before it is synced.
    pub(super) len: u64,
    pub(super) index: Index,
    numbers: HashMap<Arc<str>, u32>,
    /// Bytes written since this was asked last.
    pub(super) written: u64,
}

impl Writer {
    /// Writes and syncs the header of a new file; its directory is the caller's.
    pub(super) fn start(file: Arc<dyn StoredFile>, identity: Identity) -> io::Result<Self> {
        write_all(&*file, &identity.encode(SEGMENT_MAGIC), 0)?;
        file.sync()?;
        let len = SEGMENT_HEADER as u64;
        let (seed, index, numbers) = (identity.seed(), Index::default(), HashMap::new());
        Ok(Self { identity, file, seed, len, index, numbers, written: len })
    }

    /// Writes `drafts` as the records from `seq` on and syncs them; their entries are the last of the index.
    pub(super) fn store(&mut self, drafts: &[Draft], seq: u64, staging: &mut Vec<u8>) -> Result<(), Failed> {
        let mut pieces = Pieces { file: &*self.file, staging, at: self.len };
        pieces.staging.clear();
        for (position, draft) in drafts.iter().enumerate() {
            let at = (seq + position as u64, position as u32);
            let numbers = draft.names().map(|name| (name, self.numbers.get(name).copied()));
            let numbers = numbers.map(|(name, number)| match number {
                _ if name.is_empty() => Ok(0),
                Some(number) => Ok(number),
                None => {
                    let number = self.numbers.len() as u32 + 1;
                    let name: Arc<str> = name.into();
                    self.numbers.insert(name.clone(), number);
                    self.index.names.insert(number, name.clone());
                    let header = name_header(&name, number, at);
                    let bytes = header.encode(self.seed, &[name.as_bytes()]);
                    // Twice: with its only copy damaged, no record of this tenant could be given back.
                    (0..2).try_for_each(|_| pieces.record(&bytes, name.as_bytes())).map(|()| number)
                }
            });
            let [tenant, principal, revision] = numbers;
            let numbers = [
                tenant.map_err(Failed::Write)?,
                principal.map_err(Failed::Write)?,
                revision.map_err(Failed::Write)?,
            ];
            let header = record_header(draft, at, numbers);
            let offset =
                u32::try_from(pieces.end()).map_err(|_| Failed::Write(io::ErrorKind::FileTooLarge.into()))?;
            let bytes = header.encode(self.seed, &[&draft.payload]);
            pieces.record(&bytes, &draft.payload).map_err(Failed::Write)?;
            self.index.entries.push(Entry::new(&header, self.identity.base, offset));
        }
        pieces.flush().map_err(Failed::Write)?;
        let end = pieces.at;
        self.file.sync().map_err(Failed::Sync)?;
        self.written += end - self.len;
        self.len = end;
        Ok(())
    }

    /// Takes back a [`Writer::store`] that found the disk full, durably, as if it had not been tried.
    pub(super) fn cut_back(&mut self, entries: usize) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.sync()?;
        self.index.entries.truncate(entries);
        let used: u32 = self
            .index
            .entries
            .iter()
            .map(|entry| entry.tenant.max(entry.principal).max(entry.revision))
            .max()
            .unwrap_or(0);
        self.index.names.retain(|number, _| *number <= used);
        self.numbers.retain(|_, number| *number <= used);
        Ok(())
    }

    /// What [`Writer::seal`] will add.
    pub(super) fn index_bytes(&self) -> u64 {
        let names: usize = self.index.names.values().map(|name| name.len() + 6).sum();
        (8 + names + self.index.entries.len() * 52 + TRAILER) as u64
    }

    /// Writes index and trailer and syncs them; how long the file is then.
    pub(super) fn seal(&mut self) -> io::Result<u64> {
        seal(&*self.file, self.identity, &self.index, (self.len, 0))
    }
}

/// Ends a segment with its index behind byte `end` and notes `damaged` stretches in it.
pub(super) fn seal(
    file: &dyn StoredFile,
    identity: Identity,
    index: &Index,
    (end, damaged): (u64, u32),
) -> io::Result<u64> {
    let mut bytes = index.encode();
    let index_len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let index_crc = crc32c::crc32c_append(identity.seed(), &bytes);
    bytes.extend(Trailer { identity, index_len, index_crc, damaged }.encode());
    let written = write_all(file, &bytes, end).and_then(|()| file.sync());
    if let Err(error) = written {
        // The records are safe; without the trailer they are scanned at the next start.
        drop(file.set_len(end));
        return Err(error);
    }
    Ok(end + bytes.len() as u64)
}

fn name_header(name: &str, number: u32, (seq, back): (u64, u32)) -> RecordHeader {
    RecordHeader {
        len: (RECORD_HEADER + name.len()) as u32,
        seq,
        first: seq,
        items: 0,
        received: 0,
        tenant: number,
        principal: 0,
        revision: 0,
        kind: KIND_NAME,
        signal: 0,
        flags: 0,
        back,
    }
}

fn record_header(draft: &Draft, (seq, back): (u64, u32), names: [u32; 3]) -> RecordHeader {
    let [tenant, principal, revision] = names;
    RecordHeader {
        len: (RECORD_HEADER + draft.payload.len()) as u32,
        seq,
        first: draft.first.unwrap_or(seq),
        items: draft.head.items,
        received: draft.head.received_unix_nanos,
        tenant,
        principal,
        revision,
        kind: draft.kind,
        signal: signal_number(draft.head.signal),
        flags: draft.head.flags,
        back,
    }
}

/// Collects bytes and writes them in pieces that end at multiples of [`PIECE`] in the file.
struct Pieces<'a> {
    file: &'a dyn StoredFile,
    staging: &'a mut Vec<u8>,
    /// Where the staged bytes belong.
    at: u64,
}

impl Pieces<'_> {
    fn end(&self) -> u64 {
        self.at + self.staging.len() as u64
    }

    fn record(&mut self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        self.push(header)?;
        self.push(payload)?;
        let padding = padded(self.end()) - self.end();
        self.push(&[0; 8][..padding as usize])
    }

    fn push(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = PIECE - (self.at % PIECE as u64) as usize - self.staging.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.staging.extend_from_slice(now);
            if now.len() == room {
                self.flush()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        write_all(self.file, self.staging, self.at)?;
        self.at += self.staging.len() as u64;
        self.staging.clear();
        Ok(())
    }
}
