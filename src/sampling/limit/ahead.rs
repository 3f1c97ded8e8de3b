//! A cap as one request uses it: as long as everything fits, items are decided about without asking the cap
//! each time, and told to it together.
//!
//! A cap that many requests of other tenants have pushed out of the processor's caches is then waited for
//! once and not for every item. Not here: what is decided (`limit`). Invariant: what an item meets is what
//! it would have met at the cap; only requests that are worked on at the same time may each find the room
//! that is left for one of them, which is debt.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::{Budget, Cap, Verdict, passes, value};
use crate::sampling::threshold::{Randomness, Threshold};

/// As many items are told together.
const MOST: usize = 256;

/// One cap and what it does not know yet.
#[derive(Debug)]
pub struct Ahead {
    cap: Arc<Mutex<Cap>>,
    budget: Budget,
    now: Instant,
    /// What items have to reach as long as there is room.
    run: u64,
    room: f64,
    kept: f64,
    offers: Vec<(u64, f64)>,
}

impl Ahead {
    /// Nothing is known of the cap yet; `offers` is a list to be used, its elements do not matter.
    pub fn new(cap: Arc<Mutex<Cap>>, budget: Budget, now: Instant, mut offers: Vec<(u64, f64)>) -> Self {
        offers.clear();
        Self { cap, budget, now, run: 0, room: 0.0, kept: 0.0, offers }
    }

    /// Takes note of an item that passes whatever its randomness is; `false`: it has to be decided about.
    pub fn lets_pass(&mut self, randomness: Option<Randomness>, cost: f64) -> bool {
        let is_free = self.run == 0 && self.knows_of_room_for(cost);
        if is_free {
            self.note(randomness, cost);
            self.kept += cost;
        }
        is_free
    }

    fn knows_of_room_for(&self, cost: f64) -> bool {
        cost <= self.room && self.offers.len() < MOST
    }

    fn note(&mut self, randomness: Option<Randomness>, cost: f64) {
        self.room -= cost;
        self.offers.push((value(randomness), cost));
    }

    /// As [`Cap::decide`].
    pub fn decide(&mut self, item: (Threshold, Option<Randomness>), cost: f64) -> Verdict {
        if !self.knows_of_room_for(cost) {
            let cap = self.cap.clone();
            let mut cap = lock(&cap);
            self.tell(&mut cap);
            let verdict = cap.decide(self.budget, item, cost, self.now);
            (self.run, self.room) = (cap.threshold(), cap.room());
            return verdict;
        }
        let threshold = passes(self.run, item);
        self.note(item.1, cost);
        self.kept += if threshold.is_some() { cost } else { 0.0 };
        Verdict { threshold, oversized: false }
    }

    /// Tells the cap everything; the list it was made with.
    pub fn end(mut self) -> Vec<(u64, f64)> {
        if !self.offers.is_empty() {
            let cap = self.cap.clone();
            self.tell(&mut lock(&cap));
        }
        self.offers
    }

    fn tell(&mut self, cap: &mut Cap) {
        if self.offers.is_empty() {
            return;
        }
        cap.turn(self.budget, self.now);
        cap.kept += std::mem::take(&mut self.kept);
        cap.offer_all(&self.offers);
        self.offers.clear();
    }
}

fn lock(cap: &Mutex<Cap>) -> MutexGuard<'_, Cap> {
    cap.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::limit::TICK;
    use crate::sampling::limit::tests::random;

    #[test]
    fn what_an_item_meets_is_what_it_would_have_met_at_the_cap() {
        let mut rng = fastrand::Rng::with_seed(7);
        for budget in [10.0, 900.0, 1_000.0, 3_000.0, 1e9] {
            let budget = Budget { per_second: budget, burst: TICK };
            let (mut single, shared) = (Cap::default(), Arc::new(Mutex::new(Cap::default())));
            let (start, mut offers, mut passed) = (Instant::now(), Vec::new(), 0);
            for request in 0..60 {
                let now = start + TICK * request / 10;
                let mut ahead = Ahead::new(shared.clone(), budget, now, offers);
                for _ in 0..rng.usize(0..700) {
                    let randomness = Some(random(&mut rng)).filter(|n| n % 16 > 0);
                    let item = (Threshold::ALWAYS, randomness.map(Randomness::from_low_bits));
                    let cost = f64::from(rng.u8(1..3));
                    let passes = rng.bool() && ahead.lets_pass(item.1, cost);
                    let verdict = match passes {
                        true => Verdict { threshold: Some(Threshold::ALWAYS), oversized: false },
                        false => ahead.decide(item, cost),
                    };
                    assert_eq!(verdict, single.decide(budget, item, cost, now), "{budget:?} {request}");
                    passed += u32::from(passes);
                }
                offers = ahead.end();
                let cap = lock(&shared);
                assert_eq!((cap.threshold(), cap.kept), (single.threshold(), single.kept));
            }
            assert!(f64::from(passed) >= budget.per_second.min(5_000.0) / 4.0, "{passed} {budget:?}");
        }
    }
}
