use super::*;
use crate::otlp::Signal;
use condition::{Condition, ItemTest, Leaf};

const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

fn read(text: &str) -> Result<(Plan, crate::yaml::Problems), crate::yaml::Problems> {
    parse(&Source::new("p.yaml", text), NOW)
}

fn plan(body: &str) -> Plan {
    match read(&format!("version: 1\n{body}")) {
        Ok((plan, _)) => plan,
        Err(problems) => panic!("{problems}"),
    }
}

/// Checks all problems of a document with `version: 1` on the first line.
fn check(body: &str, expected: &[&str]) {
    let lines = match read(&format!("version: 1\n{body}")) {
        Ok((_, warnings)) => warnings.lines(),
        Err(problems) => problems.lines(),
    };
    assert_eq!(lines, expected, "{body}");
}

/// Checks what is wrong with one rule; every line is found in its place.
fn check_rule(rule: &str, expected: &str) {
    let problems = match read(&format!("version: 1\nrules:\n  - {rule}\n")) {
        Ok((_, warnings)) => warnings.lines(),
        Err(problems) => problems.lines(),
    };
    assert!(problems.iter().any(|line| line.contains(expected)), "{rule}\n{expected}\n{problems:#?}");
    assert_eq!(problems.len(), 1, "{problems:#?}");
}

#[test]
fn the_embedded_policies_believe_claims_and_keep_everything() {
    let plan = default_plan();
    let header = |name| Claim::Header(http::HeaderName::from_static(name));
    let resource = Claim::Resource("tenant.id".to_owned());
    assert_eq!(plan.claims, [header("x-scope-orgid"), header("x-tenant-id"), resource]);
    let unattributed = crate::identity::TenantId::unattributed();
    assert_eq!(plan.anonymous, Anonymous::Tenant(unattributed));
    assert_eq!(**plan.block("anybody"), Block::default());
    assert!(plan.rules.is_empty());
    assert_eq!(plan.revision.as_deref(), Some("embedded-default"));
}

#[test]
fn the_reference_file_is_read_without_warnings() {
    let text = include_str!("../../config/policies.yaml");
    let (plan, warnings) = read(text).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(warnings.is_empty(), "{warnings}");
    assert_eq!(plan.rules.len(), 8);
    assert_eq!(plan.sha256.len(), 64);
}

#[test]
fn blocks_are_merged_from_defaults_tier_and_tenant() {
    let plan = plan(
        "rules: []
defaults: { tier: standard, sampling: { rate: 10% } }
tiers: { vip: { sampling: { rate: 100% } }, standard: {}, free: { sampling: { rate: 1% } } }
tenants:
  acme: { tier: vip }
  acme-dev: { tier: vip, sampling: { rate: 50% } }
  \"trial-*\": { tier: free }
  \"trial-b*\": { sampling: { rate: 20% } }
  \"a\\\\*b\": { sampling: { rate: 30% } }
  _overflow: { sampling: { rate: 2% } }
",
    );
    let check = |tenant: &str, tier: &str, rate: f64| {
        assert_eq!(
            **plan.block(tenant),
            Block { tier: Some(tier.into()), rate, ..Block::default() },
            "{tenant}"
        );
    };
    check("acme", "vip", 1.0);
    check("acme-dev", "vip", 0.5);
    check("trial-1", "free", 0.01);
    check("trial-bob", "standard", 0.2);
    check("a*b", "standard", 0.3);
    check("_overflow", "standard", 0.02);
    check("else", "standard", 0.1);
    assert_eq!(plan.tier_block("free").rate, 0.01);
}

#[test]
fn enrichment_has_defaults_and_can_be_changed() {
    let standard = default_plan().enrichment;
    assert_eq!(standard.tenant_attribute, "tenant.id");
    assert_eq!(standard.model_version.from.len(), 4);
    let annotation = |key: &str| Origin::Pod(PodText::PodAnnotation(key.to_owned()));
    assert_eq!(standard.model_name.from[1], annotation("resource.opentelemetry.io/model.name"));
    assert_eq!(standard.model_name.from[0], Origin::Resource("model.name".to_owned()));
    let changed = plan(
        "rules: []
enrichment:
  tenant: { attribute: org }
  model_name: { attribute: llm.name }
  model_version: { from: [header.x-version, attributes.v, resource.v] }
  stamp: [rule]
",
    )
    .enrichment;
    assert_eq!(
        (changed.tenant_attribute.as_str(), changed.stamp_rule, changed.stamp_revision),
        ("org", true, false)
    );
    assert_eq!(changed.model_name.from[0], Origin::Resource("llm.name".to_owned()));
    assert_eq!(changed.model_name.from[1], annotation("resource.opentelemetry.io/llm.name"));
    assert_eq!(changed.model_version.attribute, "model.version");
    let header = Origin::Header(http::HeaderName::from_static("x-version"));
    let (item, resource) = (Origin::Attribute("v".to_owned()), Origin::Resource("v".to_owned()));
    assert_eq!(changed.model_version.from, [header, item, resource]);
}

