//! Reads `limits` of a block and `limit` of a rule.
//!
//! Not here: what happens above a limit (`tenant::limits`, `sampling::limit`, `otlp::Trim`). Invariant: a
//! limit that is not written is no limit, or has the default the documentation names.

use std::time::Duration;

use super::reader::{At, Keys, STAGE_2, STAGE_3};
use crate::otlp::{PerSignal, Signal};
use crate::units::{ByteSize, duration};
use crate::yaml::{Problems, Value};

/// How much of one tenant's data may come in, and what a single item may carry.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// `requests_per_second`
    pub requests_per_second: Option<f64>,
    /// `bytes_per_second`, of estimated decoded size.
    pub bytes_per_second: Option<f64>,
    /// `spans_per_second`, `data_points_per_second` and `log_records_per_second`.
    pub items_per_second: PerSignal<Option<f64>>,
    /// `kept_spans_per_second`: after sampling, as a threshold.
    pub kept_spans_per_second: Option<f64>,
    /// What may come at once, as the time in which the rate brings it.
    pub burst: Duration,
    /// How long a tenant may be over its rate before its data is refused for good; zero: for ever.
    pub sustained: Duration,
    /// The largest request, decompressed.
    pub max_request_bytes: u64,
    /// Request bytes that are read and not queued yet.
    pub max_in_flight_bytes: Option<u64>,
    /// Requests under way to one exporter that began with the tenant's data.
    pub export_in_flight: Option<u32>,
    /// The longest string in attributes of an item.
    pub max_attribute_value_bytes: Option<u64>,
    /// Attributes of one item.
    pub max_attributes_per_item: Option<u64>,
    /// Events of one span.
    pub max_events_per_span: Option<u64>,
    /// Links of one span.
    pub max_links_per_span: Option<u64>,
    /// Model versions that metrics tell apart.
    pub max_model_versions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Written::default().merged()
    }
}

impl Limits {
    /// Whether anything is counted per second or in flight.
    pub fn meters(&self) -> bool {
        self.requests_per_second.is_some()
            || self.bytes_per_second.is_some()
            || self.items_per_second.iter().any(|(_, rate)| rate.is_some())
            || self.max_in_flight_bytes.is_some()
    }

    /// The most `bytes_per_second` ever lets in at once.
    pub fn decoded_at_once(&self) -> Option<u64> {
        self.bytes_per_second.map(|rate| (rate * self.burst.as_secs_f64()) as u64)
    }

    /// Whether items may have to be made smaller.
    pub fn trims(&self) -> bool {
        self.max_attribute_value_bytes.is_some()
            || self.max_attributes_per_item.is_some()
            || self.max_events_per_span.is_some()
            || self.max_links_per_span.is_some()
    }
}

/// The cap of a rule on what it keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RuleLimit {
    /// What is counted.
    pub unit: LimitUnit,
    /// How many of them a second.
    pub per_second: f64,
    /// What may come at once, as the time in which the rate brings it.
    pub burst: Duration,
    /// `per: [tenant]`: each tenant has a cap of its own; else all share one.
    pub per_tenant: bool,
}

/// What the cap of a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// Spans.
    Spans,
    /// Log records.
    LogRecords,
    /// Bytes of encoded items.
    Bytes,
}

impl LimitUnit {
    const ALL: [(&'static str, Self); 3] = [
        ("spans_per_second", Self::Spans),
        ("log_records_per_second", Self::LogRecords),
        ("bytes_per_second", Self::Bytes),
    ];
}

const LIMITS: Keys = Keys {
    known: &[
        "requests_per_second",
        "bytes_per_second",
        "spans_per_second",
        "log_records_per_second",
        "data_points_per_second",
        "kept_spans_per_second",
        "burst",
        "sustained",
        "max_request_bytes",
        "max_in_flight_bytes",
        "export_in_flight",
        "max_attribute_value_bytes",
        "max_attributes_per_item",
        "max_events_per_span",
        "max_links_per_span",
        "max_model_versions",
    ],
    later: &[("warm_up", STAGE_2), ("max_series", STAGE_3), ("scope", STAGE_3), ("on_unavailable", STAGE_3)],
};

const RULE_LIMIT: Keys = Keys {
    known: &["spans_per_second", "log_records_per_second", "bytes_per_second", "burst", "per"],
    later: &[],
};

const BURST: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
const SUSTAINED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));
const DEFAULT_BURST: Duration = Duration::from_secs(2);
const DEFAULT_MAX_REQUEST_BYTES: u64 = 64 << 20;
const DEFAULT_MODEL_VERSIONS: u64 = 20;
/// As many as an exporter may have consumers.
const MAX_EXPORT_IN_FLIGHT: u64 = 1000;
/// The most model versions of one tenant: each is a series of metrics.
const MAX_MODEL_VERSIONS: u64 = 1000;

