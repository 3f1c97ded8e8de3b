//! What a rule asks of an item, compiled: a tree of tests that borrows everything it looks at.
//!
//! Tests of the resource (tenant, model, service, …) are numbered in the plan, so that each is answered
//! once per resource; tests of the item stand in the tree. Invariant: asking allocates nothing, and a
//! test on a missing value is false unless it says otherwise.

use std::cmp::Ordering;

use regex::Regex;
use semver::{Version, VersionReq};

use super::glob::Glob;
use super::scalar::Scalar;

/// Looks up an attribute: calls the visitor for the value, or for each element of an array, until it
/// says true. `None`: there is no such attribute; otherwise whether a call said true.
pub type Lookup<'a> = dyn Fn(&str, &mut dyn FnMut(Scalar<'_>) -> bool) -> Option<bool> + 'a;

/// Something of the resource a test can look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceDimension {
    /// `tenant`
    Tenant,
    /// `tier`
    Tier,
    /// `model.name`
    ModelName,
    /// `model.version`
    ModelVersion,
    /// `service`: attribute `service.name`.
    Service,
    /// `environment`: attribute `deployment.environment.name`, else `deployment.environment`.
    Environment,
    /// `resource.<k>`
    Attribute(Box<str>),
}

/// A test of the resource.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceTest {
    /// What is looked at.
    pub dimension: ResourceDimension,
    /// What it must be.
    pub matcher: Matcher,
}

/// A test of one span or log record.
#[derive(Debug, Clone, PartialEq)]
pub enum ItemTest {
    /// `span.name`
    Name(Matcher),
    /// `span.kind`: one bit for each kind of OTLP.
    Kind(u8),
    /// `status`: one bit for each status code of OTLP.
    Status(u8),
    /// `duration`, in nanoseconds.
    Duration(DurationTest),
    /// `attributes.<k>`
    Attribute(Box<str>, Matcher),
}

/// Bounds of a duration in nanoseconds, both inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurationTest {
    /// The shortest.
    pub from: u64,
    /// The longest.
    pub to: u64,
}

/// A compiled `match`.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Every one; with none: true.
    All(Box<[Condition]>),
    /// At least one.
    Any(Box<[Condition]>),
    /// Not one.
    None(Box<[Condition]>),
    /// A test of the resource, by its number in the plan.
    Resource(usize),
    /// A test of the item.
    Item(ItemTest),
}

impl Condition {
    /// The answer where `test` answers the leaves; `None` where an unknown leaf decides.
    pub fn evaluate(&self, test: &mut impl FnMut(Leaf<'_>) -> Option<bool>) -> Option<bool> {
        match self {
            Condition::All(list) => every(list, true, test),
            Condition::Any(list) => every(list, false, test).map(|none| !none),
            Condition::None(list) => every(list, false, test),
            Condition::Resource(number) => test(Leaf::Resource(*number)),
            Condition::Item(item) => test(Leaf::Item(item)),
        }
    }
}

/// Whether every condition gives `wanted`.
fn every(list: &[Condition], wanted: bool, test: &mut impl FnMut(Leaf<'_>) -> Option<bool>) -> Option<bool> {
    let mut answer = Some(true);
    for condition in list {
        match condition.evaluate(test) {
            None => answer = None,
            Some(got) if got != wanted => return Some(false),
            Some(_) => {}
        }
    }
    answer
}

/// One question of a condition.
#[derive(Debug, Clone, Copy)]
pub enum Leaf<'a> {
    /// A test of the resource, by its number.
    Resource(usize),
    /// A test of the item.
    Item(&'a ItemTest),
}

/// What a value must be: every test on the same value.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    pub(super) exists: Option<bool>,
    pub(super) tests: Vec<ValueTest>,
}

/// One test of a value.
#[derive(Debug, Clone)]
pub(super) enum ValueTest {
    OneOf(Box<[Pattern]>),
    Not(Box<[Pattern]>),
    Regex(Regex),
    Compare(Comparison, f64),
    Semver(VersionReq),
}

/// Which side of a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Gt,
    Gte,
    Lt,
    Lte,
}

/// One value written in a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    Text(Box<str>),
    Glob(Glob),
    Number(f64),
    Bool(bool),
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.exists == other.exists && self.tests == other.tests
    }
}

impl PartialEq for ValueTest {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::OneOf(a), Self::OneOf(b)) | (Self::Not(a), Self::Not(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Compare(a, x), Self::Compare(b, y)) => a == b && x == y,
            (Self::Semver(a), Self::Semver(b)) => a == b,
            _ => false,
        }
    }
}

impl Matcher {
    /// Whether a value passes that is there or not.
    pub fn matches(&self, value: Option<Scalar<'_>>) -> bool {
        self.decide(value.map(|value| self.matches_present(value)))
    }

    /// Whether an attribute passes.
    pub fn matches_attribute(&self, lookup: &Lookup<'_>, key: &str) -> bool {
        self.decide(lookup(key, &mut |value| self.matches_present(value)))
    }

    fn decide(&self, found: Option<bool>) -> bool {
        match found {
            None => {
                self.exists != Some(true) && self.tests.iter().all(|test| matches!(test, ValueTest::Not(_)))
            }
            Some(_) if self.exists == Some(false) => false,
            Some(matched) => matched || self.tests.is_empty(),
        }
    }

