//! Room for the batches of one request: taken for all of them or for none.
//!
//! Invariant: room that is reserved is either committed or given back.

use tokio::time::Instant;

use super::log::StoreError;
use super::room::{Cause, QueueFull, Size};
use super::waiters::Waiting;
use super::{Queue, State};
use crate::batch::Batch;
use crate::flow::Flow;
use crate::journal::Place;
use crate::outcome::DroppedReason;

/// Room in a queue for the batches of one request; dropped, the room is free again.
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    queue: Queue,
    /// How much, of the flow at each place.
    parts: Vec<(u32, Size)>,
    size: Size,
    flow: Option<u64>,
    open: bool,
    /// Where the log has the batches; empty until they are stored, and without a log.
    kept: Vec<Place>,
}

impl Queue {
    /// Takes room for all batches or for none.
    ///
    /// # Errors
    /// [`QueueFull`]: give up what other queues reserved for the same request and refuse it, with
    /// `retry_after` unless it `never_fits`. A closed queue is full.
    pub fn reserve(&self, batches: &[Batch]) -> Result<Reservation, QueueFull> {
        self.try_reserve(batches).inspect_err(|_full| self.count_failed(batches))
    }

    /// As [`Queue::reserve`], but waits for room until `deadline`: in order of arrival within a flow, and
    /// flows in turns.
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
        let mut last = None;
        let reserving = self.reserve_in_turn(batches, &mut last);
        let reserved = match tokio::time::timeout_at(deadline, reserving).await {
            Ok(reserved) => reserved,
            Err(_late) => Err(last.unwrap_or_else(|| {
                let size = Size::of(batches);
                self.lock().room.refusal(&size, Instant::now())
            })),
        };
        reserved.inspect_err(|_full| self.count_failed(batches))
    }

    async fn reserve_in_turn(
        &self,
        batches: &[Batch],
        last: &mut Option<QueueFull>,
    ) -> Result<Reservation, QueueFull> {
        let flow = batches.first().map_or(0, |batch| batch.flow().number());
        if !self.lock().waiters.has(flow) {
            match self.try_reserve(batches) {
                Err(full) if !full.never_fits && !self.lock().closed => *last = Some(full),
                reserved => return reserved,
            }
        }
        let waiting = Waiting::new(self, flow);
        loop {
            waiting.woken().await;
            match self.try_reserve(batches) {
                Err(full) if !full.never_fits && !self.lock().closed => *last = Some(full),
                reserved => return reserved,
            }
        }
    }

    fn try_reserve(&self, batches: &[Batch]) -> Result<Reservation, QueueFull> {
        let mut state = self.lock();
        let size = Size::of(batches);
        if state.closed {
            return Err(state.room.refusal(&size, Instant::now()));
        }
        let mut parts: Vec<(u32, Size)> = Vec::with_capacity(batches.len());
        for batch in batches {
            let (place, part) = (state.schedule.flows.enter(batch.flow()), Size::one(batch));
            if let Err(cause) = state.take_part(place, &part) {
                let full = state.refusal(cause, (batch.flow(), place, &part), &size);
                state.schedule.flows.leave_if_empty(place);
                for (place, part) in parts {
                    state.schedule.flows.give_back(place, &part);
                    state.room.undo(&part);
                }
                return Err(full);
            }
            parts.push((place, part));
        }
        state.reservations += 1;
        let flow = batches.first().map(|batch| batch.flow().number());
        Ok(Reservation { queue: self.clone(), parts, size, flow, open: true, kept: Vec::new() })
    }

    fn count_failed(&self, batches: &[Batch]) {
        for batch in batches {
            self.0.metrics.enqueue_failed[batch.signal()].add(batch.items());
        }
    }
}

impl State {
    /// Puts a batch, for which there is room, in its line.
    pub(super) fn own(&mut self, batch: Batch, kept: Option<Place>) {
        batch.enter_queue();
        let place = self.schedule.flows.enter(batch.flow());
        self.schedule.flows.take(place, &Size::one(&batch));
        self.schedule.push(place, batch, kept);
    }

    fn take_part(&mut self, place: u32, part: &Size) -> Result<(), Cause> {
        self.schedule.flows.admit(place, part, (self.room.bounds(), self.room.used()))?;
        self.schedule.flows.take(place, part);
        self.room.take(part);
        Ok(())
    }

    /// When to come back with a request of `size` of which a part was not admitted.
    fn refusal(&self, cause: Cause, (flow, place, part): (&Flow, u32, &Size), size: &Size) -> QueueFull {
        let (flows, now) = (&self.schedule.flows, Instant::now());
        let mut full = match cause {
            Cause::Full => self.room.refusal(size, now),
            // What it has beyond its share is not known to the byte; what it asks for is.
            Cause::Share => self.room.share_refusal((part.bytes, flows.part_of_service(place)), now),
        };
        full.never_fits |= !flows.could_fit(flow, part, self.room.bounds());
        full
    }
}

impl Reservation {
    /// Whether the batches have to be stored before they are committed.
    pub fn is_durable(&self) -> bool {
        self.queue.is_durable()
    }

    /// Puts the batches down on disk; returns when they are synced. A queue in memory has nothing to do.
    ///
    /// # Errors
    /// [`StoreError`]: nothing was put down; refuse the request.
    ///
    /// # Cancel safety
    /// Dropped before [`Reservation::commit`], what was put down is ended in the log: nobody sends it,
    /// unless the program is killed at that very moment.
    pub async fn store(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        if let Some(log) = self.queue.0.log.clone() {
            let stored = log.append(batches).await;
            self.kept = stored.inspect_err(|_error| self.queue.count_failed(batches))?;
        }
        Ok(())
    }

    /// Hands the batches over: from here on the queue owns them.
    ///
    /// They are those that were reserved for, or fewer of them; those that were stored, if the queue is
    /// durable.
    pub fn commit(mut self, batches: Vec<Batch>) {
        debug_assert_eq!(self.kept.len(), if self.is_durable() { batches.len() } else { 0 });
        self.open = false;
        let actual = Size::of(&batches);
        debug_assert!(actual.is_within(&self.size), "{actual:?} was not reserved, {:?} was", self.size);
        let mut state = self.queue.lock();
        state.reservations -= 1;
        if state.ended {
            self.give_back(&mut state);
            drop(state);
            let is_kept = !std::mem::take(&mut self.kept).is_empty();
            return batches.into_iter().for_each(|batch| match is_kept {
                true => batch.stored(),
                false => batch.dropped(DroppedReason::Shutdown),
            });
        }
        state.room.replace(&self.size, &actual);
        let mut kept = std::mem::take(&mut self.kept).into_iter();
        for batch in batches {
            state.own(batch, kept.next());
        }
        for (place, part) in &self.parts {
            state.schedule.flows.give_back(*place, part);
        }
        self.queue.show(&mut state);
        self.queue.wake_consumer(&mut state);
        let done = state.closed && state.reservations == 0;
        drop(state);
        if done {
            self.queue.0.ready.notify_waiters();
        }
    }

    fn give_back(&self, state: &mut State) {
        for (place, part) in &self.parts {
            state.schedule.flows.give_back(*place, part);
        }
        self.queue.released(state, &self.size, self.flow);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(log) = self.queue.0.log.as_ref().filter(|_| !self.kept.is_empty()) {
            log.journal().end(&self.kept);
        }
        if !self.open {
            return;
        }
        let mut state = self.queue.lock();
        state.reservations -= 1;
        let done = state.closed && state.reservations == 0;
        self.give_back(&mut state);
        drop(state);
        if done {
            self.queue.0.ready.notify_waiters();
        }
    }
}