#[test]
fn the_names_of_other_conventions_can_be_listed() {
    let enrichment = plan(
        "rules: []
enrichment:
  model_name: { from: [attributes.triton.model_name, attributes.llm.model_name] }
  model_version: { from: [resource.triton.model_version, attributes.feature_flag.result.variant] }
",
    )
    .enrichment;
    let (resource, item) =
        (|k: &str| Origin::Resource(k.to_owned()), |k: &str| Origin::Attribute(k.to_owned()));
    assert_eq!(enrichment.model_name.from, [item("triton.model_name"), item("llm.model_name")]);
    let versions = [resource("triton.model_version"), item("feature_flag.result.variant")];
    assert_eq!(enrichment.model_version.from, versions);
}

#[test]
fn every_problem_is_reported_with_its_place() {
    check(
        "revison: a
rules:
  - name: a
    targt: 5
    rate: 1
  - { name: b, rate: 0 }
tests: null
defaults: { sampling: { rate: 2.5 }, tier: gold }
",
        &[
            "p.yaml:2:1: revison: unknown key; did you mean `revision`?",
            "p.yaml:5:5: rules[0].targt: unknown key; did you mean `target`?",
            "p.yaml:6:11: rules[0].rate: 1 is ambiguous; write 100% or 1%",
            "p.yaml:7:22: rules[1].rate: 0 is no probability; to keep nothing write drop: true",
            "p.yaml:8:1: tests: is null; give a value, or leave the key out",
            "p.yaml:9:31: defaults.sampling.rate: 2.5 is out of range; a probability is above 0% and at most 100%",
            "p.yaml:9:44: defaults.tier: unknown tier `gold`; there are no tiers",
        ],
    );
}

#[test]
fn keys_of_later_stages_are_refused_not_ignored() {
    check(
        "boosts: []
overload: {}
rollout: {}
defaults: { limits: { warm_up: 5s, scope: fleet }, tail: {}, sampling: { target: {} } }
rules:
  - { name: a, target: {}, group_by: attributes.x, overload: protected, match: { trace.spans: 5 } }
",
        &[
            "p.yaml:2:1: boosts: needs stage 2, which is not yet available",
            "p.yaml:3:1: overload: needs stage 2, which is not yet available",
            "p.yaml:4:1: rollout: needs stage 2, which is not yet available",
            "p.yaml:5:23: defaults.limits.warm_up: needs stage 2, which is not yet available",
            "p.yaml:5:36: defaults.limits.scope: needs stage 3, which is not yet available",
            "p.yaml:5:52: defaults.tail: needs stage 3, which is not yet available",
            "p.yaml:5:74: defaults.sampling.target: needs stage 2, which is not yet available",
            "p.yaml:7:16: rules[0].target: needs stage 2, which is not yet available",
            "p.yaml:7:38: rules[0].group_by: needs stage 3, which is not yet available",
            "p.yaml:7:52: rules[0].overload: needs stage 2, which is not yet available",
            "p.yaml:7:82: rules[0].match[\"trace.spans\"]: needs stage 3, which is not yet available",
        ],
    );
}

#[test]
fn documents_that_are_none_are_refused() {
    let check = |text: &str, expected: &str| {
        let problems = read(text).expect_err(text).lines();
        assert!(problems.iter().any(|line| line.contains(expected)), "{text:?} {problems:#?}");
    };
    check("", "the file is empty");
    check("null", "the file is empty");
    check("- a", "expected a map, found a list");
    check("rules: []", "`version` is missing; write version: 1");
    check("version: 2\nrules: []", "version 2 is unknown");
    check("version: \"1\"\nrules: []", "expected the number 1");
    check("version: 1", "`rules` is missing; without rules write rules: []");
    check("version: 1\nrules: null", "rules: is null");
    check("version: 1\nversion: 1\nrules: []", "already there; the first one is on line 1");
    check("version: 1\nrules: &a []\ntests: *a", "p.yaml:2");
    check(&format!("version: 1\nrules: []\n#{}", "x".repeat(MAX_BYTES)), "larger than 1048576 bytes");
    let many: String = (0..1001).map(|i| format!("\n- {{name: r{i}, keep: true}}")).collect();
    check(&format!("version: 1\nrules:{many}"), "there are 1001 rules; allowed are 1000");
    check("version: 1\nrules: []\ntenants: { a/b: {} }", "a tenant id is made of");
    check("version: 1\nrules: []\ntenants: { _x: {} }", "reserved");
    check("version: 1\nrules: []\ntiers: { \"a b\": {} }", "names of tiers");
    check("version: 1\nrules: []\nidentity: { anonymous: nobody }", "allowed: refuse, overflow, tenant:<id>");
    check("version: 1\nrules: []\nidentity: { anonymous: \"tenant:_x\" }", "reserved");
    check("version: 1\nrules: []\nidentity: { claims: [{ header: \"a b\" }] }", "not the name of a header");
    check(
        "version: 1\nrules: []\nidentity: { claims: [{ header: a, resource: b }] }",
        "either `header` or `resource`",
    );
    check("version: 1\nrules: []\nenrichment: { model_name: { from: [nowhere] } }", "no place to look");
}

