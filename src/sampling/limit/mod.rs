//! Budgets as thresholds: what a cap keeps is still a probability sample, and its counts are right.
//!
//! ```text
//! item:     T_run = max(T_carried, T_heap);  keep iff R >= T_run;  then offer it to the heap, kept or not
//! heap:     the items of highest R whose costs fit the budget;  T_heap = first excluded R + 1
//! tick end: T_carried = T_heap;  what was kept above the budget is debt
//! ```
//!
//! The threshold an item meets depends on earlier items only, never on its own randomness, so 1/p stays
//! unbiased; a cut per request would be arrival order in disguise. Time is an argument. Not here: the
//! table of caps (`caps`), several items at a time (`ahead`). Invariant: a tick over its budget is paid for by
//! the next ones.

mod ahead;
mod heap;

use std::time::Duration;

use tokio::time::Instant;

use super::threshold::{Randomness, Threshold};
pub use ahead::Ahead;
use heap::Heap;

/// The period of a budget.
pub const TICK: Duration = Duration::from_secs(1);

/// The share of its income a cap in debt may still spend, so that it never falls silent.
const LEAST: f64 = 0.1;

/// How much a cap lets through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// In units of cost.
    pub per_second: f64,
    /// What may come at once, as the time in which the rate brings it; shorter than a tick counts as one.
    pub burst: Duration,
}

impl Budget {
    fn income(&self) -> f64 {
        self.per_second * TICK.as_secs_f64()
    }

    fn credit(&self) -> f64 {
        self.per_second * self.burst.max(TICK).as_secs_f64()
    }
}

/// What a cap says of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The threshold it is kept with; `None`: it is left out.
    pub threshold: Option<Threshold>,
    /// Its trace alone exceeds the budget and passes on credit; said once a tick.
    pub oversized: bool,
}

/// One cap at work.
#[derive(Debug)]
pub struct Cap {
    heap: Heap,
    carried: u64,
    started: Option<Instant>,
    /// What may be spent in this tick; below zero it is debt.
    balance: f64,
    kept: f64,
    budget: Option<Budget>,
    is_reported: bool,
}

impl Default for Cap {
    fn default() -> Self {
        Self {
            heap: Heap::new(heap::first_excluded),
            carried: 0,
            started: None,
            balance: 0.0,
            kept: 0.0,
            budget: None,
            is_reported: false,
        }
    }
}

impl Cap {
    /// Decides about an item that passed all earlier thresholds, of which `base` is the highest.
    ///
    /// An item without randomness passes as long as everything does.
    pub fn decide(
        &mut self,
        budget: Budget,
        (base, randomness): (Threshold, Option<Randomness>),
        cost: f64,
        now: Instant,
    ) -> Verdict {
        self.turn(budget, now);
        let run = self.threshold();
        let threshold = passes(run, (base, randomness));
        if threshold.is_some() {
            self.kept += cost;
        }
        let owes = self.offer(value(randomness), cost);
        let oversized = owes && !std::mem::replace(&mut self.is_reported, true);
        Verdict { threshold, oversized }
    }

    fn offer(&mut self, value: u64, cost: f64) -> bool {
        let spendable = self.spendable();
        self.heap.offer(value, cost, spendable, self.balance > 0.0)
    }

    /// As [`Cap::offer`] of each. Only another request can have taken the room meanwhile: who owes is told
    /// then.
    fn offer_all(&mut self, offers: &[(u64, f64)]) {
        self.heap.offer_all(offers, self.spendable(), self.balance > 0.0);
    }

    fn spendable(&self) -> f64 {
        let least = self.budget.map_or(0.0, |budget| LEAST * budget.income());
        self.balance.max(least)
    }

    /// What may be offered before anything is excluded: until then no item changes what the next one meets.
    fn room(&self) -> f64 {
        self.spendable() - self.heap.held()
    }

    /// T_run, from 0 to 2^56: what the next item has to reach.
    pub fn threshold(&self) -> u64 {
        self.carried.max(self.heap.cut())
    }

    /// As [`Cap::threshold`], but 0 once nothing came for a whole tick.
    pub(super) fn threshold_at(&self, now: Instant) -> u64 {
        let passed = self.started.map_or(Duration::MAX, |started| now.saturating_duration_since(started));
        if whole_ticks(passed) < 2.0 { self.threshold() } else { 0 }
    }

    /// Whether forgetting this cap would lose nothing.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let (Some(started), Some(budget)) = (self.started, self.budget) else { return true };
        let ticks = whole_ticks(now.saturating_duration_since(started));
        ticks >= 2.0 && self.balance - self.kept + ticks * budget.income() >= budget.credit()
    }

    /// Ends the ticks that are over. A changed budget counts from the next tick on.
    fn turn(&mut self, budget: Budget, now: Instant) {
        let Some(started) = self.started else {
            (self.started, self.balance, self.budget) = (Some(now), budget.credit(), Some(budget));
            return;
        };
        let passed = now.saturating_duration_since(started);
        if passed < TICK {
            return;
        }
        let ticks = whole_ticks(passed);
        // A tick in which nothing came carries nothing on.
        self.carried = if ticks < 2.0 { self.heap.cut() } else { 0 };
        self.balance = (self.balance - self.kept + ticks * budget.income()).min(budget.credit());
        self.heap.clear();
        self.kept = 0.0;
        self.is_reported = false;
        self.started = Some(started + TICK.mul_f64(ticks));
        self.budget = Some(budget);
    }
}

/// The threshold an item is kept with that meets T_run; `None`: it is left out.
fn passes(run: u64, (base, randomness): (Threshold, Option<Randomness>)) -> Option<Threshold> {
    let keep = match randomness {
        Some(randomness) => randomness.value() >= run,
        None => run == 0,
    };
    Threshold::new(run).filter(|_| keep).map(|run| run.max(base))
}

fn value(randomness: Option<Randomness>) -> u64 {
    randomness.map_or(0, Randomness::value)
}

fn whole_ticks(passed: Duration) -> f64 {
    (passed.as_secs_f64() / TICK.as_secs_f64()).floor()
}

#[cfg(test)]
mod tests;
