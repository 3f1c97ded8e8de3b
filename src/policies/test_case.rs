//! The embedded `tests`: what an author expects of the rules.
//!
//! Not here: running them (`sampling::run_tests`). Invariant: a test names a rule that exists.

use std::fmt;

use super::matching::{KINDS, SIGNALS, STATUSES, unknown_tier};
use super::plan::DEFAULT_RULE;
use super::reader::{At, Keys};
use super::rule::LATER_DIMENSIONS;
use super::scalar::Scalar;
use crate::otlp::Signal;
use crate::units::Probability;
use crate::yaml::{Location, Problems, Value};

const GIVEN: Keys = Keys {
    known: &[
        "tenant",
        "tier",
        "model.name",
        "model.version",
        "service",
        "environment",
        "signal",
        "resource.<k>",
        "span.name",
        "span.kind",
        "status",
        "duration",
        "attributes.<k>",
        "at",
        "th",
    ],
    later: LATER_DIMENSIONS,
};

/// One test: an item, and what must become of it.
#[derive(Debug, Clone)]
pub struct TestCase {
    /// The item.
    pub given: Given,
    /// What must become of it.
    pub expect: Expect,
    /// Where the test stands.
    pub location: Location,
    /// Its path, for example `tests[2]`.
    pub path: String,
}

/// An item to decide about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Given {
    /// Its tenant; `unattributed` without one.
    pub tenant: Option<String>,
    /// In place of the tenant's own tier.
    pub tier: Option<String>,
    /// The model's name.
    pub model_name: Option<String>,
    /// The model's version.
    pub model_version: Option<String>,
    /// A span, unless the test says otherwise.
    pub signal: Option<Signal>,
    /// Attributes of the resource; `service` and `environment` among them.
    pub resource: Vec<(String, GivenValue)>,
    /// `span.name`
    pub name: Option<String>,
    /// `span.kind`, as OTLP numbers it.
    pub kind: Option<u8>,
    /// `status`, as OTLP numbers it.
    pub status: Option<u8>,
    /// `duration`, in nanoseconds.
    pub duration: Option<u64>,
    /// Attributes of the item.
    pub attributes: Vec<(String, GivenValue)>,
    /// When; the time of loading without one.
    pub at: Option<jiff::Timestamp>,
    /// The threshold the item arrives with: 1 to 14 hexadecimal digits.
    pub th: Option<String>,
}

/// The value of an attribute in a test.
#[derive(Debug, Clone, PartialEq)]
pub enum GivenValue {
    /// Text.
    Str(String),
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Double(f64),
    /// An array.
    List(Vec<GivenValue>),
}

