use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::outcome::{Account, Books, DroppedReason};

mod durable;
mod fair;
mod model;
mod packed;
mod slots;

const MIB: u64 = 1024 * 1024;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

struct World {
    queue: Queue,
    account: Arc<Account>,
    metrics: ExporterMetrics,
}

impl World {
    fn new(sizer: Sizer, capacity: u64, wanted: Wanted) -> Self {
        Self::bounded(Bounds { sizer, capacity, max_bytes: MIB, max_batches: u64::MAX }, wanted)
    }

    fn bounded(bounds: Bounds, wanted: Wanted) -> Self {
        let metrics = ExporterMetrics::default();
        let account = Account::detached(TenantId::unattributed());
        Self { queue: Queue::new(bounds, wanted, &metrics), account, metrics }
    }

    fn batch(&self, signal: Signal, items: u64, bytes: usize) -> Batch {
        self.account.signal(signal).add_received(items);
        let bytes = Bytes::from(vec![0; bytes]);
        Batch::new(signal, TenantId::unattributed(), self.account.clone(), (items, bytes))
    }

    fn logs(&self, items: u64) -> Batch {
        self.batch(Signal::Logs, items, 10)
    }

    fn put(&self, batch: Batch) -> Result<(), QueueFull> {
        match self.queue.reserve(std::slice::from_ref(&batch)) {
            Ok(room) => {
                room.commit(vec![batch]);
                Ok(())
            }
            Err(full) => {
                batch.refused(crate::outcome::RefusedReason::QueueFull);
                Err(full)
            }
        }
    }

    /// Items of logs that were refused.
    fn refused(&self) -> u64 {
        self.account.signal(Signal::Logs).read().refused_total()
    }

    fn books(&self, signal: Signal) -> Books {
        let books = self.account.signal(signal).read();
        assert!(books.balanced(), "{books:?}");
        books
    }
}

fn items_of(lease: &Lease) -> Vec<u64> {
    lease.batches().map(Batch::items).collect()
}

