//! Reads the whole policies file into a [`Plan`].
//!
//! Every problem is reported, not the first; a plan comes out only if none of them is an error. Not
//! here: single rules (`rule`), blocks (`blocks`). Invariant: what is not available is refused, never
//! ignored.

use std::collections::HashMap;

use http::HeaderName;

use super::blocks;
use super::matching::Matching;
use super::plan::{
    Anonymous, Claim, Enrichment, MixedRequests, Mode, ModelField, Origin, Plan, PodText, Rule,
};
use super::reader::{At, Keys, STAGE_2, refuse_nulls};
use super::test_case::{self, Names, TestCase};
use super::{condition::Condition, identity, rule};
use crate::identity::TenantId;
use crate::otlp::PerSignal;
use crate::yaml::{Problems, Source, Value, parse as parse_yaml};

/// The largest file.
pub const MAX_BYTES: usize = 1 << 20;
/// The most rules.
pub const MAX_RULES: usize = 1000;

/// The longest `revision`.
const MAX_REVISION: usize = 64;
/// The longest attribute key somebody may configure.
const MAX_ATTRIBUTE: usize = 256;

const DOCUMENT: Keys = Keys {
    known: &[
        "version",
        "revision",
        "defaults",
        "tiers",
        "tenants",
        "rules",
        "tests",
        "identity",
        "enrichment",
    ],
    later: &[("boosts", STAGE_2), ("overload", STAGE_2), ("rollout", STAGE_2)],
};
const IDENTITY: Keys = Keys {
    known: &["authenticate", "claims", "principals", "anonymous", "on_mismatch", "mixed_requests"],
    later: &[],
};

/// Reads and compiles a policies file; also returns its warnings. `now` tells which windows are over.
///
/// The embedded tests are not run here.
///
/// # Errors
/// Everything that is wrong with the file; it must not be used.
pub fn parse(source: &Source, now: jiff::Timestamp) -> Result<(Plan, Problems), Problems> {
    parse_for(source, now, None)
}

/// [`parse`], where it is known which verifiers run: `verifiers` are their ids.
///
/// # Errors
/// As [`parse`], and a source that names none of them.
pub fn parse_for(
    source: &Source,
    now: jiff::Timestamp,
    verifiers: Option<&[String]>,
) -> Result<(Plan, Problems), Problems> {
    let too_large = source.text.len() > MAX_BYTES;
    let shown = Source::new(source.name.clone(), if too_large { String::new() } else { source.text.clone() });
    let node = parse_yaml(&shown)?;
    let root = At::root(&node);
    let mut problems = Problems::new();
    if too_large {
        root.error(&mut problems, format!("the file is larger than {MAX_BYTES} bytes"));
        return Err(problems);
    }
    if node.is_null() {
        let help = "an empty file is never \"no rules\"; write version: 1 and rules: []";
        root.error_with(&mut problems, "the file is empty", help);
        return Err(problems);
    }
    refuse_nulls(&root, &mut problems);
    let sha256 = super::watch::sha256(&source.text);
    let plan = read(&root, (sha256, verifiers), now, &mut problems);
    problems.into_result(plan)
}

fn read(
    root: &At<'_>,
    (sha256, verifiers): (String, Option<&[String]>),
    now: jiff::Timestamp,
    problems: &mut Problems,
) -> Option<Plan> {
    if !root.check_keys(&DOCUMENT, problems) {
        return None;
    }
    check_version(root, problems);
    let revision = root.key("revision").and_then(|value| value.short_text(MAX_REVISION, problems));
    let (tiers, blocks) = blocks::read(root, problems);
    let mut matching = Matching { tiers: &tiers, resource_tests: Vec::new(), span_scope: false };
    let rules = read_rules(root, &mut matching, now, problems);
    let resource_tests = matching.resource_tests;
    let names: Vec<&str> = rules.iter().map(|rule| &*rule.name).collect();
    let tests = read_tests(root, &Names { rules: &names, tiers: &tiers }, problems);
    let (claims, anonymous) = read_identity(root, problems);
    let identity = root.key("identity").map(|at| identity::read(&at, verifiers, problems));
    Some(Plan {
        default_label: super::DEFAULT_RULE.into(),
        revision: revision.map(str::to_owned),
        sha256,
        enrichment: read_enrichment(root, problems),
        identity: identity.unwrap_or_default(),
        claims,
        anonymous,
        limited_rules: limited(&rules),
        mixed_requests: read_mixed_requests(root, problems),
        rules,
        resource_tests,
        tests,
        blocks,
    })
}

