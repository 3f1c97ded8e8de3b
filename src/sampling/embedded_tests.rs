//! Runs the `tests` of a policies file against its own rules.
//!
//! The same walk as for real items decides. Not here: reading the tests (`policies`). Invariant: a plan
//! whose tests fail never comes into force.

use jiff::Timestamp;

use super::rules::{Evaluator, Found, ItemFacts, ResourceFacts};
use super::threshold::{Threshold, combine};
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::policies::{Block, Expect, Given, GivenValue, Plan, Scalar, TestCase};
use crate::units::Probability;
use crate::yaml::Problems;

/// How far a probability may be from the one expected: thresholds have four significant digits.
const TOLERANCE: f64 = 1e-3;

/// Runs every test of the plan; `now` is the time of tests that name none. The problems are the tests
/// that failed.
pub fn run_tests(plan: &Plan, now: Timestamp) -> Problems {
    let mut problems = Problems::new();
    for case in &plan.tests {
        if let Err(message) = run(plan, case, now) {
            problems.error(&case.location, &case.path, format!("the test fails: {message}"), None);
        }
    }
    problems
}

fn run(plan: &Plan, case: &TestCase, now: Timestamp) -> Result<(), String> {
    let found = find(plan, &case.given, now);
    let incoming = case.given.th.as_deref().and_then(Threshold::parse);
    let threshold = if found.dropped { None } else { combine(incoming, found.probability, found.upstream) };
    let probability = match incoming {
        None => found.probability,
        Some(_) => threshold.map_or(0.0, Threshold::probability),
    };
    compare(plan, &case.expect, &found, probability)
}

fn compare(plan: &Plan, expect: &Expect, found: &Found, probability: f64) -> Result<(), String> {
    let rule = plan.rule_name(found.rule);
    let gives = match Probability::new(probability) {
        _ if found.dropped => "drops it".to_owned(),
        Ok(probability) => format!("gives {probability}"),
        Err(_) => "keeps nothing".to_owned(),
    };
    if rule != expect.rule {
        return Err(format!("`{}` was expected to decide, but `{rule}` does ({gives})", expect.rule));
    }
    if expect.drop && !found.dropped {
        return Err(format!("it was expected to be dropped, but `{rule}` {gives}"));
    }
    match expect.probability.map(|wanted| (wanted, Probability::new(wanted))) {
        Some((wanted, Ok(shown))) if (probability - wanted).abs() > wanted * TOLERANCE => {
            Err(format!("{shown} was expected, but `{rule}` {gives}"))
        }
        _ => Ok(()),
    }
}

fn find(plan: &Plan, given: &Given, now: Timestamp) -> Found {
    let unattributed = TenantId::unattributed();
    let tenant = given.tenant.as_deref().unwrap_or(unattributed.as_str());
    let mut block: Block = match (&given.tenant, &given.tier) {
        (None, Some(tier)) => plan.tier_block(tier).clone(),
        _ => Block::clone(plan.block(tenant)),
    };
    if let Some(tier) = &given.tier {
        block.tier = Some(tier.as_str().into());
    }
    let resource =
        |key: &str, visit: &mut dyn FnMut(Scalar<'_>) -> bool| look_up(&given.resource, key, visit);
    let facts = ResourceFacts {
        signal: given.signal.unwrap_or(Signal::Traces),
        tenant,
        block: &block,
        model_name: given.model_name.as_deref(),
        model_version: given.model_version.as_deref(),
        attribute: &resource,
    };
    let attribute =
        |key: &str, visit: &mut dyn FnMut(Scalar<'_>) -> bool| look_up(&given.attributes, key, visit);
    let item = ItemFacts {
        trace_id: None,
        trace_state: "",
        flags: 0,
        name: given.name.as_deref().map(str::as_bytes),
        kind: given.kind.map(i32::from),
        status: given.status.map(i32::from),
        duration: given.duration,
        encoded: &[],
        attribute: &attribute,
    };
    let mut evaluator = Evaluator::new();
    evaluator.enter(plan, &facts, given.at.unwrap_or(now));
    evaluator.walk(plan, &item)
}

fn look_up(
    attributes: &[(String, GivenValue)],
    key: &str,
    visit: &mut dyn FnMut(Scalar<'_>) -> bool,
) -> Option<bool> {
    attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.visit(visit))
}
