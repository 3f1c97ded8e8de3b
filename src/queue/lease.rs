//! Batches in the hands of one consumer.
//!
//! Invariant: every leased batch is either ended by the consumer or back at the head of the queue.

use bytes::Bytes;

use crate::batch::Batch;
use crate::identity::TenantId;
use crate::otlp::Signal;

use super::Queue;
use super::room::Size;
use super::schedule::Load;

/// Batches of one signal, oldest first, that one consumer works on; dropped, they go back to the
/// heads of their tenants' lines in their order.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    queue: Queue,
    load: Load,
    size: Size,
}

impl Lease {
    pub(super) fn new(queue: Queue, load: Load) -> Self {
        let size = load.entries.iter().map(|entry| Size::one(&entry.batch)).sum();
        Self { queue, load, size }
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
    pub fn take_first(&mut self, count: usize) -> Lease {
        let rest = self.load.entries.split_off(count.min(self.load.entries.len()));
        let entries = std::mem::replace(&mut self.load.entries, rest);
        let first = Lease::new(self.queue.clone(), Load { entries, begun_by: None });
        self.size -= first.size;
        first
    }

    /// The batches, at least one.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.load.entries.iter().map(|entry| &entry.batch)
    }

    /// The encoded requests; one after the other they are one encoded request. Shares the bytes.
    pub fn parts(&self) -> Vec<Bytes> {
        self.batches().map(|batch| batch.bytes().clone()).collect()
    }

    /// What the batches come to.
    pub fn size(&self) -> Size {
        self.size
    }

    /// The queue's ownership ends; the caller now ends each batch.
    #[must_use]
    pub fn end(mut self) -> Vec<Batch> {
        let load = std::mem::take(&mut self.load);
        self.queue.release_leased(&load);
        let batches: Vec<Batch> = load.entries.into_iter().map(|entry| entry.batch).collect();
        batches.iter().for_each(Batch::leave_queue);
        batches
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.load.entries.is_empty() {
            return;
        }
        let mut state = self.queue.lock();
        state.schedule.put_back(std::mem::take(&mut self.load));
        self.queue.wake_consumer(&mut state);
    }
}
