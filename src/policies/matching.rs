//! Reads `match`: dimensions, values and groups, into a [`Condition`].
//!
//! Not here: what a condition does (`condition`). Invariant: a test of single spans is accepted only
//! where the rule says `scope: span`.

use regex::Regex;
use semver::VersionReq;

use super::condition::{
    Comparison, Condition, DurationTest, ItemTest, Matcher, Pattern, ResourceDimension, ResourceTest,
    ValueTest,
};
use super::glob::Glob;
use super::reader::{At, Keys, STAGE_3, suggestion};
use crate::otlp::{PerSignal, Signal};
use crate::yaml::{Problems, Value, did_you_mean};

/// The dimensions with fixed names; `resource.<k>` and `attributes.<k>` come beside them.
const DIMENSIONS: &[&str] = &[
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
    "any",
    "none",
];

/// How deep `any` and `none` may stand in each other.
const MAX_GROUP_DEPTH: usize = 2;

/// The kinds of spans, in the order of OTLP's numbers.
pub(super) const KINDS: [(&str, u8); 6] =
    [("unspecified", 0), ("internal", 1), ("server", 2), ("client", 3), ("producer", 4), ("consumer", 5)];
/// The status codes of spans, in the order of OTLP's numbers.
pub(super) const STATUSES: [(&str, u8); 3] = [("unset", 0), ("ok", 1), ("error", 2)];
/// The names of signals.
pub(super) const SIGNALS: [(&str, Signal); 3] =
    [("traces", Signal::Traces), ("metrics", Signal::Metrics), ("logs", Signal::Logs)];

/// What reading the conditions of all rules shares.
pub(super) struct Matching<'t> {
    pub(super) tiers: &'t [&'t str],
    /// The tests of resources found so far, each once.
    pub(super) resource_tests: Vec<ResourceTest>,
    /// Whether the rule at hand is of `scope: span`.
    pub(super) span_scope: bool,
}

/// What `match` says.
pub(super) struct Matched {
    pub(super) condition: Condition,
    pub(super) signals: PerSignal<bool>,
}

impl Matched {
    /// Without `match`: every span.
    pub(super) fn everything() -> Self {
        Self {
            condition: Condition::All([].into()),
            signals: PerSignal::from_fn(|signal| signal == Signal::Traces),
        }
    }
}

