//! The side of a queue that is on disk: batches go down before they are owned and come up before they are
//! sent.
//!
//! ```text
//! reserve ──▶ store: appended and synced ──▶ commit ──▶ waiting ──▶ lease: read and checked ──▶ end
//!                 │ dropped: ended                       bytes stay in memory while Cache has room
//! ```
//!
//! The log is written in order, and the queue is fair: what is read and ended is in any order, which the
//! log allows. Invariant: a batch with a [`Place`] is either in the queue or ended in the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use super::schedule::Entry;
use crate::batch::Batch;
use crate::flow::Flow;
use crate::internal_telemetry::StorageUsage;
use crate::journal::{AppendError, Head, Journal, Place, ReadError, Record};

/// What a queue on disk keeps in memory of what waits, with its entries: a destination that keeps up is served
/// without reading.
const CACHED_BYTES: u64 = 16 * 1024 * 1024;
/// What an entry takes, with its places in two lists and among the free ones.
const ENTRY: u64 = (size_of::<Option<Entry>>() + 2 * size_of::<(u32, u32)>() + size_of::<u32>()) as u64;
/// When the disk cannot be read now, and how often it is asked again.
const READ_PAUSE: Duration = Duration::from_secs(1);
const READ_ATTEMPTS: usize = 5;
/// Of a disk that fails nobody knows when it is back.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// In the flags of a record: it stood in the line of data whose tenant nobody looked for.
const OF_NOBODY: u8 = 1;

/// Why batches could not be put down; nothing of them is owned, the request must be refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no room on the disk, or none left of `max_size`; try again.
    #[error("{problem}")]
    Full {
        /// The disk's words.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk failed; try again.
    #[error("{problem}")]
    Failed {
        /// The disk's words.
        problem: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// A batch is larger than the log takes; it must not be tried again.
    #[error("{problem}")]
    NeverFits {
        /// How large it may be.
        problem: String,
    },
    /// The program ends.
    #[error("the sending queue is closed")]
    Closed {
        /// When to try again, elsewhere.
        retry_after: Duration,
    },
}

impl From<AppendError> for StoreError {
    fn from(error: AppendError) -> Self {
        let (problem, retry_after) = (error.to_string(), RETRY_AFTER);
        match error {
            AppendError::Full { .. } | AppendError::DiskFull => StoreError::Full { problem, retry_after },
            AppendError::Disk(_) => StoreError::Failed { problem, retry_after },
            AppendError::TooLarge { .. } => StoreError::NeverFits { problem },
            AppendError::Closed => StoreError::Closed { retry_after },
        }
    }
}

/// The log of one queue; clones are the same log.
#[derive(Debug, Clone)]
pub(super) struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: Journal,
    /// The id of the storage extension.
    storage: Arc<str>,
    commits: AtomicU64,
    commit_nanos: AtomicU64,
}

/// What became of a batch that was to come up.
pub(super) enum Read {
    /// Here it is.
    Bytes(Bytes),
    /// It is lost: what is on the disk is not what was put down.
    Damaged,
    /// The disk cannot be read; the next start may find it.
    Unreadable,
    /// The log is closed.
    Closed,
}