impl GivenValue {
    /// Shows the value, or each element, to `visit` until it says true.
    pub fn visit(&self, visit: &mut dyn FnMut(Scalar<'_>) -> bool) -> bool {
        match self {
            GivenValue::Str(text) => visit(Scalar::Str(text)),
            GivenValue::Bool(value) => visit(Scalar::Bool(*value)),
            GivenValue::Int(value) => visit(Scalar::Int(*value)),
            GivenValue::Double(value) => visit(Scalar::Double(*value)),
            GivenValue::List(list) => list.iter().any(|value| value.visit(visit)),
        }
    }
}

/// What must become of the item.
#[derive(Debug, Clone, PartialEq)]
pub struct Expect {
    /// The rule that decides, or `_default`.
    pub rule: String,
    /// The probability of the item when it leaves.
    pub probability: Option<f64>,
    /// `decision: drop`: a rule drops it.
    pub drop: bool,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` decides", self.rule)?;
        match self.probability.map(Probability::new) {
            Some(Ok(probability)) => write!(f, ", {probability}"),
            _ if self.drop => f.write_str(", drop"),
            _ => Ok(()),
        }
    }
}

/// Names a test may use.
pub(super) struct Names<'t> {
    pub(super) rules: &'t [&'t str],
    pub(super) tiers: &'t [&'t str],
}

pub(super) fn read(at: &At<'_>, names: &Names<'_>, problems: &mut Problems) -> Option<TestCase> {
    if !at.check_keys(&Keys { known: &["given", "expect"], later: &[] }, problems) {
        return None;
    }
    let given = match at.key("given") {
        Some(value) => read_given(&value, names, problems),
        None => Given::default(),
    };
    let Some(expect) = at.key("expect") else {
        if !at.has("expect") {
            at.error(problems, "`expect` is missing");
        }
        return None;
    };
    let expect = read_expect(&expect, names, problems)?;
    Some(TestCase { given, expect, location: at.node.location.clone(), path: at.path.clone() })
}

fn read_expect(at: &At<'_>, names: &Names<'_>, problems: &mut Problems) -> Option<Expect> {
    at.check_keys(&Keys { known: &["rule", "probability", "decision"], later: &[] }, problems);
    let probability = at.key("probability").and_then(|value| value.probability(problems));
    let drop = at.key("decision").and_then(|value| value.choice(&[("drop", true)], problems));
    if let (Some(_), Some(value)) = (at.key("probability"), at.key("decision")) {
        value.error(problems, "a dropped item has no probability; expect one or the other");
    }
    let Some(rule) = at.key("rule") else {
        if !at.has("rule") {
            at.error(problems, "`rule` is missing");
        }
        return None;
    };
    let name = rule.text(problems)?;
    if name != DEFAULT_RULE && !names.rules.contains(&name) {
        let mut known = vec![DEFAULT_RULE];
        known.extend(names.rules);
        rule.not_among(&known, problems);
        return None;
    }
    Some(Expect { rule: name.to_owned(), probability, drop: drop.unwrap_or(false) })
}

fn read_given(at: &At<'_>, names: &Names<'_>, problems: &mut Problems) -> Given {
    let mut given = Given::default();
    for (entry, value) in at.entries(problems) {
        let text = |problems: &mut Problems| value.text(problems).map(str::to_owned);
        match entry.key.as_str() {
            "tenant" => given.tenant = text(problems),
            "tier" => {
                given.tier = text(problems);
                if let Some(tier) = given.tier.as_deref().filter(|tier| !names.tiers.contains(tier)) {
                    unknown_tier(tier, names.tiers, &value, problems);
                }
            }
            "model.name" => given.model_name = text(problems),
            "model.version" => given.model_version = text(problems),
            "service" => given.resource.extend(named("service.name", text(problems))),
            "environment" => given.resource.extend(named("deployment.environment.name", text(problems))),
            "signal" => given.signal = value.choice(&SIGNALS, problems),
            "span.name" => given.name = text(problems),
            "span.kind" => given.kind = value.choice(&KINDS, problems),
            "status" => given.status = value.choice(&STATUSES, problems),
            "duration" => given.duration = value.duration(problems).map(|d| d.as_nanos() as u64),
            "at" => given.at = value.instant(problems),
            "th" => given.th = read_threshold(&value, problems),
            key => match (key.strip_prefix("resource."), key.strip_prefix("attributes.")) {
                (Some(key), _) => given.resource.extend(attribute(key, &value, problems)),
                (_, Some(key)) => given.attributes.extend(attribute(key, &value, problems)),
                _ => report_key(at, key, problems),
            },
        }
    }
    given
}

/// Reports one key of `given` that is none.
fn report_key(at: &At<'_>, key: &str, problems: &mut Problems) {
    let alone = at.node.entries().iter().filter(|entry| entry.key == key).cloned().collect();
    let node = crate::yaml::Node::new(Value::Map(alone), at.node.location.clone());
    At { node: &node, path: at.path.clone() }.check_keys(&GIVEN, problems);
}

fn named(key: &str, value: Option<String>) -> Option<(String, GivenValue)> {
    Some((key.to_owned(), GivenValue::Str(value?)))
}

fn attribute(key: &str, at: &At<'_>, problems: &mut Problems) -> Option<(String, GivenValue)> {
    Some((key.to_owned(), given_value(at, problems)?))
}

fn given_value(at: &At<'_>, problems: &mut Problems) -> Option<GivenValue> {
    Some(match &at.node.value {
        Value::Str(text) => GivenValue::Str(text.clone()),
        Value::Bool(value) => GivenValue::Bool(*value),
        Value::Int(value) => GivenValue::Int(i64::try_from(*value).ok()?),
        Value::Float(value) => GivenValue::Double(*value),
        Value::Seq(_) => {
            let items = at.items(problems);
            GivenValue::List(items.iter().filter_map(|item| given_value(item, problems)).collect())
        }
        _ => {
            at.wrong_type(problems, "a value or a list of values");
            return None;
        }
    })
}

fn read_threshold(at: &At<'_>, problems: &mut Problems) -> Option<String> {
    let text = match &at.node.value {
        // Digits alone are as often a threshold as a number: `8` is 50 %.
        Value::Int(value) if (0..10).contains(value) => value.to_string(),
        _ => at.text(problems)?.to_owned(),
    };
    if !(1..=14).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        at.error(problems, format!("`{text}` is no threshold; it has 1 to 14 hexadecimal digits"));
        return None;
    }
    Some(text)
}