impl Matching<'_> {
    pub(super) fn read(&mut self, at: &At<'_>, problems: &mut Problems) -> Matched {
        let mut signals = Matched::everything().signals;
        if let Some(named) = at.key("signal") {
            signals = read_signals(&named, problems);
        }
        Matched { condition: self.all_of(at, 0, problems), signals }
    }

    /// One map: AND over its keys.
    fn all_of(&mut self, at: &At<'_>, depth: usize, problems: &mut Problems) -> Condition {
        let mut conditions = Vec::new();
        for (entry, value) in at.entries(problems) {
            conditions.extend(match entry.key.as_str() {
                "any" => self.group(&value, depth, problems).map(Condition::Any),
                "none" => self.group(&value, depth, problems).map(Condition::None),
                "signal" if depth == 0 => None,
                "signal" => {
                    let help = "write it beside `any` and `none`, as a name or a list of names";
                    value.error_with(problems, "`signal` cannot stand in a group", help);
                    None
                }
                "trace.spans" => {
                    problems.error(&entry.key_location, &value.path, STAGE_3, None);
                    None
                }
                key => self.dimension(key, &value, problems).unwrap_or_else(|| {
                    let help = suggestion(key, DIMENSIONS, std::iter::empty());
                    problems.error(&entry.key_location, &value.path, "unknown key", Some(help));
                    None
                }),
            });
        }
        match conditions.len() {
            // One test needs no list around it; it is asked for every item.
            1 if depth > 0 => conditions.remove(0),
            _ => Condition::All(conditions.into()),
        }
    }

    fn group(&mut self, at: &At<'_>, depth: usize, problems: &mut Problems) -> Option<Box<[Condition]>> {
        if depth >= MAX_GROUP_DEPTH {
            at.error(problems, format!("groups stand at most {MAX_GROUP_DEPTH} deep"));
            return None;
        }
        let items = at.items(problems);
        if matches!(&at.node.value, Value::Seq(items) if items.is_empty()) {
            at.error(problems, "the group is empty");
        }
        Some(items.iter().map(|item| self.all_of(item, depth + 1, problems)).collect())
    }

    /// `None`: there is no such dimension; `Some(None)`: a problem was reported.
    fn dimension(&mut self, key: &str, at: &At<'_>, problems: &mut Problems) -> Option<Option<Condition>> {
        if let Some(dimension) = resource_dimension(key) {
            return Some(self.resource_test(dimension, at, problems));
        }
        let before = problems.errors();
        let test = match key {
            "span.name" => text_matcher(at, problems).map(ItemTest::Name),
            "span.kind" => bits(at, &KINDS, problems).map(ItemTest::Kind),
            "status" => bits(at, &STATUSES, problems).map(ItemTest::Status),
            "duration" => duration_test(at, problems).map(ItemTest::Duration),
            _ => {
                let attribute = key.strip_prefix("attributes.").filter(|key| !key.is_empty())?;
                value_matcher(at, problems).map(|matcher| ItemTest::Attribute(attribute.into(), matcher))
            }
        };
        if !self.span_scope {
            let help = "write `scope: span` to test single spans; whole traces need stage 3";
            at.error_with(problems, format!("`{key}` is a test of single spans"), help);
        }
        Some(test.filter(|_| problems.errors() == before).map(Condition::Item))
    }

    fn resource_test(
        &mut self,
        dimension: ResourceDimension,
        at: &At<'_>,
        problems: &mut Problems,
    ) -> Option<Condition> {
        let matcher = match dimension {
            ResourceDimension::Attribute(_) => value_matcher(at, problems)?,
            _ => text_matcher(at, problems)?,
        };
        if dimension == ResourceDimension::Tier {
            self.check_tiers(at, problems);
        }
        let test = ResourceTest { dimension, matcher };
        let known = self.resource_tests.iter().position(|known| *known == test);
        let number = known.unwrap_or(self.resource_tests.len());
        if known.is_none() {
            self.resource_tests.push(test);
        }
        Some(Condition::Resource(number))
    }

    /// A tier that is named must exist.
    fn check_tiers(&self, at: &At<'_>, problems: &mut Problems) {
        let mut named = Vec::new();
        collect_strings(at, &mut named);
        for at in named {
            let literal = at.node.as_str().and_then(|text| Glob::new(text).ok()?.literal());
            if let Some(tier) = literal.filter(|tier| !self.tiers.contains(&tier.as_str())) {
                unknown_tier(&tier, self.tiers, &at, problems);
            }
        }
    }
}

/// Reports a tier that is not in `tiers`.
pub(super) fn unknown_tier(tier: &str, tiers: &[&str], at: &At<'_>, problems: &mut Problems) {
    let help = match did_you_mean(tier, tiers.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if tiers.is_empty() => "there are no tiers".to_owned(),
        None => format!("tiers: {}", tiers.join(", ")),
    };
    at.error_with(problems, format!("unknown tier `{tier}`"), help);
}

/// The texts of `x`, `[x, y]` and `{not: …}`.
fn collect_strings<'n>(at: &At<'n>, found: &mut Vec<At<'n>>) {
    match &at.node.value {
        Value::Str(_) => found.push(at.clone()),
        Value::Seq(_) => {
            for item in at.items(&mut Problems::new()) {
                collect_strings(&item, found);
            }
        }
        Value::Map(_) => {
            if let Some(not) = at.key("not") {
                collect_strings(&not, found);
            }
        }
        _ => {}
    }
}

