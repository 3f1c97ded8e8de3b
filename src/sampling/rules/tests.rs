use proptest::prelude::*;

use super::marks::stable_hash;
use super::*;
use crate::policies::condition::Condition;
use crate::policies::parse;
use crate::sampling::run_tests;
use crate::yaml::Source;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn plan(body: &str) -> Plan {
    match parse(&Source::new("p.yaml", format!("version: 1\n{body}")), NOW) {
        Ok((plan, _)) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

/// An item with its resource, as a test writes it.
#[derive(Clone)]
struct Case<'a> {
    signal: Signal,
    tenant: &'a str,
    resource: &'a [(&'a str, Scalar<'a>)],
    item: &'a [(&'a str, Scalar<'a>)],
    trace_id: Option<u128>,
    trace_state: &'a str,
    status: i32,
    duration: u64,
    at: &'a str,
}

fn span() -> Case<'static> {
    Case {
        signal: Signal::Traces,
        tenant: "acme",
        resource: &[],
        item: &[],
        trace_id: Some(0x0048_eb21_1c80_319c),
        trace_state: "",
        status: 0,
        duration: 1000,
        at: "2026-01-01T00:00:00Z",
    }
}

fn log() -> Case<'static> {
    Case { signal: Signal::Logs, ..span() }
}

