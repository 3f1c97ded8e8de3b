//! What queues on disk come to, asked for when somebody reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A queue on disk in numbers; what is counted is counted since the program opened it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StorageUsage {
    /// All files, the reserve included.
    pub disk_bytes: u64,
    /// Of batches that wait or are under way.
    pub live_bytes: u64,
    /// Files that hold batches.
    pub segments: u64,
    /// Batches that wait or are under way.
    pub records: u64,
    /// Since the oldest file with a waiting batch was begun.
    pub oldest_age: Duration,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Requests that were put down.
    pub commits: u64,
    /// How long they waited for it, added up.
    pub commit_time: Duration,
    /// Written to files.
    pub written_bytes: u64,
    /// Writes, syncs and reads that failed.
    pub failures: u64,
    /// Times there was no room.
    pub full: u64,
    /// Files given up because a write or sync failed.
    pub poisoned: u64,
    /// Batches lost on the disk.
    pub damaged_records: u64,
    /// Files lost on the disk.
    pub damaged_segments: u64,
    /// Batches copied forward.
    pub moved: u64,
    /// Batches that were given up and are kept.
    pub dead_letters: u64,
    /// Of those, how many had to make room for others.
    pub dead_letters_dropped: u64,
}

/// Where the queues of one exporter keep what waits: several after a reload.
#[derive(Clone, Default)]
pub struct StorageWatch(Arc<Mutex<Vec<Box<Watched>>>>);

/// Where a queue keeps what waits, and its numbers if that is a disk; `None` once the queue is gone.
type Watched = dyn Fn() -> Option<(Arc<str>, Option<StorageUsage>)> + Send + Sync;

impl StorageWatch {
    /// Asks `queue` from now on, until it answers `None`.
    pub fn watch(
        &self,
        queue: impl Fn() -> Option<(Arc<str>, Option<StorageUsage>)> + Send + Sync + 'static,
    ) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(queue));
    }

    /// Every storage in use, and the numbers of the queue there that was opened last.
    pub fn read(&self) -> BTreeMap<Arc<str>, Option<StorageUsage>> {
        let mut all = BTreeMap::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|queue| match queue() {
            Some((storage, usage)) => {
                all.insert(storage, usage);
                true
            }
            None => false,
        });
        all
    }
}

impl std::fmt::Debug for StorageWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StorageWatch")
    }
}
