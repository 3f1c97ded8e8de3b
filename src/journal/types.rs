//! What goes into a journal, what comes out, and what can go wrong.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use super::backlog::Backlog;
use crate::identity::TenantId;
use crate::otlp::Signal;

/// How large a journal may get and how it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// A segment is closed before it would exceed this many bytes. Range: 4 KiB to 1 GiB, at most a
    /// quarter of `max_bytes`. Only a single append that is larger makes a larger segment.
    pub segment_size: u64,
    /// The most bytes of all files together, the reserve of one segment and the dead letters included.
    pub max_bytes: u64,
    /// The largest payload, in bytes.
    pub max_record: u64,
    /// How long the first append waits for others before all are synced. 0 groups what arrives while the
    /// disk is busy, which is enough except for disks billed by operation.
    pub commit_delay: Duration,
    /// The most bytes of dead letters; past it the oldest file of them is deleted and counted.
    pub max_dead_letters: u64,
}

impl Options {
    /// A segment where nothing says otherwise.
    pub const SEGMENT_SIZE: u64 = 64 << 20;

    /// The smallest segment.
    pub const MIN_SEGMENT_SIZE: u64 = 4 << 10;

    /// The largest segment: offsets within one have 32 bits.
    pub const MAX_SEGMENT_SIZE: u64 = 1 << 30;

    /// Options for a journal of at most `max_bytes`: segments of an eighth of it, at most 64 MiB.
    pub fn for_size(max_bytes: u64, max_record: u64) -> Self {
        Self {
            segment_size: (max_bytes / 8).clamp(Self::MIN_SEGMENT_SIZE, Self::SEGMENT_SIZE),
            max_bytes,
            max_record,
            commit_delay: Duration::ZERO,
            max_dead_letters: (max_bytes / 8).min(16 << 20),
        }
    }

    /// Checks the ranges above.
    ///
    /// # Errors
    /// [`OpenError::Options`] says which bound is broken.
    pub fn check(&self) -> Result<(), OpenError> {
        let range = Self::MIN_SEGMENT_SIZE..=Self::MAX_SEGMENT_SIZE;
        if !range.contains(&self.segment_size) {
            return Err(OpenError::Options("segment_size is 4 KiB to 1 GiB"));
        }
        if self.max_bytes / 4 < self.segment_size {
            return Err(OpenError::Options("max_bytes holds at least four segments"));
        }
        if self.max_record == 0 || self.max_record > Self::MAX_SEGMENT_SIZE {
            return Err(OpenError::Options("max_record is 1 byte to 1 GiB"));
        }
        Ok(())
    }
}

/// What a record says of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Whose data it is.
    pub tenant: TenantId,
    /// Who sent it, as authentication named it; empty if nobody was asked.
    pub principal: Arc<str>,
    /// The revision of the policies it was judged by.
    pub revision: Arc<str>,
    /// The signal of all items.
    pub signal: Signal,
    /// How many spans, data points or log records.
    pub items: u64,
    /// Free for the owner of the journal; stored and given back.
    pub flags: u8,
    /// When it was received, in nanoseconds since 1970.
    pub received_unix_nanos: u64,
}

/// What is stored: a head and an encoded request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub head: Head,
    /// The bytes, 1 to [`Options::max_record`] of them.
    pub payload: Bytes,
}

/// Where a record was stored. Stays good until the record is ended, even if the journal moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The sequence number the record got when it was first stored; unique within a journal.
    pub(super) id: u64,
    /// The first sequence number of the segment.
    pub(super) segment: u64,
    /// Of the record's header, in bytes from the start of the segment.
    pub(super) offset: u32,
    /// Header and payload, in bytes.
    pub(super) len: u32,
}

impl Place {
    /// The record's number in the order of arrival; unique within a journal, also across restarts.
    pub fn sequence(&self) -> u64 {
        self.id
    }

    /// As four numbers, for who keeps many of them: id, segment, offset and length. Of records that were
    /// stored one after the other the offset grows by the length, [`padded`](Place::padded).
    pub fn numbers(&self) -> [u64; 4] {
        [self.id, self.segment, self.offset.into(), self.len.into()]
    }

