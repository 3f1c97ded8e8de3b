//! `sampling`: the policies' rules decide which items pass; kept spans say their probability.
//!
//! Not here: the rules (`sampling::rules`). Invariant: every item is counted under exactly one rule.

use std::cell::RefCell;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Work;
use crate::internal_telemetry::{Decision as Label, SamplingMetrics, TenantSampling};
use crate::otlp::{Draft, ItemId, PartId, Signal, Value};
use crate::policies::{Plan, Scalar};
use crate::sampling::rules::{
    Decision, Evaluator, ItemFacts, Oddities, RANDOMNESS_ATTRIBUTE, ResourceFacts, THRESHOLD_ATTRIBUTE, Write,
};
use crate::sampling::{Caps, Limiter};

/// The attribute of `stamp: [rule]`.
const RULE_STAMP: &str = "sampling.rule";
/// The attribute of `stamp: [revision]`.
const REVISION_STAMP: &str = "sampling.revision";

/// The processor `sampling`.
#[derive(Debug, Clone)]
pub struct Sampling {
    metrics: Arc<SamplingMetrics>,
    caps: Arc<Caps>,
}

/// What a worker thread reuses from part to part.
#[derive(Default)]
struct Scratch {
    evaluator: Evaluator,
    limiter: Limiter,
    counts: Counts,
    text: String,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Sampling {
    /// A processor that counts its decisions and spends the budgets of `caps`.
    pub fn new(metrics: Arc<SamplingMetrics>, caps: Arc<Caps>) -> Self {
        Self { metrics, caps }
    }

    /// Notes which items are left out and what the kept ones say of it.
    pub(super) fn run(&self, work: &mut Work<'_>) {
        let now = (Timestamp::now(), Instant::now());
        SCRATCH.with_borrow_mut(|scratch| {
            for part in work.draft.parts() {
                self.part(work, part, now, scratch);
            }
        });
    }

    fn part(
        &self,
        work: &mut Work<'_>,
        part: PartId,
        (now, clock): (Timestamp, Instant),
        scratch: &mut Scratch,
    ) {
        let Scratch { evaluator, limiter, counts, text } = scratch;
        let plan = work.directory.plan();
        let group = work.draft.group(part);
        let tenant = work.owners.owner(group).clone();
        let draft = &mut work.draft;
        enter(evaluator, plan, draft, (part, &tenant), now);
        limiter.enter((&self.caps, plan), (&tenant.id, &tenant.block, &tenant.kept), draft.signal(), clock);
        counts.clear();
        let stamps = Stamps::of(plan);
        if evaluator.keeps_everything_untouched() && !stamps.any() {
            counts.kept_untouched(draft.part_items_left(part));
        } else {
            draft.for_each_item(part, |draft, item| {
                let decision = decide((&mut *evaluator, &mut *limiter), plan, draft, item);
                counts.add(&decision, evaluator);
                match decision.keep {
                    true => keep(draft, item, &decision, (plan, &stamps, text)),
                    false => draft.leave_out(item),
                }
            });
        }
        counts.oversized = limiter.oversized();
        limiter.leave();
        work.owners.count_sampled_out(group, counts.left_out());
        let metrics = tenant.sampling.get_or_init(|| self.metrics.of(tenant.account.label()));
        counts.flush((&self.metrics, metrics), plan, work.draft.signal());
    }
}

fn enter(
    evaluator: &mut Evaluator,
    plan: &Plan,
    draft: &Draft<'_>,
    (part, tenant): (PartId, &crate::tenant::Tenant),
    now: Timestamp,
) {
    let text = |key: &str| draft.resource_attribute(part, key).and_then(|value| value.as_str());
    let facts = ResourceFacts {
        signal: draft.signal(),
        tenant: tenant.id.as_str(),
        block: &tenant.block,
        model_name: text(&plan.enrichment.model_name.attribute),
        model_version: text(&plan.enrichment.model_version.attribute),
        attribute: &|key, visit| look(draft.resource_attribute(part, key), visit),
    };
    evaluator.enter(plan, &facts, now);
}

fn decide(
    (evaluator, limiter): (&mut Evaluator, &mut Limiter),
    plan: &Plan,
    draft: &Draft<'_>,
    item: ItemId,
) -> Decision {
    let mut facts = ItemFacts {
        trace_id: None,
        trace_state: "",
        flags: 0,
        name: None,
        kind: None,
        status: None,
        duration: None,
        encoded: draft.item_bytes(item),
        attribute: &|key, visit| look(draft.item_attribute(item, key), visit),
    };
    if let Some(span) = draft.span(item) {
        facts.trace_id = span.trace_id();
        facts.trace_state = span.trace_state();
        facts.flags = span.flags();
        facts.name = Some(span.name_bytes());
        facts.kind = Some(span.kind());
        facts.status = Some(span.status());
        facts.duration = Some(span.duration_nano());
        return evaluator.decide_within(plan, &facts, limiter);
    }
    if let Some(log) = draft.log(item) {
        facts.trace_id = log.trace_id();
        facts.flags = log.flags();
    }
    evaluator.decide_within(plan, &facts, limiter)
}

/// Shows a value to a test: the elements of an array one by one.
fn look(value: Option<Value<'_>>, visit: &mut dyn FnMut(Scalar<'_>) -> bool) -> Option<bool> {
    Some(match value? {
        array @ Value::Array(_) => array.elements().any(|element| visit(scalar(element))),
        value => visit(scalar(value)),
    })
}

