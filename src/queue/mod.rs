//! Where batches wait for their exporter: bounded, first in first out, owned by memory.
//!
//! ```text
//!  reserve ──▶ commit ──▶ waiting ──▶ lease ──▶ end     (room is given back here, not at the lease)
//!     │                      ▲           │
//!     └─ drop: room back     └── drop ───┘              (back to the head, in order)
//! ```
//!
//! Nothing is ever evicted: a full queue refuses. Room is taken in two steps so that a request goes to
//! all its exporters or to none; handing over has no `await` in it, so that a request that is dropped
//! half-way cannot be owned by some of them only. Not here: sending, retries, tenants' shares.
//! Invariant: used room = reserved + waiting + leased, and never above the bounds.

mod fifo;
mod lease;
mod room;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::batch::Batch;
use crate::internal_telemetry::metrics::ExporterMetrics;
use crate::outcome::DroppedReason;

use fifo::{Fifo, Next};
pub use lease::Lease;
use room::Room;
pub use room::{Bounds, QueueFull, Size, Sizer};

/// What the consumers of a queue would like to lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The unit of `min` and `max`.
    pub sizer: Sizer,
    /// Wait for this much of one signal, for at most `flush_timeout`; 0 never waits. A lease that has
    /// this much takes no more.
    pub min: u64,
    /// Take no more than this, except for one batch that is larger by itself: such a batch goes alone,
    /// it is not split here.
    pub max: u64,
    /// As `max`, in bytes.
    pub max_bytes: u64,
    /// How long the oldest batch may wait for `min`.
    pub flush_timeout: Duration,
}

impl Wanted {
    /// Whatever is there, up to `max_bytes`, without waiting.
    pub fn up_to(max_bytes: u64) -> Self {
        Self { sizer: Sizer::Bytes, min: 0, max: u64::MAX, max_bytes, flush_timeout: Duration::ZERO }
    }
}

/// The queue of one exporter; clones are the same queue.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wanted: Wanted,
    /// Wakes one consumer: something may be leased.
    ready: Notify,
    /// Wakes the one reserver whose turn it is: there is room.
    space: Notify,
    /// Reservers who wait come in the order in which they arrived.
    turn: Semaphore,
    metrics: ExporterMetrics,
}

#[derive(Debug)]
struct State {
    fifo: Fifo,
    room: Room,
    closed: bool,
    /// Nobody leases any more.
    ended: bool,
    /// Reservations neither committed nor dropped; a closed queue waits for them.
    reservations: u64,
    /// A consumer was woken and has not looked yet, so that another need not be.
    woken: bool,
    /// A consumer sleeps until the oldest batch is due, so that another need not.
    timed: bool,
    /// What the metrics have of this queue, in units of the sizer and in bytes; after a reload they have
    /// the queue of the old configuration as well.
    shown: (i64, i64),
}

