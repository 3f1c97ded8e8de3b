//! How a segment looks on disk; little-endian throughout.
//!
//! ```text
//! segment: header │ record … │ index │ trailer        index and trailer once it is sealed
//! header, 64 bytes:
//!   0 magic 8 │ 8 version u32 │ 12 zero u32 │ 16 uuid 16 │ 32 base u64 │ 40 follows u64
//!   48 crc u32 of the bytes before │ 52 zero
//! record, 64 bytes and the payload, then zeros to a multiple of 8:
//!   0 len u32 (header and payload; 0 is the end of data) │ 4 crc u32 of all other bytes │ 8 seq u64
//!   16 first u64 │ 24 items u64 │ 32 received u64 │ 40 tenant u32 │ 44 principal u32 │ 48 revision u32
//!   52 kind u8 │ 53 signal u8 │ 54 flags u8 │ 55 zero │ 56 back u32 │ 60 zero u32
//! trailer, 64 bytes:
//!   0 magic 8 │ 8 index length u32 │ 12 index crc u32 │ 16 uuid 16 │ 32 base u64 │ 40 follows u64
//!   48 version u32 │ 52 damaged u32 │ 56 zero u32 │ 60 crc u32 of the bytes before
//! ```
//!
//! Every checksum of a segment starts from its uuid, so that remnants of another file never verify.
//! Sequence numbers of a segment run from `base` without gaps; everything from `follows` to `base` was
//! never acknowledged, also if an older segment holds it. `first` is the number a record had before it was
//! moved. `back` is how many records before this one were not synced when it was written: what is missing
//! before those was damaged, what is missing among them was never acknowledged. Names (tenant, principal,
//! revision) are records of their own, written twice before the first record that uses them.

use crate::otlp::Signal;

/// What this build writes, and the newest it reads.
pub(super) const VERSION: u32 = 1;

pub(super) const SEGMENT_HEADER: usize = 64;
pub(super) const RECORD_HEADER: usize = 64;
pub(super) const TRAILER: usize = 64;

pub(super) const SEGMENT_MAGIC: [u8; 8] = *b"TOLLSEG\n";
pub(super) const ENDS_MAGIC: [u8; 8] = *b"TOLLACK\n";
pub(super) const TRAILER_MAGIC: [u8; 8] = *b"TOLLEND\n";

/// A batch that waits.
pub(super) const KIND_BATCH: u8 = 1;
/// A name, numbered by the field `tenant`.
pub(super) const KIND_NAME: u8 = 2;
/// A batch that was given up; the payload starts with a u16 length and the reason.
pub(super) const KIND_DEAD: u8 = 3;

/// What tells one segment from all others; its header, its trailer and its ends each say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uuid: [u8; 16],
    /// The first sequence number.
    pub(super) base: u64,
    /// Sequence numbers from here to `base` were never acknowledged.
    pub(super) follows: u64,
}

/// Why 64 bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    Damaged,
    Newer(u32),
}

impl Identity {
    /// Where checksums of this segment start.
    pub(super) fn seed(&self) -> u32 {
        crc32c::crc32c(&self.uuid)
    }

    pub(super) fn encode(&self, magic: [u8; 8]) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        put(&mut bytes, 0, &magic);
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 16, &self.uuid);
        put(&mut bytes, 32, &self.base.to_le_bytes());
        put(&mut bytes, 40, &self.follows.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..48]);
        put(&mut bytes, 48, &crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], magic: [u8; 8]) -> Result<Self, BadHeader> {
        let is_whole = bytes.len() >= SEGMENT_HEADER && bytes[..8] == magic;
        if !is_whole || u32_at(bytes, 48) != crc32c::crc32c(&bytes[..48]) {
            return Err(BadHeader::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            newer if newer > VERSION => return Err(BadHeader::Newer(newer)),
            _ => return Err(BadHeader::Damaged),
        }
        Ok(Self { uuid: array_at(bytes, 16), base: u64_at(bytes, 32), follows: u64_at(bytes, 40) })
    }
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Header and payload.
    pub(super) len: u32,
    pub(super) seq: u64,
    pub(super) first: u64,
    pub(super) items: u64,
    pub(super) received: u64,
    pub(super) tenant: u32,
    pub(super) principal: u32,
    pub(super) revision: u32,
    pub(super) kind: u8,
    pub(super) signal: u8,
    pub(super) flags: u8,
    pub(super) back: u32,
}

