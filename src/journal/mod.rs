//! A log of records on disk: what is acknowledged survives a crash and a power loss.
//!
//! ```text
//! append ─▶ inbox ─▶ thread: write, sync ─▶ places      0000000000000001.seg   records, then an index
//! end    ─▶ inbox ─▶ thread: note, later sync           0000000000000001.ends  what of them has ended
//! read   ─▶ reader thread: read, check ─▶ bytes         reserve                room for ends on a full disk
//! ```
//!
//! Records end in any order; a segment is removed when all of its records have. Not here: whose turn it is
//! and what is done with a record (`queue`). Invariants: an append is answered only when its file and the
//! directory entry that leads to it are synced; bytes whose checksum fails are never handed out; a file a
//! write or sync of which failed is never acknowledged from again.

mod backlog;
mod dead;
mod ends;
mod engine;
mod format;
mod index;
mod inspect;
mod recovery;
mod relief;
mod room;
mod scan;
mod segment;
mod shared;
mod storage;
mod survey;
#[cfg(test)]
mod tests;
mod threads;
mod types;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use engine::Engine;
pub use inspect::{Inspection, SegmentReport, TenantReport, inspect, read_segment};
use shared::{Append, INBOX_KIB, Read, SetAside, Shared, lock};
pub use storage::{Disk, Storage, StoredFile};
pub use types::{
    AppendError, Backlog, Damage, Head, OpenError, Options, Place, ReadError, Record, Recovery, Usage,
    Waiting,
};

/// A journal that is open; clones are the same one. Without [`Journal::close`] the threads end by themselves
/// when the last clone is dropped, and nothing is lost.
#[derive(Debug, Clone)]
pub struct Journal {
    shared: Arc<Shared>,
    _closer: Arc<Closer>,
}

/// Ends the threads with the last handle.
#[derive(Debug)]
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Journal {
    /// Opens the journal in `dir`, which is made if it does not exist, and starts its two threads. Blocks:
    /// about 0.25 s for each segment that a crash left without an index, little more otherwise.
    ///
    /// # Errors
    /// [`OpenError`]; damage is none, see [`Recovery`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        Self::open_on(Arc::new(Disk), dir, options)
    }

    /// As [`Journal::open`], on another file system.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_on(
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Recovery), OpenError> {
        let lock = make_dir(&*storage, dir)?;
        let (journal, engine, recovery) = Self::inline(storage, dir, options)?;
        threads::start(&journal.shared, engine, lock)
            .map_err(|error| OpenError::Disk { path: dir.to_owned(), error })?;
        Ok((journal, recovery))
    }

    /// A journal without threads, in a directory that exists: the caller drives the engine.
    fn inline(
        storage: Arc<dyn Storage>,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Engine, Recovery), OpenError> {
        options.check()?;
        let (engine, recovery) = recovery::open(storage, dir, options)?;
        let shared = engine.shared.clone();
        Ok((Self { _closer: Arc::new(Closer(shared.clone())), shared }, engine, recovery))
    }

    /// Stores `records`, all or none, and answers when they are synced. They are in one segment and count
    /// against [`Options::max_bytes`] until they are ended.
    ///
    /// # Errors
    /// [`AppendError`]: nothing was acknowledged; a crash may still bring records of a failed append back.
    ///
    /// # Cancel safety
    /// A dropped call stores nothing, or stores the records and ends them.
    pub async fn append(&self, records: Vec<Record>) -> Result<Vec<Place>, AppendError> {
        let max = self.shared.options.max_record;
        let mut bytes = 0;
        for record in &records {
            let len = record.payload.len() as u64;
            if len == 0 || len > max {
                return Err(AppendError::TooLarge { bytes: len, max });
            }
            bytes += len;
        }
        let max = Options::MAX_SEGMENT_SIZE;
        if bytes > max {
            return Err(AppendError::TooLarge { bytes, max });
        }
        let permits = (bytes >> 10).clamp(1, INBOX_KIB as u64) as u32;
        let permit = self.shared.room.clone().acquire_many_owned(permits).await;
        let permit = Some(permit.map_err(|_| AppendError::Closed)?);
        let (answer, stored) = oneshot::channel();
        self.shared.push(Append { records, answer, permit })?;
        Ok(stored.await.map_err(|_| AppendError::Closed)??.take())
    }

    /// Reads the payload of a record and checks it.
    ///
    /// # Errors
    /// [`ReadError`]. A damaged record is counted once, and waits until it is ended.
    ///
    /// # Cancel safety
    /// A dropped call changes nothing.
    pub async fn read(&self, place: Place) -> Result<Bytes, ReadError> {
        let (answer, read) = oneshot::channel();
        {
            let mut reads = lock(&self.shared.reads);
            if reads.is_closing {
                return Err(ReadError::Closed);
            }
            reads.waiting.push_back(Read { place, answer });
        }
        self.shared.wake_reader.notify_one();
        read.await.map_err(|_| ReadError::Closed)?
    }

    /// These records were delivered or given up. Never blocks; durable within about 100 ms, and before
    /// their segment is removed. Places that have ended already are ignored.
    pub fn end(&self, places: &[Place]) {
        self.shared.push_ends(places);
    }

    /// Copies a record to the dead letters, which are bounded, then ends it. `reason` is cut after 1,024
    /// bytes.
    ///
    /// # Errors
    /// [`ReadError`]: the record was not ended.
    ///
    /// # Cancel safety
    /// A dropped call does all of it or nothing.
    pub async fn set_aside(&self, place: Place, reason: &str) -> Result<(), ReadError> {
        let (answer, done) = oneshot::channel();
        {
            let mut inbox = lock(&self.shared.inbox);
            if inbox.is_closing {
                return Err(ReadError::Closed);
            }
            inbox.set_asides.push(SetAside { place, reason: reason.to_owned(), answer });
        }
        self.shared.wake.notify_one();
        done.await.map_err(|_| ReadError::Closed)?
    }

    /// The journal in numbers, as of the last round of its thread.
    pub fn usage(&self) -> Usage {
        self.shared.usage()
    }

    /// Stores what waits, makes all ends durable, and ends the threads; whether that was done by
    /// `deadline`. What was acknowledged is safe either way.
    pub async fn close(&self, deadline: Instant) -> bool {
        self.shared.close();
        tokio::time::timeout_at(deadline, self.shared.closed.cancelled()).await.is_ok()
    }
}

/// Makes the directory and what leads to it durable, and locks it.
fn make_dir(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn Send + Sync>, OpenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| OpenError::Disk { path, error }
    };
    let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !storage.is_dir(&here(dir))).collect();
    for dir in missing.iter().rev() {
        storage.create_dir(dir).map_err(failed(dir))?;
    }
    // Also of directories an earlier start made and could not sync.
    for dir in missing.into_iter().chain([dir]) {
        let parent = here(dir.parent().unwrap_or(dir));
        storage.sync_dir(&parent).map_err(failed(&parent))?;
    }
    let path = dir.join("lock");
    storage.lock(&path).map_err(failed(&path))?.ok_or(OpenError::InUse(dir.to_owned()))
}

/// The parent of a relative name is the empty path: the working directory.
fn here(path: &Path) -> PathBuf {
    match path.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => path.to_owned(),
    }
}