impl Queue {
    /// An empty queue; `metrics` gets its size, capacity and refusals.
    pub fn new(bounds: Bounds, wanted: Wanted, metrics: &ExporterMetrics) -> Self {
        metrics.queue_capacity.set(i64::try_from(bounds.capacity).unwrap_or(i64::MAX));
        metrics.queue_capacity_bytes.set(i64::try_from(bounds.max_bytes).unwrap_or(i64::MAX));
        let state = State {
            fifo: Fifo::default(),
            room: Room::new(bounds),
            closed: false,
            ended: false,
            reservations: 0,
            woken: false,
            timed: false,
            shown: (0, 0),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            wanted,
            ready: Notify::new(),
            space: Notify::new(),
            turn: Semaphore::new(1),
            metrics: metrics.clone(),
        }))
    }

    /// Takes room for all batches or for none.
    ///
    /// # Errors
    /// [`QueueFull`]: give up what other queues reserved for the same request and refuse it, with
    /// `retry_after` unless it `never_fits`. A closed queue is full.
    pub fn reserve(&self, batches: &[Batch]) -> Result<Reservation, QueueFull> {
        self.try_reserve(Size::of(batches)).inspect_err(|_full| self.count_failed(batches))
    }

    /// As [`Queue::reserve`], but waits for room until `deadline`, in order of arrival.
    ///
    /// # Errors
    /// [`QueueFull`], at once if it `never_fits`, else at the deadline or when the queue is closed.
    ///
    /// # Cancel safety
    /// Nothing is reserved unless it returns.
    pub async fn reserve_waiting(
        &self,
        batches: &[Batch],
        deadline: Instant,
    ) -> Result<Reservation, QueueFull> {
        let size = Size::of(batches);
        let reserved = match tokio::time::timeout_at(deadline, self.reserve_in_turn(size)).await {
            Ok(reserved) => reserved,
            Err(_late) => Err(self.lock().room.refusal(&size, Instant::now())),
        };
        reserved.inspect_err(|_full| self.count_failed(batches))
    }

    async fn reserve_in_turn(&self, size: Size) -> Result<Reservation, QueueFull> {
        // The semaphore is never closed; without a permit waiting is merely out of order.
        let _turn = self.0.turn.acquire().await.ok();
        loop {
            let space = self.0.space.notified();
            match self.try_reserve(size) {
                Err(full) if !full.never_fits && !self.lock().closed => space.await,
                reserved => return reserved,
            }
        }
    }

    fn try_reserve(&self, size: Size) -> Result<Reservation, QueueFull> {
        let mut state = self.lock();
        if state.closed || !state.room.fits(&size) {
            return Err(state.room.refusal(&size, Instant::now()));
        }
        state.room.take(&size);
        state.reservations += 1;
        Ok(Reservation { queue: self.clone(), size, open: true })
    }

    fn count_failed(&self, batches: &[Batch]) {
        for batch in batches {
            self.0.metrics.enqueue_failed[batch.signal()].add(batch.items());
        }
    }

    /// Waits for batches of one signal and takes them, oldest first; `None` once the queue is closed and
    /// nothing waits or may still be committed.
    ///
    /// # Cancel safety
    /// Nothing is leased unless it returns.
    pub async fn lease(&self) -> Option<Lease> {
        let mut duty = None;
        loop {
            let ready = self.0.ready.notified();
            match self.next(duty) {
                Next::Taken(entries) => return Some(Lease::new(self.clone(), entries)),
                Next::End => return None,
                Next::Wait(None) => {
                    ready.await;
                    duty = Some(Duty::Woken);
                    let passes_on = Passes(self, Duty::Woken);
                    // What arrives in the same turn of the event loop is leased together.
                    tokio::task::yield_now().await;
                    std::mem::forget(passes_on);
                }
                Next::Wait(Some(due)) => {
                    duty = Some(Duty::Timed);
                    let passes_on = Passes(self, Duty::Timed);
                    // Whichever comes first, the next round looks again.
                    let _elapsed = tokio::time::timeout_at(due, ready).await;
                    std::mem::forget(passes_on);
                }
            }
        }
    }

    /// One look of a consumer, who comes from a duty or from its work. `Next::Wait` with an instant puts
    /// it on [`Duty::Timed`].
    fn next(&self, from: Option<Duty>) -> Next {
        let mut state = self.lock();
        state.woken = false;
        if from == Some(Duty::Timed) {
            state.timed = false;
        }
        let closed = state.closed;
        let next = state.fifo.take(&self.0.wanted, Instant::now(), closed);
        match next {
            Next::Taken(_) => self.wake_consumer(&mut state),
            Next::End if closed && state.reservations == 0 => {}
            Next::End => return Next::Wait(None),
            Next::Wait(Some(_)) if state.timed => return Next::Wait(None),
            Next::Wait(Some(_)) => state.timed = true,
            Next::Wait(None) => {}
        }
        next
    }

    /// Wakes a consumer unless one is on its way or there is nothing for it: nothing waits, or too little
    /// and a consumer already watches the time.
    fn wake_consumer(&self, state: &mut State) {
        let idle = state.fifo.is_empty() || (state.timed && !state.fifo.has_enough(&self.0.wanted));
        if !state.woken && !idle {
            state.woken = true;
            // The one that slept least: the fewer consumers are busy, the more each can merge.
            self.0.ready.notify_last();
        }
    }

    /// Refuses reservations from now on; what is reserved may still be committed, what waits is leased.
    pub fn close(&self) {
        self.lock().closed = true;
        self.0.ready.notify_waiters();
        self.0.space.notify_waiters();
    }

    /// Takes everything that waits, to be ended by the caller; what is committed later is dropped.
    pub fn take_all(&self) -> Vec<Batch> {
        let mut entries = Vec::new();
        let all = Wanted::up_to(u64::MAX);
        let mut state = self.lock();
        state.ended = true;
        while let Next::Taken(more) = state.fifo.take(&all, Instant::now(), true) {
            entries.extend(more);
        }
        drop(state);
        Lease::new(self.clone(), entries).end()
    }

    /// Room in use, in bytes: reserved, waiting and leased.
    pub fn bytes(&self) -> u64 {
        self.lock().room.used().bytes
    }

    /// Room in use, in items: reserved, waiting and leased.
    pub fn items(&self) -> u64 {
        self.lock().room.used().items
    }

    /// Room in use, in units of the sizer: reserved, waiting and leased.
    pub fn size(&self) -> u64 {
        let state = self.lock();
        state.room.used().by(state.room.bounds().sizer)
    }

    /// What the queue is bounded by.
    pub fn bounds(&self) -> Bounds {
        *self.lock().room.bounds()
    }

    /// Room is given back.
    fn release(&self, size: &Size) {
        let mut state = self.lock();
        state.room.give_back(size, Instant::now());
        self.show(&mut state);
        drop(state);
        self.0.space.notify_one();
    }

    fn show(&self, state: &mut State) {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let used = state.room.used();
        let now = (signed(used.by(state.room.bounds().sizer)), signed(used.bytes));
        let before = std::mem::replace(&mut state.shown, now);
        self.0.metrics.queue_size.add(now.0 - before.0);
        self.0.metrics.queue_bytes.add(now.1 - before.1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a waiting consumer is counted on for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    Woken,
    Timed,
}

/// Passes a duty on to another consumer when the one who has it looks again or is cancelled.
struct Passes<'a>(&'a Queue, Duty);

