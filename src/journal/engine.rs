//! The owner of the files: takes what waits, stores it, answers, and tidies up; one call of [`Engine::step`]
//! is one round. A thread drives it, or a test does.
//!
//! Order within a round: appends first (somebody waits), then ends, then what makes room.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::dead::DeadLetters;
use super::ends::EndsFile;
use super::format::{Identity, KIND_BATCH, SEGMENT_HEADER};
use super::relief::Relief;
use super::segment::Segment;
use super::shared::{Append, Moved, Placed, Shared, Work, ends_name, lock, segment_name};
use super::storage::is_full;
use super::types::{AppendError, Place, Usage};
use super::writer::{Draft, Failed, Writer};

/// The most bytes one sync is for: what arrives meanwhile waits for the next. Room for 64 senders with requests
/// of 256 KiB, which would otherwise take two syncs.
const MAX_COMMIT: u64 = 32 << 20;

/// How long an end may be in memory only.
const ENDS_DELAY: Duration = Duration::from_millis(100);

/// Between two tries of something that failed.
pub(super) const AFTER_FAILURE: Duration = Duration::from_secs(1);

pub(super) const RESERVE: &str = "reserve";

/// Why something is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// It was received.
    Append,
    /// An old segment is to go; this may use the reserve.
    Relief,
}

/// A segment that is gone; its file of ends says that nothing is missing.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) identity: Identity,
    pub(super) covers: Range<u64>,
    pub(super) len: u64,
}

#[derive(Debug)]
pub(super) struct Engine {
    pub(super) shared: Arc<Shared>,
    /// By their first sequence number.
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) notes: BTreeMap<u64, Note>,
    pub(super) writer: Option<Writer>,
    /// Not used by any record, acknowledged or not.
    pub(super) next: u64,
    /// Everything before was acknowledged or never will be: what the next segment follows.
    pub(super) tail: u64,
    pub(super) staging: Vec<u8>,
    pub(super) has_reserve: bool,
    pub(super) dead: DeadLetters,
    pub(super) relief: Option<Relief>,
    /// To empty a segment failed; it is not tried until then.
    pub(super) relief_pause: Option<Instant>,
    /// Since when an end is in memory only.
    pub(super) ends_since: Option<Instant>,
    /// Files were removed since the directory was synced.
    pub(super) is_dir_dirty: bool,
    /// Notes that can go once the directory is synced.
    pub(super) old_notes: Vec<u64>,
    /// Something failed; what can wait does so until then.
    pub(super) pause: Option<Instant>,
    pub(super) counts: Usage,
}

impl Engine {
    /// One round. Never panics and never blocks but on the disk.
    pub(super) fn step(&mut self, work: Work, now: Instant) {
        self.pause = self.pause.filter(|until| *until > now);
        self.append_all(work.appends);
        self.end_all(&work.ends);
        for set_aside in work.set_asides {
            let done = self.set_aside(set_aside.place, &set_aside.reason);
            drop(set_aside.answer.send(done));
        }
        if self.segments.values().any(|segment| !segment.fresh.is_empty()) {
            self.ends_since.get_or_insert(now);
        }
        if self.pause.is_none() {
            if self.ends_since.is_some_and(|since| now - since >= ENDS_DELAY) && self.flush_ends().is_err() {
                self.pause = Some(now + AFTER_FAILURE);
            }
            self.retire(now);
            self.relieve(now);
            self.tidy(now);
        }
        self.publish();
    }

    /// How long the thread may sleep if nothing comes.
    pub(super) fn patience(&self, now: Instant) -> Option<Duration> {
        let ends = self.ends_since.map(|since| since + ENDS_DELAY);
        let at = match (self.pause, ends) {
            (Some(pause), Some(ends)) => Some(pause.max(ends)),
            (pause, ends) => pause.or(ends),
        };
        match self.relief.is_some() && self.pause.is_none() {
            true => Some(Duration::ZERO),
            false => at.map(|at| at.saturating_duration_since(now)),
        }
    }

    /// The last round: everything is durable, and the next start needs no scan.
    pub(super) fn finish(&mut self, now: Instant) {
        let flushed = self.flush_ends();
        self.note(flushed);
        self.pause = None;
        self.retire(now);
        self.close_segment();
        let newest = self.segments.last_key_value().filter(|(_, segment)| segment.whole.is_none());
        if let Some(base) = newest.map(|(base, _)| *base) {
            let vouched = self.vouch(base);
            self.note(vouched);
        }
        self.dead.close();
        self.tidy(now);
        self.publish();
    }