    /// The place of which these are [`Place::numbers`].
    pub fn of_numbers([id, segment, offset, len]: [u64; 4]) -> Self {
        Self { id, segment, offset: offset as u32, len: len as u32 }
    }

    /// From the start of a record of this length to the next.
    pub fn padded(len: u64) -> u64 {
        super::format::padded(len)
    }

    /// How large the payload is, in bytes.
    pub fn payload_bytes(&self) -> u64 {
        u64::from(self.len).saturating_sub(super::format::RECORD_HEADER as u64)
    }
}

/// A record that was stored and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// For [`super::Journal::read`] and [`super::Journal::end`].
    pub place: Place,
    /// What was stored with it.
    pub head: Head,
    /// Of the payload.
    pub bytes: u64,
}

/// What opening found.
#[derive(Debug)]
pub struct Recovery {
    /// All records that have not ended, in the order in which they were first stored.
    pub waiting: Backlog,
    /// What was broken.
    pub damage: Damage,
    /// How long it took.
    pub took: Duration,
}

/// What was found broken, since the journal was opened. Nothing of it is ever handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Damage {
    /// Records that were stored, had not ended, and cannot be read.
    pub records: u64,
    /// Segments that are missing or of which nothing can be read; how many records they held is counted
    /// in `records` as far as it is known.
    pub segments: u64,
    /// Stretches of bytes that are no records.
    pub stretches: u64,
    /// Bytes behind the last record of a segment, of a write that a crash cut short; never acknowledged.
    pub torn_bytes: u64,
    /// Damaged files that were kept in the folder `damaged` when the journal was done with them.
    pub set_aside: u64,
}

/// The journal in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All files, the reserve included.
    pub disk_bytes: u64,
    /// Of records that have not ended.
    pub live_bytes: u64,
    /// Files that hold records.
    pub segments: u64,
    /// Records that have not ended.
    pub records: u64,
    /// When the oldest segment with a record that has not ended got its first one, in nanoseconds since
    /// 1970.
    pub oldest_unix_nanos: Option<u64>,
    /// Successful syncs of files and directories since the journal was opened.
    pub syncs: u64,
    /// Bytes written to files since the journal was opened.
    pub written_bytes: u64,
    /// Segments nothing is written to any more because a write or a sync failed.
    pub poisoned: u64,
    /// Writes and syncs that failed.
    pub failures: u64,
    /// Appends refused because the disk or the journal was full.
    pub full: u64,
    /// Records that were copied to a newer segment, so that the old one could go.
    pub moved: u64,
    /// What was found broken.
    pub damage: Damage,
    /// Records among the dead letters.
    pub dead_letters: u64,
    /// Dead letters that were deleted to make room for newer ones.
    pub dead_letters_dropped: u64,
}

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another queue of this one, has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A newer Tollgate wrote it.
    #[error("{} has format version {version}; this build reads up to {}", .path.display(), super::format::VERSION)]
    Newer {
        /// The segment.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The options contradict each other.
    #[error("{0}")]
    Options(&'static str),
    /// The directory cannot be made, listed or locked.
    #[error("{}: {error}", .path.display())]
    Disk {
        /// What was asked for.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Why nothing of an append was stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The files would exceed [`Options::max_bytes`]: try again when records have ended.
    #[error("the journal is full: {max_bytes} bytes are its limit")]
    Full {
        /// The limit.
        max_bytes: u64,
    },
    /// The disk has no room: try again later.
    #[error("the disk of the journal is full")]
    DiskFull,
    /// The disk failed, in the old segment and in a new one: try again later.
    #[error("the disk of the journal failed: {0}")]
    Disk(Arc<io::Error>),
    /// A payload is empty or larger than [`Options::max_record`]: it never fits.
    #[error("a record of {bytes} bytes does not fit; 1 to {max} do")]
    TooLarge {
        /// Of the payload.
        bytes: u64,
        /// The largest.
        max: u64,
    },
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Its bytes are not what was written: it is lost and counted; end it.
    #[error("the record is damaged")]
    Damaged,
    /// The disk failed: try again.
    #[error("the disk of the journal failed: {0}")]
    Disk(Arc<io::Error>),
    /// It has ended, and its segment is gone.
    #[error("the record has ended")]
    Ended,
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
}