impl Drop for Passes<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        match self.1 {
            Duty::Woken => state.woken = false,
            Duty::Timed => state.timed = false,
        }
        self.0.wake_consumer(&mut state);
    }
}

/// Room in a queue for the batches of one request; dropped, the room is free again.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    queue: Queue,
    size: Size,
    open: bool,
}

impl Reservation {
    /// Hands the batches over: from here on the queue owns them.
    ///
    /// They are those that were reserved for, or fewer of them.
    pub fn commit(mut self, batches: Vec<Batch>) {
        self.open = false;
        let actual = Size::of(&batches);
        debug_assert!(actual.is_within(&self.size), "{actual:?} was not reserved, {:?} was", self.size);
        let mut state = self.queue.lock();
        state.reservations -= 1;
        if state.ended {
            drop(state);
            self.queue.release(&self.size);
            return batches.into_iter().for_each(|batch| batch.dropped(DroppedReason::Shutdown));
        }
        state.room.replace(&self.size, &actual);
        for batch in batches {
            batch.enter_queue();
            state.fifo.push(batch);
        }
        self.queue.show(&mut state);
        self.queue.wake_consumer(&mut state);
        let done = state.closed && state.reservations == 0;
        drop(state);
        if done {
            self.queue.0.ready.notify_waiters();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let mut state = self.queue.lock();
        state.reservations -= 1;
        let done = state.closed && state.reservations == 0;
        drop(state);
        self.queue.release(&self.size);
        if done {
            self.queue.0.ready.notify_waiters();
        }
    }
}