/// The dimension of a resource with this name.
pub(super) fn resource_dimension(key: &str) -> Option<ResourceDimension> {
    Some(match key {
        "tenant" => ResourceDimension::Tenant,
        "tier" => ResourceDimension::Tier,
        "model.name" => ResourceDimension::ModelName,
        "model.version" => ResourceDimension::ModelVersion,
        "service" => ResourceDimension::Service,
        "environment" => ResourceDimension::Environment,
        _ => {
            let attribute = key.strip_prefix("resource.").filter(|key| !key.is_empty())?;
            ResourceDimension::Attribute(attribute.into())
        }
    })
}

fn read_signals(at: &At<'_>, problems: &mut Problems) -> PerSignal<bool> {
    let mut signals = PerSignal::<bool>::default();
    let named = match at.node.value {
        Value::Seq(_) => at.items(problems),
        _ => vec![at.clone()],
    };
    for name in &named {
        if let Some(signal) = name.choice(&SIGNALS, problems) {
            signals[signal] = true;
        }
    }
    if at.node.items().is_empty() && named.is_empty() {
        at.error(problems, "names no signal");
    }
    signals
}

/// A set of names as bits: a name, a list, or `{not: …}`.
fn bits(at: &At<'_>, names: &[(&str, u8)], problems: &mut Problems) -> Option<u8> {
    match at.node.value {
        Value::Seq(_) => {
            let items = at.items(problems);
            if items.is_empty() {
                at.error(problems, "the list is empty");
            }
            items.iter().map(|item| bits(item, names, problems)).try_fold(0, |all, bit| Some(all | bit?))
        }
        Value::Map(_) => {
            at.check_keys(&Keys { known: &["not"], later: &[] }, problems);
            let every = names.iter().fold(0, |all, (_, bit)| all | 1 << bit);
            bits(&at.key("not")?, names, problems).map(|bits| every & !bits)
        }
        _ => at.choice(names, problems).map(|bit| 1 << bit),
    }
}

fn duration_test(at: &At<'_>, problems: &mut Problems) -> Option<DurationTest> {
    const BOUNDS: [&str; 4] = ["gt", "gte", "lt", "lte"];
    if !matches!(at.node.value, Value::Map(_)) {
        at.error_with(problems, "a duration is compared", "write for example {gt: 2s}");
        return None;
    }
    at.check_keys(&Keys { known: &BOUNDS, later: &[] }, problems);
    let mut test = DurationTest { from: 0, to: u64::MAX };
    for bound in BOUNDS {
        let Some(value) = at.key(bound).and_then(|value| value.duration(problems)) else { continue };
        let nanoseconds = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        match bound {
            "gt" => test.from = test.from.max(nanoseconds.saturating_add(1)),
            "gte" => test.from = test.from.max(nanoseconds),
            "lt" if nanoseconds == 0 => test.from = u64::MAX,
            "lt" => test.to = test.to.min(nanoseconds - 1),
            _ => test.to = test.to.min(nanoseconds),
        }
    }
    if at.node.entries().is_empty() || test.from > test.to {
        at.error(problems, "no duration can match");
        return None;
    }
    Some(test)
}

/// The value of a dimension that is always text.
fn text_matcher(at: &At<'_>, problems: &mut Problems) -> Option<Matcher> {
    matcher(at, Kind::Text, problems)
}

/// The value of an attribute, which has a type.
fn value_matcher(at: &At<'_>, problems: &mut Problems) -> Option<Matcher> {
    matcher(at, Kind::Value, problems)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Value,
}