/// `limits` as one block writes them.
#[derive(Debug, Default, Clone)]
pub(super) struct Written {
    requests_per_second: Option<f64>,
    bytes_per_second: Option<f64>,
    items_per_second: PerSignal<Option<f64>>,
    kept_spans_per_second: Option<f64>,
    burst: Option<Duration>,
    sustained: Option<Duration>,
    max_request_bytes: Option<u64>,
    max_in_flight_bytes: Option<u64>,
    export_in_flight: Option<u32>,
    max_attribute_value_bytes: Option<u64>,
    max_attributes_per_item: Option<u64>,
    max_events_per_span: Option<u64>,
    max_links_per_span: Option<u64>,
    max_model_versions: Option<u64>,
}

impl Written {
    /// These, and where they are silent `other`.
    pub(super) fn or(&self, other: &Self) -> Self {
        Self {
            requests_per_second: self.requests_per_second.or(other.requests_per_second),
            bytes_per_second: self.bytes_per_second.or(other.bytes_per_second),
            items_per_second: PerSignal::from_fn(|signal| {
                self.items_per_second[signal].or(other.items_per_second[signal])
            }),
            kept_spans_per_second: self.kept_spans_per_second.or(other.kept_spans_per_second),
            burst: self.burst.or(other.burst),
            sustained: self.sustained.or(other.sustained),
            max_request_bytes: self.max_request_bytes.or(other.max_request_bytes),
            max_in_flight_bytes: self.max_in_flight_bytes.or(other.max_in_flight_bytes),
            export_in_flight: self.export_in_flight.or(other.export_in_flight),
            max_attribute_value_bytes: self.max_attribute_value_bytes.or(other.max_attribute_value_bytes),
            max_attributes_per_item: self.max_attributes_per_item.or(other.max_attributes_per_item),
            max_events_per_span: self.max_events_per_span.or(other.max_events_per_span),
            max_links_per_span: self.max_links_per_span.or(other.max_links_per_span),
            max_model_versions: self.max_model_versions.or(other.max_model_versions),
        }
    }

    /// These, and where they are silent the defaults.
    pub(super) fn merged(&self) -> Limits {
        Limits {
            requests_per_second: self.requests_per_second,
            bytes_per_second: self.bytes_per_second,
            items_per_second: self.items_per_second.clone(),
            kept_spans_per_second: self.kept_spans_per_second,
            burst: self.burst.unwrap_or(DEFAULT_BURST),
            sustained: self.sustained.unwrap_or_default(),
            max_request_bytes: self.max_request_bytes.unwrap_or(DEFAULT_MAX_REQUEST_BYTES),
            max_in_flight_bytes: self.max_in_flight_bytes,
            export_in_flight: self.export_in_flight,
            max_attribute_value_bytes: self.max_attribute_value_bytes,
            max_attributes_per_item: self.max_attributes_per_item,
            max_events_per_span: self.max_events_per_span,
            max_links_per_span: self.max_links_per_span,
            max_model_versions: self.max_model_versions.unwrap_or(DEFAULT_MODEL_VERSIONS),
        }
    }
}

/// Reads `limits`.
pub(super) fn read(at: &At<'_>, problems: &mut Problems) -> Written {
    if !at.check_keys(&LIMITS, problems) {
        return Written::default();
    }
    let mut rate_of = |key: &str| at.key(key).and_then(|value| rate(&value, problems));
    let requests_per_second = rate_of("requests_per_second");
    let spans = rate_of("spans_per_second");
    let data_points = rate_of("data_points_per_second");
    let log_records = rate_of("log_records_per_second");
    let kept_spans_per_second = rate_of("kept_spans_per_second");
    let mut bytes_of = |key: &str| at.key(key).and_then(|value| bytes(&value, problems));
    let max_request_bytes = bytes_of("max_request_bytes");
    let max_in_flight_bytes = bytes_of("max_in_flight_bytes");
    let max_attribute_value_bytes = bytes_of("max_attribute_value_bytes");
    let mut count_of =
        |key: &str, most: u64| at.key(key).and_then(|value| count(&value, (1, most), problems));
    let unbounded = u64::from(u32::MAX);
    let max_attributes_per_item = count_of("max_attributes_per_item", unbounded);
    let max_events_per_span = count_of("max_events_per_span", unbounded);
    let max_links_per_span = count_of("max_links_per_span", unbounded);
    let max_model_versions = count_of("max_model_versions", MAX_MODEL_VERSIONS);
    let export_in_flight = count_of("export_in_flight", MAX_EXPORT_IN_FLIGHT);
    Written {
        requests_per_second,
        bytes_per_second: at.key("bytes_per_second").and_then(|value| byte_rate(&value, problems)),
        items_per_second: PerSignal::from_fn(|signal| match signal {
            Signal::Traces => spans,
            Signal::Metrics => data_points,
            Signal::Logs => log_records,
        }),
        kept_spans_per_second,
        burst: at.key("burst").and_then(|value| duration_within(&value, BURST, false, problems)),
        sustained: at.key("sustained").and_then(|value| duration_within(&value, SUSTAINED, true, problems)),
        max_request_bytes,
        max_in_flight_bytes,
        // Within its range, which is far below.
        export_in_flight: export_in_flight.map(|count| count as u32),
        max_attribute_value_bytes,
        max_attributes_per_item,
        max_events_per_span,
        max_links_per_span,
        max_model_versions,
    }
}

