//! The side of a queue that is on disk, on disks that fail when they are told to.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::journal::{Disk, Options, Recovery, Storage, StoredFile};

/// Which calls fail, with EIO or another error.
#[derive(Debug, Default)]
struct Faults {
    writes: AtomicBool,
    syncs: AtomicBool,
    reads: AtomicBool,
    flips_bits: AtomicBool,
}

#[derive(Debug)]
struct Faulty<T: ?Sized>(Arc<Faults>, Arc<T>);

fn failing(fault: &AtomicBool) -> io::Result<()> {
    match fault.load(Ordering::Relaxed) {
        true => Err(io::Error::from_raw_os_error(5)),
        false => Ok(()),
    }
}

impl StoredFile for Faulty<dyn StoredFile> {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        failing(&self.0.reads)?;
        let read = self.1.read_at(bytes, offset)?;
        if self.0.flips_bits.load(Ordering::Relaxed) {
            bytes[..read].iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
        }
        Ok(read)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        failing(&self.0.writes)?;
        self.1.write_at(bytes, offset)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.set_len(len)
    }
    fn size(&self) -> io::Result<u64> {
        self.1.size()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.1.allocate(len)
    }
    fn sync(&self) -> io::Result<()> {
        failing(&self.0.syncs)?;
        self.1.sync()
    }
}