fn limited(rules: &[Rule]) -> Vec<usize> {
    let is_limited = |rule: &Rule| rule.limit.is_some() && rule.mode != Mode::Off;
    rules.iter().enumerate().filter(|(_, rule)| is_limited(rule)).map(|(index, _)| index).collect()
}

fn check_version(root: &At<'_>, problems: &mut Problems) {
    match root.key("version") {
        None if root.has("version") => {}
        None => root.error_with(problems, "`version` is missing", "write version: 1"),
        Some(value) => match value.node.value {
            Value::Int(1) => {}
            Value::Int(other) => {
                value.error_with(problems, format!("version {other} is unknown"), "write version: 1")
            }
            _ => value.wrong_type(problems, "the number 1"),
        },
    }
}

fn read_rules(
    root: &At<'_>,
    matching: &mut Matching<'_>,
    now: jiff::Timestamp,
    problems: &mut Problems,
) -> Vec<Rule> {
    let Some(list) = root.key("rules") else {
        if !root.has("rules") {
            root.error_with(problems, "`rules` is missing", "without rules write rules: []");
        }
        return Vec::new();
    };
    let items = list.items(problems);
    if items.len() > MAX_RULES {
        list.error(problems, format!("there are {} rules; allowed are {MAX_RULES}", items.len()));
        return Vec::new();
    }
    let mut rules = Vec::new();
    let mut first: HashMap<String, String> = HashMap::new();
    let mut caught = PerSignal::<Option<String>>::default();
    for item in items {
        let errors = problems.errors();
        let Some(rule) = rule::read(&item, matching, problems) else { continue };
        if let Some(path) = first.get(&*rule.name) {
            let place = item.key("name").unwrap_or_else(|| item.clone());
            place.error(problems, format!("the name `{}` is taken by {path}", rule.name));
        } else {
            first.insert(rule.name.to_string(), item.path.clone());
        }
        // What a faulty rule takes is not known.
        if problems.errors() == errors {
            warn_about(&item, &rule, &mut caught, problems);
        }
        if rule.active.until.is_some_and(|until| until <= now) {
            let place = item.key("active").unwrap_or_else(|| item.clone());
            place.warning(problems, format!("the window of `{}` is over", rule.name), "remove the rule");
        }
        rules.push(rule);
    }
    rules
}

/// Warns if no item can reach a rule; `caught` names the rule that takes everything of a signal.
fn warn_about(at: &At<'_>, rule: &Rule, caught: &mut PerSignal<Option<String>>, problems: &mut Problems) {
    let wanted: Vec<_> =
        rule.signals.iter().filter(|(_, wanted)| **wanted).map(|(signal, _)| signal).collect();
    let earlier = wanted.iter().find_map(|signal| caught[*signal].clone());
    if let Some(earlier) = earlier.filter(|_| wanted.iter().all(|signal| caught[*signal].is_some())) {
        let message = format!("`{}` is never reached: `{earlier}` takes everything before it", rule.name);
        at.warning(problems, message, format!("move it before `{earlier}`"));
        return;
    }
    let takes_all = matches!(&rule.condition, Condition::All(tests) if tests.is_empty());
    if takes_all && rule.is_terminal() && rule.mode == Mode::Enforce && rule.active.is_always() {
        for signal in wanted {
            caught[signal].get_or_insert_with(|| rule.name.to_string());
        }
    }
}

fn read_tests(root: &At<'_>, names: &Names<'_>, problems: &mut Problems) -> Vec<TestCase> {
    let Some(list) = root.key("tests") else { return Vec::new() };
    let items = list.items(problems);
    items.iter().filter_map(|item| test_case::read(item, names, problems)).collect()
}

fn read_identity(root: &At<'_>, problems: &mut Problems) -> (Vec<Claim>, Anonymous) {
    let Some(identity) = root.key("identity") else { return (Vec::new(), Anonymous::Refuse) };
    identity.check_keys(&IDENTITY, problems);
    let claims = identity.key("claims").map(|list| list.items(problems)).unwrap_or_default();
    let claims = claims.iter().filter_map(|claim| read_claim(claim, problems)).collect();
    let anonymous = identity.key("anonymous").and_then(|value| read_anonymous(&value, problems));
    (claims, anonymous.unwrap_or(Anonymous::Refuse))
}

