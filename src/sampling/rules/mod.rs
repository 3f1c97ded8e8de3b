//! The policies' rules at work: which rule decides about an item, with which threshold.
//!
//! ```text
//! enter(resource)  every rule's tests of the resource, each once  ->  candidates, in order
//! decide(item)     walk the candidates: tests of the item, factors, clamps  ->  p
//!                  combine p with the incoming threshold             ->  T;  keep iff R >= T
//! ```
//!
//! Pure: nothing is counted or written, the time is an argument. Invariant: deciding allocates nothing,
//! and formats nothing; texts are made only when the caller writes them.

mod marks;

use jiff::Timestamp;

use marks::Marks;

use super::caps::Limiter;
use super::threshold::{Randomness, Rounded, Threshold};
use super::tracestate;
use crate::otlp::Signal;
use crate::policies::condition::{ItemTest, Leaf, ResourceDimension, ResourceTest};
use crate::policies::{Action, Block, Lookup, Mode, Plan, Rule, Scalar, Upstream};

/// Attribute of log records that stands for `th`.
pub const THRESHOLD_ATTRIBUTE: &str = "sampling.threshold";
/// Attribute of log records that stands for `rv`.
pub const RANDOMNESS_ATTRIBUTE: &str = "sampling.randomness";

/// What rules may ask of a resource.
#[derive(Clone, Copy)]
pub struct ResourceFacts<'a> {
    /// What the items are.
    pub signal: Signal,
    /// Whose they are.
    pub tenant: &'a str,
    /// What holds for that tenant: [`Plan::block`].
    pub block: &'a Block,
    /// The model's name, as found.
    pub model_name: Option<&'a str>,
    /// The model's version, as found.
    pub model_version: Option<&'a str>,
    /// The resource's attributes.
    pub attribute: &'a Lookup<'a>,
}

/// What rules may ask of an item, and what randomness may come from.
#[derive(Clone, Copy)]
pub struct ItemFacts<'a> {
    /// The trace id if it has 16 bytes.
    pub trace_id: Option<[u8; 16]>,
    /// A span's tracestate.
    pub trace_state: &'a str,
    /// The flags field; its low byte holds the W3C trace flags.
    pub flags: u32,
    /// A span's name, which is UTF-8; few rules look at it.
    pub name: Option<&'a [u8]>,
    /// A span's kind, as OTLP numbers it.
    pub kind: Option<i32>,
    /// A span's status code, as OTLP numbers it.
    pub status: Option<i32>,
    /// A span's duration in nanoseconds.
    pub duration: Option<u64>,
    /// The item's encoded bytes.
    pub encoded: &'a [u8],
    /// The item's attributes.
    pub attribute: &'a Lookup<'a>,
}

/// What becomes of an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Whether it is kept.
    pub keep: bool,
    /// Whether a rule drops it, without regard to probability.
    pub dropped: bool,
    /// The rule that decided, by its index; `None`: `_default`. See [`Plan::rule_name`].
    pub rule: Option<usize>,
    /// The probability this stage gave, 0 if dropped.
    pub probability: f64,
    /// The threshold with which a kept item leaves; `None`: its count is unknown, or it is not kept.
    pub threshold: Option<Threshold>,
    /// What to write to a kept item.
    pub write: Write,
    /// What to write to `sampling.randomness` of a kept log record, or to `rv` of a span.
    pub randomness: Option<Randomness>,
    /// What was odd about it.
    pub oddities: Oddities,
}

/// The change to a kept item's threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// It leaves as it came.
    Nothing,
    /// It gets this threshold.
    Threshold(Threshold),
    /// It loses its threshold.
    Erase,
}

/// Things to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Oddities {
    /// It arrived with a threshold above its randomness.
    pub inconsistent_threshold: bool,
    /// It has nothing to take randomness from.
    pub missing_randomness: bool,
    /// Its trace id is taken for random without saying so.
    pub no_random_flag: bool,
    /// Its threshold or randomness cannot be read.
    pub malformed: bool,
}

/// What a rule in `mode: shadow` would have done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShadowOutcome {
    /// The rule, by its index.
    pub rule: usize,
    /// Whether the item would have been kept.
    pub keep: bool,
    found: Found,
}

