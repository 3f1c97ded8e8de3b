//! The records of a segment without their payloads: in memory while it is open, at its end once sealed.
//!
//! ```text
//! names u32 │ (number u32, length u16, text)… │ entries u32 │ entry, 52 bytes…
//! entry: ordinal u32 │ offset u32 │ len u32 │ tenant u32 │ principal u32 │ revision u32
//!        items u64 │ received u64 │ first u64 │ kind u8 │ signal u8 │ flags u8 │ zero
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use super::format::{RecordHeader, array_at, signal_of, u32_at, u64_at};
use super::types::{Head, Place, Waiting};
use crate::identity::TenantId;

const ENTRY: usize = 52;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its sequence number less the segment's first.
    pub(super) ordinal: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) tenant: u32,
    pub(super) principal: u32,
    pub(super) revision: u32,
    pub(super) items: u64,
    pub(super) received: u64,
    pub(super) first: u64,
    pub(super) kind: u8,
    pub(super) signal: u8,
    pub(super) flags: u8,
}

impl Entry {
    pub(super) fn new(header: &RecordHeader, base: u64, offset: u32) -> Self {
        Self {
            ordinal: (header.seq - base) as u32,
            offset,
            len: header.len,
            tenant: header.tenant,
            principal: header.principal,
            revision: header.revision,
            items: header.items,
            received: header.received,
            first: header.first,
            kind: header.kind,
            signal: header.signal,
            flags: header.flags,
        }
    }

    /// What it was stored with; nothing if a name is missing or is no tenant's.
    pub(super) fn head(&self, names: &Names) -> Option<Head> {
        // Number 0 is the empty text, which needs no record.
        let text = |number: u32| if number == 0 { Some("".into()) } else { names.get(&number).cloned() };
        Some(Head {
            tenant: tenant_of(names.get(&self.tenant)?)?,
            principal: text(self.principal)?,
            revision: text(self.revision)?,
            signal: signal_of(self.signal)?,
            items: self.items,
            flags: self.flags,
            received_unix_nanos: self.received,
        })
    }

    pub(super) fn place(&self, base: u64) -> Place {
        Place { id: self.first, segment: base, offset: self.offset, len: self.len }
    }
}

/// Texts by the number they have in a segment.
pub(super) type Names = HashMap<u32, Arc<str>>;

/// All records of a segment and the names they use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) entries: Vec<Entry>,
    pub(super) names: Names,
}

impl Index {
    pub(super) fn waiting(&self, entry: &Entry, base: u64) -> Option<Waiting> {
        let place = entry.place(base);
        Some(Waiting { place, head: entry.head(&self.names)?, bytes: place.payload_bytes() })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + self.names.len() * 64 + self.entries.len() * ENTRY);
        bytes.extend((self.names.len() as u32).to_le_bytes());
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_unstable_by_key(|(number, _)| **number);
        for (number, name) in names {
            bytes.extend(number.to_le_bytes());
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes.extend((self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            let numbers =
                [entry.ordinal, entry.offset, entry.len, entry.tenant, entry.principal, entry.revision];
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            let numbers = [entry.items, entry.received, entry.first];
            numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            bytes.extend([entry.kind, entry.signal, entry.flags, 0]);
        }
        bytes
    }

    /// Reads what [`Index::encode`] wrote; nothing if it is anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut names = Names::new();
        let mut at = 4;
        for _ in 0..u32_at(bytes.get(..4)?, 0) {
            let number = u32_at(bytes.get(at..at + 4)?, 0);
            let len = usize::from(u16::from_le_bytes(array_at(bytes.get(at + 4..at + 6)?, 0)));
            let text = std::str::from_utf8(bytes.get(at + 6..at + 6 + len)?).ok()?;
            names.insert(number, Arc::from(text));
            at += 6 + len;
        }
        let count = u32_at(bytes.get(at..at + 4)?, 0) as usize;
        let entries = bytes.get(at + 4..)?;
        if entries.len() != count.checked_mul(ENTRY)? {
            return None;
        }
        Some(Self { entries: entries.chunks_exact(ENTRY).map(entry).collect(), names })
    }
}

fn entry(bytes: &[u8]) -> Entry {
    Entry {
        ordinal: u32_at(bytes, 0),
        offset: u32_at(bytes, 4),
        len: u32_at(bytes, 8),
        tenant: u32_at(bytes, 12),
        principal: u32_at(bytes, 16),
        revision: u32_at(bytes, 20),
        items: u64_at(bytes, 24),
        received: u64_at(bytes, 32),
        first: u64_at(bytes, 40),
        kind: bytes[48],
        signal: bytes[49],
        flags: bytes[50],
    }
}

fn tenant_of(text: &str) -> Option<TenantId> {
    let overflow = TenantId::overflow();
    match text == overflow.as_str() {
        true => Some(overflow),
        false => TenantId::new(text).ok(),
    }
}
