//! What sampling decided, by tenant, signal and rule, in a bounded number of series.
//!
//! A processor asks for its counters once for a tenant and rule and then only adds. Past
//! [`SamplingMetrics::MAX_SERIES`] the tenant becomes `_overflow`, then the rule too.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use super::catalog::{self, Definition};
use super::families::Families;
use super::metrics::Counter;
use crate::identity::TenantId;
use crate::otlp::Signal;

/// What a rule decided about an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Kept,
    /// Its randomness is below the threshold.
    SampledOut,
    /// The rule drops everything it matches.
    RuleDrop,
    /// A rule in shadow mode would have kept it.
    ShadowKept,
    /// A rule in shadow mode would have left it out.
    ShadowOut,
}

impl Decision {
    /// Every decision, in the order of the discriminants.
    pub const ALL: [Decision; 5] =
        [Decision::Kept, Decision::SampledOut, Decision::RuleDrop, Decision::ShadowKept, Decision::ShadowOut];

    /// The decision as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Decision::Kept => "kept",
            Decision::SampledOut => "sampled_out",
            Decision::RuleDrop => "rule_drop",
            Decision::ShadowKept => "shadow_kept",
            Decision::ShadowOut => "shadow_out",
        }
    }
}

/// The counters of one tenant, signal and rule.
#[derive(Debug, Default)]
pub struct RuleMetrics {
    decisions: [AtomicU64; Decision::ALL.len()],
    /// The bits of an `f64`.
    adjusted: AtomicU64,
    /// The bits of an `f64`; 0 until an item was kept.
    probability: AtomicU64,
}

impl RuleMetrics {
    /// Counts items the rule decided about.
    pub fn add(&self, decision: Decision, items: u64) {
        self.decisions[decision as usize].fetch_add(items, Ordering::Relaxed);
    }

    /// Adds the adjusted counts of kept items.
    pub fn add_adjusted(&self, count: f64) {
        let add = |bits| Some((f64::from_bits(bits) + count).to_bits());
        // The closure always returns a value, so the update always takes place.
        let _updated = self.adjusted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Notes the probability with which the last item was kept.
    pub fn set_probability(&self, probability: f64) {
        self.probability.store(probability.to_bits(), Ordering::Relaxed);
    }

    /// The probability with which the last item was kept; 0 before the first.
    pub fn probability(&self) -> f64 {
        f64::from_bits(self.probability.load(Ordering::Relaxed))
    }

    /// Items the rule decided about this way.
    pub fn get(&self, decision: Decision) -> u64 {
        self.decisions[decision as usize].load(Ordering::Relaxed)
    }

    /// The sum of the adjusted counts of kept items.
    pub fn adjusted(&self) -> f64 {
        f64::from_bits(self.adjusted.load(Ordering::Relaxed))
    }
}

/// What is odd about the randomness of one tenant's items.
#[derive(Debug, Default)]
pub struct RandomnessMetrics {
    /// The threshold contradicts the randomness.
    pub inconsistent_threshold: Counter,
    /// There is no randomness at all.
    pub missing_randomness: Counter,
    /// The trace flags do not promise a random trace id.
    pub no_random_flag: Counter,
    /// A trace alone exceeds a budget and passes on credit.
    pub oversized_traces: Counter,
}

type RuleKey = (TenantId, Signal, Arc<str>);

/// A budget that leaves items out.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetThreshold {
    /// The rule's name.
    pub rule: Arc<str>,
    /// Whose it is; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// The threshold as a share of 2^56, above 0, up to 1.
    pub share: f64,
}

/// Gives the budgets with the highest thresholds, highest first.
type Thresholds = Box<dyn Fn() -> Vec<BudgetThreshold> + Send + Sync>;

/// All counters of sampling.
#[derive(Default)]
pub struct SamplingMetrics {
    thresholds: RwLock<Option<Thresholds>>,
    rules: RwLock<HashMap<RuleKey, Arc<RuleMetrics>>>,
    tenants: RwLock<HashMap<TenantId, Arc<RandomnessMetrics>>>,
}

impl std::fmt::Debug for SamplingMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner).len();
        f.debug_struct("SamplingMetrics").field("rules", &rules).finish_non_exhaustive()
    }
}

impl SamplingMetrics {
    /// The most (tenant, signal, rule) that are counted apart; each has up to six series.
    pub const MAX_SERIES: usize = 10_000;

