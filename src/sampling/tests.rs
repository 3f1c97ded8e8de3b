use jiff::Timestamp;
use tokio::time::Instant;

use super::rules::{Decision, Evaluator, ItemFacts, ResourceFacts};
use super::{Caps, KeptCap, Limiter};
use crate::identity::TenantId;
use crate::otlp::Signal;
use crate::policies::Plan;
use crate::yaml::Source;

/// Decides about spans of one tenant, of which each has a trace id and flags, in requests of 70.
fn decide(plan: &Plan, trace_state: &str, spans: &[(Option<u128>, u32)]) -> Vec<Decision> {
    let (caps, known, now) = (Caps::default(), KeptCap::default(), Instant::now());
    let (mut evaluator, mut limiter) = (Evaluator::new(), Limiter::default());
    let tenant = TenantId::new("acme").unwrap();
    let block = plan.block("acme");
    let resource = ResourceFacts {
        signal: Signal::Traces,
        tenant: "acme",
        block,
        model_name: None,
        model_version: None,
        attribute: &|_, _| None,
    };
    let mut decisions = Vec::new();
    for request in spans.chunks(70) {
        evaluator.enter(plan, &resource, Timestamp::UNIX_EPOCH);
        limiter.enter((&caps, plan), (&tenant, block, &known), Signal::Traces, now);
        for (trace_id, flags) in request {
            let span = ItemFacts {
                trace_id: trace_id.map(u128::to_be_bytes),
                trace_state,
                flags: *flags,
                name: Some(b"GET /"),
                kind: Some(2),
                status: Some(0),
                duration: Some(1000),
                encoded: b"some bytes of the item",
                attribute: &|_, _| None,
            };
            decisions.push(evaluator.decide_within(plan, &span, &mut limiter));
        }
        limiter.leave();
    }
    decisions
}

#[test]
fn an_unmarked_span_is_decided_about_as_one_whose_tracestate_says_nothing_of_sampling() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut span = || (Some(rng.u128(..)).filter(|id| id % 8 > 0), rng.u32(0..4));
    let spans: Vec<_> = (0..2_000).map(|_| span()).collect();
    let check = |kept: usize, policies: &str| {
        let text = format!("version: 1\n{policies}");
        let (plan, _) = crate::policies::parse(&Source::new("p.yaml", text), Timestamp::UNIX_EPOCH).unwrap();
        let unmarked = decide(&plan, "", &spans);
        assert_eq!(unmarked, decide(&plan, "vendor=x", &spans), "{policies}");
        let passed = unmarked.iter().filter(|decision| decision.keep).count();
        assert!((kept..=kept * 4).contains(&passed), "{passed} {policies}");
    };
    let within = |most: u32, rules: &str| {
        format!("defaults: {{ limits: {{ kept_spans_per_second: {most}, burst: 1s }} }}\nrules: [{rules}]")
    };
    check(2_000, "rules: []");
    check(2_000, &within(1_000_000, ""));
    check(500, &within(500, ""));
    let rule = |keys: &str| within(900, &format!("{{ name: r, match: {{ tenant: acme }}, {keys} }}"));
    check(900, &rule("keep: true"));
    check(200, &rule("keep: true, limit: { spans_per_second: 200, burst: 1s }"));
    check(900, &rule("rate: 100%, mode: shadow"));
    check(450, &rule("rate: 50%"));
    check(900, &rule("rate: 100%, group_by: tenant"));
}
