//! The caps of all tenants and rules, and those that apply to the resource at hand.
//!
//! State lives here and not in plans, so that it outlives a reload: a cap is found by the rule's name,
//! what it counts and whose it is. When no cap is idle, newcomers of a rule share one. Not here: the
//! arithmetic (`limit`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::limit::{Ahead, Budget, Cap, Verdict};
use super::threshold::{RANDOMNESS_VALUES, Randomness, Threshold};
use crate::identity::TenantId;
use crate::internal_telemetry::BudgetThreshold;
use crate::otlp::Signal;
use crate::policies::{Block, LimitUnit, Plan};
use crate::table::{Idle, Known, Table};

/// The most caps; those past it are shared by rule, and rules are bounded.
const CAPACITY: usize = 10_000;
/// How `kept_spans_per_second` is called where rules are named.
const KEPT: &str = "_kept";

/// What a cap belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// The rule and what it counts; `None`: `kept_spans_per_second`.
    rule: Option<(Arc<str>, LimitUnit)>,
    /// Whose; `None`: everybody's.
    tenant: Option<TenantId>,
}

/// All caps.
#[derive(Debug)]
pub struct Caps(Table<Key, Mutex<Cap>>);

/// Where the cap of a tenant's kept spans is found again without looking for it.
#[derive(Debug, Default)]
pub struct KeptCap(Known<Mutex<Cap>>);

impl Default for Caps {
    fn default() -> Self {
        Self(Table::new(CAPACITY))
    }
}

impl Idle for Mutex<Cap> {
    fn is_idle(&self, now: Instant) -> bool {
        lock(self).is_idle(now)
    }
}

impl Caps {
    fn of(&self, key: Key, now: Instant) -> Arc<Mutex<Cap>> {
        self.0.entry(&key, || now).unwrap_or_else(|| self.shared(key))
    }

    fn of_tenant(&self, tenant: &TenantId, known: &KeptCap, now: Instant) -> Arc<Mutex<Cap>> {
        let key = || Key { rule: None, tenant: Some(tenant.clone()) };
        self.0.known(&known.0, key, || now).unwrap_or_else(|| self.shared(key()))
    }

    /// One for all who find no room.
    fn shared(&self, key: Key) -> Arc<Mutex<Cap>> {
        self.0.entry_beyond(Key { tenant: Some(TenantId::overflow()), ..key })
    }
}

impl Caps {
    /// The budgets with the highest thresholds above 0, at most `most`, highest first.
    pub fn thresholds(&self, now: Instant, most: usize) -> Vec<BudgetThreshold> {
        let table = self.0.read();
        let mut all: Vec<_> = table
            .iter()
            .map(|(key, cap)| (key, lock(cap).threshold_at(now)))
            .filter(|(_, threshold)| *threshold > 0)
            .map(|(key, threshold)| BudgetThreshold {
                rule: key.rule.as_ref().map_or_else(|| KEPT.into(), |(rule, _)| rule.clone()),
                tenant: key.tenant.clone(),
                share: threshold as f64 / RANDOMNESS_VALUES as f64,
            })
            .collect();
        drop(table);
        all.sort_by(|a, b| {
            b.share.total_cmp(&a.share).then_with(|| (&a.rule, &a.tenant).cmp(&(&b.rule, &b.tenant)))
        });
        // A rule that counts both spans and log records has two budgets of one name: the higher one counts.
        let mut seen = HashSet::new();
        all.retain(|budget| seen.insert((budget.rule.clone(), budget.tenant.clone())));
        all.truncate(most);
        all
    }
}

fn lock(cap: &Mutex<Cap>) -> std::sync::MutexGuard<'_, Cap> {
    cap.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The caps that may apply to items of one resource.
#[derive(Debug, Default)]
pub struct Limiter {
    rules: Vec<RuleCap>,
    kept: Option<Ahead>,
    oversized: u64,
    /// Lists that are used again.
    spare: Vec<Vec<(u64, f64)>>,
}

#[derive(Debug)]
struct RuleCap {
    rule: usize,
    unit: LimitUnit,
    cap: Ahead,
}