impl Decision {
    /// The decision about a span without marks that certainly passes: what [`Marks`] would come to.
    fn certain(found: &Found, oddities: Oddities) -> Self {
        Self {
            keep: true,
            dropped: false,
            rule: found.rule,
            probability: found.probability,
            threshold: Some(Threshold::ALWAYS),
            write: Write::Nothing,
            randomness: None,
            oddities,
        }
    }

    /// The `decision` label of the counters.
    pub fn label(&self) -> &'static str {
        match (self.keep, self.dropped) {
            (true, _) => "kept",
            (_, true) => "rule_drop",
            _ => "sampled_out",
        }
    }

    /// Writes a span's new tracestate to `out`. `None`: it stays as it is; `Some(false)`: the threshold
    /// did not fit, and the tracestate leaves without one.
    pub fn trace_state(&self, before: &str, out: &mut String) -> Option<bool> {
        match self.write {
            Write::Nothing => None,
            Write::Threshold(threshold) => {
                Some(tracestate::write(out, before, Some(threshold), self.randomness))
            }
            Write::Erase => Some(tracestate::write(out, before, None, None)),
        }
    }
}

/// Decides about the items of one resource after the other; its arrays are reused.
#[derive(Debug)]
pub struct Evaluator {
    signal: Signal,
    base: f64,
    answers: Vec<Option<bool>>,
    candidates: Vec<Candidate>,
    shadows: Vec<ShadowOutcome>,
    rounded: Rounded,
}

/// A rule that may apply to items of the resource at hand.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    rule: usize,
    /// Whether it applies to every item.
    whole: bool,
    /// How much it applies while it fades: 1 in full.
    weight: f64,
    group: Option<Randomness>,
}

impl Default for Evaluator {
    fn default() -> Self {
        Self::new()
    }
}

impl Evaluator {
    /// An evaluator before its first resource.
    pub fn new() -> Self {
        Self {
            signal: Signal::Traces,
            base: 1.0,
            answers: Vec::new(),
            candidates: Vec::new(),
            shadows: Vec::new(),
            rounded: Rounded::default(),
        }
    }

    /// Turns to a resource: finds the rules that may apply to its items.
    pub fn enter(&mut self, plan: &Plan, resource: &ResourceFacts<'_>, at: Timestamp) {
        self.signal = resource.signal;
        // `sampling` speaks of spans; other signals are kept where no rule decides.
        self.base = if resource.signal == Signal::Traces { resource.block.rate } else { 1.0 };
        self.candidates.clear();
        self.answers.clear();
        self.answers.resize(plan.resource_tests.len(), None);
        for (index, rule) in plan.rules.iter().enumerate() {
            if rule.mode == Mode::Off || !rule.signals[resource.signal] {
                continue;
            }
            let weight = rule.active.weight(at);
            if weight <= 0.0 {
                continue;
            }
            let answers = &mut self.answers;
            let answer = rule.condition.evaluate(&mut |leaf| match leaf {
                Leaf::Item(_) => None,
                Leaf::Resource(number) => {
                    let answer = || passes(&plan.resource_tests[number], resource);
                    Some(*answers[number].get_or_insert_with(answer))
                }
            });
            if answer != Some(false) {
                let group = rule.group_by.as_ref().and_then(|dimension| group(dimension, resource));
                self.candidates.push(Candidate { rule: index, whole: answer.is_some(), weight, group });
            }
            if answer == Some(true) && rule.is_terminal() && rule.mode == Mode::Enforce && weight >= 1.0 {
                break;
            }
        }
    }

    /// Whether every item of the resource is kept as it is, so that no item needs to be looked at.
    pub fn keeps_everything_untouched(&self) -> bool {
        self.candidates.is_empty() && self.signal != Signal::Traces
    }

    /// Decides about an item of the resource entered last, under the same plan, as if nothing were capped.
    pub fn decide(&mut self, plan: &Plan, item: &ItemFacts<'_>) -> Decision {
        self.decide_within(plan, item, &mut Limiter::default())
    }

