//! `service.telemetry`: what this program says of itself and to whom.
//!
//! Keys and defaults are the Collector's; numbers of milliseconds are the declarative
//! configuration's, which has no durations.

mod push;
mod resource;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use push::BadPush;
pub use resource::{BadResource, Resource};

use crate::yaml::{Node, Problems, join_index};

/// Logs, metrics and traces of the collector itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// What is logged, how and where to. A change of `level` takes effect on SIGHUP, others at a restart.
    pub logs: Logs,
    /// Who may read the metrics, and where they are pushed to.
    pub metrics: Metrics,
    /// Where traces of the collector's own work go. Default: nowhere.
    pub traces: Traces,
    /// What the collector says it is, in pushed metrics and traces and in `target_info`.
    pub resource: Resource,
}

/// How much is logged: this level and all graver ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Per request.
    #[serde(alias = "DEBUG")]
    Debug,
    /// Lifecycle and reloads.
    #[default]
    #[serde(alias = "INFO")]
    Info,
    /// Something went wrong and the collector coped.
    #[serde(alias = "WARN")]
    Warn,
    /// A human must act.
    #[serde(alias = "ERROR")]
    Error,
}

/// The Collector takes capitals too, and its documentation writes them.
impl JsonSchema for LogLevel {
    fn schema_name() -> Cow<'static, str> {
        "LogLevel".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How much is logged: this level and all graver ones.",
            "oneOf": [
                { "type": "string", "const": "debug", "description": "Per request." },
                { "type": "string", "const": "info", "description": "Lifecycle and reloads." },
                { "type": "string", "const": "warn", "description": "What went wrong and was coped with." },
                { "type": "string", "const": "error", "description": "A human must act." },
                { "type": "string", "enum": ["DEBUG", "INFO", "WARN", "ERROR"] },
            ],
        })
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogEncoding {
    /// Text for people.
    Console,
    /// One JSON object a line.
    Json,
}

/// The collector's own log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// The least grave level that is logged; libraries log from `warn`. Default: `info`.
    pub level: LogLevel,
    /// The form of a line; `--log-format` goes before it. Default: `console` on a terminal, else `json`.
    pub encoding: Option<LogEncoding>,
    /// Limits what one place in the program can log. Default: on.
    pub sampling: LogSampling,
    /// Where lines go: `stderr`, `stdout` or the path of a file to append to. Default: `[stderr]`.
    pub output_paths: Vec<String>,
    /// Accepted as the Collector's; errors of logging itself go to stderr. Default: `[stderr]`.
    pub error_output_paths: Vec<String>,
    /// Accepted as the Collector's; changes nothing. Default: false.
    pub development: bool,
    /// Leaves out which module logged. Default: false.
    pub disable_caller: bool,
    /// Accepted as the Collector's; stack traces are never logged. Default: false.
    pub disable_stacktrace: bool,
    /// Fields added to every line. Default: none.
    pub initial_fields: BTreeMap<String, Value>,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            level: LogLevel::Info,
            encoding: None,
            sampling: LogSampling::default(),
            output_paths: vec!["stderr".into()],
            error_output_paths: vec!["stderr".into()],
            development: false,
            disable_caller: false,
            disable_stacktrace: false,
            initial_fields: BTreeMap::new(),
        }
    }
}

/// Within one `tick`, one place in the program logs its first `initial` lines and then every
/// `thereafter`th; the next line it logs says how many were left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogSampling {
    /// Whether lines are limited at all; off, one bad sender can flood the log. Default: true.
    pub enabled: bool,
    /// After this time counting starts anew. Default: 10s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub tick: Duration,
    /// Lines logged before the limit sets in. Default: 10.
    pub initial: u64,
    /// Past `initial`, every how many-th line is logged; 0 logs none. Default: 100.
    pub thereafter: u64,
}

impl Default for LogSampling {
    fn default() -> Self {
        Self { enabled: true, tick: Duration::from_secs(10), initial: 10, thereafter: 100 }
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing at all.
    None,
    /// The same as `normal`.
    Basic,
    /// Everything there is.
    #[default]
    Normal,
    /// The same as `normal`.
    Detailed,
}

/// The collector's own metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// `none` turns all readers off; the others give the same metrics. Default: `normal`.
    pub level: Level,
    /// Who gets the metrics. Default: one Prometheus endpoint on `localhost:8888`.
    pub readers: Vec<Reader>,
    /// Accepted from old Collector files and not used: see `readers`. Default: none.
    pub address: Option<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        let pull = Pull { exporter: PullExporter { prometheus: Prometheus::default() } };
        Self {
            level: Level::Normal,
            readers: vec![Reader { pull: Some(pull), periodic: None }],
            address: None,
        }
    }
}

