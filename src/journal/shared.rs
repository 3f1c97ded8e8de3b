//! What the handles of a journal and its threads share: the inbox, the files that are open for reading,
//! and the numbers.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::format::{KIND_BATCH, RECORD_HEADER, RecordHeader, is_intact};
use super::storage::{Storage, StoredFile, read_full};
use super::types::{AppendError, Options, Place, ReadError, Record, Usage};

/// The most bytes that may wait for the thread; more wait in [`super::Journal::append`].
pub(super) const INBOX_KIB: usize = 64 << 10;

/// Files that stay open for reading.
const OPEN_FILES: usize = 16;

/// An append that waits.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) records: Vec<Record>,
    pub(super) answer: oneshot::Sender<Result<Placed, AppendError>>,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// A record that is to become a dead letter.
#[derive(Debug)]
pub(super) struct SetAside {
    pub(super) place: Place,
    pub(super) reason: String,
    pub(super) answer: oneshot::Sender<Result<(), ReadError>>,
}

/// What the thread is to do.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) appends: VecDeque<Append>,
    pub(super) ends: Vec<Place>,
    pub(super) set_asides: Vec<SetAside>,
    pub(super) is_closing: bool,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.appends.is_empty() && self.ends.is_empty() && self.set_asides.is_empty()
    }
}

/// A read that waits.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) place: Place,
    pub(super) answer: oneshot::Sender<Result<Bytes, ReadError>>,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) waiting: VecDeque<Read>,
    pub(super) is_closing: bool,
}

/// Where a record is that is not where its place says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) place: Place,
    pub(super) ordinal: u32,
}

/// Which segments there are and what is odd about their records.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Where the checksums of each segment start.
    pub(super) seeds: HashMap<u64, u32>,
    files: VecDeque<(u64, Arc<dyn StoredFile>)>,
    /// Records that were moved, by their id.
    pub(super) moved: HashMap<u64, Moved>,
    /// Ids of records whose bytes turned out wrong, so that each is counted once.
    damaged: HashSet<u64>,
    pub(super) damaged_segments: HashSet<u64>,
}

impl Table {
    /// Where the record is now, and its ordinal there; nothing for a place of another journal.
    pub(super) fn find(&self, place: Place) -> Option<Moved> {
        let here =
            || Some(Moved { place, ordinal: u32::try_from(place.id.checked_sub(place.segment)?).ok()? });
        self.moved.get(&place.id).copied().or_else(here)
    }

    pub(super) fn forget_record(&mut self, id: u64) {
        self.moved.remove(&id);
        self.damaged.remove(&id);
    }

    pub(super) fn close_files(&mut self) {
        self.files.clear();
    }

    pub(super) fn forget_segment(&mut self, base: u64) {
        self.seeds.remove(&base);
        self.files.retain(|(other, _)| *other != base);
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) inbox: Mutex<Work>,
    pub(super) wake: Condvar,
    pub(super) reads: Mutex<Reads>,
    pub(super) wake_reader: Condvar,
    pub(super) table: Mutex<Table>,
    pub(super) usage: Mutex<Usage>,
    pub(super) room: Arc<Semaphore>,
    pub(super) damaged_reads: AtomicU64,
    pub(super) failed_reads: AtomicU64,
    pub(super) closed: tokio_util::sync::CancellationToken,
}

impl Shared {
    pub(super) fn new(storage: Arc<dyn Storage>, dir: &Path, options: Options) -> Self {
        Self {
            storage,
            dir: dir.to_owned(),
            options,
            inbox: Mutex::default(),
            wake: Condvar::new(),
            reads: Mutex::default(),
            wake_reader: Condvar::new(),
            table: Mutex::default(),
            usage: Mutex::default(),
            room: Arc::new(Semaphore::new(INBOX_KIB)),
            damaged_reads: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
            closed: tokio_util::sync::CancellationToken::new(),
        }
    }

    /// Hands an append to the thread, or back if the journal is closed.
    pub(super) fn push(&self, append: Append) -> Result<(), AppendError> {
        let mut inbox = lock(&self.inbox);
        if inbox.is_closing {
            return Err(AppendError::Closed);
        }
        inbox.appends.push_back(append);
        drop(inbox);
        self.wake.notify_one();
        Ok(())
    }

    pub(super) fn push_ends(&self, places: &[Place]) {
        if !places.is_empty() {
            lock(&self.inbox).ends.extend_from_slice(places);
            self.wake.notify_one();
        }
    }

    /// Asks both threads to finish.
    pub(super) fn close(&self) {
        lock(&self.inbox).is_closing = true;
        lock(&self.reads).is_closing = true;
        self.room.close();
        self.wake.notify_one();
        self.wake_reader.notify_one();
    }

