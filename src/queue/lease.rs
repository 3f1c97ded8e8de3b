//! Batches in the hands of one consumer.
//!
//! Invariant: every leased batch is either ended by the consumer or back at the head of the queue.

use bytes::Bytes;

use crate::batch::Batch;
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::outcome::DroppedReason;

use super::Queue;
use super::ages::Age;
use super::log::{Log, Read};
use super::room::Size;
use super::schedule::{Entry, Load};

/// Batches of one signal, oldest first, that one consumer works on; dropped, they go back to the
/// heads of their tenants' lines in their order.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    queue: Queue,
    load: Load,
    size: Size,
    /// As long as it is under way, the queue knows how old it is.
    _age: Age,
}

/// The log on disk is closed: what is there stays there.
pub(super) struct LogClosed;

impl Lease {
    pub(super) fn new(queue: Queue, load: Load) -> Self {
        let size = size(&load.entries);
        let oldest = load.entries.iter().map(|entry| entry.batch.received_at()).min();
        let _age = queue.0.ages.note(oldest);
        Self { queue, load, size, _age }
    }

    /// The signal of all batches.
    pub fn signal(&self) -> Signal {
        self.load.entries.first().map_or(Signal::Traces, |entry| entry.batch.signal())
    }

    /// Whose the batches are; where tenants are merged, the first of them.
    pub fn tenant(&self) -> TenantId {
        self.batches().next().map_or_else(TenantId::unattributed, |batch| batch.tenant().clone())
    }

    /// How many batches there are.
    pub fn count(&self) -> usize {
        self.load.entries.len()
    }

    /// Takes the first `count` batches out, as a lease of their own. The slot stays with the rest.
    pub(super) fn take_first(&mut self, count: usize) -> Lease {
        let rest = self.load.entries.split_off(count.min(self.load.entries.len()));
        let entries = std::mem::replace(&mut self.load.entries, rest);
        let first = Lease::new(self.queue.clone(), Load { entries, begun_by: None });
        self.size -= first.size;
        first
    }

    /// Takes in a lease of younger batches that was taken from the same lease.
    pub(super) fn append(&mut self, mut younger: Lease) {
        let load = std::mem::take(&mut younger.load);
        self.load.entries.extend(load.entries);
        self.load.begun_by = self.load.begun_by.or(load.begun_by);
        self.size += younger.size;
    }

    /// The batches, at least one.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.load.entries.iter().map(|entry| &entry.batch)
    }

    /// The numbers of the batches in the order of their arrival.
    #[cfg(test)]
    pub(super) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.load.entries.iter().map(|entry| entry.sequence)
    }

    /// The encoded requests; one after the other they are one encoded request. Shares the bytes.
    pub fn parts(&self) -> Vec<Bytes> {
        self.batches().filter_map(|batch| batch.bytes().cloned()).collect()
    }

    /// What the batches come to.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Whether nothing is left of it.
    pub(super) fn is_empty(&self) -> bool {
        self.load.entries.is_empty()
    }

    /// Reads what only the log has. What cannot be read is ended and no longer in the lease.
    ///
    /// # Cancel safety
    /// What was read so far may be read again.
    pub(super) async fn take_up(&mut self) -> Result<(), LogClosed> {
        let Some(log) = self.queue.0.log.clone() else { return Ok(()) };
        let missing = |entry: &&Entry| entry.batch.bytes().is_none();
        let places: Vec<_> = self.load.entries.iter().filter(missing).filter_map(|e| e.kept).collect();
        if places.is_empty() {
            return Ok(());
        }
        let mut read = log.read(&places).await.into_iter();
        let (mut here, mut damaged, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
        let mut closed = false;
        for mut entry in std::mem::take(&mut self.load.entries) {
            if entry.batch.bytes().is_some() || entry.kept.is_none() {
                here.push(entry);
                continue;
            }
            match read.next() {
                Some(Read::Bytes(bytes)) => {
                    entry.batch.take_up(bytes);
                    here.push(entry);
                }
                Some(Read::Damaged) => damaged.push(entry),
                Some(Read::Unreadable) => unreadable.push(entry),
                Some(Read::Closed) | None => {
                    closed = true;
                    here.push(entry);
                }
            }
        }
        self.load.entries = here;
        self.size = size(&self.load.entries);
        self.give_up(&log, (damaged, unreadable));
        if closed { Err(LogClosed) } else { Ok(()) }
    }

    /// Writes down what became of batches that did not come up.
    fn give_up(&self, log: &Log, (damaged, unreadable): (Vec<Entry>, Vec<Entry>)) {
        if damaged.is_empty() && unreadable.is_empty() {
            return;
        }
        let storage = log.storage();
        tracing::error!(name: "queue.unreadable", %storage, damaged = size(&damaged).items,
            unreadable = size(&unreadable).items, "items cannot be read from disk; damaged ones are lost");
        log.end(damaged.iter());
        for batch in self.let_go(damaged) {
            batch.dropped(DroppedReason::Damaged);
        }
        self.let_go(unreadable).into_iter().for_each(Batch::stored);
    }

    fn let_go(&self, entries: Vec<Entry>) -> Vec<Batch> {
        self.queue.release(None, &entries);
        entries.into_iter().map(|entry| entry.batch).collect()
    }

    /// Keeps the batches among the dead letters of the log, if the queue has one, before they are given
    /// up.
    ///
    /// # Cancel safety
    /// Those that are dead letters already stay so.
    pub async fn set_aside(&mut self, reason: &str) {
        let Some(log) = self.queue.0.log.clone() else { return };
        for entry in &mut self.load.entries {
            let Some(place) = entry.kept else { continue };
            if let Err(error) = log.journal().set_aside(place, reason).await {
                tracing::error!(name: "queue.dead_letter_failed", storage = %log.storage(), %error,
                    "a batch that is given up cannot be kept for inspection");
                log.journal().end(&[place]);
            }
            entry.kept = None;
        }
    }

    /// The queue's ownership ends; the caller now ends each batch.
    #[must_use]
    pub fn end(mut self) -> Vec<Batch> {
        let load = std::mem::take(&mut self.load);
        if let Some(log) = &self.queue.0.log {
            log.end(load.entries.iter());
        }
        self.queue.release(load.begun_by, &load.entries);
        load.entries.into_iter().map(|entry| entry.batch).collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.load.entries.is_empty() && self.load.begun_by.is_none() {
            return;
        }
        let mut state = self.queue.lock();
        state.schedule.put_back(std::mem::take(&mut self.load));
        self.queue.wake_consumer(&mut state);
    }
}

fn size(entries: &[Entry]) -> Size {
    entries.iter().map(|entry| Size::one(&entry.batch)).sum()
}
