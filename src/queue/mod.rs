//! Where batches wait for their exporter: bounded, fair between tenants, in memory or on disk.
//!
//! ```text
//!  reserve ─▶ [store] ─▶ commit ─▶ waiting ─▶ lease ─▶ end   (room is given back here, not at the lease)
//!     │                      ▲           │
//!     └─ drop: room back     └── drop ───┘              (back to the head of the tenant's line, in order)
//! ```
//!
//! Nothing is ever evicted: a full queue refuses everybody, and a tenant that has its share is refused
//! while others are taken (`flows`). What waits is served by weighted deficit round robin (`schedule`).
//! Room is taken in two steps so that a request goes to all its exporters or to none; handing over has no
//! `await` in it, so that a request that is dropped half-way cannot be owned by some of them only. Not
//! here: sending, retries, who is a tenant. Invariant: used room = reserved + waiting + leased, and never
//! above the bounds, unless more than that was on disk at the start. A queue on disk (`log`) is the same
//! queue; what waits in it has a place in a log and may be without its bytes.

mod ages;
mod flows;
mod lease;
mod line;
mod list;
mod log;
mod packed;
mod pieces;
mod reservation;
mod room;
mod schedule;
#[cfg(test)]
mod tests;
mod waiters;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::flow::Board;
use crate::internal_telemetry::StorageUsage;
use crate::internal_telemetry::metrics::ExporterMetrics;
use crate::journal::{Journal, Place};

use ages::Ages;
pub use lease::Lease;
use lease::LogClosed;
use log::Log;
pub use log::{StoreError, all, is_of_nobody};
pub use pieces::Pieces;
pub use reservation::Reservation;
use room::Room;
pub use room::{Bounds, Cause, QueueFull, Size, Sizer};
use schedule::{Entry, Next, QUANTUM, Schedule};
use waiters::Waiters;

/// What was once long keeps no more than this many places when it is empty again.
const KEPT_PLACES: usize = 1024;

/// What the consumers of a queue would like to lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The unit of `min` and `max`.
    pub sizer: Sizer,
    /// Wait for this much of one signal, for at most `flush_timeout`; 0 never waits. A lease that has
    /// this much takes no more.
    pub min: u64,
    /// Take no more than this, except for one batch that is larger by itself: such a batch goes alone,
    /// it is not cut here.
    pub max: u64,
    /// As `max`, in bytes.
    pub max_bytes: u64,
    /// How long the oldest batch may wait for `min`.
    pub flush_timeout: Duration,
    /// Which batches may be leased together.
    pub merging: Merging,
}

/// Which batches may be leased together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merging {
    /// All of one signal.
    Signal,
    /// Those of one tenant and signal.
    Tenant,
    /// None: each goes alone.
    Nothing,
}

impl Wanted {
    /// Whatever is there, up to `max_bytes`, without waiting.
    pub fn up_to(max_bytes: u64) -> Self {
        Self {
            sizer: Sizer::Bytes,
            min: 0,
            max: u64::MAX,
            max_bytes,
            flush_timeout: Duration::ZERO,
            merging: Merging::Signal,
        }
    }

    /// Whether a lease that begins with `first` and has `so_far` takes `one` more.
    fn takes(&self, (first, so_far): (&Batch, &Size), one: &Batch) -> bool {
        let may_merge = match self.merging {
            Merging::Signal => true,
            Merging::Tenant => first.tenant() == one.tenant(),
            Merging::Nothing => false,
        };
        let with_one = *so_far + Size::one(one);
        let has_min = self.min > 0 && so_far.by(self.sizer) >= self.min;
        may_merge && !has_min && with_one.by(self.sizer) <= self.max && with_one.bytes <= self.max_bytes
    }
}

