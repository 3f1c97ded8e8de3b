//! Copies the last records of old segments forward, so that one stuck tenant pins its own bytes and not
//! whole segments.
//!
//! Bound: the files hold at most twice the bytes that wait, and four segments.

use tokio::time::Instant;

use super::engine::{AFTER_FAILURE, Engine, Purpose};
use super::format::{KIND_BATCH, RECORD_HEADER};
use super::index::Index;
use super::scan;
use super::segment::Segment;
use super::shared::{lock, segment_name};
use super::writer::Draft;

/// What one round copies at most, unless a single record is larger: appends wait meanwhile.
const ROUND: u64 = 4 << 20;

/// A segment that is being emptied.
#[derive(Debug)]
pub(super) struct Relief {
    base: u64,
    index: Index,
    /// The next entry to look at.
    at: usize,
}

impl Engine {
    /// Goes on emptying a segment, or chooses one if there is need.
    pub(super) fn relieve(&mut self, now: Instant) {
        if self.relief_pause.is_some_and(|until| until > now) {
            return;
        }
        let Some(mut relief) = self.relief.take().or_else(|| self.choose()) else { return };
        let (drafts, sources) = self.gather(&mut relief);
        let is_done = relief.at >= relief.index.entries.len();
        if !drafts.is_empty() {
            let Ok(moved) = self.store(&drafts, Purpose::Relief) else {
                // To read it all again for nothing at every append would cost more than it could free.
                self.relief_pause = Some(now + AFTER_FAILURE);
                return;
            };
            let shared = self.shared.clone();
            let mut table = lock(&shared.table);
            for (moved, (ordinal, len)) in moved.into_iter().zip(sources) {
                table.moved.insert(moved.place.id, moved);
                if let Some(segment) = self.segments.get_mut(&relief.base) {
                    segment.end(ordinal, len);
                }
                self.counts.moved += 1;
            }
        }
        match self.segments.get_mut(&relief.base) {
            // What could not be read stays until its owner has seen that.
            Some(segment) if is_done => segment.is_stuck = segment.live > 0,
            Some(_) => self.relief = Some(relief),
            None => {}
        }
    }

    /// The next records that wait in the segment, and where they are in it.
    fn gather(&self, relief: &mut Relief) -> (Vec<Draft>, Vec<(u32, u32)>) {
        let (mut drafts, mut sources, mut bytes) = (Vec::new(), Vec::new(), 0);
        let Some(segment) = self.segments.get(&relief.base) else {
            relief.at = usize::MAX;
            return (drafts, sources);
        };
        while bytes < ROUND {
            let Some(entry) = relief.index.entries.get(relief.at) else { break };
            relief.at += 1;
            if segment.has_ended(entry.ordinal) || entry.ordinal >= segment.count {
                continue;
            }
            let Some(head) = entry.head(&relief.index.names) else { continue };
            let Ok((_, payload)) = self.shared.read_record(entry.place(relief.base)) else { continue };
            bytes += (payload.len() + RECORD_HEADER) as u64;
            drafts.push(Draft { head, payload, kind: KIND_BATCH, first: Some(entry.first) });
            sources.push((entry.ordinal, entry.len));
        }
        (drafts, sources)
    }

    /// The segment with the most dead bytes for its live ones, if the dead bytes are too many.
    fn choose(&self) -> Option<Relief> {
        let size = self.shared.options.segment_size;
        let (live, dead) = self
            .segments
            .values()
            .fold((0, 0), |(live, dead), segment| (live + segment.live_bytes, dead + segment.dead_bytes()));
        let is_tight = self.disk_bytes() + 3 * size > self.shared.options.max_bytes;
        if dead <= live + 4 * size && !is_tight {
            return None;
        }
        let pinned = |segment: &&Segment| {
            let is_worth_it = segment.dead_bytes() >= segment.live_bytes / 3;
            !segment.is_open && !segment.is_stuck && segment.live > 0 && is_worth_it
        };
        let dead_per_mille = |segment: &&Segment| segment.dead_bytes() * 1000 / segment.bytes.max(1);
        let segment = self.segments.values().filter(pinned).max_by_key(dead_per_mille)?;
        let base = segment.identity.base;
        let file = self.shared.storage.open(&self.path(&segment_name(base))).ok()?;
        let contents = scan::read(&*file, Some(segment.identity)).ok()?;
        Some(Relief { base, index: contents.index, at: 0 })
    }
}