impl Storage for Faulty<Disk> {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        Ok(Arc::new(Faulty(self.0.clone(), self.1.create(path)?)))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StoredFile>> {
        Ok(Arc::new(Faulty(self.0.clone(), self.1.open(path)?)))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        self.1.list(dir)
    }
    fn is_dir(&self, dir: &Path) -> bool {
        self.1.is_dir(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.1.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.1.sync_dir(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.1.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.1.rename(from, to)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.1.lock(path)
    }
    fn unique(&self) -> [u8; 16] {
        self.1.unique()
    }
}

/// A queue in a folder.
struct Durable {
    world: World,
    faults: Arc<Faults>,
    folder: tempfile::TempDir,
}

fn opened(folder: &Path) -> (Journal, Recovery, Arc<Faults>) {
    let faults = Arc::<Faults>::default();
    let storage = Arc::new(Faulty(faults.clone(), Arc::new(Disk)));
    let (journal, recovery) = Journal::open_on(storage, folder, Options::for_size(64 * MIB, MIB)).unwrap();
    (journal, recovery, faults)
}

impl Durable {
    fn new() -> Self {
        Self::within(64 * MIB)
    }

    fn within(max_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (journal, _, faults) = opened(folder.path());
        Self { world: Self::world(journal, max_bytes), faults, folder }
    }

    fn world(journal: Journal, max_bytes: u64) -> World {
        let metrics = ExporterMetrics::default();
        let account = Account::detached(TenantId::unattributed());
        let bounds = Bounds { sizer: Sizer::Bytes, capacity: max_bytes, max_bytes, max_batches: 1000 };
        let queue = Queue::durable(bounds, Wanted::up_to(MIB), &metrics, (journal, "file_storage"));
        World { queue, account, metrics }
    }

    async fn put(&self, batch: Batch) -> Result<(), StoreError> {
        let mut room = self.world.queue.reserve(std::slice::from_ref(&batch)).unwrap();
        match room.store(std::slice::from_ref(&batch)).await {
            Ok(()) => {
                room.commit(vec![batch]);
                Ok(())
            }
            Err(error) => {
                batch.refused(crate::outcome::RefusedReason::Storage);
                Err(error)
            }
        }
    }

    fn large(&self) -> Batch {
        self.world.batch(Signal::Logs, 1, MIB as usize - 1000)
    }

    fn usage(&self) -> StorageUsage {
        self.world.queue.storage().1.unwrap()
    }

    async fn close(&self) {
        self.world.queue.close_log(Instant::now() + seconds(60)).await;
    }

    /// Closes it and opens its files anew, without faults.
    async fn again(self) -> (Self, usize) {
        self.close().await;
        let (journal, recovery, faults) = opened(self.folder.path());
        let world = Self::world(journal, 64 * MIB);
        let waiting = recovery.waiting.len();
        let batch = |one: crate::journal::Waiting| {
            let sizes = (one.head.items, one.bytes);
            (Batch::recovered(one.head.signal, one.head.tenant, world.account.clone(), sizes), one.place)
        };
        world.queue.recover(recovery.waiting.map(batch));
        (Self { world, faults, folder: self.folder }, waiting)
    }

    async fn nothing_is_leased_until(&self, done: impl Fn(&Books) -> bool) {
        let waiting = async {
            while !done(&self.world.account.signal(Signal::Logs).read()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            lease = self.world.queue.lease() => panic!("there is nothing to send: {lease:?}"),
            done = tokio::time::timeout(seconds(60), waiting) => done.unwrap(),
        }
    }

    /// Everything that waits is sent; how many items.
    async fn deliver(&self) -> u64 {
        let mut items = 0;
        while self.world.queue.items() > 0 {
            let lease = self.world.queue.lease().await.unwrap();
            items += lease.size().items;
            assert_eq!(lease.parts().iter().map(|part| part.len() as u64).sum::<u64>(), lease.size().bytes);
            end(lease);
        }
        items
    }
}

#[tokio::test]
async fn what_waits_outlives_the_queue_and_what_ended_does_not_come_back() {
    let queue = Durable::new();
    for items in 1..=3 {
        queue.put(queue.world.logs(items)).await.unwrap();
    }
    let lease = queue.world.queue.lease().await.unwrap();
    assert_eq!(items_of(&lease), [1, 2, 3]);
    end(lease);
    queue.put(queue.world.logs(4)).await.unwrap();
    drop(queue.world.queue.lease().await.unwrap());
    queue.world.queue.close();
    for (batch, is_kept) in queue.world.queue.take_all() {
        assert!(is_kept);
        batch.stored();
    }
    assert_eq!(queue.world.books(Signal::Logs).stored, 4);
    let (queue, waiting) = queue.again().await;
    assert_eq!((waiting, queue.world.queue.items()), (1, 4));
    assert_eq!(queue.deliver().await, 4);
    let books = queue.world.books(Signal::Logs);
    assert_eq!((books.recovered, books.sent), (4, 4));
    assert_eq!(queue.again().await.1, 0);
}

#[tokio::test]
async fn only_so_much_of_what_is_on_disk_is_in_memory_too() {
    let queue = Durable::new();
    for _ in 0..32 {
        queue.put(queue.large()).await.unwrap();
    }
    let (loads, in_memory) = {
        let entries: Vec<_> = queue.world.queue.lock().schedule.take_all().collect();
        let bytes = entries.iter().filter_map(|entry| entry.batch.bytes()).map(Bytes::len).sum::<usize>();
        (entries.len(), bytes as u64)
    };
    assert_eq!(loads, 32);
    assert!((15 * MIB..=16 * MIB).contains(&in_memory), "{in_memory}");
}

#[tokio::test]
async fn what_was_read_from_disk_is_what_was_put_down() {
    let queue = Durable::new();
    for _ in 0..32 {
        queue.put(queue.large()).await.unwrap();
    }
    assert_eq!(queue.deliver().await, 32);
    assert_eq!(queue.world.books(Signal::Logs).sent, 32);
    assert_eq!((queue.world.metrics.queue_bytes.get(), queue.world.queue.bytes()), (0, 0));
}

/// Scorecard, test 13.
#[tokio::test]
async fn a_disk_that_fails_is_a_refusal_and_works_again_when_the_disk_does() {
    let queue = Durable::new();
    queue.put(queue.world.logs(1)).await.unwrap();
    for fault in [&queue.faults.syncs, &queue.faults.writes] {
        fault.store(true, Ordering::Relaxed);
        let refused = queue.put(queue.world.logs(10)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Failed { .. }), "{refused:?}");
        fault.store(false, Ordering::Relaxed);
        // The journal lets a failed disk rest for a moment.
        let again = async {
            while queue.put(queue.world.logs(1)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(seconds(60), again).await.unwrap();
    }
    assert!(queue.usage().failures >= 2 && queue.usage().poisoned >= 1, "{:?}", queue.usage());
    assert_eq!(queue.world.metrics.enqueue_failed[Signal::Logs].get(), queue.world.refused());
    assert_eq!(queue.deliver().await, 3);
    let (queue, _) = queue.again().await;
    // What was refused may be delivered all the same; what was answered with OK is.
    assert_eq!(queue.deliver().await % 10, 0);
}

#[tokio::test]
async fn bytes_that_changed_on_disk_are_not_sent_and_counted() {
    let queue = Durable::new();
    queue.put(queue.world.logs(1)).await.unwrap();
    queue.put(queue.world.logs(2)).await.unwrap();
    let (queue, _) = queue.again().await;
    queue.faults.flips_bits.store(true, Ordering::Relaxed);
    queue.nothing_is_leased_until(|books| books.dropped_total() == 3).await;
    let books = queue.world.books(Signal::Logs);
    assert_eq!((books.dropped[DroppedReason::Damaged as usize], books.queued), (3, 0));
    assert_eq!(queue.usage().damaged_records, 2);
    queue.faults.flips_bits.store(false, Ordering::Relaxed);
    queue.put(queue.world.logs(4)).await.unwrap();
    assert_eq!(queue.deliver().await, 4);
}

#[tokio::test]
async fn what_cannot_be_read_now_is_left_for_the_next_start() {
    let queue = Durable::new();
    queue.put(queue.world.logs(5)).await.unwrap();
    let (queue, _) = queue.again().await;
    queue.faults.reads.store(true, Ordering::Relaxed);
    queue.nothing_is_leased_until(|books| books.stored == 5).await;
    let books = queue.world.books(Signal::Logs);
    assert_eq!((books.stored, books.dropped_total(), books.queued), (5, 0, 0));
    let (queue, waiting) = queue.again().await;
    assert_eq!((waiting, queue.deliver().await), (1, 5));
}

#[tokio::test]
async fn a_request_given_up_half_way_leaves_nothing_behind() {
    let queue = Durable::new();
    let batch = queue.world.logs(1);
    let mut room = queue.world.queue.reserve(std::slice::from_ref(&batch)).unwrap();
    room.store(std::slice::from_ref(&batch)).await.unwrap();
    drop(room);
    batch.refused(crate::outcome::RefusedReason::Cancelled);
    assert_eq!(queue.world.queue.size(), 0);
    assert_eq!(queue.again().await.1, 0, "nobody owned it");
}

#[tokio::test]
async fn more_than_the_bounds_may_be_on_disk_at_the_start_and_nothing_is_taken_until_it_fits() {
    let queue = Durable::within(4 * MIB);
    for _ in 0..4 {
        queue.put(queue.large()).await.unwrap();
    }
    let (queue, _) = queue.again().await;
    let bounds = Bounds { sizer: Sizer::Bytes, capacity: MIB, max_bytes: MIB, max_batches: 2 };
    queue.world.queue.configure(bounds, Wanted::up_to(MIB));
    let batch = queue.world.logs(1);
    assert_eq!(queue.world.queue.reserve(std::slice::from_ref(&batch)).unwrap_err().cause, Cause::Full);
    assert_eq!(queue.deliver().await, 4);
    queue.put(batch).await.unwrap();
    assert_eq!(queue.deliver().await, 1);
}

#[tokio::test]
async fn what_comes_back_to_a_line_longer_than_memory_is_next_and_the_order_stays() {
    let queue = Durable::new();
    for items in 1..=40 {
        queue.put(queue.world.batch(Signal::Logs, items, MIB as usize - 1000)).await.unwrap();
    }
    let one = async || queue.world.queue.lease().await.unwrap();
    let (first, second) = (one().await, one().await);
    let mut order = Vec::new();
    drop(second);
    drop(first);
    while order.len() < 40 {
        let lease = one().await;
        order.extend(items_of(&lease));
        end(lease);
    }
    assert_eq!(order, (1..=40).collect::<Vec<_>>());
    assert_eq!(queue.again().await.1, 0);
}