/// Reads `limit` of a rule that looks at these signals.
pub(super) fn read_rule(
    at: &At<'_>,
    signals: &PerSignal<bool>,
    problems: &mut Problems,
) -> Option<RuleLimit> {
    if !at.check_keys(&RULE_LIMIT, problems) {
        return None;
    }
    let burst = at.key("burst").and_then(|value| duration_within(&value, BURST, false, problems));
    let per_tenant = at.key("per").is_none_or(|value| read_per(&value, problems));
    let units = || LimitUnit::ALL.into_iter().filter(|(key, _)| at.has(key));
    let (Some((key, unit)), 1) = (units().next(), units().count()) else {
        let help = "write spans_per_second, log_records_per_second or bytes_per_second";
        at.error_with(problems, "a limit counts one thing", help);
        return None;
    };
    let value = at.key(key)?;
    let signal = match unit {
        LimitUnit::Spans => Some(Signal::Traces),
        LimitUnit::LogRecords => Some(Signal::Logs),
        LimitUnit::Bytes => None,
    };
    if let Some(signal) = signal.filter(|signal| !signals[*signal]) {
        let help = "the signals of a rule are those `match.signal` names, without it traces";
        value.error_with(problems, format!("the rule does not look at {signal}"), help);
    }
    let per_second = match unit {
        LimitUnit::Bytes => byte_rate(&value, problems),
        LimitUnit::Spans | LimitUnit::LogRecords => rate(&value, problems),
    }?;
    Some(RuleLimit { unit, per_second, burst: burst.unwrap_or(DEFAULT_BURST), per_tenant })
}

/// Whether each tenant has a cap of its own.
fn read_per(at: &At<'_>, problems: &mut Problems) -> bool {
    let items = at.items(problems);
    if items.len() > 1 {
        at.error_with(problems, "too many dimensions", "write [tenant], or [] for one cap for all");
    }
    for item in &items {
        let _tenant: Option<()> = item.choice(&[("tenant", ())], problems);
    }
    !items.is_empty()
}

fn rate(at: &At<'_>, problems: &mut Problems) -> Option<f64> {
    match at.number(problems)? {
        rate if rate > 0.0 && rate.is_finite() => Some(rate),
        rate => {
            let help = "leave the key out for no limit";
            at.error_with(problems, format!("{rate} is out of range; a rate is above 0"), help);
            None
        }
    }
}

fn byte_rate(at: &At<'_>, problems: &mut Problems) -> Option<f64> {
    match &at.node.value {
        Value::Str(_) => bytes(at, problems).map(|bytes| bytes as f64),
        _ => rate(at, problems),
    }
}

fn bytes(at: &At<'_>, problems: &mut Problems) -> Option<u64> {
    let text = match &at.node.value {
        Value::Str(text) => text.clone(),
        Value::Int(value) => value.to_string(),
        _ => {
            at.wrong_type(problems, "a size such as 64MiB or 1048576");
            return None;
        }
    };
    match ByteSize::parse(&text) {
        Ok(ByteSize(0)) => {
            let help = "leave the key out for no limit";
            at.error_with(problems, "0 bytes are out of range; a size is above 0", help);
            None
        }
        Ok(size) => Some(size.0),
        Err(bad) => {
            at.error(problems, bad.to_string());
            None
        }
    }
}

fn count(at: &At<'_>, (least, most): (u64, u64), problems: &mut Problems) -> Option<u64> {
    let value = match at.node.value {
        Value::Int(value) => value,
        _ => {
            at.wrong_type(problems, "a whole number");
            return None;
        }
    };
    let found = u64::try_from(value).ok().filter(|value| (least..=most).contains(value));
    if found.is_none() {
        at.error(problems, format!("{value} is out of range; allowed are {least} to {most}"));
    }
    found
}

fn duration_within(
    at: &At<'_>,
    (least, most): (Duration, Duration),
    zero: bool,
    problems: &mut Problems,
) -> Option<Duration> {
    let value = at.duration(problems)?;
    if (least..=most).contains(&value) || (zero && value.is_zero()) {
        return Some(value);
    }
    let (value, least, most) = (duration::format(value), duration::format(least), duration::format(most));
    let or_zero = if zero { "0s, or " } else { "" };
    at.error(problems, format!("{value} is out of range; allowed are {or_zero}{least} to {most}"));
    None
}