impl Log {
    pub(super) fn new(journal: Journal, storage: &str) -> Self {
        let (commits, commit_nanos) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Shared { journal, storage: storage.into(), commits, commit_nanos }))
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub(super) fn storage(&self) -> &Arc<str> {
        &self.0.storage
    }

    /// Returns when every batch is synced, with its place in the same order.
    ///
    /// # Cancel safety
    /// Dropped, what was put down is ended by the log.
    pub(super) async fn append(&self, batches: &[Batch]) -> Result<Vec<Place>, StoreError> {
        let begun = Instant::now();
        let places = self.0.journal.append(batches.iter().map(record).collect()).await?;
        self.0.commits.fetch_add(1, Ordering::Relaxed);
        // More than 500 years do not fit.
        self.0.commit_nanos.fetch_add(begun.elapsed().as_nanos() as u64, Ordering::Relaxed);
        Ok(places)
    }

    /// Reads several, all at once.
    pub(super) async fn read(&self, places: &[Place]) -> Vec<Read> {
        all(places.iter().map(|place| self.read_one(*place))).await
    }

    async fn read_one(&self, place: Place) -> Read {
        for attempt in 1.. {
            match self.0.journal.read(place).await {
                Ok(bytes) => return Read::Bytes(bytes),
                Err(ReadError::Closed) => return Read::Closed,
                Err(ReadError::Damaged | ReadError::Ended) => return Read::Damaged,
                Err(ReadError::Disk(_)) if attempt < READ_ATTEMPTS => tokio::time::sleep(READ_PAUSE).await,
                Err(ReadError::Disk(_)) => break,
            }
        }
        Read::Unreadable
    }

    /// What waits is delivered or given up.
    pub(super) fn end<'e>(&self, entries: impl Iterator<Item = &'e Entry>) {
        let places: Vec<Place> = entries.filter_map(|entry| entry.kept).collect();
        if !places.is_empty() {
            self.0.journal.end(&places);
        }
    }

    pub(super) fn usage(&self) -> StorageUsage {
        let usage = self.0.journal.usage();
        let age = |begun: u64| {
            let begun = SystemTime::UNIX_EPOCH + Duration::from_nanos(begun);
            SystemTime::now().duration_since(begun).unwrap_or_default()
        };
        StorageUsage {
            disk_bytes: usage.disk_bytes,
            live_bytes: usage.live_bytes,
            segments: usage.segments,
            records: usage.records,
            oldest_age: usage.oldest_unix_nanos.map_or(Duration::ZERO, age),
            syncs: usage.syncs,
            commits: self.0.commits.load(Ordering::Relaxed),
            commit_time: Duration::from_nanos(self.0.commit_nanos.load(Ordering::Relaxed)),
            written_bytes: usage.written_bytes,
            failures: usage.failures,
            full: usage.full,
            poisoned: usage.poisoned,
            damaged_records: usage.damage.records,
            damaged_segments: usage.damage.segments,
            moved: usage.moved,
            dead_letters: usage.dead_letters,
            dead_letters_dropped: usage.dead_letters_dropped,
        }
    }
}

/// Whether a record stood in the line of data whose tenant nobody looked for.
pub fn is_of_nobody(head: &Head) -> bool {
    head.flags & OF_NOBODY != 0
}

fn record(batch: &Batch) -> Record {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let is_of_nobody = batch.flow().number() == Flow::of_nobody().number();
    let origin = batch.origin();
    let head = Head {
        tenant: batch.tenant().clone(),
        principal: origin.map_or_else(|| "".into(), |origin| origin.principal.clone()),
        revision: origin.map_or_else(|| "".into(), |origin| origin.revision.clone()),
        signal: batch.signal(),
        items: batch.items(),
        flags: if is_of_nobody { OF_NOBODY } else { 0 },
        received_unix_nanos: u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX),
    };
    Record { head, payload: batch.bytes().cloned().unwrap_or_default() }
}

/// How much of what is on disk is in memory as well.
#[derive(Debug, Default)]
pub(super) struct Cache(u64);

impl Cache {
    /// Lets go of the bytes of a batch that begins to wait, unless there is room for them.
    pub(super) fn put(&mut self, entry: &mut Entry) {
        let bytes = Self::bytes(entry);
        match self.0 + bytes <= CACHED_BYTES {
            true => self.0 += bytes,
            false => entry.batch.put_down(),
        }
    }

    /// A batch waits no more.
    pub(super) fn take(&mut self, entry: &Entry) {
        self.0 -= Self::bytes(entry);
    }

    /// Nothing of what is only in one of both.
    fn bytes(entry: &Entry) -> u64 {
        let is_in_both = entry.kept.is_some() && entry.batch.bytes().is_some();
        if is_in_both { entry.batch.size() + ENTRY } else { 0 }
    }
}

/// Waits for all futures, which make progress together.
pub async fn all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<Option<Pin<Box<F>>>> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut done: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(move |context| {
        for (future, done) in waiting.iter_mut().zip(&mut done) {
            if let Some(Poll::Ready(output)) = future.as_mut().map(|future| future.as_mut().poll(context)) {
                (*future, *done) = (None, Some(output));
            }
        }
        match waiting.iter().all(Option::is_none) {
            true => Poll::Ready(done.drain(..).flatten().collect()),
            false => Poll::Pending,
        }
    })
    .await
}
