//! Records that were given up, kept for whoever wants to look: files of the segment format, bounded in bytes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::engine::Engine;
use super::format::{Identity, KIND_DEAD};
use super::index::Index;
use super::scan;
use super::shared::{Moved, lock, segment_name};
use super::types::{Head, Place, ReadError};
use super::writer::{Draft, Failed, Writer};

/// The files, by the number of their first letter.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    files: BTreeMap<u64, DeadFile>,
    writer: Option<Writer>,
    next: u64,
    /// Letters deleted to make room.
    pub(super) dropped: u64,
}

#[derive(Debug, Clone, Copy)]
struct DeadFile {
    bytes: u64,
    letters: u64,
}

/// `0000000000000001.dead`
fn dead_name(number: u64) -> String {
    format!("{number:016x}.dead")
}

impl DeadLetters {
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    pub(super) fn letters(&self) -> u64 {
        self.files.values().map(|file| file.letters).sum()
    }

    /// A file of an earlier run.
    pub(super) fn add(&mut self, number: u64, bytes: u64, letters: u64) {
        self.files.insert(number, DeadFile { bytes, letters });
        self.next = self.next.max(number + letters.max(1));
    }

    /// Seals the open file.
    pub(super) fn close(&mut self) {
        if let Some(mut writer) = self.writer.take()
            && let Ok(bytes) = writer.seal()
            && let Some(file) = self.files.get_mut(&writer.identity.base)
        {
            file.bytes = bytes;
        }
    }
}

impl Engine {
    /// Copies a record to the dead letters, then ends it.
    pub(super) fn set_aside(&mut self, place: Place, reason: &str) -> Result<(), ReadError> {
        let Some(Moved { place, ordinal }) = lock(&self.shared.table).find(place) else {
            return Err(ReadError::Ended);
        };
        let (_, payload) = self.shared.read_record(place)?;
        let head = self.head_of(place.segment, ordinal)?;
        let draft = letter(head, &payload, reason);
        if draft.most_bytes() > self.shared.options.max_dead_letters {
            self.dead.dropped += 1;
        } else {
            self.store_letter(&[draft]).map_err(|error| ReadError::Disk(Arc::new(error)))?;
        }
        self.end_one(place);
        Ok(())
    }

    fn head_of(&self, base: u64, ordinal: u32) -> Result<Head, ReadError> {
        let find = |index: &Index| {
            let entry = index.entries.iter().find(|entry| entry.ordinal == ordinal);
            entry.and_then(|entry| entry.head(&index.names)).ok_or(ReadError::Damaged)
        };
        if let Some(writer) = self.writer.as_ref().filter(|writer| writer.identity.base == base) {
            return find(&writer.index);
        }
        let identity = self.segments.get(&base).ok_or(ReadError::Ended)?.identity;
        let file = self.shared.storage.open(&self.path(&segment_name(base)));
        let file = file.map_err(|error| ReadError::Disk(Arc::new(error)))?;
        find(&scan::read(&*file, Some(identity)).map_err(|_| ReadError::Damaged)?.index)
    }

    fn store_letter(&mut self, drafts: &[Draft]) -> io::Result<()> {
        let most = drafts.iter().map(Draft::most_bytes).sum::<u64>();
        let file_size = self.shared.options.max_dead_letters / 4;
        if self.dead.writer.as_ref().is_some_and(|writer| writer.len + most > file_size) {
            self.dead.close();
        }
        self.trim_letters(most);
        let mut writer = match self.dead.writer.take() {
            Some(writer) => writer,
            None => self.new_dead_file()?,
        };
        let stored = writer.store(drafts, self.dead.next, &mut self.staging);
        self.dead.next += drafts.len() as u64;
        if let Err(Failed::Write(error) | Failed::Sync(error)) = stored {
            // As with segments: what failed once is not written to again.
            self.counts.failures += 1;
            return Err(error);
        }
        self.counts.syncs += 1;
        self.counts.written_bytes += std::mem::take(&mut writer.written);
        if let Some(file) = self.dead.files.get_mut(&writer.identity.base) {
            file.bytes = writer.len;
            file.letters += drafts.len() as u64;
        }
        self.dead.writer = Some(writer);
        Ok(())
    }

    fn new_dead_file(&mut self) -> io::Result<Writer> {
        let number = self.dead.next;
        self.dead.next += 1;
        let storage = self.shared.storage.clone();
        let identity = Identity { uuid: storage.unique(), base: number + 1, follows: number + 1 };
        let writer = Writer::start(storage.create(&self.path(&dead_name(identity.base)))?, identity)?;
        self.dead.next = identity.base;
        storage.sync_dir(&self.shared.dir)?;
        self.counts.syncs += 2;
        self.dead.files.insert(identity.base, DeadFile { bytes: writer.len, letters: 0 });
        Ok(writer)
    }

    /// Deletes the oldest files until `more` bytes fit.
    fn trim_letters(&mut self, more: u64) {
        let open = self.dead.writer.as_ref().map(|writer| writer.identity.base);
        while self.dead.bytes() + more > self.shared.options.max_dead_letters {
            let oldest = self.dead.files.keys().copied().find(|number| Some(*number) != open);
            let Some((number, file)) = oldest.and_then(|number| self.dead.files.remove_entry(&number)) else {
                break;
            };
            self.dead.dropped += file.letters;
            let removed = self.shared.storage.remove(&self.path(&dead_name(number)));
            self.is_dir_dirty = true;
            self.note(removed);
        }
    }
}

/// A dead letter: u16 length of the reason, the reason, the payload.
fn letter(head: Head, payload: &Bytes, reason: &str) -> Draft {
    let mut end = reason.len().min(1024);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = BytesMut::with_capacity(2 + end + payload.len());
    bytes.put_u16_le(end as u16);
    bytes.put_slice(&reason.as_bytes()[..end]);
    bytes.put_slice(payload);
    Draft { head, payload: bytes.freeze(), kind: KIND_DEAD, first: None }
}