/// The queue of one exporter; clones are the same queue.
#[derive(Debug, Clone)]
pub struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Where what waits is on disk.
    log: Option<Log>,
    /// How old is what is leased.
    ages: Ages,
    /// Wakes one consumer: something may be leased.
    ready: Notify,
    metrics: ExporterMetrics,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    wanted: Wanted,
    room: Room,
    waiters: Waiters,
    board: Arc<Board>,
    /// The version of the board whose shares are known.
    shares: u64,
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
        Self::with((bounds, wanted), (metrics, QUANTUM), None)
    }

    /// A queue on disk, in the folder of `journal`, which belongs to the extension `storage`. What waits
    /// there already is [recovered](Self::recover) by the caller.
    pub fn durable(
        bounds: Bounds,
        wanted: Wanted,
        metrics: &ExporterMetrics,
        (journal, storage): (Journal, &str),
    ) -> Self {
        Self::with((bounds, wanted), (metrics, QUANTUM), Some(Log::new(journal, storage)))
    }

    fn with(
        (bounds, wanted): (Bounds, Wanted),
        (metrics, quantum): (&ExporterMetrics, u64),
        log: Option<Log>,
    ) -> Self {
        let state = State {
            schedule: Schedule::new(quantum, usize::MAX),
            wanted,
            room: Room::new(bounds),
            waiters: Waiters::default(),
            board: Arc::default(),
            shares: 0,
            closed: false,
            ended: false,
            reservations: 0,
            woken: false,
            timed: false,
            shown: (0, 0),
        };
        let (state, ages, ready) = (Mutex::new(state), Ages::default(), Notify::new());
        let queue = Self(Arc::new(Shared { state, log, ages, ready, metrics: metrics.clone() }));
        queue.configure(bounds, wanted);
        let held = Arc::downgrade(&queue.0);
        metrics.tenants.watch(move || Some(Self(held.upgrade()?).bytes_by_tenant()));
        let held = Arc::downgrade(&queue.0);
        metrics.storage.watch(move || Some(Self(held.upgrade()?).storage()));
        let held = Arc::downgrade(&queue.0);
        metrics.oldest.watch(move || Some(Self(held.upgrade()?).oldest_age()));
        queue
    }

    /// Changes what it holds and how it is leased from: another configuration takes it over.
    pub fn configure(&self, bounds: Bounds, wanted: Wanted) {
        let metrics = &self.0.metrics;
        metrics.queue_capacity.set(i64::try_from(bounds.capacity).unwrap_or(i64::MAX));
        metrics.queue_capacity_bytes.set(i64::try_from(bounds.max_bytes).unwrap_or(i64::MAX));
        let mut state = self.lock();
        state.room.set_bounds(bounds);
        state.wanted = wanted;
        state.waiters.wake_next();
        drop(state);
        self.0.ready.notify_waiters();
    }

    /// Whether what waits is on disk.
    pub fn is_durable(&self) -> bool {
        self.0.log.is_some()
    }

    /// Takes over what was on disk before, in this order, whether or not there is room.
    pub fn recover(&self, batches: impl IntoIterator<Item = (Batch, Place)>) {
        let mut state = self.lock();
        for (batch, place) in batches {
            state.room.take(&Size::one(&batch));
            state.own(batch, Some(place));
        }
        self.show(&mut state);
        self.wake_consumer(&mut state);
    }

    /// Lets go of the files, once nobody leases or commits any more.
    pub async fn close_log(&self, deadline: Instant) {
        if let Some(log) = &self.0.log {
            log.journal().close(deadline).await;
        }
    }

    fn storage(&self) -> (Arc<str>, Option<StorageUsage>) {
        match &self.0.log {
            None => ("memory".into(), None),
            Some(log) => (log.storage().clone(), Some(log.usage())),
        }
    }

    /// How many leases there may be at a time, of which a flow has its share while others wait.
    pub fn set_slots(&self, slots: usize) {
        self.lock().schedule.set_slots(slots);
    }

    /// Reads shares anew whenever `board` says that they changed.
    pub fn follow(&self, board: &Arc<Board>) {
        let mut state = self.lock();
        (state.board, state.shares) = (board.clone(), board.version());
        state.schedule.reshare(board.guaranteed());
    }

    /// Waits for batches of one signal and takes them, oldest first; `None` once the queue is closed and
    /// nothing waits or may still be committed. What is only on disk is read.
    ///
    /// # Cancel safety
    /// Nothing is leased unless it returns.
    pub async fn lease(&self) -> Option<Lease> {
        loop {
            let mut lease = self.lease_unread().await?;
            match lease.take_up().await {
                Err(LogClosed) => return None,
                Ok(()) if lease.is_empty() => {}
                Ok(()) => return Some(lease),
            }
        }
    }

    async fn lease_unread(&self) -> Option<Lease> {
        let mut duty = None;
        loop {
            let ready = self.0.ready.notified();
            match self.next(duty) {
                Next::Taken(load) => return Some(Lease::new(self.clone(), load)),
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
        let (closed, wanted) = (state.closed, state.wanted);
        let next = state.schedule.take(&wanted, Instant::now(), closed);
        match next {
            Next::Taken(_) => {
                self.wake_consumer(&mut state);
                if closed && state.schedule.is_empty() {
                    // Who waited for a slot waits for nothing now.
                    self.0.ready.notify_waiters();
                }
            }
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
        let idle = state.schedule.is_empty() || (state.timed && !state.schedule.has_enough(&state.wanted));
        if !state.woken && !idle {
            state.woken = true;
            // The one that slept least: the fewer consumers are busy, the more each can merge.
            self.0.ready.notify_last();
        }
    }

    /// Refuses reservations from now on; what is reserved may still be committed, what waits is leased.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.waiters.wake_all();
        drop(state);
        self.0.ready.notify_waiters();
    }

    /// Takes everything that waits, to be ended by the caller, who learns of each whether the log on disk
    /// keeps it; what is committed later is dropped, or stays in the log.
    pub fn take_all(&self) -> impl Iterator<Item = (Batch, bool)> + use<> {
        let mut state = self.lock();
        state.ended = true;
        let rest = state.schedule.take_all();
        drop(state);
        let queue = self.clone();
        rest.map(move |entry| {
            queue.release(None, std::slice::from_ref(&entry));
            (entry.batch, entry.kept.is_some())
        })
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

    /// How long the oldest batch is here that waits or is being sent; zero if there is none.
    pub fn oldest_age(&self) -> Duration {
        let waits = self.lock().schedule.oldest();
        let oldest = waits.into_iter().chain(self.0.ages.oldest()).min();
        oldest.map_or(Duration::ZERO, |received_at| received_at.elapsed())
    }

    /// What the queue is bounded by.
    pub fn bounds(&self) -> Bounds {
        *self.lock().room.bounds()
    }

    /// Changes the bound in bytes; what is held already stays.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        let mut state = self.lock();
        let grown = max_bytes > state.room.bounds().max_bytes;
        state.room.set_max_bytes(max_bytes);
        self.0.metrics.queue_capacity_bytes.set(i64::try_from(max_bytes).unwrap_or(i64::MAX));
        if grown {
            state.waiters.wake_next();
        }
    }

    /// Room in use by each tenant, by label; tenants that share a label are added up.
    pub fn bytes_by_tenant(&self) -> Vec<(crate::identity::TenantId, u64)> {
        let state = self.lock();
        let mut all: Vec<_> =
            state.schedule.flows.iter().map(|s| (s.flow.label().clone(), s.used.bytes)).collect();
        drop(state);
        all.sort();
        all.dedup_by(|next, first| {
            let same = next.0 == first.0;
            first.1 += if same { next.1 } else { 0 };
            same
        });
        all
    }

    /// The room of batches that leave, and the slot of their lease, are given back. Who sees the room sees in
    /// the books that they left.
    fn release(&self, slot: Option<u32>, entries: &[Entry]) {
        entries.iter().for_each(|entry| entry.batch.leave_queue());
        let mut state = self.lock();
        if let Some(place) = slot {
            state.schedule.end(place);
        }
        let mut flow = None;
        let mut total = Size::default();
        for entry in entries {
            let size = Size::one(&entry.batch);
            total += size;
            state.schedule.flows.give_back(entry.place, &size);
            flow = Some(entry.batch.flow().number());
        }
        self.released(&mut state, &total, flow);
        self.wake_consumer(&mut state);
    }

    /// Some room is free again; `flow` is one of those that had it.
    fn released(&self, state: &mut State, size: &Size, flow: Option<u64>) {
        state.room.give_back(size, Instant::now());
        self.show(state);
        if let Some(flow) = flow {
            state.waiters.wake(flow);
        }
        state.waiters.wake_next();
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
        let mut state = self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let version = state.board.version();
        if state.shares != version {
            let guaranteed = state.board.guaranteed();
            state.shares = version;
            state.schedule.reshare(guaranteed);
        }
        state
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