    /// Stores what waits, in groups of one sync each.
    fn append_all(&mut self, appends: VecDeque<Append>) {
        let (mut group, mut bytes) = (Vec::new(), 0);
        for append in appends {
            if append.answer.is_closed() {
                continue;
            }
            let drafts: Vec<Draft> = append.records.into_iter().map(draft).collect();
            let more: u64 = drafts.iter().map(Draft::most_bytes).sum();
            let used = self.writer.as_ref().map_or(SEGMENT_HEADER as u64, |writer| writer.len);
            let is_enough =
                bytes + more > MAX_COMMIT || used + bytes + more > self.shared.options.segment_size;
            if is_enough && !group.is_empty() {
                self.commit(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += more;
            group.push((drafts, append.answer, append.permit));
        }
        if !group.is_empty() {
            self.commit(group);
        }
    }

    fn commit(&mut self, group: Vec<Waiter>) {
        let (mut all, mut waiters) = (Vec::new(), Vec::new());
        for (drafts, answer, permit) in group {
            waiters.push((drafts.len(), answer, permit));
            all.extend(drafts);
        }
        let stored = self.store(&all, Purpose::Append);
        if matches!(stored, Err(AppendError::Full { .. } | AppendError::DiskFull)) {
            self.counts.full += waiters.len() as u64;
        }
        // Who has an answer finds it in the numbers.
        self.publish();
        match stored {
            Ok(places) => {
                let mut places = places.into_iter().map(|moved| moved.place);
                for (count, answer, _permit) in waiters {
                    let own = places.by_ref().take(count).collect();
                    // Nobody there any more: dropping the places ends them.
                    drop(answer.send(Ok(Placed::new(own, &self.shared))));
                }
            }
            Err(error) => {
                waiters.into_iter().for_each(|(_, answer, _)| drop(answer.send(Err(error.clone()))))
            }
        }
    }

    /// Writes and syncs; a segment that fails is left alone and a fresh one tried, once.
    pub(super) fn store(&mut self, drafts: &[Draft], purpose: Purpose) -> Result<Vec<Moved>, AppendError> {
        let bytes = drafts.iter().map(Draft::most_bytes).sum();
        self.make_room(bytes, purpose)?;
        let mut failed = None;
        for _ in 0..2 {
            match self.try_store(drafts, bytes) {
                Ok(places) => return Ok(places),
                Err(error) if is_full(&error) => return Err(AppendError::DiskFull),
                Err(error) => failed = Some(error),
            }
        }
        Err(AppendError::Disk(Arc::new(failed.unwrap_or_else(|| io::ErrorKind::Other.into()))))
    }

    fn try_store(&mut self, drafts: &[Draft], bytes: u64) -> io::Result<Vec<Moved>> {
        let size = self.shared.options.segment_size;
        let is_due = |writer: &Writer| {
            !writer.index.entries.is_empty() && writer.len + writer.index_bytes() + bytes > size
        };
        if self.writer.as_ref().is_some_and(is_due) {
            self.close_segment();
        }
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.new_segment()?,
        };
        let (seq, entries) = (self.next, writer.index.entries.len());
        let base = writer.identity.base;
        // Whatever becomes of them, these numbers are used.
        self.next += drafts.len() as u64;
        let failed = match writer.store(drafts, seq, &mut self.staging) {
            Ok(()) => {
                let stored = &writer.index.entries[entries..];
                let places =
                    stored.iter().map(|entry| Moved { place: entry.place(base), ordinal: entry.ordinal });
                let places = places.collect();
                if let Some(segment) = self.segments.get_mut(&base) {
                    stored.iter().for_each(|entry| segment.add(entry.ordinal, entry.len, entry.received));
                    segment.bytes = writer.len;
                }
                self.tail = self.next;
                self.counts.syncs += 1;
                self.counts.written_bytes += std::mem::take(&mut writer.written);
                self.writer = Some(writer);
                return Ok(places);
            }
            Err(failed) => failed,
        };
        self.counts.failures += 1;
        let error = match failed {
            Failed::Write(error) if is_full(&error) && writer.cut_back(entries).is_ok() => {
                self.next = seq;
                self.writer = Some(writer);
                return Err(error);
            }
            Failed::Write(error) | Failed::Sync(error) => error,
        };
        self.poison(base);
        Err(error)
    }

    /// Nothing is written to the segment any more; what it holds beyond its last acknowledged record does not
    /// count.
    fn poison(&mut self, base: u64) {
        self.counts.poisoned += 1;
        if let Some(segment) = self.segments.get_mut(&base) {
            segment.is_open = false;
            segment.void(self.next);
        }
    }

    /// Ends the open segment with its index.
    pub(super) fn close_segment(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let sealed = writer.seal();
        if let Ok(bytes) = &sealed {
            self.counts.written_bytes += bytes - writer.len;
            self.counts.syncs += 1;
        }
        if let Some(segment) = self.segments.get_mut(&writer.identity.base) {
            segment.is_open = false;
            segment.bytes = *sealed.as_ref().unwrap_or(&writer.len);
        }
        self.note(sealed.map(drop));
    }

    /// A new file with its ends, durable before anything in it is acknowledged.
    fn new_segment(&mut self) -> io::Result<Writer> {
        let last = self.segments.last_key_value().map_or(0, |(base, _)| base + 1);
        let base = self.next.max(last);
        let identity = Identity { uuid: self.shared.storage.unique(), base, follows: self.tail };
        self.next = base;
        let made = self.make_segment(identity);
        match made {
            Ok((writer, ends)) => {
                let mut segment = Segment::new(identity, Some(ends));
                segment.bytes = writer.len;
                segment.is_open = true;
                self.segments.insert(base, segment);
                lock(&self.shared.table).seeds.insert(base, identity.seed());
                self.counts.syncs += 3;
                Ok(writer)
            }
            Err(error) => {
                self.counts.failures += 1;
                // The name is used: after a failed sync nobody knows what is on disk.
                self.next = base + 1;
                self.forget_files(base);
                Err(error)
            }
        }
    }

    fn make_segment(&self, identity: Identity) -> io::Result<(Writer, EndsFile)> {
        let storage = &*self.shared.storage;
        let writer = Writer::start(storage.create(&self.path(&segment_name(identity.base)))?, identity)?;
        let ends = EndsFile::create(storage, &self.path(&ends_name(identity.base)), identity, (&[], None))?;
        storage.sync_dir(&self.shared.dir)?;
        Ok((writer, ends))
    }

    fn forget_files(&mut self, base: u64) {
        for name in [segment_name(base), ends_name(base)] {
            // It may not exist; if it stays, the next start finds an empty segment.
            drop(self.shared.storage.remove(&self.path(&name)));
        }
        self.is_dir_dirty = true;
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.shared.dir.join(name)
    }

    fn end_all(&mut self, places: &[Place]) {
        let shared = self.shared.clone();
        let mut table = lock(&shared.table);
        for place in places {
            let Some(Moved { place, ordinal }) = table.find(*place) else { continue };
            let Some(segment) = self.segments.get_mut(&place.segment) else { continue };
            if segment.end(ordinal, place.len) {
                table.forget_record(place.id);
            }
        }
    }

    pub(super) fn end_one(&mut self, place: Place) {
        self.end_all(&[place]);
    }

    /// Counts a failure of what can wait.
    pub(super) fn note(&mut self, done: io::Result<()>) {
        self.counts.failures += u64::from(done.is_err());
    }

    /// All files but the reserve.
    pub(super) fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.segments.values().map(|segment| segment.bytes + segment.ends_bytes()).sum();
        let notes: u64 = self.notes.values().map(|note| note.len).sum();
        let index = self.writer.as_ref().map_or(0, Writer::index_bytes);
        segments + notes + index + self.dead.bytes()
    }

    /// Tells the handles the numbers.
    pub(super) fn publish(&self) {
        let live = || self.segments.values().filter(|segment| segment.live > 0);
        let reserve = if self.has_reserve { self.shared.options.segment_size } else { 0 };
        let usage = Usage {
            disk_bytes: self.disk_bytes() + reserve,
            live_bytes: live().map(|segment| segment.live_bytes).sum(),
            segments: self.segments.len() as u64,
            records: live().map(|segment| segment.live).sum(),
            oldest_unix_nanos: live().map(|segment| segment.oldest).min(),
            dead_letters: self.dead.letters(),
            dead_letters_dropped: self.dead.dropped,
            ..self.counts
        };
        *lock(&self.shared.usage) = usage;
    }
}

type Waiter = (
    Vec<Draft>,
    tokio::sync::oneshot::Sender<Result<Placed, AppendError>>,
    Option<tokio::sync::OwnedSemaphorePermit>,
);

fn draft(record: super::types::Record) -> Draft {
    Draft { head: record.head, payload: record.payload, kind: KIND_BATCH, first: None }
}
