//! Whose batches are next: every flow has one line per signal, served by weighted deficit round robin.
//!
//! A lease is filled by turns of one signal. The signals take turns by what they sent, in proportion to
//! the weights that wait in each; a flow that waits in several has its quantum divided among them, so
//! that it counts once. No locks, no clock. Invariants: each line is sorted by sequence number, also
//! after leases came back; while a flow that has fewer slots than it may have waits, no flow begins
//! leases beyond its slots; no flow ever begins leases beyond its `export_in_flight`.

use tokio::time::Instant;

use super::Wanted;
use super::flows::Flows;
use super::line::{Line, Loose, Stand, Wheel};
use super::list::{Links, List};
use super::room::Size;
use crate::batch::Batch;
use crate::journal::Place;
use crate::otlp::{PerSignal, Signal};

/// Bytes in a round at weight 1. A newly active flow waits at most for the quanta of the others: with
/// 1,000 active tenants at 100 MB/s that is 2.6 s.
pub(super) const QUANTUM: u64 = 256 * 1024;
/// A flow with this many lines has whole parts of its weight for each.
const PARTS: u64 = 6;

/// One waiting or leased batch.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) sequence: u64,
    /// The flow's place.
    pub(super) place: u32,
    pub(super) batch: Batch,
    /// Where the log on disk has it.
    pub(super) kept: Option<Place>,
}

/// Batches of one signal on their way out.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) entries: Vec<Entry>,
    /// The place of the flow whose turn began it and has a slot for it.
    pub(super) begun_by: Option<u32>,
}

/// What there is for a consumer.
#[derive(Debug)]
pub(super) enum Next {
    /// These, of one signal.
    Taken(Load),
    /// Not yet: look again when woken, or at the instant.
    Wait(Option<Instant>),
    /// Nothing waits.
    End,
}

#[derive(Debug, Default)]
struct Ring {
    wheel: Wheel,
    parked: List,
    held: List,
    /// What waits and is not packed, oldest first, but for what was packed once: that is in front.
    age: List,
    /// How many lines are packed in part.
    packed: usize,
    size: Size,
    /// The weights that wait here, in parts.
    weight: u64,
    /// What was sent, over the weights that waited.
    served: f64,
}

/// The lines.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) flows: Flows,
    rings: PerSignal<Ring>,
    loose: Loose,
    turns: Links,
    quantum: u64,
    slots: u32,
    /// Flows that wait and may begin leases.
    eligible: usize,
    next_sequence: u64,
}

impl Schedule {
    pub(super) fn new(quantum: u64, slots: usize) -> Self {
        Self {
            flows: Flows::default(),
            rings: PerSignal::from_fn(|_| Ring::default()),
            loose: Loose::default(),
            turns: Links::default(),
            quantum,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            eligible: 0,
            next_sequence: 0,
        }
    }

    pub(super) fn set_slots(&mut self, slots: usize) {
        self.slots = u32::try_from(slots).unwrap_or(u32::MAX);
        self.recount();
    }

    /// How many places for flows and for batches there are, used or free.
    #[cfg(test)]
    pub(super) fn places(&self) -> (usize, usize) {
        (self.flows.places(), self.loose.places())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.loose.is_empty()
    }

    /// Whether some signal need not wait any longer.
    pub(super) fn has_enough(&self, wanted: &Wanted) -> bool {
        self.rings.iter().any(|(_, ring)| !ring.age.is_empty() && ring.is_enough(wanted))
    }

    /// When the oldest batch that waits was received.
    pub(super) fn oldest(&self) -> Option<Instant> {
        let lines = self.flows.iter().flat_map(|standing| standing.lines.iter());
        lines.filter_map(|(_, line)| Some(line.front(&self.loose)?.batch.received_at())).min()
    }

    fn head(&self, place: u32, signal: Signal) -> Option<&Entry> {
        self.flows.get(place)?.lines[signal].front(&self.loose)
    }