#[test]
fn rules_are_checked() {
    check_rule("{ keep: true }", "rules[0]: `name` is missing");
    check_rule("{ name: A, keep: true }", "`A` is no name");
    check_rule("{ name: _default, keep: true }", "`_default` is reserved");
    check_rule("{ name: a }", "the rule does nothing; write rate, keep or drop");
    check_rule("{ name: a, keep: true, rate: 10% }", "a rule has one action, this one has `rate` and `keep`");
    check_rule("{ name: a, keep: false }", "rules[0].keep: can only be true");
    check_rule("{ name: a, factor: 0 }", "0 is out of range; a factor is above 0 and at most 1000");
    check_rule("{ name: a, drop: true, at_least: 1% }", "nothing changes what `drop` gives");
    check_rule("{ name: a, keep: true, mode: shadwo }", "unknown value `shadwo`; did you mean `shadow`?");
    check_rule("{ name: a, keep: true, upstream: sum }", "unknown value `sum`");
    check_rule("{ name: a, keep: true, active: { fade: 1h } }", "`fade` ends at `until`, which is missing");
    check_rule(
        "{ name: a, drop: true, active: { until: \"2099-01-01T00:00:00Z\", fade: 1h } }",
        "`drop` cannot fade",
    );
    check_rule(
        "{ name: a, factor: 2, active: { until: \"2099-01-01T00:00:00Z\", fade: 1h } }",
        "a rule without action cannot fade",
    );
    check_rule(
        "{ name: a, keep: true, active: { from: \"2020-01-02T00:00:00Z\", until: \"2020-01-02T00:00:00Z\" } }",
        "`until` is not after `from`",
    );
    check_rule("{ name: a, keep: true, active: { until: \"2099-01-01T00:00:00\" } }", "not a time with zone");
    check_rule("{ name: a, keep: true, group_by: service }", "only a rule with `rate` decides by groups");
    check_rule("{ name: a, rate: 10%, group_by: servce }", "did you mean `service`?");
    check_rule("{ name: a, rate: 10%, group_by: attributes.x }", "needs stage 3");
    check_rule("{ name: a, keep: true, match: { signal: metrics } }", "data points are not sampled");
    check_rule("{ name: a, keep: true, match: { signal: { not: logs } } }", "expected a string, found a map");
}

#[test]
fn matches_are_checked() {
    let check = |tests: &str, expected: &str| {
        check_rule(&format!("{{ name: a, scope: span, keep: true, match: {{ {tests} }} }}"), expected);
    };
    check("model.version: 7.10", "is a number, but this dimension is text; quote it");
    check("model.version: { gt: 7 }", "this dimension is text and cannot be compared");
    check("tenent: a", "unknown key; did you mean `tenant`?");
    check("tenant: \"\"", "the pattern is empty");
    check("tenant: 'a\\'", "the pattern ends in `\\`");
    check("tenant: []", "the list is empty");
    check("tenant: {}", "tests nothing");
    check("tenant: { regx: a }", "unknown key; did you mean `regex`?");
    check("tenant: { regex: '(' }", "bad regex: unclosed group");
    check("model.version: { semver: '>=x' }", "bad version requirement");
    check("tier: gold", "unknown tier `gold`");
    check("status: eror", "unknown value `eror`; did you mean `error`?");
    check("span.kind: servr", "did you mean `server`?");
    check("duration: 2s", "a duration is compared; write for example {gt: 2s}");
    check("duration: { gt: 2s, lt: 1s }", "no duration can match");
    check("duration: { gt: 2 }", "2 has no unit");
    check("attributes.a: { gt: x }", "expected a number");
    check("attributes.a: { exists: 1 }", "expected true or false");
    check("any: []", "the group is empty");
    check("any: { status: ok }", "expected a list, found a map");
    check("any: [{ any: [{ any: [{ status: ok }] }] }]", "groups stand at most 2 deep");
    check("none: [{ signal: logs }]", "`signal` cannot stand in a group");
    for scope in ["", "scope: trace,", "scope: root,"] {
        let rule = format!("{{ name: a, {scope} keep: true, match: {{ any: [{{ status: error }}] }} }}");
        check_rule(&rule, "`status` is a test of single spans; write `scope: span`");
    }
}

