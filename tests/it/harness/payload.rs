//! Requests as the tests send and find them, in prost types.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};

/// What a test says of one item.
#[derive(Debug, Clone, Default)]
pub struct Item {
    /// Names the item: span name, metric name, log body.
    pub name: String,
    /// String attributes of the item.
    pub attributes: Vec<(String, String)>,
    /// Spans: status code ERROR.
    pub error: bool,
}

impl Item {
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn error(mut self) -> Self {
        self.error = true;
        self
    }
}

fn attributes<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<KeyValue> {
    let value = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let pairs = pairs.into_iter();
    pairs
        .map(|(key, text)| KeyValue { key: key.to_owned(), value: value(text), ..KeyValue::default() })
        .collect()
}

fn own(item: &Item) -> Vec<KeyValue> {
    attributes(item.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

fn resource(pairs: &[(&str, &str)]) -> Option<Resource> {
    Some(Resource { attributes: attributes(pairs.iter().copied()), ..Resource::default() })
}

fn id<const N: usize>() -> Vec<u8> {
    let mut bytes = [0u8; N];
    fastrand::fill(&mut bytes);
    bytes.to_vec()
}

/// A traces request of one resource.
pub fn spans(of: &[(&str, &str)], items: &[Item]) -> ExportTraceServiceRequest {
    let spans = items.iter().map(|item| Span {
        trace_id: id::<16>(),
        span_id: id::<8>(),
        name: item.name.clone(),
        kind: 2,
        start_time_unix_nano: 1_700_000_000_000_000_000,
        end_time_unix_nano: 1_700_000_000_001_000_000,
        attributes: own(item),
        status: item.error.then(|| Status { code: 2, ..Status::default() }),
        ..Span::default()
    });
    let scope_spans = vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: resource(of), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// A logs request of one resource.
pub fn logs(of: &[(&str, &str)], items: &[Item]) -> ExportLogsServiceRequest {
    let records = items.iter().map(|item| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000,
        severity_number: 9,
        body: Some(AnyValue { value: Some(Value::StringValue(item.name.clone())) }),
        attributes: own(item),
        ..LogRecord::default()
    });
    let scope_logs = vec![ScopeLogs { log_records: records.collect(), ..ScopeLogs::default() }];
    let resource_logs = ResourceLogs { resource: resource(of), scope_logs, ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

/// A metrics request of one resource: one gauge with one point per item.
pub fn metrics(of: &[(&str, &str)], items: &[Item]) -> ExportMetricsServiceRequest {
    let metrics = items.iter().map(|item| Metric {
        name: item.name.clone(),
        data: Some(metric::Data::Gauge(Gauge {
            data_points: vec![NumberDataPoint {
                attributes: own(item),
                value: Some(number_data_point::Value::AsInt(1)),
                ..NumberDataPoint::default()
            }],
        })),
        ..Metric::default()
    });
    let scope_metrics = vec![ScopeMetrics { metrics: metrics.collect(), ..ScopeMetrics::default() }];
    let resource_metrics =
        ResourceMetrics { resource: resource(of), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}