fn read_mixed_requests(root: &At<'_>, problems: &mut Problems) -> MixedRequests {
    let choices = [("whole", MixedRequests::Whole), ("partial", MixedRequests::Partial)];
    let written = root.key("identity").and_then(|identity| identity.key("mixed_requests"));
    written.and_then(|value| value.choice(&choices, problems)).unwrap_or_default()
}

fn read_claim(at: &At<'_>, problems: &mut Problems) -> Option<Claim> {
    if !at.check_keys(&Keys { known: &["header", "resource"], later: &[] }, problems) {
        return None;
    }
    let header = at.key("header").and_then(|value| read_header(value.text(problems)?, &value, problems));
    let resource = at.key("resource").and_then(|value| value.short_text(MAX_ATTRIBUTE, problems));
    if at.has("header") == at.has("resource") {
        at.error(problems, "a claim is either `header` or `resource`");
        return None;
    }
    header.map(Claim::Header).or(resource.map(|key| Claim::Resource(key.to_owned())))
}

fn read_header(name: &str, at: &At<'_>, problems: &mut Problems) -> Option<HeaderName> {
    let header = HeaderName::try_from(name).ok();
    if header.is_none() {
        at.error(problems, format!("`{name}` is not the name of a header"));
    }
    header
}

fn read_anonymous(at: &At<'_>, problems: &mut Problems) -> Option<Anonymous> {
    match at.text(problems)? {
        "refuse" => Some(Anonymous::Refuse),
        "overflow" => Some(Anonymous::Overflow),
        text => match text.strip_prefix("tenant:").map(TenantId::new) {
            Some(Ok(tenant)) => Some(Anonymous::Tenant(tenant)),
            Some(Err(bad)) => {
                at.error(problems, bad.to_string());
                None
            }
            None => {
                at.not_among(&["refuse", "overflow", "tenant:<id>"], problems);
                None
            }
        },
    }
}

fn read_enrichment(root: &At<'_>, problems: &mut Problems) -> Enrichment {
    let mut enrichment = Enrichment::standard();
    let Some(at) = root.key("enrichment") else { return enrichment };
    at.check_keys(&Keys { known: &["tenant", "model_name", "model_version", "stamp"], later: &[] }, problems);
    if let Some(tenant) = at.key("tenant") {
        tenant.check_keys(&Keys { known: &["attribute"], later: &[] }, problems);
        if let Some(key) = tenant.key("attribute").and_then(|value| value.short_text(MAX_ATTRIBUTE, problems))
        {
            enrichment.tenant_attribute = key.to_owned();
        }
    }
    for (key, field) in
        [("model_name", &mut enrichment.model_name), ("model_version", &mut enrichment.model_version)]
    {
        if let Some(at) = at.key(key) {
            read_model_field(&at, field, problems);
        }
    }
    for stamp in at.key("stamp").map(|list| list.items(problems)).unwrap_or_default() {
        match stamp.choice(&[("rule", 0), ("revision", 1)], problems) {
            Some(0) => enrichment.stamp_rule = true,
            Some(_) => enrichment.stamp_revision = true,
            None => {}
        }
    }
    enrichment
}

fn read_model_field(at: &At<'_>, field: &mut ModelField, problems: &mut Problems) {
    at.check_keys(&Keys { known: &["attribute", "from"], later: &[] }, problems);
    if let Some(attribute) = at.key("attribute").and_then(|value| value.short_text(MAX_ATTRIBUTE, problems)) {
        field.attribute = attribute.to_owned();
        field.from.splice(..2, ModelField::same_named(attribute));
    }
    if let Some(from) = at.key("from") {
        let items = from.items(problems);
        if items.is_empty() {
            from.error(problems, "names no place to look");
        }
        field.from = items.iter().filter_map(|item| read_origin(item, problems)).collect();
    }
}

fn read_origin(at: &At<'_>, problems: &mut Problems) -> Option<Origin> {
    let text = at.short_text(MAX_ATTRIBUTE, problems)?;
    match text.split_once('.') {
        Some(("resource", key)) if !key.is_empty() => Some(Origin::Resource(key.to_owned())),
        Some(("attributes", key)) if !key.is_empty() => Some(Origin::Attribute(key.to_owned())),
        Some(("header", name)) => read_header(name, at, problems).map(Origin::Header),
        Some(("pod_label" | "pod_annotation", key)) if !key.is_empty() => {
            PodText::parse(text).map(Origin::Pod)
        }
        _ => {
            let help = "write resource.<k>, attributes.<k>, header.<n>, pod_label.<k> or pod_annotation.<k>";
            at.error_with(problems, format!("`{text}` is no place to look"), help);
            None
        }
    }
}