    fn matches_present(&self, value: Scalar<'_>) -> bool {
        self.tests.iter().all(|test| test.matches(value))
    }
}

impl ValueTest {
    fn matches(&self, value: Scalar<'_>) -> bool {
        match self {
            ValueTest::OneOf(patterns) => patterns.iter().any(|pattern| pattern.matches(value)),
            ValueTest::Not(patterns) => !patterns.iter().any(|pattern| pattern.matches(value)),
            ValueTest::Regex(regex) => value.with_text(|text| regex.is_match(text)).unwrap_or(false),
            ValueTest::Compare(comparison, bound) => {
                let order = value.number().and_then(|number| number.partial_cmp(bound));
                order.is_some_and(|order| comparison.accepts(order))
            }
            ValueTest::Semver(wanted) => match value {
                Scalar::Str(text) => version(text).is_some_and(|version| wanted.matches(&version)),
                _ => false,
            },
        }
    }
}

impl Comparison {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Comparison::Gt => order == Ordering::Greater,
            Comparison::Gte => order != Ordering::Less,
            Comparison::Lt => order == Ordering::Less,
            Comparison::Lte => order != Ordering::Greater,
        }
    }
}

impl Pattern {
    fn matches(&self, value: Scalar<'_>) -> bool {
        match self {
            Pattern::Text(text) => value.with_text(|value| value == &**text).unwrap_or(false),
            Pattern::Glob(glob) => value.with_text(|value| glob.matches(value)).unwrap_or(false),
            Pattern::Number(number) => value.number() == Some(*number),
            Pattern::Bool(wanted) => matches!(value, Scalar::Bool(value) if value == *wanted),
        }
    }
}

/// A version as people write it: a leading `v` is ignored, missing numbers are 0.
fn version(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let core_end = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(core_end);
    match core.matches('.').count() {
        0 => Version::parse(&format!("{core}.0.0{rest}")).ok(),
        1 => Version::parse(&format!("{core}.0{rest}")).ok(),
        _ => Version::parse(text).ok(),
    }
}

impl DurationTest {
    /// Whether a duration lies within the bounds; a missing one does not.
    pub fn matches(&self, nanoseconds: Option<u64>) -> bool {
        nanoseconds.is_some_and(|nanoseconds| self.from <= nanoseconds && nanoseconds <= self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pattern: &str) -> ValueTest {
        ValueTest::OneOf([Pattern::Glob(Glob::new(pattern).unwrap())].into())
    }

    #[test]
    fn missing_values_match_only_not_and_exists_false() {
        let check = |exists: Option<bool>, tests: Vec<ValueTest>, expected: bool| {
            assert_eq!(
                Matcher { exists, tests: tests.clone() }.matches(None),
                expected,
                "{exists:?} {tests:?}"
            );
        };
        let not = || ValueTest::Not([Pattern::Bool(true)].into());
        check(None, vec![text("*")], false);
        check(None, vec![not()], true);
        check(Some(false), vec![], true);
        check(Some(true), vec![], false);
        check(Some(true), vec![not()], false);
        check(None, vec![not(), ValueTest::Compare(Comparison::Gt, 1.0)], false);
    }

    #[test]
    fn values_are_compared_by_kind() {
        let check = |test: ValueTest, value: Scalar<'_>, expected: bool| {
            let matcher = Matcher { exists: None, tests: vec![test.clone()] };
            assert_eq!(matcher.matches(Some(value)), expected, "{test:?} {value:?}");
        };
        check(text("5*"), Scalar::Int(503), true);
        check(text("tru?"), Scalar::Bool(true), true);
        check(text("5*"), Scalar::Double(5.0), false);
        check(text("*"), Scalar::Opaque, false);
        let five = || ValueTest::OneOf([Pattern::Number(5.0)].into());
        check(five(), Scalar::Int(5), true);
        check(five(), Scalar::Double(5.0), true);
        check(five(), Scalar::Str("5"), false);
        check(ValueTest::Compare(Comparison::Gte, 500.0), Scalar::Int(500), true);
        check(ValueTest::Compare(Comparison::Lt, 500.0), Scalar::Double(f64::NAN), false);
        check(ValueTest::Compare(Comparison::Gt, 1.0), Scalar::Str("2"), false);
        check(ValueTest::Regex(Regex::new("^a.c$").unwrap()), Scalar::Str("abc"), true);
    }

    #[test]
    fn versions_follow_cargo() {
        let check = |wanted: &str, value: &str, expected: bool| {
            let test = ValueTest::Semver(VersionReq::parse(wanted).unwrap());
            assert_eq!(test.matches(Scalar::Str(value)), expected, "{wanted} {value}");
        };
        check(">=7.0.0-rc.0, <7.0.0", "7.0.0-rc.2", true);
        check(">=7.0.0-rc.0, <7.0.0", "v7.0.0-rc.2", true);
        check(">=7.0.0-rc.0, <7.0.0", "7.0.0", false);
        check(">=6", "7.0.0-rc.2", false);
        check("7", "7.1", true);
        check("7", "v7", true);
        check("7", "seven", false);
    }
}