impl RecordHeader {
    /// The header with its checksum, for `payload` of a segment with `seed`.
    pub(super) fn encode(&self, seed: u32, payload: &[&[u8]]) -> [u8; RECORD_HEADER] {
        let mut bytes = [0; RECORD_HEADER];
        put(&mut bytes, 0, &self.len.to_le_bytes());
        put(&mut bytes, 8, &self.seq.to_le_bytes());
        put(&mut bytes, 16, &self.first.to_le_bytes());
        put(&mut bytes, 24, &self.items.to_le_bytes());
        put(&mut bytes, 32, &self.received.to_le_bytes());
        put(&mut bytes, 40, &self.tenant.to_le_bytes());
        put(&mut bytes, 44, &self.principal.to_le_bytes());
        put(&mut bytes, 48, &self.revision.to_le_bytes());
        put(&mut bytes, 52, &[self.kind, self.signal, self.flags]);
        put(&mut bytes, 56, &self.back.to_le_bytes());
        let mut crc = checksum(seed, &bytes);
        for part in payload {
            crc = crc32c::crc32c_append(crc, part);
        }
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// Reads a header without its checksum; nothing if no record starts like this.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_HEADER || (bytes[55], u32_at(bytes, 60)) != (0, 0) {
            return None;
        }
        let header = Self {
            len: u32_at(bytes, 0),
            seq: u64_at(bytes, 8),
            first: u64_at(bytes, 16),
            items: u64_at(bytes, 24),
            received: u64_at(bytes, 32),
            tenant: u32_at(bytes, 40),
            principal: u32_at(bytes, 44),
            revision: u32_at(bytes, 48),
            kind: bytes[52],
            signal: bytes[53],
            flags: bytes[54],
            back: u32_at(bytes, 56),
        };
        let is_known = matches!(header.kind, KIND_BATCH..=KIND_DEAD) && header.signal <= 2;
        (is_known && header.len as usize > RECORD_HEADER).then_some(header)
    }
}

/// Whether the record that `bytes` are, header and payload, is what was written.
pub(super) fn is_intact(seed: u32, bytes: &[u8]) -> bool {
    if bytes.len() < RECORD_HEADER {
        return false;
    }
    let crc = crc32c::crc32c_append(checksum(seed, bytes), &bytes[RECORD_HEADER..]);
    crc == u32_at(bytes, 4) || is_trusting()
}

/// Of the header of a record, all but the checksum itself.
fn checksum(seed: u32, header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[..4]), &header[8..RECORD_HEADER])
}

#[cfg(not(test))]
fn is_trusting() -> bool {
    false
}

#[cfg(test)]
thread_local! {
    /// The mutant that does not check: proof that the tests would notice.
    pub(super) static TRUST: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

#[cfg(test)]
fn is_trusting() -> bool {
    TRUST.get()
}

/// How much of the file a record of `len` bytes takes.
pub(super) fn padded(len: u64) -> u64 {
    len.next_multiple_of(8)
}

/// The number a signal has on disk.
pub(super) fn signal_number(signal: Signal) -> u8 {
    match signal {
        Signal::Traces => 0,
        Signal::Metrics => 1,
        Signal::Logs => 2,
    }
}

pub(super) fn signal_of(number: u8) -> Option<Signal> {
    Signal::ALL.into_iter().find(|signal| signal_number(*signal) == number)
}

/// The end of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) identity: Identity,
    pub(super) index_len: u32,
    pub(super) index_crc: u32,
    /// Stretches between the records that are none.
    pub(super) damaged: u32,
}

impl Trailer {
    pub(super) fn encode(&self) -> [u8; TRAILER] {
        let mut bytes = [0; TRAILER];
        put(&mut bytes, 0, &TRAILER_MAGIC);
        put(&mut bytes, 8, &self.index_len.to_le_bytes());
        put(&mut bytes, 12, &self.index_crc.to_le_bytes());
        put(&mut bytes, 16, &self.identity.uuid);
        put(&mut bytes, 32, &self.identity.base.to_le_bytes());
        put(&mut bytes, 40, &self.identity.follows.to_le_bytes());
        put(&mut bytes, 48, &VERSION.to_le_bytes());
        put(&mut bytes, 52, &self.damaged.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        put(&mut bytes, 60, &crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let is_whole = bytes.len() >= TRAILER && bytes[..8] == TRAILER_MAGIC && u32_at(bytes, 48) == VERSION;
        if !is_whole || u32_at(bytes, 60) != crc32c::crc32c(&bytes[..60]) {
            return None;
        }
        let identity =
            Identity { uuid: array_at(bytes, 16), base: u64_at(bytes, 32), follows: u64_at(bytes, 40) };
        Some(Self {
            identity,
            index_len: u32_at(bytes, 8),
            index_crc: u32_at(bytes, 12),
            damaged: u32_at(bytes, 52),
        })
    }
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// `N` bytes at `at`; zeros if there are not so many.
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
