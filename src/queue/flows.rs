//! Who has how much of a queue, and who may have more. No locks, no clock, no order.
//!
//! A dynamic threshold with guarantees (Choudhury and Hahne): with B the bytes of the queue, Q those in
//! use, q, g and w the bytes, guarantee and weight of one flow, and w̄ the mean weight of the flows that
//! have something here,
//!
//! ```text
//! F = B − Q − Σ over the others of max(0, g − q)
//! s is admitted if s ≤ F and q + s ≤ max(g, w/w̄ · F) and q + s ≤ max_share · B
//! ```
//!
//! The bounds in units of the sizer and in batches are shared out the same way, without guarantees. A flow with a
//! `max_share` of 1 is bound by F alone. Invariant: a flow is here as long as it has room; every
//! operation is O(1).

use std::collections::HashMap;

use super::line::Line;
use super::list::Slab;
use super::room::{Bounds, Cause, Size};
use crate::flow::{Flow, Share};
use crate::otlp::PerSignal;

/// One flow with room in the queue.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) flow: Flow,
    pub(super) share: Share,
    /// Reserved, waiting and leased.
    pub(super) used: Size,
    /// Leases that began with this flow's turn and have not ended.
    pub(super) in_flight: u32,
    /// What waits.
    pub(super) lines: PerSignal<Line>,
}

impl Standing {
    fn new(flow: &Flow) -> Self {
        let lines = PerSignal::from_fn(|_| Line::default());
        Self { flow: flow.clone(), share: flow.share(), used: Size::default(), in_flight: 0, lines }
    }

    /// How many of its lines have something waiting.
    pub(super) fn waiting_lines(&self) -> u64 {
        self.lines.iter().filter(|(_, line)| !line.is_empty()).count() as u64
    }

    fn guarantee_used(&self) -> u64 {
        self.used.bytes.min(self.share.guaranteed_bytes)
    }
}

/// Every flow that has room.
#[derive(Debug, Default)]
pub(super) struct Flows {
    slab: Slab<Standing>,
    places: HashMap<u64, u32>,
    weights: u64,
    /// The sum of all guarantees, those of absent flows included.
    guaranteed: u64,
    /// How much of the guarantees is in use.
    guarantees_used: u64,
}

impl Flows {
    /// The place of a flow, which is given one at first sight.
    pub(super) fn enter(&mut self, flow: &Flow) -> u32 {
        if let Some(place) = self.places.get(&flow.number()) {
            return *place;
        }
        let standing = Standing::new(flow);
        self.weights += u64::from(standing.share.weight);
        let place = self.slab.insert(standing);
        self.places.insert(flow.number(), place);
        place
    }

    /// Takes the place from a flow that has nothing here.
    pub(super) fn leave_if_empty(&mut self, place: u32) {
        if self.slab.get(place).is_none_or(|standing| standing.used.batches > 0) {
            return;
        }
        if let Some(standing) = self.slab.remove(place) {
            self.places.remove(&standing.flow.number());
            self.weights -= u64::from(standing.share.weight);
            self.guarantees_used -= standing.guarantee_used();
        }
        if self.slab.len() == 0 && self.slab.places() > super::KEPT_PLACES {
            self.slab.clear();
            self.places = HashMap::new();
        }
    }

    pub(super) fn get(&self, place: u32) -> Option<&Standing> {
        self.slab.get(place)
    }

    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Standing> {
        self.slab.get_mut(place)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Standing)> {
        self.slab.iter_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Standing> {
        self.slab.iter()
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.slab.places()
    }

    /// Reads every share anew.
    pub(super) fn reshare(&mut self, guaranteed: u64) {
        (self.guaranteed, self.weights, self.guarantees_used) = (guaranteed, 0, 0);
        for (_, standing) in self.slab.iter_mut() {
            standing.share = standing.flow.share();
            self.weights += u64::from(standing.share.weight);
            self.guarantees_used += standing.guarantee_used();
        }
    }

    /// Whether a flow may have `size` more of a queue of which `used` is in use.
    pub(super) fn admit(
        &self,
        place: u32,
        size: &Size,
        (bounds, used): (&Bounds, &Size),
    ) -> Result<(), Cause> {
        let Some(standing) = self.slab.get(place) else { return Err(Cause::Full) };
        let (share, own) = (&standing.share, &standing.used);
        let free = bounds.max_bytes.saturating_sub(used.bytes + self.kept_for_others(standing));
        let free_units = bounds.capacity.saturating_sub(used.by(bounds.sizer));
        let units = size.by(bounds.sizer);
        let free_batches = bounds.max_batches.saturating_sub(used.batches);
        if size.bytes > free || units > free_units || size.batches > free_batches {
            return Err(Cause::Full);
        }
        if share.max_share >= 1.0 {
            return Ok(());
        }
        let (bytes, units) = (own.bytes + size.bytes, own.by(bounds.sizer) + units);
        let batches = own.batches + size.batches;
        let most = Bounds::share(bounds, share.max_share);
        let within = |asked: u64, free: u64| asked as f64 <= self.relative_weight(share) * free as f64;
        let guaranteed = bytes <= share.guaranteed_bytes;
        let fair = within(bytes, free) && within(units, free_units) && within(batches, free_batches);
        let is_within = bytes <= most.max_bytes && units <= most.capacity && batches <= most.max_batches;
        match (guaranteed || fair) && is_within {
            true => Ok(()),
            false => Err(Cause::Share),
        }
    }

    /// Whether a flow could have `size` of an empty queue.
    pub(super) fn could_fit(&self, flow: &Flow, size: &Size, bounds: &Bounds) -> bool {
        let share = flow.share();
        let most = bounds.share(share.max_share);
        let others = self.guaranteed.saturating_sub(share.guaranteed_bytes);
        size.bytes <= most.max_bytes.min(bounds.max_bytes.saturating_sub(others))
            && size.by(bounds.sizer) <= most.capacity
    }

    /// What of the guarantees of all other flows is not in use.
    fn kept_for_others(&self, standing: &Standing) -> u64 {
        let kept = self.guaranteed.saturating_sub(self.guarantees_used);
        kept.saturating_sub(standing.share.guaranteed_bytes - standing.guarantee_used())
    }

    /// A weight against the mean of those that have something here.
    fn relative_weight(&self, share: &Share) -> f64 {
        f64::from(share.weight) * self.slab.len() as f64 / self.weights.max(1) as f64
    }

    /// What part of the service falls to a flow.
    pub(super) fn part_of_service(&self, place: u32) -> f64 {
        let weight = self.slab.get(place).map_or(1, |standing| standing.share.weight);
        f64::from(weight) / self.weights.max(1) as f64
    }

    pub(super) fn take(&mut self, place: u32, size: &Size) {
        self.change(place, |used| *used += *size);
    }

    pub(super) fn give_back(&mut self, place: u32, size: &Size) {
        self.change(place, |used| *used -= *size);
        self.leave_if_empty(place);
    }

    fn change(&mut self, place: u32, change: impl FnOnce(&mut Size)) {
        let Some(standing) = self.slab.get_mut(place) else { return };
        self.guarantees_used -= standing.guarantee_used();
        change(&mut standing.used);
        self.guarantees_used += standing.guarantee_used();
    }
}