    /// Decides about an item of the resource entered last, under the same plan and within the caps of the
    /// same resource.
    pub fn decide_within(&mut self, plan: &Plan, item: &ItemFacts<'_>, limiter: &mut Limiter) -> Decision {
        self.shadows.clear();
        let found = self.walk(plan, item);
        let is_unmarked = self.signal == Signal::Traces && item.trace_state.is_empty();
        let (is_shadowed, is_capped) = (!self.shadows.is_empty(), limiter.is_active());
        if is_unmarked && found.probability >= 1.0 && !is_shadowed {
            if !is_capped {
                return Decision::certain(&found, Oddities::default());
            }
            let (randomness, oddities) = marks::of_unmarked(item);
            if found.group.is_none() && limiter.lets_pass(found.rule, randomness) {
                return Decision::certain(&found, oddities);
            }
        }
        let marks = Marks::of(item, self.signal, found.probability < 1.0 || is_shadowed || is_capped);
        for shadow in &mut self.shadows {
            let threshold =
                self.rounded.combine(marks.threshold, shadow.found.probability, shadow.found.upstream);
            let passed = threshold.filter(|threshold| marks.passes(*threshold, &shadow.found));
            let capped = passed.and_then(|threshold| {
                let randomness = marks.randomness_of(&shadow.found);
                limiter.of_rule(Some(shadow.rule), (threshold, randomness), item.encoded.len())
            });
            shadow.keep = capped.is_some();
        }
        let threshold = if found.dropped {
            None
        } else {
            self.rounded.combine(marks.threshold, found.probability, found.upstream)
        };
        let threshold = match is_capped {
            false => threshold,
            true => threshold.filter(|threshold| marks.passes(*threshold, &found)).and_then(|threshold| {
                let randomness = marks.randomness_of(&found);
                let behind_rule = limiter.of_rule(found.rule, (threshold, randomness), item.encoded.len())?;
                limiter.of_tenant((behind_rule, randomness))
            }),
        };
        marks.decide(&found, threshold)
    }

    /// What shadowed rules would have done to the item decided last.
    pub fn shadows(&self) -> &[ShadowOutcome] {
        &self.shadows
    }

    /// The rule that decides and its probability, without regard to the item's randomness.
    pub(super) fn walk(&mut self, plan: &Plan, item: &ItemFacts<'_>) -> Found {
        let walk = Walk { plan, item, candidates: &self.candidates, answers: &self.answers, base: self.base };
        walk.from(0, Modifiers::NONE, Some(&mut self.shadows))
    }
}

fn passes(test: &ResourceTest, resource: &ResourceFacts<'_>) -> bool {
    match value_of(&test.dimension, resource) {
        ResourceValue::Text(value) => test.matcher.matches(value.map(Scalar::Str)),
        ResourceValue::Attribute(key) => test.matcher.matches_attribute(resource.attribute, key),
    }
}

/// The randomness of the group a resource belongs to; `None` without a value.
fn group(dimension: &ResourceDimension, resource: &ResourceFacts<'_>) -> Option<Randomness> {
    let of_value = |value: Scalar<'_>| value.with_text(|text| marks::group_randomness(resource.tenant, text));
    match value_of(dimension, resource) {
        ResourceValue::Text(value) => of_value(Scalar::Str(value?)),
        ResourceValue::Attribute(key) => {
            let mut found = None;
            (resource.attribute)(key, &mut |value| {
                found = of_value(value);
                true
            })?;
            found
        }
    }
}

/// Where a dimension has its value.
enum ResourceValue<'a> {
    Text(Option<&'a str>),
    Attribute(&'a str),
}

fn value_of<'a>(dimension: &'a ResourceDimension, resource: &ResourceFacts<'a>) -> ResourceValue<'a> {
    const ENVIRONMENT: &str = "deployment.environment.name";
    match dimension {
        ResourceDimension::Tenant => ResourceValue::Text(Some(resource.tenant)),
        ResourceDimension::Tier => ResourceValue::Text(resource.block.tier.as_deref()),
        ResourceDimension::ModelName => ResourceValue::Text(resource.model_name),
        ResourceDimension::ModelVersion => ResourceValue::Text(resource.model_version),
        ResourceDimension::Service => ResourceValue::Attribute("service.name"),
        ResourceDimension::Environment => {
            let present = (resource.attribute)(ENVIRONMENT, &mut |_| true).is_some();
            ResourceValue::Attribute(if present { ENVIRONMENT } else { "deployment.environment" })
        }
        ResourceDimension::Attribute(key) => ResourceValue::Attribute(key),
    }
}

fn item_passes(test: &ItemTest, item: &ItemFacts<'_>) -> bool {
    let among =
        |bits: u8, value: Option<i32>| value.is_some_and(|v| (0..8).contains(&v) && bits >> v & 1 == 1);
    match test {
        ItemTest::Name(matcher) => {
            let name = item.name.map(|name| str::from_utf8(name).unwrap_or_default());
            matcher.matches(name.map(Scalar::Str))
        }
        ItemTest::Kind(bits) => among(*bits, item.kind),
        ItemTest::Status(bits) => among(*bits, item.status),
        ItemTest::Duration(bounds) => bounds.matches(item.duration),
        ItemTest::Attribute(key, matcher) => matcher.matches_attribute(item.attribute, key),
    }
}

/// What the walk came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::sampling) struct Found {
    pub(super) rule: Option<usize>,
    pub(super) dropped: bool,
    pub(super) probability: f64,
    pub(super) upstream: Upstream,
    /// The randomness of the item's group, if the rule decides by groups.
    pub(super) group: Option<Randomness>,
}