/// One way out for metrics: exactly one of `pull` and `periodic`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reader {
    /// Metrics are fetched from here. Default: absent.
    pub pull: Option<Pull>,
    /// Metrics are pushed at an interval. Default: absent.
    pub periodic: Option<Periodic>,
}

/// A reader that is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pull {
    /// In which form it answers.
    pub exporter: PullExporter,
}

/// The form of answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PullExporter {
    /// Prometheus text on `/metrics`.
    #[serde(alias = "prometheus/development")]
    #[schemars(extend("x-aliases" = ["prometheus/development"]))]
    pub prometheus: Prometheus,
}

/// A Prometheus endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Prometheus {
    /// The address to listen on; `0.0.0.0` lets everybody read. Default: `localhost`.
    pub host: String,
    /// The port to listen on; 0 takes a free one. Default: 8888.
    pub port: u16,
    /// Leaves out the label that names the instrumentation scope. Default: true.
    pub without_scope_info: bool,
    /// Leaves the unit out of `otelcol_` names. Default: true.
    pub without_units: bool,
    /// Leaves `_total` out of `otelcol_` names. Default: true.
    pub without_type_suffix: bool,
    /// Resource attributes that become labels of every series.
    /// Default: `service.instance.id`, on the `otelcol_` series only.
    pub with_resource_constant_labels: Option<ResourceLabels>,
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 8888,
            without_scope_info: true,
            without_units: true,
            without_type_suffix: true,
            with_resource_constant_labels: None,
        }
    }
}

/// Which resource attributes become labels: those included and not excluded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceLabels {
    /// Keys, or `*` for all. Default: none.
    pub included: Vec<String>,
    /// Keys that stay out. Default: none.
    pub excluded: Vec<String>,
}

/// A reader that pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Periodic {
    /// Milliseconds between two pushes. Default: 60000. Range: above 0.
    #[schemars(range(min = 1))]
    pub interval: u64,
    /// Milliseconds a push may take. Default: 30000. Range: above 0.
    #[schemars(range(min = 1))]
    pub timeout: u64,
    /// Where to.
    pub exporter: PushExporter,
}

impl Default for Periodic {
    fn default() -> Self {
        Self { interval: 60_000, timeout: 30_000, exporter: PushExporter::default() }
    }
}

/// The destination of a push.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PushExporter {
    /// By OTLP.
    pub otlp: OtlpPush,
}

/// How own telemetry is framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OtlpProtocol {
    /// OTLP/gRPC.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// OTLP/HTTP with protobuf bodies.
    #[serde(rename = "http/protobuf")]
    Http,
}

/// An OTLP destination of own telemetry. It must not be a receiver of this very collector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpPush {
    /// How requests are framed. Default: `grpc`.
    pub protocol: OtlpProtocol,
    /// A URL such as `http://localhost:4317`; without a scheme TLS is used unless `insecure`. With
    /// `http/protobuf`, a URL without path gets that of the signal, such as `/v1/metrics`.
    /// Default: `http://localhost:4317`.
    pub endpoint: String,
    /// Speaks without TLS to an endpoint that names no scheme. Default: false.
    pub insecure: bool,
    /// Sent with every request. Default: none.
    pub headers: Vec<Header>,
    /// Milliseconds a request may take. Default: 10000. Range: above 0.
    #[schemars(range(min = 1))]
    pub timeout: u64,
    /// File with the certificates of the authorities to trust. Default: those of the system.
    pub certificate: Option<PathBuf>,
    /// File with the client's certificate, with `client_key`. Default: none.
    pub client_certificate: Option<PathBuf>,
    /// File with the key of `client_certificate`. Default: none.
    pub client_key: Option<PathBuf>,
}

impl Default for OtlpPush {
    fn default() -> Self {
        Self {
            protocol: OtlpProtocol::Grpc,
            endpoint: "http://localhost:4317".into(),
            insecure: false,
            headers: Vec::new(),
            timeout: 10_000,
            certificate: None,
            client_certificate: None,
            client_key: None,
        }
    }
}

