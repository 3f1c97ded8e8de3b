//! What sampling decided, by tenant, signal and rule, in a bounded number of series.
//!
//! Past [`SamplingMetrics::MAX_SERIES`] the tenant becomes `_overflow`, then the rule too.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

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

/// The counters of one tenant.
#[derive(Debug, Default)]
pub struct TenantSampling {
    /// In order; few rules decide about one tenant's items.
    rules: RwLock<Vec<RuleSeries>>,
    randomness: OnceLock<RandomnessMetrics>,
}

#[derive(Debug)]
struct RuleSeries {
    signal: Signal,
    rule: Arc<str>,
    counters: Arc<RuleMetrics>,
}

impl TenantSampling {
    /// What is odd about the randomness of its items.
    pub fn randomness(&self) -> &RandomnessMetrics {
        self.randomness.get_or_init(RandomnessMetrics::default)
    }

    fn find(&self, signal: Signal, rule: &str) -> Option<Arc<RuleMetrics>> {
        let rules = read(&self.rules);
        place(&rules, signal, rule).ok().map(|place| rules[place].counters.clone())
    }
}

/// Where the series of a rule stands, or would, among all in order.
fn place(rules: &[RuleSeries], signal: Signal, rule: &str) -> Result<usize, usize> {
    rules.binary_search_by(|series| (series.signal, &*series.rule).cmp(&(signal, rule)))
}

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
    tenants: RwLock<HashMap<TenantId, Arc<TenantSampling>>>,
    series: AtomicUsize,
}

impl std::fmt::Debug for SamplingMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SamplingMetrics").field("series", &self.series).finish_non_exhaustive()
    }
}

impl SamplingMetrics {
    /// The most (tenant, signal, rule) that are counted apart; each has up to six series.
    pub const MAX_SERIES: usize = 10_000;

    /// The counters of a tenant's label; the same for the same label.
    pub fn of(&self, tenant: &TenantId) -> Arc<TenantSampling> {
        if let Some(found) = read(&self.tenants).get(tenant) {
            return found.clone();
        }
        let mut tenants = write(&self.tenants);
        let is_full = tenants.len() >= Self::MAX_SERIES && !tenants.contains_key(tenant);
        let key = if is_full { TenantId::overflow() } else { tenant.clone() };
        tenants.entry(key).or_default().clone()
    }

    /// The counters of a rule for a tenant; the same for the same arguments.
    pub fn rule(&self, tenant: &TenantSampling, signal: Signal, rule: &Arc<str>) -> Arc<RuleMetrics> {
        tenant.find(signal, rule).unwrap_or_else(|| match self.series.load(Ordering::Relaxed) {
            known if known < Self::MAX_SERIES => self.open(tenant, signal, rule),
            known => {
                let is_rule_known = known < 2 * Self::MAX_SERIES;
                let rule = if is_rule_known { rule.clone() } else { "_overflow".into() };
                let shared = self.of(&TenantId::overflow());
                shared.find(signal, &rule).unwrap_or_else(|| self.open(&shared, signal, &rule))
            }
        })
    }

    fn open(&self, tenant: &TenantSampling, signal: Signal, rule: &Arc<str>) -> Arc<RuleMetrics> {
        let mut rules = write(&tenant.rules);
        let place = place(&rules, signal, rule).unwrap_or_else(|place| {
            self.series.fetch_add(1, Ordering::Relaxed);
            rules.insert(place, RuleSeries { signal, rule: rule.clone(), counters: Arc::default() });
            place
        });
        rules[place].counters.clone()
    }

    /// Asks `thresholds` at each reading which budgets leave items out.
    pub fn watch_thresholds(&self, thresholds: impl Fn() -> Vec<BudgetThreshold> + Send + Sync + 'static) {
        *write(&self.thresholds) = Some(Box::new(thresholds));
    }

    /// Forgets the series of rules that are gone, for instance after a reload of policies.
    pub fn retain_rules(&self, keep: impl Fn(&str) -> bool) {
        for tenant in read(&self.tenants).values() {
            let mut rules = write(&tenant.rules);
            let before = rules.len();
            rules.retain(|series| keep(&series.rule));
            self.series.fetch_sub(before - rules.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self, families: &mut Families) {
        let tenants: BTreeMap<TenantId, Arc<TenantSampling>> =
            read(&self.tenants).iter().map(|(id, tenant)| (id.clone(), tenant.clone())).collect();
        for (id, tenant) in &tenants {
            tenant.read(id.as_str(), families);
        }
        let thresholds = read(&self.thresholds);
        for BudgetThreshold { rule, tenant, share } in thresholds.iter().flat_map(|thresholds| thresholds()) {
            let key = tenant.as_ref().map_or("", TenantId::as_str);
            families.add(&catalog::SAMPLING_THRESHOLD, &[&rule, key], share);
        }
        for (id, counters) in tenants.iter().filter_map(|(id, tenant)| Some((id, tenant.randomness.get()?))) {
            let mut add = |metric: &'static Definition, counter: &Counter| {
                if counter.get() > 0 {
                    families.add(metric, &[id.as_str()], counter.get());
                }
            };
            add(&catalog::SAMPLING_INCONSISTENT, &counters.inconsistent_threshold);
            add(&catalog::SAMPLING_MISSING_RANDOMNESS, &counters.missing_randomness);
            add(&catalog::SAMPLING_NO_RANDOM_FLAG, &counters.no_random_flag);
            add(&catalog::SAMPLING_OVERSIZED, &counters.oversized_traces);
        }
    }
}

impl TenantSampling {
    fn read(&self, tenant: &str, families: &mut Families) {
        let rules = read(&self.rules);
        for RuleSeries { signal, rule, counters } in rules.iter() {
            let labels = [tenant, signal.as_str(), rule];
            for decision in Decision::ALL.into_iter().filter(|d| counters.get(*d) > 0) {
                let all = [labels[0], labels[1], labels[2], decision.as_str(), "ingest"];
                families.add(&catalog::SAMPLING_ITEMS, &all, counters.get(decision));
            }
            if counters.adjusted() > 0.0 {
                families.add(&catalog::SAMPLING_ADJUSTED, &labels, counters.adjusted());
            }
        }
        let mut lowest: BTreeMap<&str, f64> = BTreeMap::new();
        for RuleSeries { rule, counters, .. } in rules.iter().filter(|s| s.counters.probability() > 0.0) {
            let known = lowest.entry(rule).or_insert(1.0);
            *known = known.min(counters.probability());
        }
        for (rule, probability) in lowest {
            families.add(&catalog::SAMPLING_PROBABILITY, &[tenant, rule], probability);
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
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
            let tenant = sampling.of(&TenantId::new(&format!("t{i}")).unwrap());
            sampling.rule(&tenant, Signal::Traces, &rule).add(Decision::Kept, 1);
        }
        let overflow = sampling.rule(&sampling.of(&TenantId::overflow()), Signal::Traces, &rule);
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
        let tenant = sampling.of(&TenantId::unattributed());
        sampling.rule(&tenant, Signal::Logs, &"old".into()).add(Decision::Kept, 1);
        sampling.rule(&tenant, Signal::Logs, &"new".into()).add(Decision::Kept, 1);
        sampling.retain_rules(|rule| rule == "new");
        let mut families = Families::default();
        sampling.read(&mut families);
        assert_eq!(families.sum("tollgate_sampling_items_total", &[]), 1.0);
    }
}
