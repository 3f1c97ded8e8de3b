//! What makes room: ends on disk, segments that are done with, the reserve for a full disk.
//!
//! Invariant: a segment is removed only when the ends of all its records and a note of it are durable.

use std::io;
use std::path::Path;

use tokio::time::Instant;

use super::ends::EndsFile;
use super::engine::{Engine, Note, Purpose, RESERVE};
use super::format::SEGMENT_HEADER;
use super::segment::ranges;
use super::shared::{ends_name, lock, segment_name};
use super::storage::is_full;
use super::types::AppendError;

/// Damaged files that are kept; further ones are deleted.
const MAX_SET_ASIDE: usize = 4;

/// The folder they are kept in.
pub(super) const DAMAGED: &str = "damaged";

/// The ending of files that are to replace others; of a crash, they are left over.
pub(super) const NEW: &str = ".new";

impl Engine {
    /// Makes every end durable.
    pub(super) fn flush_ends(&mut self) -> io::Result<()> {
        let bases: Vec<u64> = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.is_unsynced || !segment.fresh.is_empty())
            .map(|(base, _)| *base)
            .collect();
        let mut result = Ok(());
        for base in bases {
            result = self.flush_ends_of(base).and(result);
        }
        if result.is_ok() {
            self.ends_since = None;
        }
        result
    }

    fn flush_ends_of(&mut self, base: u64) -> io::Result<()> {
        let (storage, path) = (self.shared.storage.clone(), self.path(&ends_name(base)));
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(()) };
        let Some(ends) = &mut segment.ends else { return self.rewrite_ends(base) };
        if segment.fresh.is_empty() && !segment.is_unsynced {
            return Ok(());
        }
        segment.fresh.sort_unstable();
        let before = ends.len;
        segment.is_unsynced = true;
        let fresh = ranges(segment.fresh.iter().copied());
        let done = storage.open(&path).and_then(|file| ends.append(&*file, &fresh));
        match done {
            Ok(()) => {
                self.counts.syncs += 1;
                self.counts.written_bytes += ends.len - before;
                segment.fresh.clear();
                segment.is_unsynced = false;
                Ok(())
            }
            Err(_) => {
                self.counts.failures += 1;
                // What a failed sync leaves on disk nobody knows: the file is not used again.
                segment.ends = None;
                self.rewrite_ends(base)
            }
        }
    }

    /// Replaces the file of ends by a new one that says all, in the room of the reserve if there is no other.
    fn rewrite_ends(&mut self, base: u64) -> io::Result<()> {
        match self.try_rewrite_ends(base) {
            Err(error) if is_full(&error) && self.has_reserve => {
                self.drop_reserve();
                self.try_rewrite_ends(base)
            }
            done => done,
        }
    }

    fn try_rewrite_ends(&mut self, base: u64) -> io::Result<()> {
        let shared = self.shared.clone();
        let storage = &*shared.storage;
        // A name nothing was ever written to, whatever became of the last try.
        let from = self.path(&format!("{:032x}{NEW}", u128::from_le_bytes(storage.unique())));
        let to = self.path(&ends_name(base));
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(()) };
        let says = (&*segment.ended(), segment.whole.as_ref());
        let written = EndsFile::create(storage, &from, segment.identity, says)
            .and_then(|written| storage.rename(&from, &to).map(|()| written));
        let written = written.inspect_err(|_| drop(storage.remove(&from)))?;
        storage.sync_dir(&shared.dir)?;
        segment.ends = Some(EndsFile::resume(segment.identity, written.len));
        segment.fresh.clear();
        segment.is_unsynced = false;
        self.counts.syncs += 2;
        self.counts.written_bytes += written.len;
        Ok(())
    }

    /// Says of a segment that is closed what it holds: its end might be cut off.
    pub(super) fn vouch(&mut self, base: u64) -> io::Result<()> {
        let (storage, path) = (self.shared.storage.clone(), self.path(&ends_name(base)));
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(()) };
        let whole = base..segment.next();
        if let Some(ends) = &mut segment.ends {
            ends.vouch(&*storage.open(&path)?, &whole)?;
            self.counts.syncs += 1;
        }
        segment.whole = Some(whole);
        Ok(())
    }

    /// Removes the segments all records of which have ended.
    pub(super) fn retire(&mut self, now: Instant) {
        let is_done = |segment: &super::segment::Segment| !segment.is_open && segment.live == 0;
        let done: Vec<u64> =
            self.segments.iter().filter(|(_, segment)| is_done(segment)).map(|(base, _)| *base).collect();
        if done.is_empty() {
            return;
        }
        // One whose ends cannot be written must not keep the others: they may be what fills the disk.
        for base in done {
            let removed = self.flush_ends_of(base).and_then(|()| self.remove_segment(base));
            if removed.is_err() {
                self.pause_from(now);
            }
            self.note(removed);
        }
        self.merge_notes();
    }

    fn remove_segment(&mut self, base: u64) -> io::Result<()> {
        let (path, ends_path) = (self.path(&segment_name(base)), self.path(&ends_name(base)));
        let storage = self.shared.storage.clone();
        let Some(segment) = self.segments.get_mut(&base) else { return Ok(()) };
        let covers = segment.covers();
        let Some(ends) = &mut segment.ends else { return Ok(()) };
        if let Err(error) = storage.open(&ends_path).and_then(|file| ends.note(&*file, &covers)) {
            segment.ends = None;
            return Err(error);
        }
        self.counts.syncs += 1;
        let note = Note { identity: segment.identity, covers, len: ends.len };
        let is_damaged = segment.is_damaged | lock(&self.shared.table).damaged_segments.remove(&base);
        if is_damaged {
            let kept = keep_damaged(self, &path);
            self.counts.damage.set_aside += u64::from(kept);
        } else {
            self.shared.storage.remove(&path)?;
        }
        self.is_dir_dirty = true;
        lock(&self.shared.table).forget_segment(base);
        self.segments.remove(&base);
        self.notes.insert(base, note);
        Ok(())
    }

    /// Lets one note speak for neighbours, so that there are never more notes than segments, and one.
    fn merge_notes(&mut self) {
        let bases: Vec<u64> = self.notes.keys().copied().collect();
        for pair in bases.windows(2) {
            let (Some(older), Some(newer)) = (self.notes.get(&pair[0]), self.notes.get(&pair[1])) else {
                continue;
            };
            if older.covers.end < newer.covers.start {
                continue;
            }
            let covers = older.covers.start.min(newer.covers.start)..newer.covers.end;
            let merged = self.extend_note(pair[1], covers);
            let is_merged = merged.is_ok();
            self.note(merged);
            if is_merged {
                self.notes.remove(&pair[0]);
                self.old_notes.push(pair[0]);
            }
        }
    }

    fn extend_note(&mut self, base: u64, covers: std::ops::Range<u64>) -> io::Result<()> {
        let path = self.path(&ends_name(base));
        let Some(note) = self.notes.get_mut(&base) else { return Ok(()) };
        let file = self.shared.storage.open(&path)?;
        let mut ends = EndsFile::resume(note.identity, note.len);
        ends.note(&*file, &covers)?;
        (note.covers, note.len) = (covers, ends.len);
        self.counts.syncs += 1;
        Ok(())
    }

    /// Makes removals durable, then removes what they were a note of; makes the reserve again.
    pub(super) fn tidy(&mut self, now: Instant) {
        if self.is_dir_dirty {
            let synced = self.shared.storage.sync_dir(&self.shared.dir);
            self.is_dir_dirty = synced.is_err();
            match synced.is_ok() {
                true => self.counts.syncs += 1,
                false => self.pause_from(now),
            }
            self.note(synced);
        }
        if !self.is_dir_dirty {
            for base in std::mem::take(&mut self.old_notes) {
                // One that stays says what another says too.
                drop(self.shared.storage.remove(&self.path(&ends_name(base))));
            }
        }
    }

    fn pause_from(&mut self, now: Instant) {
        self.pause = Some(now + super::engine::AFTER_FAILURE);
    }

    /// Checks the budget, and that the reserve is there before anything new is taken.
    pub(super) fn make_room(&mut self, bytes: u64, purpose: Purpose) -> Result<(), AppendError> {
        let (max_bytes, reserve) = (self.shared.options.max_bytes, self.shared.options.segment_size);
        let most = self.disk_bytes() + bytes + 2 * SEGMENT_HEADER as u64;
        match purpose {
            Purpose::Append if most + reserve > max_bytes => return Err(AppendError::Full { max_bytes }),
            Purpose::Relief if most > max_bytes => return Err(AppendError::Full { max_bytes }),
            Purpose::Relief if most + reserve > max_bytes => self.drop_reserve(),
            Purpose::Relief => {}
            Purpose::Append if !self.has_reserve => match self.make_reserve() {
                Err(error) if is_full(&error) => return Err(AppendError::DiskFull),
                made => self.note(made),
            },
            Purpose::Append => {}
        }
        Ok(())
    }

    fn make_reserve(&mut self) -> io::Result<()> {
        let path = self.path(RESERVE);
        let storage = self.shared.storage.clone();
        drop(storage.remove(&path));
        let size = self.shared.options.segment_size;
        let made = storage.create(&path).and_then(|file| {
            file.allocate(size)?;
            file.sync()?;
            storage.sync_dir(&self.shared.dir)
        });
        match &made {
            Ok(()) => self.has_reserve = true,
            Err(_) => drop(storage.remove(&path)),
        }
        made
    }

    /// Gives the reserve to what must be written now.
    pub(super) fn drop_reserve(&mut self) {
        if self.has_reserve {
            self.has_reserve = false;
            let storage = &self.shared.storage;
            let freed = storage.remove(&self.path(RESERVE)).and_then(|()| storage.sync_dir(&self.shared.dir));
            self.note(freed);
        }
    }
}

/// Moves a damaged file into a folder for whoever wants to look; whether it is kept.
pub(super) fn keep_damaged(engine: &Engine, path: &Path) -> bool {
    let (storage, folder) = (&engine.shared.storage, engine.path(DAMAGED));
    let is_there = storage.is_dir(&folder) || storage.create_dir(&folder).is_ok();
    let kept = storage.list(&folder).map_or(usize::MAX, |files| files.len());
    let moved = match path.file_name() {
        Some(name) if is_there && kept < MAX_SET_ASIDE => storage.rename(path, &folder.join(name)).is_ok(),
        _ => false,
    };
    if !moved {
        // It may stay: all of it has ended.
        drop(storage.remove(path));
    }
    moved
}
