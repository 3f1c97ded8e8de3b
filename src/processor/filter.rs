//! `include` and `exclude` of `attributes`: which items an action concerns.
//!
//! Properties are ANDed; within a property any entry suffices, except that every listed attribute must
//! match. A property the signal does not have matches nothing.

use regex::Regex;

use super::attributes::constant;
use crate::config::processor::{self as config, MatchType, SPAN_KINDS};
use crate::otlp::{AttributeValue, Draft, ItemId, PartId, Signal, Value};

/// One compiled `include` or `exclude`.
#[derive(Debug)]
pub(super) struct Filter {
    services: Vec<Text>,
    resources: Vec<(String, Option<Wanted>)>,
    libraries: Vec<(Text, Option<Text>)>,
    attributes: Vec<(String, Option<Wanted>)>,
    span_names: Vec<Text>,
    span_kinds: Vec<Text>,
    log_bodies: Vec<Text>,
    log_severity_texts: Vec<Text>,
    log_severity_number: Option<config::SeverityMatch>,
    metric_names: Vec<Text>,
}

/// A text to compare with.
#[derive(Debug)]
enum Text {
    Exactly(String),
    Pattern(Regex),
    /// A pattern that does not compile was refused with the configuration.
    Nothing,
}

impl Text {
    fn new(kind: MatchType, text: &str) -> Self {
        match kind {
            MatchType::Strict => Text::Exactly(text.to_owned()),
            MatchType::Regexp => Regex::new(text).map_or(Text::Nothing, Text::Pattern),
        }
    }

    fn matches(&self, found: &str) -> bool {
        match self {
            Text::Exactly(text) => text == found,
            Text::Pattern(pattern) => pattern.is_match(found),
            Text::Nothing => false,
        }
    }
}

/// An attribute's value to compare with: a pattern applies to strings, everything else is equality.
#[derive(Debug)]
enum Wanted {
    Text(Text),
    Value(AttributeValue),
}

impl Wanted {
    fn matches(&self, found: Value<'_>) -> bool {
        match self {
            Wanted::Text(text) => found.as_str().is_some_and(|found| text.matches(found)),
            Wanted::Value(value) => value.as_value() == found,
        }
    }
}

impl Filter {
    pub(super) fn new(rule: &config::Match) -> Self {
        let kind = rule.match_type;
        let texts = |list: &[String]| list.iter().map(|text| Text::new(kind, text)).collect();
        let pairs = |list: &[config::AttributeMatch]| {
            let wanted = |pair: &config::AttributeMatch| pair.value.as_ref().map(|value| wanted(kind, value));
            list.iter().map(|pair| (pair.key.clone(), wanted(pair))).collect()
        };
        let library = |library: &config::LibraryMatch| {
            (Text::new(kind, &library.name), library.version.as_ref().map(|version| Text::new(kind, version)))
        };
        Self {
            services: texts(&rule.services),
            resources: pairs(&rule.resources),
            libraries: rule.libraries.iter().map(library).collect(),
            attributes: pairs(&rule.attributes),
            span_names: texts(&rule.span_names),
            span_kinds: texts(&rule.span_kinds),
            log_bodies: texts(&rule.log_bodies),
            log_severity_texts: texts(&rule.log_severity_texts),
            log_severity_number: rule.log_severity_number.clone(),
            metric_names: texts(&rule.metric_names),
        }
    }

    pub(super) fn matches(&self, draft: &Draft<'_>, part: PartId, item: ItemId) -> bool {
        self.matches_resource(draft, part)
            && self.matches_scope(draft, item)
            && all(&self.attributes, |key| draft.item_attribute(item, key))
            && self.matches_fields(draft, item)
    }

    fn matches_resource(&self, draft: &Draft<'_>, part: PartId) -> bool {
        let service = || draft.resource_attribute(part, "service.name").and_then(|value| value.as_str());
        (self.services.is_empty() || any(&self.services, service().unwrap_or("")))
            && all(&self.resources, |key| draft.resource_attribute(part, key))
    }

    fn matches_scope(&self, draft: &Draft<'_>, item: ItemId) -> bool {
        if self.libraries.is_empty() {
            return true;
        }
        let (name, version) = draft.scope_name(item);
        let matches = |(wanted, of): &(Text, Option<Text>)| {
            wanted.matches(name) && of.as_ref().is_none_or(|of| of.matches(version))
        };
        self.libraries.iter().any(matches)
    }

    fn matches_fields(&self, draft: &Draft<'_>, item: ItemId) -> bool {
        let of_spans = [&self.span_names, &self.span_kinds];
        let of_logs = [&self.log_bodies, &self.log_severity_texts];
        let asks_logs = of_logs.iter().any(|list| !list.is_empty()) || self.log_severity_number.is_some();
        let asks_spans = of_spans.iter().any(|list| !list.is_empty());
        let asks_metrics = !self.metric_names.is_empty();
        match draft.signal() {
            Signal::Traces => !asks_logs && !asks_metrics && (!asks_spans || self.matches_span(draft, item)),
            Signal::Logs => !asks_spans && !asks_metrics && (!asks_logs || self.matches_log(draft, item)),
            Signal::Metrics => {
                !asks_spans
                    && !asks_logs
                    && (!asks_metrics || any(&self.metric_names, draft.metric_name(item)))
            }
        }
    }

    fn matches_span(&self, draft: &Draft<'_>, item: ItemId) -> bool {
        let Some(span) = draft.span(item) else { return false };
        let kind = usize::try_from(span.kind()).ok().and_then(|kind| SPAN_KINDS.get(kind));
        (self.span_names.is_empty() || any(&self.span_names, span.name()))
            && (self.span_kinds.is_empty() || kind.is_some_and(|kind| any(&self.span_kinds, kind)))
    }

    fn matches_log(&self, draft: &Draft<'_>, item: ItemId) -> bool {
        let Some(log) = draft.log(item) else { return false };
        let severity = |wanted: &config::SeverityMatch| match log.severity_number() {
            0 => wanted.match_undefined,
            number => number >= i32::from(wanted.min),
        };
        let body = || log.body().and_then(|body| body.as_str());
        (self.log_bodies.is_empty() || body().is_some_and(|body| any(&self.log_bodies, body)))
            && (self.log_severity_texts.is_empty() || any(&self.log_severity_texts, log.severity_text()))
            && self.log_severity_number.as_ref().is_none_or(severity)
    }
}

fn wanted(kind: MatchType, value: &config::AttributeValue) -> Wanted {
    match (kind, value) {
        (MatchType::Regexp, config::AttributeValue::Str(text)) => Wanted::Text(Text::new(kind, text)),
        (_, value) => Wanted::Value(constant(value)),
    }
}

fn any(wanted: &[Text], found: &str) -> bool {
    wanted.iter().any(|text| text.matches(found))
}

/// Every pair is there, with the value wanted if one is.
fn all<'d>(pairs: &[(String, Option<Wanted>)], get: impl Fn(&str) -> Option<Value<'d>>) -> bool {
    pairs.iter().all(|(key, wanted)| match (get(key), wanted) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(found), Some(wanted)) => wanted.matches(found),
    })
}
