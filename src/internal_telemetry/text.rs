//! The Prometheus text format, version 0.0.4.
//!
//! Written here and not by `prometheus-client`: its encoder writes OpenMetrics, where a counter's name
//! must end in `_total`, and the Collector's counters do not. Label values are escaped; tenants and
//! rules are named by users.

use std::borrow::Cow;
use std::fmt::Write;

use super::catalog::{Definition, Kind};
use super::families::{Families, Point, Value};
use super::own_resource::OwnResource;
use crate::config::service::{Prometheus, ResourceLabels};

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How one reader wants names and labels.
#[derive(Debug, Clone)]
pub struct Style {
    units: bool,
    type_suffix: bool,
    scope: bool,
    constant: Vec<(String, String)>,
    constant_everywhere: bool,
}

impl Style {
    /// What the reader's configuration asks for, with the resource attributes it wants as labels.
    pub fn new(reader: &Prometheus, resource: &OwnResource) -> Self {
        let dashboards = ResourceLabels { included: vec!["service.instance.id".into()], excluded: vec![] };
        let wanted = reader.with_resource_constant_labels.as_ref().unwrap_or(&dashboards);
        let constant = resource.attributes().iter().filter(|(key, _)| includes(wanted, key));
        Self {
            units: !reader.without_units,
            type_suffix: !reader.without_type_suffix,
            scope: !reader.without_scope_info,
            constant: constant.map(|(key, value)| (label_name(key), value.clone())).collect(),
            constant_everywhere: reader.with_resource_constant_labels.is_some(),
        }
    }

    /// The name under which this reader shows a metric.
    fn name(&self, metric: &Definition) -> Cow<'static, str> {
        if !metric.name.starts_with("otelcol_") {
            return metric.name.into();
        }
        let mut name = metric.name.to_owned();
        let unit = match metric.unit {
            "s" => "seconds",
            "By" => "bytes",
            _ => "",
        };
        if self.units && !unit.is_empty() && !name.ends_with(unit) {
            name = format!("{name}_{unit}");
        }
        if self.type_suffix && metric.kind == Kind::Counter {
            name += "_total";
        }
        name.into()
    }
}

fn includes(wanted: &ResourceLabels, key: &str) -> bool {
    let matches = |patterns: &[String]| patterns.iter().any(|p| p == "*" || p == key);
    matches(&wanted.included) && !matches(&wanted.excluded)
}

/// The text of all metrics.
pub fn render(families: &Families, style: &Style) -> String {
    let mut text = String::with_capacity(16 * 1024);
    for family in families.iter() {
        let name = style.name(family.definition);
        push(&mut text, &["# HELP ", &name, " "]);
        escape(&mut text, family.definition.help, Quotes::Plain);
        push(&mut text, &["\n# TYPE ", &name, " ", family.definition.kind.as_str(), "\n"]);
        let own = family.definition.name.starts_with("tollgate_");
        let constant = match style.constant_everywhere || !own {
            true if family.definition.name != "target_info" => style.constant.as_slice(),
            _ => &[],
        };
        for point in &family.points {
            text.push_str(&name);
            write_labels(&mut text, point, constant, style.scope);
            write_value(&mut text, point.value);
        }
    }
    text
}

fn write_labels(text: &mut String, point: &Point, constant: &[(String, String)], scope: bool) {
    let mut separator = "{";
    let mut label = |name: &str, value: &str| {
        push(text, &[separator, name, "=\""]);
        escape(text, value, Quotes::Escaped);
        text.push('"');
        separator = ",";
    };
    point.labels.iter().for_each(|(name, value)| label(name, value));
    constant.iter().for_each(|(name, value)| label(name, value));
    if scope {
        label("otel_scope_name", "tollgate");
    }
    if separator == "," {
        text.push('}');
    }
}

fn write_value(text: &mut String, value: Value) {
    let written = match value {
        Value::Int(value) => writeln!(text, " {value}"),
        Value::Float(value) => writeln!(text, " {value}"),
    };
    // Writing to a String cannot fail.
    debug_assert!(written.is_ok());
}

/// Whether quotes end the text that is escaped.
#[derive(Clone, Copy, PartialEq)]
enum Quotes {
    Plain,
    Escaped,
}

fn escape(text: &mut String, value: &str, quotes: Quotes) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes == Quotes::Escaped => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

fn push(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

/// The label of an attribute: dots and whatever else Prometheus does not take become `_`.
pub(super) fn label_name(key: &str) -> String {
    let mut name = String::with_capacity(key.len() + 1);
    if key.starts_with(|c: char| c.is_ascii_digit()) {
        name.push('_');
    }
    name.extend(key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
    name
}