fn matcher(at: &At<'_>, kind: Kind, problems: &mut Problems) -> Option<Matcher> {
    const TESTS: &[&str] = &["regex", "not", "exists", "gt", "gte", "lt", "lte", "semver"];
    let Value::Map(entries) = &at.node.value else {
        let tests = vec![ValueTest::OneOf(patterns(at, kind, problems)?)];
        return Some(Matcher { exists: None, tests });
    };
    if entries.is_empty() {
        at.error(problems, "tests nothing");
        return None;
    }
    at.check_keys(&Keys { known: TESTS, later: &[] }, problems);
    let mut matcher = Matcher::default();
    for (entry, value) in at.entries(problems) {
        let test = match entry.key.as_str() {
            "exists" => {
                match value.node.value {
                    Value::Bool(exists) => matcher.exists = Some(exists),
                    _ => value.wrong_type(problems, "true or false"),
                }
                None
            }
            "not" => patterns(&value, kind, problems).map(ValueTest::Not),
            "regex" => regex(&value, problems).map(ValueTest::Regex),
            "semver" => requirement(&value, problems).map(ValueTest::Semver),
            "gt" => compare(Comparison::Gt, &value, kind, problems),
            "gte" => compare(Comparison::Gte, &value, kind, problems),
            "lt" => compare(Comparison::Lt, &value, kind, problems),
            "lte" => compare(Comparison::Lte, &value, kind, problems),
            _ => None,
        };
        matcher.tests.extend(test);
    }
    Some(matcher)
}

fn compare(comparison: Comparison, at: &At<'_>, kind: Kind, problems: &mut Problems) -> Option<ValueTest> {
    if kind == Kind::Text {
        at.error_with(
            problems,
            "this dimension is text and cannot be compared",
            "use a glob, regex or semver",
        );
        return None;
    }
    at.number(problems).map(|bound| ValueTest::Compare(comparison, bound))
}

/// One value or a list of them.
fn patterns(at: &At<'_>, kind: Kind, problems: &mut Problems) -> Option<Box<[Pattern]>> {
    let values = match at.node.value {
        Value::Seq(_) => at.items(problems),
        _ => vec![at.clone()],
    };
    if values.is_empty() {
        at.error(problems, "the list is empty");
        return None;
    }
    let patterns: Vec<Option<Pattern>> = values.iter().map(|value| pattern(value, kind, problems)).collect();
    patterns.into_iter().collect()
}

fn pattern(at: &At<'_>, kind: Kind, problems: &mut Problems) -> Option<Pattern> {
    match (&at.node.value, kind) {
        (Value::Int(value), Kind::Value) => Some(Pattern::Number(*value as f64)),
        (Value::Float(value), Kind::Value) => Some(Pattern::Number(*value)),
        (Value::Bool(value), Kind::Value) => Some(Pattern::Bool(*value)),
        (Value::Int(_) | Value::Float(_), Kind::Text) => {
            at.error_with(problems, "is a number, but this dimension is text", "quote it");
            None
        }
        _ => match Glob::new(at.text(problems)?) {
            Ok(glob) => Some(glob.literal().map_or(Pattern::Glob(glob), |text| Pattern::Text(text.into()))),
            Err(bad) => {
                at.error(problems, bad.to_string());
                None
            }
        },
    }
}

fn regex(at: &At<'_>, problems: &mut Problems) -> Option<Regex> {
    match Regex::new(at.text(problems)?) {
        Ok(regex) => Some(regex),
        Err(bad) => {
            let text = bad.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            at.error(problems, format!("bad regex: {reason}"));
            None
        }
    }
}

fn requirement(at: &At<'_>, problems: &mut Problems) -> Option<VersionReq> {
    let text = at.text(problems)?;
    let plain: Vec<String> = text.split(',').map(without_v).collect();
    match VersionReq::parse(&plain.join(",")) {
        Ok(requirement) => Some(requirement),
        Err(bad) => {
            let help = "write it as in Cargo.toml, for example \">=7.0.0-rc.0, <7.0.0\"";
            at.error_with(problems, format!("bad version requirement: {bad}"), help);
            None
        }
    }
}

/// A comparator without the `v` before its version.
fn without_v(comparator: &str) -> String {
    let operator_end = comparator.find(|c: char| !"<>=~^ ".contains(c)).unwrap_or(comparator.len());
    let (operator, version) = comparator.split_at(operator_end);
    format!("{operator}{}", version.strip_prefix('v').unwrap_or(version))
}
