//! Batches in the hands of one consumer.
//!
//! Invariant: every leased batch is either ended by the consumer or back at the head of the queue.

use bytes::Bytes;

use crate::batch::Batch;
use crate::otlp::Signal;

use super::Queue;
use super::fifo::Entry;
use super::room::Size;

/// Batches of one signal, oldest first, that one consumer works on; dropped, they go back to the head of
/// the queue in their order.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    queue: Queue,
    entries: Vec<Entry>,
    size: Size,
}

impl Lease {
    pub(super) fn new(queue: Queue, entries: Vec<Entry>) -> Self {
        let size = entries.iter().map(|entry| Size::one(&entry.batch)).sum();
        Self { queue, entries, size }
    }

    /// The signal of all batches.
    pub fn signal(&self) -> Signal {
        self.entries.first().map_or(Signal::Traces, |entry| entry.batch.signal())
    }

    /// The batches, at least one.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.entries.iter().map(|entry| &entry.batch)
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
        let entries = std::mem::take(&mut self.entries);
        let batches: Vec<Batch> = entries.into_iter().map(|entry| entry.batch).collect();
        batches.iter().for_each(Batch::leave_queue);
        self.queue.release(&self.size);
        batches
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let mut state = self.queue.lock();
        state.fifo.put_back(std::mem::take(&mut self.entries));
        self.queue.wake_consumer(&mut state);
    }
}