    /// Waits for work, at most for `most`; with a commit delay, also for more appends.
    pub(super) fn wait(&self, most: Option<Duration>) -> Work {
        let mut inbox = lock(&self.inbox);
        let is_idle = |work: &mut Work| work.is_empty() && !work.is_closing;
        inbox = match most {
            None => self.wake.wait_while(inbox, is_idle).unwrap_or_else(PoisonError::into_inner),
            Some(most) => {
                self.wake.wait_timeout_while(inbox, most, is_idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        let delay = self.options.commit_delay;
        if !delay.is_zero() && !inbox.appends.is_empty() {
            let is_open = |work: &mut Work| !work.is_closing;
            let waited = self.wake.wait_timeout_while(inbox, delay, is_open);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let is_closing = inbox.is_closing;
        std::mem::replace(&mut *inbox, Work { is_closing, ..Work::default() })
    }

    /// Reads a record and checks it.
    pub(super) fn read(&self, place: Place) -> Result<Bytes, ReadError> {
        let find = || lock(&self.table).find(place).map(|moved| moved.place).ok_or(ReadError::Ended);
        let mut now = find()?;
        loop {
            let error = match self.read_record(now) {
                Ok((_, payload)) => return Ok(payload),
                Err(error) => error,
            };
            // It may have been moved meanwhile, and its segment removed.
            let again = find()?;
            if again != now {
                now = again;
                continue;
            }
            match &error {
                ReadError::Damaged => self.note_damage(now),
                ReadError::Disk(_) => _ = self.failed_reads.fetch_add(1, Ordering::Relaxed),
                ReadError::Ended | ReadError::Closed => {}
            }
            return Err(error);
        }
    }

    fn note_damage(&self, place: Place) {
        let mut table = lock(&self.table);
        table.damaged_segments.insert(place.segment);
        if table.damaged.insert(place.id) {
            self.damaged_reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The record at `place`, which is where it is now.
    pub(super) fn read_record(&self, place: Place) -> Result<(RecordHeader, Bytes), ReadError> {
        let (file, seed) = self.file(place.segment)?;
        let mut bytes = vec![0; place.len as usize];
        let filled = read_full(&*file, &mut bytes, u64::from(place.offset))
            .map_err(|error| ReadError::Disk(Arc::new(error)))?;
        let header = RecordHeader::decode(&bytes[..filled]).ok_or(ReadError::Damaged)?;
        let is_it = (header.first, header.len, header.kind) == (place.id, place.len, KIND_BATCH);
        if filled < bytes.len() || !is_it || !is_intact(seed, &bytes) {
            return Err(ReadError::Damaged);
        }
        Ok((header, Bytes::from(bytes).slice(RECORD_HEADER..)))
    }

    fn file(&self, base: u64) -> Result<(Arc<dyn StoredFile>, u32), ReadError> {
        let mut table = lock(&self.table);
        let seed = *table.seeds.get(&base).ok_or(ReadError::Ended)?;
        if let Some((_, file)) = table.files.iter().find(|(other, _)| *other == base) {
            return Ok((file.clone(), seed));
        }
        let path = self.dir.join(segment_name(base));
        let file = self.storage.open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => ReadError::Damaged,
            _ => ReadError::Disk(Arc::new(error)),
        })?;
        table.files.push_back((base, file.clone()));
        if table.files.len() > OPEN_FILES {
            table.files.pop_front();
        }
        Ok((file, seed))
    }

    pub(super) fn usage(&self) -> Usage {
        let mut usage = *lock(&self.usage);
        usage.damage.records += self.damaged_reads.load(Ordering::Relaxed);
        usage.failures += self.failed_reads.load(Ordering::Relaxed);
        usage
    }
}

/// The places of an append; whoever asked takes them, else they are ended: nobody will.
#[derive(Debug)]
pub(super) struct Placed {
    places: Vec<Place>,
    shared: Arc<Shared>,
}

impl Placed {
    pub(super) fn new(places: Vec<Place>, shared: &Arc<Shared>) -> Self {
        Self { places, shared: shared.clone() }
    }

    pub(super) fn take(mut self) -> Vec<Place> {
        std::mem::take(&mut self.places)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.shared.push_ends(&self.places);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `0000000000000001.seg`
pub(super) fn segment_name(base: u64) -> String {
    format!("{base:016x}.seg")
}

/// `0000000000000001.ends`
pub(super) fn ends_name(base: u64) -> String {
    format!("{base:016x}.ends")
}

/// The number in a file name with this ending.
pub(super) fn number_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}