/// A header of pushed requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value. Default: empty.
    #[schemars(extend("x-secret" = true))]
    pub value: String,
}

/// The collector's own traces.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Traces {
    /// `none` turns traces off; the others are the same. Default: `normal`.
    pub level: Level,
    /// Who gets the spans. Default: nobody, and none are made.
    pub processors: Vec<SpanProcessor>,
    /// Which share of requests is traced. Default: one in a hundred.
    pub sampler: Sampler,
    /// Accepted as the Collector's; own spans do not continue the traces they carry. Default: none.
    pub propagators: Vec<String>,
}

/// One way out for spans.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpanProcessor {
    /// Collects spans and pushes them together.
    pub batch: BatchSpanProcessor,
}

/// How spans are collected before they are pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchSpanProcessor {
    /// Milliseconds between two pushes. Default: 5000. Range: above 0.
    #[schemars(range(min = 1))]
    pub schedule_delay: u64,
    /// Milliseconds a push may take. Default: 30000. Range: above 0.
    #[schemars(range(min = 1))]
    pub export_timeout: u64,
    /// Spans that wait at most; further ones are lost. Default: 2048. Range: above 0.
    #[schemars(range(min = 1))]
    pub max_queue_size: usize,
    /// Spans in one push at most. Default: 512. Range: 1 to `max_queue_size`.
    #[schemars(range(min = 1))]
    pub max_export_batch_size: usize,
    /// Where to.
    pub exporter: PushExporter,
}

impl Default for BatchSpanProcessor {
    fn default() -> Self {
        Self {
            schedule_delay: 5_000,
            export_timeout: 30_000,
            max_queue_size: 2_048,
            max_export_batch_size: 512,
            exporter: PushExporter::default(),
        }
    }
}

/// Which own traces are made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sampler {
    /// A share of them.
    pub trace_id_ratio_based: TraceIdRatio,
}

/// A share of all traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TraceIdRatio {
    /// The share. Default: 0.01. Range: 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ratio: f64,
}

impl Default for TraceIdRatio {
    fn default() -> Self {
        Self { ratio: 0.01 }
    }
}

impl Telemetry {
    /// Reports what the types do not rule out. `path` is where `node`, this section, stands in the file.
    pub fn check(&self, node: &Node, path: &str, problems: &mut Problems) {
        let mut error = |at: &str, message: &str| {
            let place = node.at(at).unwrap_or(node);
            problems.error_at(place, &format!("{path}.{at}"), message, None);
        };
        if self.metrics.level != Level::None && self.metrics.readers.is_empty() {
            error("metrics.readers", "a level other than `none` needs a reader");
        }
        for (i, reader) in self.metrics.readers.iter().enumerate() {
            if reader.pull.is_some() == reader.periodic.is_some() {
                error(&join_index("metrics.readers", i), "a reader is either `pull` or `periodic`");
            }
        }
        for (i, processor) in self.traces.processors.iter().enumerate() {
            let batch = &processor.batch;
            if batch.max_export_batch_size > batch.max_queue_size {
                let at = format!("traces.processors[{i}].batch.max_export_batch_size");
                error(&at, "must not be above max_queue_size");
            }
        }
        for (at, otlp) in self.pushes() {
            for bad in otlp.check() {
                let at = format!("{at}.{}", bad.key());
                error(&at, &bad.to_string());
            }
        }
        if self.logs.sampling.enabled && self.logs.sampling.tick.is_zero() {
            error("logs.sampling.tick", "must be above 0");
        }
        if let Err(bad) = self.resource.attributes() {
            error("resource", &bad.to_string());
        }
        if self.metrics.address.is_some() {
            let place = node.at("metrics.address").unwrap_or(node);
            let help = "set host and port of metrics.readers[].pull.exporter.prometheus".to_owned();
            let path = format!("{path}.metrics.address");
            problems.warning_at(place, &path, "is not used", Some(help));
        }
    }
}

impl Metrics {
    /// The readers to start: none at level `none`.
    pub fn active_readers(&self) -> &[Reader] {
        match self.level {
            Level::None => &[],
            _ => &self.readers,
        }
    }
}

#[cfg(test)]
mod tests;