#[test]
fn questionable_policies_are_used_with_a_warning() {
    check(
        "rules:
  - { name: all, rate: 10% }
  - { name: never, match: { tenant: a }, keep: true }
  - { name: logs, match: { signal: logs }, keep: true }
  - { name: both, match: { signal: [logs, traces], tenant: a }, keep: true }
  - { name: more-logs, match: { signal: logs, service: x }, drop: true }
  - { name: points, match: { signal: metrics }, drop: true }
",
        &[
            "p.yaml:4:5: rules[1]: `never` is never reached: `all` takes everything before it; move it before `all`",
            "p.yaml:6:5: rules[3]: `both` is never reached: `all` takes everything before it; move it before `all`",
            "p.yaml:7:5: rules[4]: `more-logs` is never reached: `logs` takes everything before it; move it before `logs`",
        ],
    );
    check(
        "rules:
  - { name: over, rate: 10%, active: { until: \"1969-12-31T00:00:00Z\" } }
  - { name: shadowed, rate: 10%, mode: shadow }
  - { name: after, rate: 10% }
tenants:
  \"a*\": {}
  \"*b\": {}
  \"c*\": {}
",
        &[
            "p.yaml:3:38: rules[0].active: the window of `over` is over; remove the rule",
            "p.yaml:7:3: tenants.a*: `*b` and `a*` match some tenants with equal rank; `*b` wins by byte order; make one more specific",
            "p.yaml:9:3: tenants.c*: `*b` and `c*` match some tenants with equal rank; `*b` wins by byte order; make one more specific",
        ],
    );
    check(
        "rules: [{ name: a, keep: true, match: { tenant: x } }, { name: a, drop: true }]",
        &["p.yaml:2:64: rules[1].name: the name `a` is taken by rules[0]"],
    );
}

#[test]
fn tests_are_checked() {
    let head = "rules: [{ name: keep-all, keep: true }]\ntiers: { vip: {} }\ntests:\n";
    let check = |test: &str, expected: &str| {
        let problems = read(&format!("version: 1\n{head}  - {test}")).expect_err(test).lines();
        assert!(problems.len() == 1 && problems[0].contains(expected), "{test} {problems:#?}");
    };
    check("{}", "`expect` is missing");
    check("{ expect: {} }", "`rule` is missing");
    check("{ expect: { rule: kep-all } }", "did you mean `keep-all`?");
    check("{ expect: { rule: keep-all, decision: keep } }", "allowed: drop");
    check("{ expect: { rule: keep-all, decision: drop, probability: 10% } }", "one or the other");
    check("{ given: { tier: vib }, expect: { rule: keep-all } }", "did you mean `vip`?");
    check("{ given: { th: xyz }, expect: { rule: keep-all } }", "no threshold");
    check("{ given: { tennant: a }, expect: { rule: keep-all } }", "did you mean `tenant`?");
    check("{ given: { model.version: 7.10 }, expect: { rule: keep-all } }", "quote it");
}

#[test]
fn conditions_ask_each_test_of_resources_once() {
    let plan = plan(
        "rules:
  - { name: a, scope: span, match: { tenant: x, any: [{ status: error, service: s }, { tenant: x }] }, keep: true }
  - { name: b, match: { none: [{ tenant: x }, { service: s }], signal: [traces, logs] }, keep: true }
",
    );
    assert_eq!(plan.resource_tests.len(), 2);
    assert!(plan.rules[1].signals[Signal::Logs] && !plan.rules[0].signals[Signal::Logs]);
    let answer = |rule: usize, tenant: Option<bool>, service: Option<bool>, item: Option<bool>| {
        plan.rules[rule].condition.evaluate(&mut |leaf| match leaf {
            Leaf::Resource(0) => tenant,
            Leaf::Resource(_) => service,
            Leaf::Item(test) => {
                assert_eq!(*test, ItemTest::Status(0b100));
                item
            }
        })
    };
    assert_eq!(answer(0, Some(false), None, None), Some(false));
    assert_eq!(answer(0, Some(true), None, None), Some(true));
    assert_eq!(answer(1, Some(false), Some(false), None), Some(true));
    assert_eq!(answer(1, Some(false), None, None), None);
    assert!(matches!(plan.rules[1].condition, Condition::All(_)));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "[a-z:{}\\[\\], \n'\"*&0-9.%-]{0,120}") {
        let _read = read(&text);
        let _body = read(&format!("version: 1\nrules:\n  - {text}"));
    }
}

#[test]
fn limits_are_merged_deeply_and_have_defaults() {
    let plan = plan(
        "rules: []
defaults: { tier: standard, limits: { spans_per_second: 5000, burst: 5s, max_attributes_per_item: 64 } }
tiers:
  standard: {}
  vip: { limits: { spans_per_second: 50000, bytes_per_second: 10MiB } }
tenants:
  acme: { tier: vip, limits: { burst: 1s, max_in_flight_bytes: 1MiB, sustained: 1m } }
",
    );
    let acme = &plan.block("acme").limits;
    let second = std::time::Duration::from_secs(1);
    assert_eq!(acme.items_per_second[Signal::Traces], Some(50_000.0));
    assert_eq!(acme.bytes_per_second, Some(f64::from(10 << 20)));
    assert_eq!((acme.burst, acme.sustained), (second, 60 * second));
    assert_eq!((acme.max_attributes_per_item, acme.max_in_flight_bytes), (Some(64), Some(1 << 20)));
    let other = &plan.block("other").limits;
    assert_eq!(other.items_per_second[Signal::Traces], Some(5_000.0));
    assert_eq!((other.burst, other.bytes_per_second), (5 * second, None));
    let standard = Limits::default();
    assert_eq!((standard.burst, standard.max_request_bytes), (2 * second, 64 << 20));
    assert_eq!(standard.max_model_versions, 20);
    assert!(!standard.meters() && !standard.trims() && plan.limits_anybody());
}

#[test]
fn limits_out_of_range_are_all_reported() {
    check(
        "rules: []
defaults:
  limits:
    spans_per_second: 0
    bytes_per_second: 0
    burst: 50ms
    sustained: 5s
    max_request_bytes: lots
    max_events_per_span: 0
    max_model_versions: 1001
    spans_per_minute: 5
",
        &[
            "p.yaml:5:23: defaults.limits.spans_per_second: 0 is out of range; a rate is above 0; leave the key out for no limit",
            "p.yaml:6:23: defaults.limits.bytes_per_second: 0 is out of range; a rate is above 0; leave the key out for no limit",
            "p.yaml:7:12: defaults.limits.burst: 50ms is out of range; allowed are 100ms to 1m",
            "p.yaml:8:16: defaults.limits.sustained: 5s is out of range; allowed are 0s, or 10s to 1h",
            "p.yaml:9:24: defaults.limits.max_request_bytes: `lots` is not a size; write for example 64MiB, 512Mi, 1G or a number of bytes",
            "p.yaml:10:26: defaults.limits.max_events_per_span: 0 is out of range; allowed are 1 to 4294967295",
            "p.yaml:11:25: defaults.limits.max_model_versions: 1001 is out of range; allowed are 1 to 1000",
            "p.yaml:12:5: defaults.limits.spans_per_minute: unknown key; did you mean `spans_per_second`?",
        ],
    );
}

#[test]
fn the_limit_of_a_rule_counts_one_thing_it_keeps() {
    let limit = |text: &str| plan(&format!("rules:\n  - {text}\n")).rules[0].limit.unwrap();
    let spans = limit("{ name: a, keep: true, limit: { spans_per_second: 500 } }");
    let burst = std::time::Duration::from_secs(2);
    assert_eq!(spans, RuleLimit { unit: LimitUnit::Spans, per_second: 500.0, burst, per_tenant: true });
    let all = limit("{ name: a, rate: 10%, limit: { bytes_per_second: 1KiB, per: [] } }");
    assert_eq!((all.unit, all.per_second, all.per_tenant), (LimitUnit::Bytes, 1024.0, false));
    let limited = |limit: &str| format!("{{ name: a, keep: true, limit: {limit} }}");
    check_rule(&limited("{}"), "a limit counts one thing");
    check_rule(&limited("{ spans_per_second: 1, bytes_per_second: 1 }"), "a limit counts one thing");
    check_rule(&limited("{ log_records_per_second: 1 }"), "the rule does not look at logs");
    check_rule(&limited("{ spans_per_second: 1, per: [service] }"), "unknown value `service`");
    check_rule("{ name: a, drop: true, limit: { spans_per_second: 1 } }", "the rule keeps nothing");
}
