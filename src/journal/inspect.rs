//! What a directory of a journal holds, for people: read-only, also beside the process that has it open.

use std::collections::BTreeMap;
use std::path::Path;

use super::scan::{self, Contents};
use super::storage::{Disk, Storage, StoredFile};
use super::survey::{Found, State, survey};
use super::types::OpenError;

/// A directory at one moment. While a process writes, the newest segment may look torn.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inspection {
    /// In the order of their sequence numbers.
    pub segments: Vec<SegmentReport>,
    /// By tenant, what waits in all segments.
    pub tenants: BTreeMap<String, TenantReport>,
    /// Records given up, in all files of dead letters.
    pub dead_letters: u64,
    /// Bytes of the files of dead letters.
    pub dead_letter_bytes: u64,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SegmentReport {
    /// Its first sequence number, which is also its name, in hexadecimal.
    pub base: u64,
    /// What it is: `sealed`, `open` (without an index: written to, or left by a crash), `missing` or `lost`.
    pub state: &'static str,
    /// Of the file.
    pub bytes: u64,
    /// Records in it.
    pub records: u64,
    /// Of those, the ones that have not ended.
    pub waiting: u64,
    /// Stretches of bytes between records that are none.
    pub damaged: u64,
}

/// What waits of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct TenantReport {
    /// Records that have not ended.
    pub records: u64,
    /// Spans, data points and log records in them.
    pub items: u64,
    /// Of the payloads.
    pub bytes: u64,
    /// When the oldest was received, in nanoseconds since 1970.
    pub oldest_unix_nanos: u64,
}

/// Reads the directory and changes nothing. Damage within payloads is found only when they are read.
///
/// # Errors
/// It cannot be read, or a newer build wrote it.
pub fn inspect(dir: &Path) -> Result<Inspection, OpenError> {
    inspect_in(&Disk, dir)
}

pub(super) fn inspect_in(storage: &dyn Storage, dir: &Path) -> Result<Inspection, OpenError> {
    let survey = survey(storage, dir)?;
    let mut tenants: BTreeMap<String, TenantReport> = BTreeMap::new();
    let mut segments = Vec::new();
    for found in survey.found {
        segments.extend(report(&found, &mut tenants));
    }
    Ok(Inspection {
        segments,
        tenants,
        dead_letters: survey.dead.iter().map(|(_, _, letters)| letters).sum(),
        dead_letter_bytes: survey.dead.iter().map(|(_, bytes, _)| bytes).sum(),
    })
}

fn report(found: &Found, tenants: &mut BTreeMap<String, TenantReport>) -> Option<SegmentReport> {
    let state = match &found.contents {
        State::Read(contents) if contents.is_sealed => "sealed",
        State::Read(_) => "open",
        State::Lost => "lost",
        State::Gone if found.is_missing() => "missing",
        State::Gone | State::Over => return None,
    };
    let mut report = SegmentReport {
        base: found.base,
        state,
        bytes: found.len.unwrap_or(0),
        records: 0,
        waiting: 0,
        damaged: 0,
    };
    if let Some(contents) = found.contents() {
        report.records = contents.index.entries.len() as u64;
        report.damaged = u64::from(contents.damaged);
        report.waiting = count_waiting(found, contents, tenants);
    }
    Some(report)
}

fn count_waiting(found: &Found, contents: &Contents, tenants: &mut BTreeMap<String, TenantReport>) -> u64 {
    let mut count = 0;
    for entry in &contents.index.entries {
        let seq = found.base + u64::from(entry.ordinal);
        if found.ends.as_ref().is_some_and(|ends| ends.has_ended(seq)) {
            continue;
        }
        let Some(waits) = contents.index.waiting(entry, found.base) else { continue };
        count += 1;
        let tenant = tenants.entry(waits.head.tenant.as_str().to_owned()).or_default();
        let received = waits.head.received_unix_nanos;
        tenant.oldest_unix_nanos = match tenant.records {
            0 => received,
            _ => tenant.oldest_unix_nanos.min(received),
        };
        tenant.records += 1;
        tenant.items += waits.head.items;
        tenant.bytes += waits.bytes;
    }
    count
}

/// Reads `bytes` as a segment and gives the places and payloads of all records that are intact, in order;
/// nothing if they are no segment. For tests and fuzzing of the format.
pub fn read_segment(bytes: &[u8]) -> Option<Vec<(super::Waiting, Vec<u8>)>> {
    let file = Bytes(bytes.to_vec());
    let contents = scan::read(&file, None).ok()?;
    let seed = contents.identity.seed();
    let mut records = Vec::new();
    for entry in &contents.index.entries {
        let range = entry.offset as usize..entry.offset as usize + entry.len as usize;
        let Some(stored) = bytes.get(range).filter(|stored| super::format::is_intact(seed, stored)) else {
            continue;
        };
        let Some(waits) = contents.index.waiting(entry, contents.identity.base) else { continue };
        records.push((waits, stored[super::format::RECORD_HEADER..].to_vec()));
    }
    Some(records)
}

/// A file in memory that cannot be written.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl StoredFile for Bytes {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.0.get(offset..)).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn size(&self) -> std::io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn allocate(&self, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
}