fn end(lease: Lease) {
    lease.end().into_iter().for_each(|batch| batch.sent(0));
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_merged_in_order_and_only_of_one_signal() {
    let world = World::new(Sizer::Requests, 10, Wanted::up_to(MIB));
    for (signal, items) in [(Signal::Logs, 1), (Signal::Traces, 2), (Signal::Logs, 3)] {
        world.put(world.batch(signal, items, 10)).unwrap();
    }
    let first = world.queue.lease().await.unwrap();
    assert_eq!((first.signal(), items_of(&first)), (Signal::Logs, vec![1, 3]));
    let second = world.queue.lease().await.unwrap();
    assert_eq!((second.signal(), items_of(&second)), (Signal::Traces, vec![2]));
    assert_eq!(first.parts().concat().len(), 20);
    end(first);
    end(second);
    assert_eq!((world.queue.size(), world.queue.bytes(), world.queue.items()), (0, 0, 0));
    assert_eq!((world.books(Signal::Logs).sent, world.books(Signal::Traces).sent), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_tells_when_to_retry() {
    let world = World::new(Sizer::Items, 10, Wanted::up_to(MIB));
    world.put(world.logs(8)).unwrap();
    let full = world.put(world.logs(3)).unwrap_err();
    assert!(
        !full.never_fits && full.retry_after >= seconds(1) && full.retry_after <= seconds(30),
        "{full:?}"
    );
    assert_eq!(full.to_string(), "sending queue is full");
    assert_eq!(world.metrics.enqueue_failed[Signal::Logs].get(), 3);
    world.put(world.logs(2)).unwrap();
    assert_eq!((world.queue.size(), world.metrics.queue_size.get()), (10, 10));
    assert!(world.put(world.logs(11)).unwrap_err().never_fits);
}

#[tokio::test(start_paused = true)]
async fn the_bound_in_bytes_holds_whatever_the_sizer_is() {
    let bounds = Bounds { sizer: Sizer::Requests, capacity: 100, max_bytes: 1000, max_batches: u64::MAX };
    let world = World::bounded(bounds, Wanted::up_to(MIB));
    world.put(world.batch(Signal::Logs, 1, 600)).unwrap();
    assert!(!world.put(world.batch(Signal::Logs, 1, 401)).unwrap_err().never_fits);
    assert!(world.put(world.batch(Signal::Logs, 1, 1001)).unwrap_err().never_fits);
    world.put(world.batch(Signal::Logs, 1, 400)).unwrap();
    assert_eq!(world.metrics.queue_bytes.get(), 1000);
    assert_eq!(world.metrics.queue_capacity_bytes.get(), 1000);
}

#[tokio::test(start_paused = true)]
async fn leased_batches_keep_their_room_until_they_end() {
    let world = World::new(Sizer::Items, 10, Wanted::up_to(MIB));
    world.put(world.logs(10)).unwrap();
    let lease = world.queue.lease().await.unwrap();
    assert!(world.put(world.logs(1)).is_err());
    assert_eq!(world.books(Signal::Logs).queued, 10);
    end(lease);
    world.put(world.logs(1)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reservation_gives_its_room_back() {
    let world = World::new(Sizer::Items, 10, Wanted::up_to(MIB));
    let batch = [world.logs(10)];
    drop(world.queue.reserve(&batch).unwrap());
    world.queue.reserve(&batch).unwrap().commit(Vec::from(batch));
    assert_eq!(world.queue.items(), 10);
}

#[tokio::test(start_paused = true)]
async fn dropped_leases_go_back_to_the_head_in_order() {
    let world = World::new(Sizer::Requests, 100, Wanted::up_to(20));
    (1..=8).for_each(|items| world.put(world.logs(items)).unwrap());
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(world.queue.lease().await.unwrap());
    }
    let [first, second, third] = leases.try_into().unwrap();
    drop(second);
    drop(first);
    drop(third);
    let mut seen = Vec::new();
    for _ in 0..4 {
        let lease = world.queue.lease().await.unwrap();
        seen.extend(items_of(&lease));
        end(lease);
    }
    assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_above_the_wanted_size_goes_alone() {
    let wanted = Wanted { sizer: Sizer::Items, max: 10, ..Wanted::up_to(MIB) };
    let world = World::new(Sizer::Requests, 100, wanted);
    [4, 25, 5, 5, 1].into_iter().for_each(|items| world.put(world.logs(items)).unwrap());
    for expected in [vec![4], vec![25], vec![5, 5], vec![1]] {
        let lease = world.queue.lease().await.unwrap();
        assert_eq!(items_of(&lease), expected);
        end(lease);
    }
}

fn batching(min: u64, max: u64) -> Wanted {
    let flush_timeout = Duration::from_millis(200);
    Wanted { sizer: Sizer::Items, min, max, flush_timeout, ..Wanted::up_to(MIB) }
}

#[tokio::test(start_paused = true)]
async fn batching_waits_for_its_size_or_its_time_whichever_is_first() {
    let world = World::new(Sizer::Requests, 100, batching(10, 15));
    world.put(world.logs(4)).unwrap();
    let start = Instant::now();
    let lease = world.queue.lease().await.unwrap();
    assert_eq!((items_of(&lease), start.elapsed().as_millis() / 10), (vec![4], 20));
    end(lease);
    let leasing = world.queue.lease();
    let putting = async {
        for items in [6, 6, 6] {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.put(world.logs(items)).unwrap();
        }
    };
    let start = Instant::now();
    let (lease, ()) = tokio::join!(leasing, putting);
    let lease = lease.unwrap();
    assert_eq!(items_of(&lease), [6, 6]);
    assert!(start.elapsed() < Duration::from_millis(40));
    end(lease);
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_refuses_flushes_and_ends() {
    let world = World::new(Sizer::Requests, 100, batching(1000, u64::MAX));
    world.put(world.logs(4)).unwrap();
    let late = [world.logs(5)];
    let reservation = world.queue.reserve(&late).unwrap();
    world.queue.close();
    assert!(!world.put(world.logs(1)).unwrap_err().never_fits);
    let start = Instant::now();
    let lease = world.queue.lease().await.unwrap();
    assert_eq!((items_of(&lease), start.elapsed()), (vec![4], Duration::ZERO));
    let (last, ()) = tokio::join!(world.queue.lease(), async { reservation.commit(Vec::from(late)) });
    let last = last.unwrap();
    assert_eq!(items_of(&last), [5]);
    assert!(world.queue.lease().await.is_none());
    drop(last);
    let rest: Vec<_> = world.queue.take_all().collect();
    assert_eq!(rest.len(), 1);
    rest.into_iter().for_each(|(batch, _)| batch.dropped(DroppedReason::Shutdown));
    end(lease);
    assert_eq!(world.queue.size(), 0);
    assert_eq!(world.books(Signal::Logs).queued, 0);
}

#[tokio::test(start_paused = true)]
async fn consumers_of_a_closed_queue_wait_for_open_reservations_only() {
    let world = World::new(Sizer::Requests, 100, Wanted::up_to(MIB));
    let batch = [world.logs(5)];
    let reservation = world.queue.reserve(&batch).unwrap();
    world.queue.close();
    let (first, second, ()) =
        tokio::join!(world.queue.lease(), world.queue.lease(), async { drop(reservation) });
    assert!(first.is_none() && second.is_none());
    batch.into_iter().for_each(|batch| batch.sent(0));
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_after_the_end_is_dropped_and_counted() {
    let world = World::new(Sizer::Requests, 100, Wanted::up_to(MIB));
    let batch = [world.logs(5)];
    let reservation = world.queue.reserve(&batch).unwrap();
    world.queue.close();
    assert_eq!(world.queue.take_all().count(), 0);
    reservation.commit(Vec::from(batch));
    assert_eq!(world.books(Signal::Logs).dropped[DroppedReason::Shutdown as usize], 5);
    assert_eq!(world.queue.size(), 0);
}

#[tokio::test(start_paused = true)]
async fn reservers_wait_for_room_in_order_and_until_their_deadline() {
    let world = World::new(Sizer::Items, 10, Wanted::up_to(MIB));
    world.put(world.logs(10)).unwrap();
    let deadline = Instant::now() + seconds(5);
    let late = [world.logs(1)];
    assert!(world.queue.reserve_waiting(&late, deadline).await.is_err());
    assert_eq!(Instant::now(), deadline);
    let never = [world.logs(11)];
    assert!(world.queue.reserve_waiting(&never, deadline + seconds(5)).await.unwrap_err().never_fits);
    assert_eq!(Instant::now(), deadline);
    let (large, small) = ([world.logs(9)], [world.logs(1)]);
    let until = deadline + seconds(60);
    let order = std::cell::RefCell::new(Vec::new());
    let reserve = async |batch: &[Batch; 1]| {
        let reservation = world.queue.reserve_waiting(batch, until).await.unwrap();
        order.borrow_mut().push(batch[0].items());
        reservation
    };
    let release = async {
        end(world.queue.lease().await.unwrap());
    };
    let (first, second, ()) = tokio::join!(reserve(&large), reserve(&small), release);
    assert_eq!(*order.borrow(), [9, 1]);
    drop((first, second));
    [late, never, large, small].into_iter().flatten().for_each(|batch| batch.sent(0));
}

#[tokio::test(start_paused = true)]
async fn one_batch_wakes_one_consumer_and_a_flood_is_merged() {
    let world = World::new(Sizer::Requests, 1000, Wanted::up_to(MIB));
    let leases = std::cell::RefCell::new(Vec::new());
    let consumer = async || {
        while let Some(lease) = world.queue.lease().await {
            leases.borrow_mut().push(items_of(&lease).len());
            end(lease);
        }
    };
    let produce = async {
        tokio::task::yield_now().await;
        (0..100).for_each(|_| world.put(world.logs(1)).unwrap());
        while world.queue.size() > 0 {
            tokio::task::yield_now().await;
        }
        world.queue.close();
    };
    tokio::join!(consumer(), consumer(), consumer(), produce);
    assert_eq!(*leases.borrow(), [100]);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_cancelled_passes_its_duty_on() {
    let world = World::new(Sizer::Requests, 100, batching(10, u64::MAX));
    world.put(world.logs(1)).unwrap();
    let start = Instant::now();
    let cancelled = tokio::time::timeout(Duration::from_millis(50), world.queue.lease());
    let (cancelled, lease) = tokio::join!(cancelled, world.queue.lease());
    assert!(cancelled.is_err());
    assert_eq!(start.elapsed().as_millis() / 10, 20);
    end(lease.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_wait_told_follows_the_speed_of_the_queue() {
    let world = World::bounded(
        Bounds { sizer: Sizer::Bytes, capacity: 1000, max_bytes: MIB, max_batches: u64::MAX },
        Wanted::up_to(100),
    );
    (0..10).for_each(|_| world.put(world.batch(Signal::Logs, 1, 100)).unwrap());
    for _ in 0..8 {
        tokio::time::advance(seconds(2)).await;
        end(world.queue.lease().await.unwrap());
        world.put(world.batch(Signal::Logs, 1, 100)).unwrap();
    }
    // 50 bytes a second, 500 bytes too many.
    let full = world.put(world.batch(Signal::Logs, 1, 500)).unwrap_err();
    let told = full.retry_after.as_secs_f64();
    assert!((7.0..=13.0).contains(&told), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_queue_behaves_as_its_model(steps in model::steps(), on_disk in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(model::run(steps, on_disk));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_being_sent_is_as_old_as_when_it_waited() {
    let world = World::new(Sizer::Requests, 10, Wanted::up_to(10));
    assert_eq!(world.queue.oldest_age(), Duration::ZERO);
    world.put(world.logs(1)).unwrap();
    tokio::time::advance(seconds(3)).await;
    world.put(world.logs(1)).unwrap();
    let mut first = world.queue.lease().await.unwrap();
    tokio::time::advance(seconds(2)).await;
    assert_eq!(world.queue.oldest_age(), seconds(5), "tried, not sent");
    drop(first);
    assert_eq!(world.queue.oldest_age(), seconds(5), "back");
    first = world.queue.lease().await.unwrap();
    end(first);
    assert_eq!(world.queue.oldest_age(), seconds(2));
    end(world.queue.lease().await.unwrap());
    assert_eq!(world.queue.oldest_age(), Duration::ZERO);
}