fn look_up(
    list: &[(&str, Scalar<'_>)],
    key: &str,
    visit: &mut dyn FnMut(Scalar<'_>) -> bool,
) -> Option<bool> {
    let mut values = list.iter().filter(|(name, _)| *name == key).peekable();
    values.peek()?;
    Some(values.any(|(_, value)| visit(*value)))
}

fn decide_with(evaluator: &mut Evaluator, plan: &Plan, case: &Case<'_>) -> Decision {
    let resource = |key: &str, visit: &mut dyn FnMut(Scalar<'_>) -> bool| look_up(case.resource, key, visit);
    let attribute = |key: &str, visit: &mut dyn FnMut(Scalar<'_>) -> bool| look_up(case.item, key, visit);
    let facts = ResourceFacts {
        signal: case.signal,
        tenant: case.tenant,
        block: plan.block(case.tenant),
        model_name: None,
        model_version: None,
        attribute: &resource,
    };
    let item = ItemFacts {
        trace_id: case.trace_id.map(u128::to_be_bytes),
        trace_state: case.trace_state,
        flags: 0,
        name: Some(b"GET /"),
        kind: Some(2),
        status: Some(case.status),
        duration: Some(case.duration),
        encoded: b"some bytes of the item",
        attribute: &attribute,
    };
    evaluator.enter(plan, &facts, case.at.parse().unwrap());
    evaluator.decide(plan, &item)
}

fn decide(plan: &Plan, case: &Case<'_>) -> Decision {
    decide_with(&mut Evaluator::new(), plan, case)
}

#[track_caller]
fn check(plan: &Plan, case: &Case<'_>, rule: &str, probability: f64) {
    let decision = decide(plan, case);
    assert_eq!(plan.rule_name(decision.rule), rule);
    assert!((decision.probability - probability).abs() < 1e-9, "{}", decision.probability);
}

#[test]
fn the_first_rule_with_an_action_decides() {
    let plan = plan(
        "defaults: { sampling: { rate: 10% } }
tiers: { vip: {} }
tenants: { vip-1: { tier: vip } }
rules:
  - { name: health, scope: span, match: { span.name: /healthz }, drop: true }
  - { name: errors, scope: span, match: { any: [{ status: error }, { duration: { gt: 2s } }] }, keep: true }
  - { name: vip, match: { tier: vip }, rate: 50% }
  - { name: web, match: { service: \"web-*\", environment: prod }, rate: 25% }
  - { name: off, mode: \"off\", drop: true }
",
    );
    check(&plan, &span(), "_default", 0.1);
    check(&plan, &Case { status: 2, ..span() }, "errors", 1.0);
    check(&plan, &Case { duration: 2_000_000_000, ..span() }, "_default", 0.1);
    check(&plan, &Case { duration: 2_000_000_001, ..span() }, "errors", 1.0);
    check(&plan, &Case { tenant: "vip-1", ..span() }, "vip", 0.5);
    check(&plan, &Case { tenant: "vip-1", status: 2, ..span() }, "errors", 1.0);
    let web = [("service.name", Scalar::Str("web-1")), ("deployment.environment", Scalar::Str("prod"))];
    check(&plan, &Case { resource: &web, ..span() }, "web", 0.25);
    let other = [web[0], ("deployment.environment.name", Scalar::Str("test")), web[1]];
    check(&plan, &Case { resource: &other, ..span() }, "_default", 0.1);
}

#[test]
fn factors_and_clamps_gather_on_the_way() {
    let plan = plan(
        "defaults: { sampling: { rate: 10% } }
rules:
  - { name: keep, match: { tenant: k }, keep: true }
  - { name: half, factor: 0.5 }
  - { name: own, match: { tenant: o }, rate: 10%, factor: 0.5, at_least: 4% }
  - { name: floor, match: { tenant: [f, c] }, at_least: 20% }
  - { name: ceiling, match: { tenant: c }, at_most: 15% }
  - { name: more, match: { tenant: m }, factor: 1000 }
",
    );
    let check = |tenant: &str, rule: &str, p: f64| check(&plan, &Case { tenant, ..span() }, rule, p);
    check("k", "keep", 1.0);
    check("a", "_default", 0.05);
    check("o", "own", 0.04);
    check("f", "_default", 0.2);
    check("c", "_default", 0.15);
    check("m", "_default", 1.0);
}

#[test]
fn windows_open_close_and_fade() {
    let plan = plan(
        "defaults: { sampling: { rate: 10% } }
rules:
  - name: window
    match: { tenant: a }
    rate: 50%
    active: { from: \"2026-01-01T00:00:00Z\", until: \"2026-01-03T00:00:00Z\", fade: 24h }
  - name: fades-to-drop
    match: { tenant: d }
    keep: true
    active: { until: \"2026-01-03T00:00:00Z\", fade: 24h }
  - { name: drop, match: { tenant: d }, drop: true }
",
    );
    let check = |tenant: &str, at: &str, rule: &str, p: f64| {
        check(&plan, &Case { tenant, at, ..span() }, rule, p);
    };
    check("a", "2025-12-31T23:59:59Z", "_default", 0.1);
    check("a", "2026-01-01T00:00:00Z", "window", 0.5);
    check("a", "2026-01-02T00:00:00Z", "window", 0.5);
    check("a", "2026-01-02T12:00:00Z", "window", 0.3);
    check("a", "2026-01-02T18:00:00Z", "window", 0.2);
    check("a", "2026-01-03T00:00:00Z", "_default", 0.1);
    check("d", "2026-01-02T12:00:00Z", "fades-to-drop", 0.5);
    check("d", "2026-01-03T00:00:00Z", "drop", 0.0);
}

#[test]
fn shadowed_rules_are_counted_without_effect() {
    let plan = plan(
        "rules:
  - { name: few, rate: 1%, mode: shadow }
  - { name: tenfold, factor: 0.1, mode: shadow }
  - { name: none, match: { tenant: other }, drop: true, mode: shadow }
  - { name: dropped, drop: true, mode: shadow }
  - { name: half, rate: 90% }
  - { name: late, rate: 1%, mode: shadow }
",
    );
    let mut evaluator = Evaluator::new();
    let decision = decide_with(&mut evaluator, &plan, &span());
    assert_eq!((plan.rule_name(decision.rule), decision.keep, decision.label()), ("half", true, "kept"));
    let shadows: Vec<_> = evaluator.shadows().iter().map(|shadow| (shadow.rule, shadow.keep)).collect();
    assert_eq!(shadows, [(0, false), (1, false), (3, false)], "R is 28 % of all: kept from 72 % upwards");
    decide_with(&mut evaluator, &plan, &Case { trace_id: Some(u128::MAX), ..span() });
    let shadows: Vec<_> = evaluator.shadows().iter().map(|shadow| (shadow.rule, shadow.keep)).collect();
    assert_eq!(shadows, [(0, true), (1, true), (3, false)]);
}

#[test]
fn other_signals_are_sampled_only_where_a_rule_names_them() {
    let plan = plan(
        "defaults: { sampling: { rate: 10% } }
rules:
  - { name: spans, match: { tenant: x }, drop: true }
  - { name: debug, scope: span, match: { signal: [logs, traces], attributes.level: DEBUG }, rate: 1% }
  - { name: points, match: { signal: metrics, service: noisy }, drop: true }
",
    );
    let debug = [("level", Scalar::Str("DEBUG"))];
    let noisy = [("service.name", Scalar::Str("noisy"))];
    check(&plan, &Case { tenant: "x", ..log() }, "_default", 1.0);
    check(&plan, &Case { item: &debug, ..log() }, "debug", 0.01);
    check(&plan, &Case { item: &debug, ..span() }, "debug", 0.01);
    let metrics = Case { signal: Signal::Metrics, ..span() };
    check(&plan, &metrics, "_default", 1.0);
    check(&plan, &Case { resource: &noisy, ..metrics.clone() }, "points", 0.0);
    let decision = decide(&plan, &Case { resource: &noisy, ..metrics.clone() });
    assert_eq!((decision.keep, decision.label()), (false, "rule_drop"));
    let mut evaluator = Evaluator::new();
    decide_with(&mut evaluator, &plan, &metrics);
    assert!(evaluator.keeps_everything_untouched());
}

#[test]
fn arrays_match_by_any_element() {
    let plan = plan(
        "rules:
  - { name: tagged, scope: span, match: { attributes.tag: { regex: \"^b\", not: bad } }, keep: true }
  - { name: untagged, scope: span, match: { attributes.tag: { exists: false } }, keep: true }
",
    );
    let tags = |list: &[&'static str]| list.iter().map(|tag| ("tag", Scalar::Str(tag))).collect::<Vec<_>>();
    let check =
        |list: &[&'static str], rule: &str| check(&plan, &Case { item: &tags(list), ..span() }, rule, 1.0);
    check(&["a", "b"], "tagged");
    check(&["a", "bad"], "_default");
    check(&[], "untagged");
}

/// Checks what a stage of 50 % (kept from R = 8…) does to a span.
fn check_span(trace_state: &str, trace_id: Option<u128>, keep: bool, after: Option<&str>) {
    let half = plan("defaults: { sampling: { rate: 50% } }\nrules: []");
    let decision = decide(&half, &Case { trace_state, trace_id, ..span() });
    assert_eq!(decision.keep, keep, "{trace_state}");
    let mut out = String::new();
    let written = decision.trace_state(trace_state, &mut out).map(|_| out.as_str());
    assert_eq!(written, after.filter(|_| keep), "{trace_state}");
}

#[test]
fn thresholds_are_read_and_written() {
    let high = Some(0xff_ffff_ffff_ffff);
    check_span("", high, true, Some("ot=th:8"));
    check_span("", Some(1), false, None);
    check_span("a=b", high, true, Some("ot=th:8,a=b"));
    check_span("ot=th:8", high, true, None);
    check_span("ot=th:c", high, true, None);
    check_span("ot=th:4", high, true, Some("ot=th:8"));
    check_span("ot=rv:80000000000000", Some(1), true, Some("ot=th:8;rv:80000000000000"));
    check_span("ot=rv:7fffffffffffff", high, false, None);
    check_span("ot=th:zz", high, true, None);
    check_span("", None, false, None);
    check_span("", Some(0), false, None);
    check_span("ot=rv:80000000000000", None, true, Some("ot=th:8;rv:80000000000000"));
}

#[test]
fn certainty_changes_nothing() {
    let all = plan("rules: []");
    for trace_state in ["", "a=b", "ot=th:4", "ot=th:0", "ot=bad", "ot=rv:00000000000001"] {
        let decision = decide(&all, &Case { trace_state, ..span() });
        assert_eq!((decision.keep, decision.write), (true, Write::Nothing), "{trace_state}");
    }
    assert!(decide(&all, &Case { trace_id: None, ..span() }).keep);
    assert_eq!(decide(&all, &Case { trace_state: "ot=th:4", ..span() }).threshold, Threshold::parse("4"));
}

#[test]
fn a_contradiction_is_erased_and_counted() {
    let all = plan("rules: []");
    let contradicted = Case { trace_state: "ot=th:e;k:1,a=b", ..span() };
    let decision = decide(&all, &contradicted);
    assert_eq!((decision.keep, decision.write, decision.threshold), (true, Write::Erase, None));
    assert!(decision.oddities.inconsistent_threshold);
    let mut out = String::new();
    assert_eq!(decision.trace_state(contradicted.trace_state, &mut out), Some(true));
    assert_eq!(out, "ot=k:1,a=b");
}

#[test]
fn oddities_are_told() {
    let half = plan("defaults: { sampling: { rate: 50% } }\nrules: []");
    let odd = |case: Case<'_>| decide(&half, &case).oddities;
    assert!(odd(span()).no_random_flag);
    assert!(odd(Case { trace_id: None, ..span() }).missing_randomness);
    assert!(odd(Case { trace_state: "ot=x", ..span() }).malformed);
    let explicit = odd(Case { trace_state: "ot=rv:00000000000000", ..span() });
    assert_eq!(explicit, Oddities::default());
}

#[test]
fn upstream_samplers_are_combined_as_the_rule_says() {
    let plan = plan(
        "rules:
  - { name: share, match: { tenant: m }, rate: 10%, upstream: multiply }
  - { name: whole, rate: 10% }
",
    );
    let threshold = |tenant: &str| {
        let case = Case { tenant, trace_state: "ot=th:8", trace_id: Some(u128::MAX), ..span() };
        decide(&plan, &case).threshold.unwrap().text().to_string()
    };
    assert_eq!(threshold("m"), "f3333");
    assert_eq!(threshold("x"), "e666");
}

#[test]
fn traces_of_a_group_get_one_decision() {
    let plan = plan("rules: [{ name: talk, rate: 50%, group_by: resource.conversation }]");
    let decided = |value: &str, trace_id: Option<u128>, trace_state: &str| {
        let resource = [("conversation", Scalar::Str(value))];
        let decision = decide(&plan, &Case { resource: &resource, trace_id, trace_state, ..span() });
        let mut out = String::new();
        decision.trace_state(trace_state, &mut out);
        (decision, out)
    };
    let mut kept = 0;
    for conversation in 0..200 {
        let name = format!("conversation {conversation}");
        let (first, text) = decided(&name, Some(1), "");
        assert_eq!(decided(&name, Some(u128::MAX), ""), (first, text.clone()));
        assert_eq!(decided(&name, None, ""), (first, text.clone()));
        kept += usize::from(first.keep);
        if first.keep {
            assert_eq!(text, format!("ot=th:8;rv:{}", first.randomness.unwrap().text()));
            let (again, text) = decided(&name, Some(1), &text);
            assert_eq!((again.keep, text.as_str()), (true, ""), "the next collector agrees");
        }
    }
    assert!((70..130).contains(&kept), "{kept}");
    let marked = decided("conversation 1", Some(u128::MAX), "ot=th:4").0;
    assert_eq!((marked.keep, marked.randomness), (true, None), "not after another sampler");
    let ungrouped = decide(&plan, &Case { trace_id: Some(u128::MAX), ..span() });
    assert_eq!((ungrouped.keep, ungrouped.randomness), (true, None), "without a value by trace");
}

#[test]
fn logs_carry_threshold_and_randomness_in_attributes() {
    let plan = plan("rules: [{ name: some, match: { signal: logs }, rate: 50% }]");
    let high = Some(u128::MAX);
    let decision = decide(&plan, &Case { trace_id: high, ..log() });
    assert_eq!((decision.keep, decision.write), (true, Write::Threshold(Threshold::parse("8").unwrap())));
    assert_eq!(decision.randomness, None);
    let explicit = [("sampling.randomness", Scalar::Str("00000000000000"))];
    assert!(!decide(&plan, &Case { trace_id: high, item: &explicit, ..log() }).keep);
    let sampled = [("sampling.threshold", Scalar::Str("c"))];
    let decision = decide(&plan, &Case { trace_id: high, item: &sampled, ..log() });
    assert_eq!((decision.write, decision.threshold), (Write::Nothing, Threshold::parse("c")));
    let malformed = [("sampling.threshold", Scalar::Int(8))];
    let decision = decide(&plan, &Case { trace_id: high, item: &malformed, ..log() });
    assert_eq!((decision.keep, decision.write, decision.oddities.malformed), (true, Write::Nothing, true));
}

#[test]
fn a_log_without_trace_is_decided_by_its_bytes() {
    let plan = plan("rules: [{ name: some, match: { signal: logs }, rate: 99.9% }]");
    let first = decide(&plan, &Case { trace_id: None, ..log() });
    assert_eq!(first, decide(&plan, &Case { trace_id: None, ..log() }));
    assert_eq!(first.randomness, Some(Randomness::from_low_bits(stable_hash(b"some bytes of the item"))));
    // The hash is written into records; other versions must come to the same.
    assert_eq!(first.randomness.unwrap().text().as_str(), "9005178bb2e295");
}

#[test]
fn the_hash_spreads_similar_records_evenly() {
    let kept = |p: f64| {
        let threshold = Threshold::from_probability(p, 4).unwrap();
        let hash = |i: u32| Randomness::from_low_bits(stable_hash(format!("record {i}").as_bytes()));
        (0..20_000).filter(|i| threshold.keeps(hash(*i))).count()
    };
    for p in [0.01, 0.1, 0.5, 0.9_f64] {
        let (expected, deviation) = (20_000.0 * p, (20_000.0 * p * (1.0 - p)).sqrt());
        assert!((kept(p) as f64 - expected).abs() < 4.0 * deviation, "{p}: {}", kept(p));
    }
}

#[test]
fn embedded_tests_are_run_by_the_same_rules() {
    let reference = include_str!("../../../config/policies.yaml");
    let (plan, _) = parse(&Source::new("policies.yaml", reference), NOW).unwrap();
    let now = "2026-09-25T00:00:00Z".parse().unwrap();
    assert!(run_tests(&plan, now).is_empty(), "{}", run_tests(&plan, now));
}

#[test]
fn failing_tests_say_what_happens_instead() {
    let plan = plan(
        "defaults: { sampling: { rate: 10% } }
rules:
  - { name: drop, match: { tenant: d }, drop: true }
  - { name: vip, match: { resource.tags: vip }, rate: 50% }
tests:
  - { given: { tenant: d }, expect: { rule: _default } }
  - { given: { tenant: a }, expect: { rule: _default, probability: 5% } }
  - { given: { tenant: a }, expect: { rule: _default, decision: drop } }
  - { given: { resource.tags: [a, vip], th: c }, expect: { rule: vip, probability: 50% } }
  - { given: { resource.tags: [a, vip], th: c }, expect: { rule: vip, probability: 25% } }
",
    );
    let lines = run_tests(&plan, NOW).lines();
    assert_eq!(
        lines,
        [
            "p.yaml:7:5: tests[0]: the test fails: `_default` was expected to decide, but `drop` does (drops it)",
            "p.yaml:8:5: tests[1]: the test fails: 5% was expected, but `_default` gives 10%",
            "p.yaml:9:5: tests[2]: the test fails: it was expected to be dropped, but `_default` gives 10%",
            "p.yaml:10:5: tests[3]: the test fails: 50% was expected, but `vip` gives 25%",
        ]
    );
}

proptest! {
    #[test]
    fn kept_at_a_probability_is_kept_at_every_larger_one(
        a in 1..1000_u32, b in 1..1000_u32, id in 1..u128::MAX, th in prop::option::of(0..1_u64 << 56),
    ) {
        let decided = |permille: u32| {
            let rate = f64::from(permille) / 10.0;
            let plan = plan(&format!("rules: [{{ name: a, rate: \"{rate}%\" }}]"));
            let mut before = String::new();
            tracestate::write(&mut before, "", th.and_then(Threshold::new), None);
            decide(&plan, &Case { trace_id: Some(id), trace_state: &before, ..span() })
        };
        let (strict, lax) = (decided(a.min(b)), decided(a.max(b)));
        prop_assert!(!strict.keep || lax.keep);
        if let (Some(out), false) = (strict.threshold, strict.oddities.inconsistent_threshold) {
            prop_assert!(out.value() >= th.unwrap_or(0));
            prop_assert!(out.keeps(Randomness::from_trace_id(&id.to_be_bytes()).unwrap()));
        }
    }
}

/// A condition over four tests of the resource and three of the item.
fn any_condition() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        (0..4_usize).prop_map(Condition::Resource),
        (0..3_u8).prop_map(|bit| Condition::Item(ItemTest::Status(1 << bit))),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let list = prop::collection::vec(inner, 0..4).prop_map(Vec::into_boxed_slice);
        prop_oneof![
            list.clone().prop_map(Condition::All),
            list.clone().prop_map(Condition::Any),
            list.prop_map(Condition::None),
        ]
    })
}

/// What a condition says, without short cuts.
fn holds(condition: &Condition, resource: [bool; 4], status: i32) -> bool {
    let holds = |condition: &Condition| holds(condition, resource, status);
    match condition {
        Condition::All(list) => list.iter().all(holds),
        Condition::Any(list) => list.iter().any(holds),
        Condition::None(list) => !list.iter().any(holds),
        Condition::Resource(number) => resource[*number],
        Condition::Item(ItemTest::Status(bits)) => bits >> status & 1 == 1,
        Condition::Item(_) => false,
    }
}

proptest! {
    #[test]
    fn the_first_rule_that_holds_decides(
        conditions in prop::collection::vec(any_condition(), 0..6), resource: [bool; 4], statuses: [u8; 4],
    ) {
        let four = "rules: [{ name: r, rate: 50%, match: { resource.a: x, resource.b: x, resource.c: x, resource.d: x } }]";
        let mut plan = plan(four);
        let rule = plan.rules.remove(0);
        plan.rules = conditions.iter().map(|condition| Rule { condition: condition.clone(), ..rule.clone() }).collect();
        let attributes: Vec<_> = ["a", "b", "c", "d"]
            .into_iter()
            .zip(resource)
            .map(|(key, holds)| (key, Scalar::Str(if holds { "x" } else { "y" })))
            .collect();
        let mut evaluator = Evaluator::new();
        for status in statuses.map(|status| i32::from(status % 3)) {
            let case = Case { resource: &attributes, status, ..span() };
            let expected = conditions.iter().position(|condition| holds(condition, resource, status));
            prop_assert_eq!(decide_with(&mut evaluator, &plan, &case).rule, expected);
        }
    }
}