    /// Adds a batch of a flow that has room for it.
    pub(super) fn push(&mut self, place: u32, batch: Batch, kept: Option<Place>) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.insert(Entry { sequence, place, batch, kept }, Line::push);
    }

    /// Puts batches back where they were; the slot of their lease is free again.
    pub(super) fn put_back(&mut self, load: Load) {
        if let Some(place) = load.begun_by {
            self.end(place);
        }
        // The youngest first: each goes to the head, past what is older.
        load.entries.into_iter().rev().for_each(|entry| self.insert(entry, Line::put_back));
    }

    fn insert(&mut self, entry: Entry, put: fn(&mut Line, &mut Loose, &mut List, Entry)) {
        let (signal, place, size) = (entry.batch.signal(), entry.place, Size::one(&entry.batch));
        let Some(standing) = self.flows.get_mut(place) else { return };
        let was_idle = standing.waiting_lines() == 0;
        let line = &mut standing.lines[signal];
        let (was_empty, was_packed) = (line.is_empty(), line.is_packed());
        let ring = &mut self.rings[signal];
        put(line, &mut self.loose, &mut ring.age, entry);
        line.size += size;
        ring.size += size;
        ring.packed += usize::from(line.is_packed() && !was_packed);
        if was_empty {
            self.reweigh(place, signal, true);
            self.put_off(place, signal);
        }
        if was_idle && self.may_begin(place) {
            self.eligible += 1;
        }
    }

    /// A line of a flow begins or ceases to wait: its other lines get less or more.
    fn reweigh(&mut self, place: u32, changed: Signal, begins: bool) {
        let Some(standing) = self.flows.get(place) else { return };
        let weight = u64::from(standing.share.weight) * PARTS;
        let now = standing.waiting_lines();
        let before = if begins { now - 1 } else { now + 1 };
        for signal in Signal::ALL {
            let waits = !standing.lines[signal].is_empty();
            let had = if signal == changed { !begins } else { waits };
            if begins && signal == changed && self.rings[signal].weight == 0 {
                // Whoever sent nothing for a while has not saved up.
                let others = self.rings.iter().filter(|(_, ring)| ring.weight > 0);
                let least = others.map(|(_, ring)| ring.served).fold(f64::INFINITY, f64::min);
                match least.is_finite() {
                    true => self.rings[signal].served = self.rings[signal].served.max(least),
                    false => Signal::ALL.into_iter().for_each(|signal| self.rings[signal].served = 0.0),
                }
            }
            let ring = &mut self.rings[signal];
            ring.weight -= if had { weight / before.max(1) } else { 0 };
            ring.weight += if waits { weight / now.max(1) } else { 0 };
        }
    }

    /// What a line may send in a round.
    fn quantum(&self, place: u32) -> u64 {
        let of = |weight: u32, lines: u64| u64::from(weight) * self.quantum / lines.max(1);
        self.flows.get(place).map_or(self.quantum, |s| of(s.share.weight, s.waiting_lines())).max(1)
    }

    /// Puts a line off by as many rounds as its head needs.
    fn put_off(&mut self, place: u32, signal: Signal) {
        let (head, quantum) = (self.head_bytes(place, signal), self.quantum(place));
        let Some(standing) = self.flows.get_mut(place) else { return };
        let line = &mut standing.lines[signal];
        let rounds = head.saturating_sub(line.deficit).div_ceil(quantum);
        let wheel = &mut self.rings[signal].wheel;
        line.rounds = wheel.put_off(&mut self.turns, number(place, signal), rounds);
        line.stand = Stand::Wheel;
    }

    fn head_bytes(&self, place: u32, signal: Signal) -> u64 {
        self.head(place, signal).map_or(0, |head| head.batch.size())
    }

    /// Takes of the signal that is owed most among those that are due.
    pub(super) fn take(&mut self, wanted: &Wanted, now: Instant, closed: bool) -> Next {
        let mut due: Vec<(f64, u64, Signal)> = Vec::with_capacity(3);
        let mut earliest: Option<Instant> = None;
        for (signal, ring) in self.rings.iter() {
            let Some(oldest) = ring.age.front().and_then(|at| self.loose.get(at)) else { continue };
            let ring_due = oldest.batch.received_at() + wanted.flush_timeout;
            if closed || ring_due <= now || ring.is_enough(wanted) {
                due.push((ring.served, oldest.sequence, signal));
            } else {
                earliest = Some(earliest.map_or(ring_due, |e| e.min(ring_due)));
            }
        }
        due.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (_, _, signal) in due {
            if let Some(load) = self.fill(signal, wanted) {
                return Next::Taken(load);
            }
        }
        match self.is_empty() {
            true => Next::End,
            false => Next::Wait(earliest),
        }
    }

    /// One lease of a signal; `None` if nobody there may begin one.
    fn fill(&mut self, signal: Signal, wanted: &Wanted) -> Option<Load> {
        let begun_by = self.next_turn(signal)?;
        let mut entries = Vec::new();
        let weight = self.rings[signal].weight.max(1);
        let (mut size, mut turn) = (Size::default(), Some(begun_by));
        while let Some(place) = turn {
            let is_full = self.serve((place, signal), wanted, (&mut entries, &mut size));
            turn = if is_full { None } else { self.next_turn(signal) };
        }
        self.rings[signal].served += size.bytes.max(1) as f64 / weight as f64;
        self.change_in_flight(begun_by, |in_flight| *in_flight += 1);
        Some(Load { entries, begun_by: Some(begun_by) })
    }

    /// The flow whose line has the next turn, with enough of a deficit for its head.
    fn next_turn(&mut self, signal: Signal) -> Option<u32> {
        while let Some(line) = self.rings[signal].wheel.next(&mut self.turns) {
            let place = line / 3;
            let (head, quantum) = (self.head_bytes(place, signal), self.quantum(place));
            let (may_begin, is_held) = (self.may_begin(place) || self.eligible == 0, self.is_held(place));
            let Some(standing) = self.flows.get_mut(place) else { continue };
            let line = &mut standing.lines[signal];
            let credit = quantum.saturating_mul(u64::from(line.rounds));
            line.deficit = line.deficit.saturating_add(credit).min(head + quantum);
            (line.stand, line.rounds) = (Stand::Nowhere, 0);
            if line.deficit < head {
                self.put_off(place, signal);
            } else if is_held {
                line.stand = Stand::Held;
                self.rings[signal].held.push_back(&mut self.turns, number(place, signal));
            } else if may_begin {
                return Some(place);
            } else {
                line.stand = Stand::Parked;
                self.rings[signal].parked.push_back(&mut self.turns, number(place, signal));
            }
        }
        if self.eligible > 0 {
            return None;
        }
        // Nobody else waits: an idle slot would help nobody.
        let line = self.rings[signal].parked.pop_front(&mut self.turns)?;
        let place = line / 3;
        let head = self.head_bytes(place, signal);
        let line = &mut self.flows.get_mut(place)?.lines[signal];
        line.stand = Stand::Nowhere;
        line.deficit = line.deficit.max(head);
        Some(place)
    }

    /// Gives a line its turn; whether the lease is full.
    fn serve(
        &mut self,
        (place, signal): (u32, Signal),
        wanted: &Wanted,
        (taken, size): (&mut Vec<Entry>, &mut Size),
    ) -> bool {
        let mut is_full = false;
        while let Some(standing) = self.flows.get_mut(place) {
            let line = &mut standing.lines[signal];
            let Some(head) = line.front(&self.loose) else { break };
            let one = Size::one(&head.batch);
            is_full = taken.first().is_some_and(|first| !wanted.takes((&first.batch, size), &head.batch));
            if is_full || one.bytes > line.deficit {
                break;
            }
            line.deficit -= one.bytes;
            *size += one;
            line.size -= one;
            let (ring, was_packed) = (&mut self.rings[signal], line.is_packed());
            ring.size -= one;
            taken.extend(line.pop(&mut self.loose, &mut ring.age));
            ring.packed -= usize::from(was_packed && !line.is_packed());
        }
        self.end_turn(place, signal, is_full);
        is_full
    }

    fn end_turn(&mut self, place: u32, signal: Signal, is_full: bool) {
        let may_begin = self.may_begin(place);
        let Some(standing) = self.flows.get_mut(place) else { return };
        let line = &mut standing.lines[signal];
        if line.is_empty() {
            line.deficit = 0;
            let is_idle = standing.waiting_lines() == 0;
            self.reweigh(place, signal, false);
            self.eligible -= usize::from(is_idle && may_begin);
            self.give_memory_back();
        } else if is_full {
            line.stand = Stand::Wheel;
            self.rings[signal].wheel.put_first(&mut self.turns, number(place, signal));
        } else {
            self.put_off(place, signal);
        }
    }

    fn give_memory_back(&mut self) {
        if self.is_empty() && self.loose.places() > super::KEPT_PLACES {
            self.loose = Loose::default();
        }
    }

    /// The slot of a lease is free again.
    pub(super) fn end(&mut self, begun_by: u32) {
        self.change_in_flight(begun_by, |in_flight| *in_flight = in_flight.saturating_sub(1));
    }

    fn change_in_flight(&mut self, place: u32, change: impl FnOnce(&mut u32)) {
        let (might_begin, was_held) = (self.may_begin(place), self.is_held(place));
        let Some(standing) = self.flows.get_mut(place) else { return };
        change(&mut standing.in_flight);
        let waits = standing.waiting_lines() > 0;
        let may_begin = self.may_begin(place);
        match (might_begin, may_begin) {
            (true, false) => self.eligible -= usize::from(waits),
            (false, true) => self.eligible += usize::from(waits),
            _ => {}
        }
        if (may_begin && !might_begin) || (was_held && !self.is_held(place)) {
            Signal::ALL.into_iter().for_each(|signal| self.unpark(place, signal));
        }
    }

    fn unpark(&mut self, place: u32, signal: Signal) {
        let Some(standing) = self.flows.get_mut(place) else { return };
        let line = &mut standing.lines[signal];
        let (ring, number) = (&mut self.rings[signal], number(place, signal));
        match line.stand {
            Stand::Parked => ring.parked.remove(&mut self.turns, number),
            Stand::Held => ring.held.remove(&mut self.turns, number),
            Stand::Nowhere | Stand::Wheel => return,
        }
        line.stand = Stand::Wheel;
        ring.wheel.put_first(&mut self.turns, number);
    }

    /// Whether a flow has all the slots it may have, whether others wait or not.
    fn is_held(&self, place: u32) -> bool {
        self.flows.get(place).is_some_and(|standing| standing.in_flight >= standing.share.export_in_flight)
    }

    /// Whether a flow has fewer slots than it may have while others wait.
    fn may_begin(&self, place: u32) -> bool {
        !self.is_held(place)
            && self.flows.get(place).is_some_and(|standing| {
                let slots = (f64::from(self.slots) * standing.share.max_share).floor().max(1.0);
                f64::from(standing.in_flight) < slots || standing.share.max_share >= 1.0
            })
    }

    /// Reads every share anew; what was saved up is cut to the new quantum.
    pub(super) fn reshare(&mut self, guaranteed: u64) {
        self.flows.reshare(guaranteed);
        let mut weights = PerSignal::<u64>::default();
        for (_, standing) in self.flows.iter_mut() {
            let lines = standing.waiting_lines().max(1);
            let (weight, quantum) = (u64::from(standing.share.weight), self.quantum);
            for signal in Signal::ALL {
                let line = &mut standing.lines[signal];
                line.deficit = line.deficit.min((weight * quantum / lines).max(1));
                weights[signal] += if line.is_empty() { 0 } else { weight * PARTS / lines };
            }
        }
        weights.iter().for_each(|(signal, weight)| self.rings[signal].weight = *weight);
        self.recount();
    }

    fn recount(&mut self) {
        let places: Vec<(u32, bool)> =
            self.flows.iter_mut().map(|(place, standing)| (place, standing.waiting_lines() > 0)).collect();
        self.eligible = places.iter().filter(|(place, waits)| *waits && self.may_begin(*place)).count();
        for (place, _) in places {
            // Who still may not begin is parked again at its turn.
            Signal::ALL.into_iter().for_each(|signal| self.unpark(place, signal));
        }
    }

    /// Takes everything that waits: in order of age within each signal, and in the end what is packed.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let mut loose = self.loose.take_all();
        loose.sort_unstable_by_key(|entry| (entry.batch.signal() as usize, entry.sequence));
        let mut packed = Vec::new();
        for (_, standing) in self.flows.iter_mut() {
            for signal in Signal::ALL {
                packed.extend(std::mem::take(&mut standing.lines[signal]).take_packed());
            }
        }
        self.rings = PerSignal::from_fn(|_| Ring::default());
        (self.turns, self.eligible) = (Links::default(), 0);
        loose.into_iter().chain(packed.into_iter().flatten())
    }
}

impl Ring {
    /// Whether nobody need wait for more: what is packed is more than memory keeps, or was there at the start.
    fn is_enough(&self, wanted: &Wanted) -> bool {
        let size = self.size.by(wanted.sizer);
        self.packed > 0 || size >= wanted.min || size >= wanted.max || self.size.bytes >= wanted.max_bytes
    }
}

/// The number under which a line stands on its wheel.
fn number(place: u32, signal: Signal) -> u32 {
    place * 3 + signal as u32
}