impl Limiter {
    /// Turns to a resource of `tenant`, for whom `block` holds.
    pub fn enter(
        &mut self,
        (caps, plan): (&Caps, &Plan),
        (tenant, block, known): (&TenantId, &Block, &KeptCap),
        signal: Signal,
        now: Instant,
    ) {
        self.leave();
        let limits = &block.limits;
        if let Some(per_second) = limits.kept_spans_per_second.filter(|_| signal == Signal::Traces) {
            let budget = Budget { per_second, burst: limits.burst };
            let cap = caps.of_tenant(tenant, known, now);
            self.kept = Some(Ahead::new(cap, budget, now, self.spare.pop().unwrap_or_default()));
        }
        for (index, limit) in plan.rule_limits().filter(|(index, _)| plan.rules[*index].signals[signal]) {
            let counts = match limit.unit {
                LimitUnit::Spans => signal == Signal::Traces,
                LimitUnit::LogRecords => signal == Signal::Logs,
                LimitUnit::Bytes => true,
            };
            if counts {
                let rule = Some((plan.rules[index].name.clone(), limit.unit));
                let tenant = limit.per_tenant.then(|| tenant.clone());
                let cap = caps.of(Key { rule, tenant }, now);
                let budget = Budget { per_second: limit.per_second, burst: limit.burst };
                let cap = Ahead::new(cap, budget, now, self.spare.pop().unwrap_or_default());
                self.rules.push(RuleCap { rule: index, unit: limit.unit, cap });
            }
        }
    }

    /// Tells the caps what they do not know yet and lets them go: nothing is limited.
    pub fn leave(&mut self) {
        let rules = self.rules.drain(..).map(|rule| rule.cap);
        self.spare.extend(rules.chain(self.kept.take()).map(Ahead::end));
        self.oversized = 0;
    }

    /// Whether any cap may apply.
    pub fn is_active(&self) -> bool {
        self.kept.is_some() || !self.rules.is_empty()
    }

    /// Traces larger than a whole budget since the resource was entered.
    pub fn oversized(&self) -> u64 {
        self.oversized
    }

    /// Takes note of an item that every threshold before lets pass, if it passes the caps too whatever its
    /// randomness is; `false`: it has to be decided about.
    pub(super) fn lets_pass(&mut self, rule: Option<usize>, randomness: Option<Randomness>) -> bool {
        self.rules.iter().all(|cap| Some(cap.rule) != rule)
            && self.kept.as_mut().is_none_or(|cap| cap.lets_pass(randomness, 1.0))
    }

    /// The threshold behind the cap of a rule for an item that passed `base`; `None`: it is left out.
    pub(super) fn of_rule(
        &mut self,
        rule: Option<usize>,
        item: (Threshold, Option<Randomness>),
        bytes: usize,
    ) -> Option<Threshold> {
        let found = self.rules.iter_mut().find(|cap| Some(cap.rule) == rule);
        let Some(RuleCap { unit, cap, .. }) = found else { return Some(item.0) };
        let cost = if *unit == LimitUnit::Bytes { bytes as f64 } else { 1.0 };
        let verdict = cap.decide(item, cost);
        self.counted(verdict)
    }

    /// The threshold behind the tenant's own cap.
    pub(super) fn of_tenant(&mut self, item: (Threshold, Option<Randomness>)) -> Option<Threshold> {
        let Some(cap) = &mut self.kept else { return Some(item.0) };
        let verdict = cap.decide(item, 1.0);
        self.counted(verdict)
    }

    fn counted(&mut self, verdict: Verdict) -> Option<Threshold> {
        self.oversized += u64::from(verdict.oversized);
        verdict.threshold
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sampling::limit::TICK;

    #[test]
    fn the_highest_thresholds_are_told_while_they_hold() {
        let (caps, start) = (Caps::default(), Instant::now());
        let budget = Budget { per_second: 10.0, burst: TICK };
        let spend = |tenant: &str, items: u64| {
            let key = Key { rule: None, tenant: Some(TenantId::new(tenant).unwrap()) };
            let cap = caps.of(key, start);
            for randomness in 1..=items {
                let randomness = Randomness::from_low_bits(randomness * (RANDOMNESS_VALUES / (items + 1)));
                lock(&cap).decide(budget, (Threshold::ALWAYS, Some(randomness)), 1.0, start);
            }
        };
        spend("modest", 10);
        spend("busy", 20);
        spend("noisy", 1_000);
        let told = |at, most| {
            let told = caps.thresholds(start + at, most).into_iter();
            told.map(|budget| (budget.tenant.unwrap().to_string(), budget.share)).collect::<Vec<_>>()
        };
        let [(first, high), (second, low)] = &told(TICK, 20)[..] else { panic!("{:?}", told(TICK, 20)) };
        assert_eq!((first.as_str(), second.as_str()), ("noisy", "busy"));
        assert!((0.98..1.0).contains(high) && (0.45..0.55).contains(low), "{high} {low}");
        assert_eq!(told(TICK, 1).len(), 1);
        assert_eq!(told(Duration::from_secs(2), 20), [], "nothing came for a whole tick");
    }
}
