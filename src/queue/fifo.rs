//! The order of batches: one line per signal, served by age. No locks, no clock, no bounds.
//!
//! Invariant: each line is sorted by sequence number, also after leases came back. Every operation is
//! O(1) per batch it moves; putting back also steps over younger leases that came back before.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::batch::Batch;
use crate::otlp::PerSignal;
use crate::otlp::Signal;

use super::Wanted;
use super::room::Size;

/// One waiting batch.
#[derive(Debug)]
pub(super) struct Entry {
    sequence: u64,
    pub(super) batch: Batch,
}

/// What there is for a consumer.
#[derive(Debug)]
pub(super) enum Next {
    /// These, of one signal.
    Taken(Vec<Entry>),
    /// Not yet: look again when woken, or at the instant.
    Wait(Option<Instant>),
    /// Nothing waits.
    End,
}

#[derive(Debug, Default)]
struct Line {
    entries: VecDeque<Entry>,
    size: Size,
}

/// The lines.
#[derive(Debug, Default)]
pub(super) struct Fifo {
    lines: PerSignal<Line>,
    next_sequence: u64,
}

/// A line that was once long keeps no more than this many places when it is empty again.
const KEPT_PLACES: usize = 1024;

impl Fifo {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(|(_, line)| line.entries.is_empty())
    }

    /// Whether some line need not wait any longer.
    pub(super) fn has_enough(&self, wanted: &Wanted) -> bool {
        self.lines.iter().any(|(_, line)| !line.entries.is_empty() && line.is_enough(wanted))
    }

    pub(super) fn push(&mut self, batch: Batch) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let line = &mut self.lines[batch.signal()];
        line.size += Size::one(&batch);
        line.entries.push_back(Entry { sequence, batch });
    }

    /// Takes from the line whose oldest batch is the oldest of those that are due.
    pub(super) fn take(&mut self, wanted: &Wanted, now: Instant, closed: bool) -> Next {
        let mut oldest: Option<(u64, Signal)> = None;
        let mut due: Option<Instant> = None;
        for (signal, line) in self.lines.iter() {
            let Some(head) = line.entries.front() else { continue };
            let line_due = head.batch.received_at() + wanted.flush_timeout;
            if closed || line_due <= now || line.is_enough(wanted) {
                oldest = Some(oldest.map_or((head.sequence, signal), |o| o.min((head.sequence, signal))));
            } else {
                due = Some(due.map_or(line_due, |d| d.min(line_due)));
            }
        }
        match (oldest, due) {
            (Some((_, signal)), _) => Next::Taken(self.lines[signal].take(wanted)),
            (None, Some(due)) => Next::Wait(Some(due)),
            (None, None) => Next::End,
        }
    }

    /// Puts batches of one signal back where they were.
    pub(super) fn put_back(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        let line = &mut self.lines[first.batch.signal()];
        let last = entries.last().map_or(first.sequence, |entry| entry.sequence);
        let mut older = Vec::new();
        let mut returned = entries.into_iter().rev().peekable();
        while line.entries.front().is_some_and(|head| head.sequence < last) {
            older.extend(line.entries.pop_front());
        }
        // Both run from young to old; the younger of the two goes in front first.
        while let Some(entry) = returned.peek() {
            match older.pop_if(|head| head.sequence > entry.sequence) {
                Some(head) => line.entries.push_front(head),
                None => {
                    if let Some(entry) = returned.next() {
                        line.size += Size::one(&entry.batch);
                        line.entries.push_front(entry);
                    }
                }
            }
        }
        while let Some(head) = older.pop() {
            line.entries.push_front(head);
        }
    }
}

impl Line {
    fn is_enough(&self, wanted: &Wanted) -> bool {
        let size = self.size.by(wanted.sizer);
        size >= wanted.min || size >= wanted.max || self.size.bytes >= wanted.max_bytes
    }

    fn take(&mut self, wanted: &Wanted) -> Vec<Entry> {
        let mut taken = Vec::new();
        let mut size = Size::default();
        while let Some(head) = self.entries.front() {
            let with_head = size + Size::one(&head.batch);
            let has_min = wanted.min > 0 && size.by(wanted.sizer) >= wanted.min;
            let fits = with_head.by(wanted.sizer) <= wanted.max && with_head.bytes <= wanted.max_bytes;
            if !taken.is_empty() && (has_min || !fits) {
                break;
            }
            size = with_head;
            taken.extend(self.entries.pop_front());
        }
        self.size -= size;
        if self.entries.is_empty() && self.entries.capacity() > KEPT_PLACES {
            self.entries = VecDeque::new();
        }
        taken
    }
}