pub(super) fn scalar(value: Value<'_>) -> Scalar<'_> {
    match value {
        Value::Str(text) => Scalar::Str(text),
        Value::Bool(value) => Scalar::Bool(value),
        Value::Int(value) => Scalar::Int(value),
        Value::Double(value) => Scalar::Double(value),
        Value::Empty | Value::Bytes(_) | Value::Array(_) | Value::KvList(_) => Scalar::Opaque,
    }
}

fn keep(
    draft: &mut Draft<'_>,
    item: ItemId,
    decision: &Decision,
    (plan, stamps, text): (&Plan, &Stamps<'_>, &mut String),
) {
    match draft.signal() {
        Signal::Traces => {
            let Some(span) = draft.span(item) else { return };
            if decision.trace_state(span.trace_state(), text).is_some() {
                draft.set_trace_state(item, text);
            }
        }
        Signal::Logs => {
            match decision.write {
                Write::Nothing => {}
                Write::Threshold(th) => {
                    draft.set_item_attribute(item, THRESHOLD_ATTRIBUTE, th.text().as_str())
                }
                Write::Erase => draft.delete_item_attribute(item, THRESHOLD_ATTRIBUTE),
            }
            if let Some(randomness) = decision.randomness {
                draft.set_item_attribute(item, RANDOMNESS_ATTRIBUTE, randomness.text().as_str());
            }
        }
        Signal::Metrics => {}
    }
    if stamps.rule {
        draft.set_item_attribute(item, RULE_STAMP, plan.rule_name(decision.rule));
    }
    if let Some(revision) = stamps.revision {
        draft.set_item_attribute(item, REVISION_STAMP, revision);
    }
}

/// What every kept item is stamped with.
struct Stamps<'a> {
    rule: bool,
    revision: Option<&'a str>,
}

impl<'a> Stamps<'a> {
    fn of(plan: &'a Plan) -> Self {
        let revision = plan.enrichment.stamp_revision.then(|| plan.revision_name());
        Self { rule: plan.enrichment.stamp_rule, revision }
    }

    fn any(&self) -> bool {
        self.rule || self.revision.is_some()
    }
}

/// The decisions about one part, by rule; written to the metrics once.
#[derive(Default)]
struct Counts {
    rules: Vec<RuleCounts>,
    inconsistent_threshold: u64,
    missing_randomness: u64,
    no_random_flag: u64,
    oversized: u64,
}

struct RuleCounts {
    rule: Option<usize>,
    decisions: [u64; Label::ALL.len()],
    adjusted: f64,
    /// The probability with which the last item was kept.
    last: Option<f64>,
}

impl Counts {
    fn clear(&mut self) {
        self.rules.clear();
        (self.inconsistent_threshold, self.missing_randomness, self.no_random_flag) = (0, 0, 0);
    }

    fn of(&mut self, rule: Option<usize>) -> &mut RuleCounts {
        // Few rules decide about one resource, and mostly the same one again.
        let known = self.rules.iter().position(|counts| counts.rule == rule);
        let at = known.unwrap_or_else(|| {
            self.rules.push(RuleCounts { rule, decisions: Default::default(), adjusted: 0.0, last: None });
            self.rules.len() - 1
        });
        &mut self.rules[at]
    }

    fn kept_untouched(&mut self, items: u64) {
        let counts = self.of(None);
        counts.decisions[Label::Kept as usize] += items;
        counts.adjusted += items as f64;
        counts.last = Some(1.0);
    }

    fn add(&mut self, decision: &Decision, evaluator: &Evaluator) {
        let Oddities { inconsistent_threshold, missing_randomness, no_random_flag, .. } = decision.oddities;
        self.inconsistent_threshold += u64::from(inconsistent_threshold);
        self.missing_randomness += u64::from(missing_randomness);
        self.no_random_flag += u64::from(no_random_flag);
        let label = match (decision.keep, decision.dropped) {
            (true, _) => Label::Kept,
            (false, true) => Label::RuleDrop,
            (false, false) => Label::SampledOut,
        };
        let counts = self.of(decision.rule);
        counts.decisions[label as usize] += 1;
        if decision.keep {
            let stands_for = decision.threshold.map_or(1.0, |threshold| threshold.adjusted_count());
            counts.adjusted += stands_for;
            counts.last = Some(1.0 / stands_for);
        }
        for shadow in evaluator.shadows() {
            let label = if shadow.keep { Label::ShadowKept } else { Label::ShadowOut };
            self.of(Some(shadow.rule)).decisions[label as usize] += 1;
        }
    }

    fn left_out(&self) -> u64 {
        let of = |counts: &RuleCounts| {
            counts.decisions[Label::SampledOut as usize] + counts.decisions[Label::RuleDrop as usize]
        };
        self.rules.iter().map(of).sum()
    }

    fn flush(&self, (all, tenant): (&SamplingMetrics, &TenantSampling), plan: &Plan, signal: Signal) {
        for counts in &self.rules {
            let metrics = all.rule(tenant, signal, plan.rule_label(counts.rule));
            for (label, items) in Label::ALL.into_iter().zip(counts.decisions) {
                if items > 0 {
                    metrics.add(label, items);
                }
            }
            if counts.adjusted > 0.0 {
                metrics.add_adjusted(counts.adjusted);
            }
            if let Some(probability) = counts.last {
                metrics.set_probability(probability);
            }
        }
        let odd = [self.inconsistent_threshold, self.missing_randomness, self.no_random_flag, self.oversized];
        if odd.into_iter().any(|count| count > 0) {
            let metrics = tenant.randomness();
            metrics.inconsistent_threshold.add(self.inconsistent_threshold);
            metrics.missing_randomness.add(self.missing_randomness);
            metrics.no_random_flag.add(self.no_random_flag);
            metrics.oversized_traces.add(self.oversized);
        }
    }
}