    /// The counters of a rule for a tenant's label; the same for the same arguments.
    pub fn rule(&self, tenant: &TenantId, signal: Signal, rule: &Arc<str>) -> Arc<RuleMetrics> {
        let key = (tenant.clone(), signal, rule.clone());
        if let Some(found) = self.rules.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return found.clone();
        }
        let mut rules = write(&self.rules);
        let full = rules.len() >= Self::MAX_SERIES && !rules.contains_key(&key);
        let key = match full {
            false => key,
            true if rules.len() < 2 * Self::MAX_SERIES => (TenantId::overflow(), signal, rule.clone()),
            true => (TenantId::overflow(), signal, "_overflow".into()),
        };
        rules.entry(key).or_default().clone()
    }

    /// The randomness counters of a tenant's label.
    pub fn randomness(&self, tenant: &TenantId) -> Arc<RandomnessMetrics> {
        if let Some(found) = self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant) {
            return found.clone();
        }
        let mut tenants = write(&self.tenants);
        let full = tenants.len() >= Self::MAX_SERIES && !tenants.contains_key(tenant);
        let key = if full { TenantId::overflow() } else { tenant.clone() };
        tenants.entry(key).or_default().clone()
    }

    /// Asks `thresholds` at each reading which budgets leave items out.
    pub fn watch_thresholds(&self, thresholds: impl Fn() -> Vec<BudgetThreshold> + Send + Sync + 'static) {
        *write(&self.thresholds) = Some(Box::new(thresholds));
    }

    /// Forgets the series of rules that are gone, for instance after a reload of policies.
    pub fn retain_rules(&self, keep: impl Fn(&str) -> bool) {
        write(&self.rules).retain(|(_, _, rule), _| keep(rule));
    }

    pub(super) fn read(&self, families: &mut Families) {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let mut rules: Vec<_> = rules.iter().map(|(key, counters)| (key.clone(), counters.clone())).collect();
        rules.sort_by(|(a, _), (b, _)| a.cmp(b));
        for ((tenant, signal, rule), counters) in &rules {
            let labels = [tenant.as_str(), signal.as_str(), rule];
            for decision in Decision::ALL.into_iter().filter(|d| counters.get(*d) > 0) {
                let all = [labels[0], labels[1], labels[2], decision.as_str(), "ingest"];
                families.add(&catalog::SAMPLING_ITEMS, &all, counters.get(decision));
            }
            if counters.adjusted() > 0.0 {
                families.add(&catalog::SAMPLING_ADJUSTED, &labels, counters.adjusted());
            }
        }
        let mut lowest: BTreeMap<(&str, &str), f64> = BTreeMap::new();
        for ((tenant, _, rule), counters) in rules.iter().filter(|(_, c)| c.probability() > 0.0) {
            let known = lowest.entry((tenant.as_str(), rule)).or_insert(1.0);
            *known = known.min(counters.probability());
        }
        for ((tenant, rule), probability) in lowest {
            families.add(&catalog::SAMPLING_PROBABILITY, &[tenant, rule], probability);
        }
        let thresholds = self.thresholds.read().unwrap_or_else(PoisonError::into_inner);
        for BudgetThreshold { rule, tenant, share } in thresholds.iter().flat_map(|thresholds| thresholds()) {
            let key = tenant.as_ref().map_or("", TenantId::as_str);
            families.add(&catalog::SAMPLING_THRESHOLD, &[&rule, key], share);
        }
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let mut tenants: Vec<_> =
            tenants.iter().map(|(id, counters)| (id.clone(), counters.clone())).collect();
        tenants.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (tenant, counters) in &tenants {
            let mut add = |metric: &'static Definition, counter: &Counter| {
                if counter.get() > 0 {
                    families.add(metric, &[tenant.as_str()], counter.get());
                }
            };
            add(&catalog::SAMPLING_INCONSISTENT, &counters.inconsistent_threshold);
            add(&catalog::SAMPLING_MISSING_RANDOMNESS, &counters.missing_randomness);
            add(&catalog::SAMPLING_NO_RANDOM_FLAG, &counters.no_random_flag);
            add(&catalog::SAMPLING_OVERSIZED, &counters.oversized_traces);
        }
    }
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_past_the_cap_are_counted_under_overflow() {
        let sampling = SamplingMetrics::default();
        let rule: Arc<str> = "r".into();
        for i in 0..SamplingMetrics::MAX_SERIES + 5 {
            let tenant = TenantId::new(&format!("t{i}")).unwrap();
            sampling.rule(&tenant, Signal::Traces, &rule).add(Decision::Kept, 1);
        }
        let overflow = sampling.rule(&TenantId::overflow(), Signal::Traces, &rule);
        assert_eq!(overflow.get(Decision::Kept), 5);
    }

    #[test]
    fn adjusted_counts_add_up() {
        let rule = RuleMetrics::default();
        (0..10).for_each(|_| rule.add_adjusted(2.5));
        assert_eq!(rule.adjusted(), 25.0);
    }

    #[test]
    fn rules_that_are_gone_are_forgotten() {
        let sampling = SamplingMetrics::default();
        let tenant = TenantId::unattributed();
        sampling.rule(&tenant, Signal::Logs, &"old".into()).add(Decision::Kept, 1);
        sampling.rule(&tenant, Signal::Logs, &"new".into()).add(Decision::Kept, 1);
        sampling.retain_rules(|rule| rule == "new");
        let mut families = Families::default();
        sampling.read(&mut families);
        assert_eq!(families.sum("tollgate_sampling_items_total", &[]), 1.0);
    }
}
