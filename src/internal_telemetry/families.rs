//! One reading of all metrics: what the Prometheus text, the OTLP push and the admin API are made from.

use std::borrow::Cow;

use super::catalog::{Definition, of};
use crate::otlp::{PerSignal, Signal};

/// The value of a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// Counts and bytes.
    Int(i64),
    /// Seconds and adjusted counts.
    Float(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Value::Float(value)
    }
}

/// One value with the labels it stands under.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Name and value of each label.
    pub labels: Vec<(Cow<'static, str>, String)>,
    /// The reading.
    pub value: Value,
}

/// One metric with all its points.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Name, kind, unit and meaning.
    pub definition: &'static Definition,
    /// The readings; never empty.
    pub points: Vec<Point>,
}

/// One reading of all metrics that have points.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Families(Vec<Family>);

impl Families {
    /// Every metric, in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.iter()
    }

    /// The points of one metric; none if it has none or does not exist.
    pub fn points(&self, name: &str) -> &[Point] {
        let family = self.0.iter().find(|family| family.definition.name == name);
        family.map_or(&[], |family| &family.points)
    }

    /// The sum of a metric over all points whose labels include `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |point: &Point, (name, value): &(&str, &str)| {
            point.labels.iter().any(|(n, v)| n == name && v == value)
        };
        let matching = |point: &&Point| labels.iter().all(|label| has(point, label));
        let number = |point: &Point| match point.value {
            Value::Int(value) => value as f64,
            Value::Float(value) => value,
        };
        self.points(name).iter().filter(matching).map(number).sum()
    }

    /// Adds a point; the label values stand in the order of the definition's labels.
    pub(super) fn add(&mut self, definition: &'static Definition, labels: &[&str], value: impl Into<Value>) {
        debug_assert_eq!(definition.labels.len(), labels.len(), "{}", definition.name);
        let named = definition.labels.iter().zip(labels);
        let labels = named.map(|(name, value)| (Cow::Borrowed(*name), (*value).to_owned())).collect();
        self.add_point(definition, Point { labels, value: value.into() });
    }

    /// Adds a point with labels of its own.
    pub(super) fn add_point(&mut self, definition: &'static Definition, point: Point) {
        // Readings come family by family or in turns of a few families: the one wanted is near the end.
        match self.0.iter_mut().rev().find(|family| std::ptr::eq(family.definition, definition)) {
            Some(family) => family.points.push(point),
            None => self.0.push(Family { definition, points: vec![point] }),
        }
    }

    /// Adds the three points of a metric that has one name for each signal.
    pub(super) fn add_per_signal(
        &mut self,
        three: &'static [Definition; 3],
        labels: &[&str],
        values: &PerSignal<super::metrics::Counter>,
    ) {
        for signal in Signal::ALL {
            self.add(of(three, signal), labels, values[signal].get());
        }
    }
}