/// What rules without action left behind.
#[derive(Clone, Copy)]
struct Modifiers {
    factor: f64,
    at_least: f64,
    at_most: f64,
}

impl Modifiers {
    const NONE: Self = Self { factor: 1.0, at_least: 0.0, at_most: 1.0 };

    fn and(self, rule: &Rule) -> Self {
        Self {
            factor: self.factor * rule.factor,
            at_least: self.at_least.max(rule.at_least),
            at_most: self.at_most.min(rule.at_most),
        }
    }

    fn applied_to(self, probability: f64) -> f64 {
        (probability * self.factor).max(self.at_least).min(self.at_most)
    }
}

struct Walk<'a> {
    plan: &'a Plan,
    item: &'a ItemFacts<'a>,
    candidates: &'a [Candidate],
    answers: &'a [Option<bool>],
    base: f64,
}

impl Walk<'_> {
    /// Walks from a candidate on. Shadowed rules are noted only on the road that counts.
    fn from(
        &self,
        start: usize,
        modifiers: Modifiers,
        mut shadows: Option<&mut Vec<ShadowOutcome>>,
    ) -> Found {
        let mut modifiers = modifiers;
        for (position, candidate) in self.candidates.iter().enumerate().skip(start) {
            let rule = &self.plan.rules[candidate.rule];
            if !candidate.whole && !self.matches(rule) {
                continue;
            }
            if rule.mode == Mode::Shadow {
                if let Some(shadows) = &mut shadows {
                    let found = self.apply(position, modifiers);
                    shadows.push(ShadowOutcome { rule: candidate.rule, keep: false, found });
                }
            } else if rule.is_terminal() {
                return self.apply(position, modifiers);
            } else {
                modifiers = modifiers.and(rule);
            }
        }
        let probability = modifiers.applied_to(self.base);
        Found { rule: None, dropped: false, probability, upstream: Upstream::Equalize, group: None }
    }

    /// What comes out if the rule of this candidate takes effect.
    fn apply(&self, position: usize, modifiers: Modifiers) -> Found {
        let candidate = self.candidates[position];
        let rule = &self.plan.rules[candidate.rule];
        let own = match rule.action {
            Action::Drop => 0.0,
            Action::Keep => 1.0,
            Action::Rate(rate) => modifiers.and(rule).applied_to(rate),
            Action::Modify => return self.from(position + 1, modifiers.and(rule), None),
        };
        let mut probability = own;
        if candidate.weight < 1.0 {
            let later = self.from(position + 1, modifiers, None);
            probability = own * candidate.weight + later.probability * (1.0 - candidate.weight);
        }
        let dropped = rule.action == Action::Drop;
        Found {
            rule: Some(candidate.rule),
            dropped,
            probability,
            upstream: rule.upstream,
            group: candidate.group,
        }
    }

    fn matches(&self, rule: &Rule) -> bool {
        let answer = rule.condition.evaluate(&mut |leaf| match leaf {
            // What the resource's pass did not need to ask, the same order of tests does not need now.
            Leaf::Resource(number) => Some(self.answers[number].unwrap_or(false)),
            Leaf::Item(test) => Some(item_passes(test, self.item)),
        });
        answer.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests;
