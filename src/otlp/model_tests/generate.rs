//! Valid requests of all three signals, with every field of every message in use.

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, ArrayValue, EntityRef, InstrumentationScope, KeyValue, KeyValueList,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::summary_data_point::ValueAtQuantile;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use proptest::prelude::*;

use super::model::{KEYS, Step, TEXTS};

fn pick(list: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    (0..list.len()).prop_map(|at| list[at].to_owned())
}

fn text() -> impl Strategy<Value = String> + Clone {
    pick(&TEXTS)
}

fn many<T: std::fmt::Debug>(most: usize, element: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    proptest::collection::vec(element, 0..=most)
}

fn maybe<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(value)
}

fn any_value() -> impl Strategy<Value = AnyValue> + Clone {
    let leaf = prop_oneof![
        4 => text().prop_map(|text| Some(Value::StringValue(text))),
        1 => any::<bool>().prop_map(|value| Some(Value::BoolValue(value))),
        2 => any::<i64>().prop_map(|value| Some(Value::IntValue(value))),
        1 => any::<f64>().prop_map(|value| Some(Value::DoubleValue(value))),
        1 => many(20, any::<u8>()).prop_map(|bytes| Some(Value::BytesValue(bytes))),
        1 => any::<i32>().prop_map(|index| Some(Value::StringValueStrindex(index))),
        1 => Just(None),
    ];
    let leaf = leaf.prop_map(|value| AnyValue { value });
    leaf.prop_recursive(3, 8, 3, |inner| {
        let pair = (pick(&KEYS), maybe(inner.clone())).prop_map(|(key, value)| KeyValue {
            key,
            value,
            key_strindex: 0,
        });
        prop_oneof![
            many(3, inner).prop_map(|values| Value::ArrayValue(ArrayValue { values })),
            many(3, pair).prop_map(|values| Value::KvlistValue(KeyValueList { values })),
        ]
        .prop_map(|value| AnyValue { value: Some(value) })
    })
    .boxed()
}

fn attributes() -> impl Strategy<Value = Vec<KeyValue>> + Clone {
    let attribute = (pick(&KEYS), proptest::option::weighted(0.9, any_value()))
        .prop_map(|(key, value)| KeyValue { key, value, key_strindex: 0 });
    proptest::collection::vec(attribute, 0..=4).boxed()
}

fn resource() -> impl Strategy<Value = Option<Resource>> {
    let entity = (text(), text(), many(2, text()), many(2, text())).prop_map(
        |(schema_url, r#type, id_keys, description_keys)| EntityRef {
            schema_url,
            r#type,
            id_keys,
            description_keys,
        },
    );
    maybe((attributes(), any::<u32>(), many(2, entity)).prop_map(
        |(attributes, dropped_attributes_count, entity_refs)| Resource {
            attributes,
            dropped_attributes_count,
            entity_refs,
        },
    ))
}

fn scope() -> impl Strategy<Value = Option<InstrumentationScope>> {
    maybe((text(), text(), attributes(), any::<u32>()).prop_map(
        |(name, version, attributes, dropped_attributes_count)| InstrumentationScope {
            name,
            version,
            attributes,
            dropped_attributes_count,
        },
    ))
}

fn id(length: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![5 => proptest::collection::vec(any::<u8>(), length), 1 => many(20, any::<u8>())]
}

fn span() -> impl Strategy<Value = Span> {
    let event = (any::<u64>(), text(), attributes(), any::<u32>()).prop_map(
        |(time_unix_nano, name, attributes, dropped_attributes_count)| Event {
            time_unix_nano,
            name,
            attributes,
            dropped_attributes_count,
        },
    );
    let link = (id(16), id(8), text(), attributes(), any::<u32>(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, dropped_attributes_count, flags)| Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped_attributes_count,
            flags,
        },
    );
    let status = maybe((text(), any::<i32>()).prop_map(|(message, code)| Status { message, code }));
    let head = (id(16), id(8), text(), id(8), any::<u32>(), text());
    let times = (any::<i32>(), any::<u64>(), any::<u64>(), any::<u32>());
    (head, times, attributes(), many(2, event), many(2, link), status).prop_map(
        |(head, times, attributes, events, links, status)| Span {
            trace_id: head.0,
            span_id: head.1,
            trace_state: head.2,
            parent_span_id: head.3,
            flags: head.4,
            name: head.5,
            kind: times.0,
            start_time_unix_nano: times.1,
            end_time_unix_nano: times.2,
            attributes,
            dropped_attributes_count: times.3,
            events,
            dropped_events_count: times.3 / 2,
            links,
            dropped_links_count: times.3 / 3,
            status,
        },
    )
}

fn log() -> impl Strategy<Value = LogRecord> {
    let head = (any::<u64>(), any::<u64>(), any::<i32>(), text(), any::<u32>(), any::<u32>());
    (head, maybe(any_value()), attributes(), id(16), id(8), text()).prop_map(
        |(head, body, attributes, trace_id, span_id, event_name)| LogRecord {
            time_unix_nano: head.0,
            observed_time_unix_nano: head.1,
            severity_number: head.2,
            severity_text: head.3,
            body,
            attributes,
            dropped_attributes_count: head.4,
            flags: head.5,
            trace_id,
            span_id,
            event_name,
        },
    )
}

fn exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    let value = prop_oneof![
        any::<f64>().prop_map(exemplar::Value::AsDouble),
        any::<i64>().prop_map(exemplar::Value::AsInt)
    ];
    let exemplar = (attributes(), any::<u64>(), id(8), id(16), maybe(value)).prop_map(
        |(filtered_attributes, time_unix_nano, span_id, trace_id, value)| Exemplar {
            filtered_attributes,
            time_unix_nano,
            span_id,
            trace_id,
            value,
        },
    );
    many(1, exemplar)
}

fn number() -> impl Strategy<Value = NumberDataPoint> {
    let value = prop_oneof![any::<f64>().prop_map(Number::AsDouble), any::<i64>().prop_map(Number::AsInt)];
    (attributes(), any::<u64>(), any::<u64>(), exemplars(), any::<u32>(), maybe(value)).prop_map(
        |(attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value)| NumberDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            exemplars,
            flags,
            value,
        },
    )
}

fn histogram() -> impl Strategy<Value = HistogramDataPoint> {
    let head = (any::<u64>(), any::<u64>(), any::<u64>(), maybe(any::<f64>()), any::<u32>());
    (head, attributes(), many(3, any::<u64>()), many(3, any::<f64>()), exemplars()).prop_map(
        |(head, attributes, bucket_counts, explicit_bounds, exemplars)| HistogramDataPoint {
            attributes,
            start_time_unix_nano: head.0,
            time_unix_nano: head.1,
            count: head.2,
            sum: head.3,
            bucket_counts,
            explicit_bounds,
            exemplars,
            flags: head.4,
            min: head.3,
            max: head.3,
        },
    )
}

fn exponential() -> impl Strategy<Value = ExponentialHistogramDataPoint> {
    let buckets = || {
        maybe(
            (any::<i32>(), many(3, any::<u64>()))
                .prop_map(|(offset, bucket_counts)| Buckets { offset, bucket_counts }),
        )
    };
    let head = (any::<u64>(), any::<u64>(), any::<i32>(), maybe(any::<f64>()), any::<u32>());
    (head, attributes(), buckets(), buckets(), exemplars()).prop_map(
        |(head, attributes, positive, negative, exemplars)| ExponentialHistogramDataPoint {
            attributes,
            start_time_unix_nano: head.0,
            time_unix_nano: head.1,
            count: head.0 / 2,
            sum: head.3,
            scale: head.2,
            zero_count: head.1 / 2,
            positive,
            negative,
            flags: head.4,
            exemplars,
            min: head.3,
            max: head.3,
            zero_threshold: f64::from(head.4),
        },
    )
}

fn summary() -> impl Strategy<Value = SummaryDataPoint> {
    let quantile =
        (any::<f64>(), any::<f64>()).prop_map(|(quantile, value)| ValueAtQuantile { quantile, value });
    (attributes(), any::<u64>(), any::<u64>(), any::<f64>(), many(2, quantile), any::<u32>()).prop_map(
        |(attributes, time_unix_nano, count, sum, quantile_values, flags)| SummaryDataPoint {
            attributes,
            start_time_unix_nano: time_unix_nano / 2,
            time_unix_nano,
            count,
            sum,
            quantile_values,
            flags,
        },
    )
}

fn metric() -> impl Strategy<Value = Metric> {
    let data = prop_oneof![
        2 => many(3, number()).prop_map(|data_points| Data::Gauge(Gauge { data_points })),
        2 => (many(3, number()), any::<i32>(), any::<bool>()).prop_map(
            |(data_points, aggregation_temporality, is_monotonic)| {
                Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })
            }
        ),
        1 => (many(2, histogram()), any::<i32>()).prop_map(|(data_points, aggregation_temporality)| {
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        }),
        1 => (many(2, exponential()), any::<i32>()).prop_map(|(data_points, aggregation_temporality)| {
            Data::ExponentialHistogram(ExponentialHistogram { data_points, aggregation_temporality })
        }),
        1 => many(2, summary()).prop_map(|data_points| Data::Summary(Summary { data_points })),
    ];
    (text(), text(), text(), attributes(), proptest::option::weighted(0.9, data)).prop_map(
        |(name, description, unit, metadata, data)| Metric { name, description, unit, metadata, data },
    )
}

/// Requests with spans.
pub(super) fn traces() -> impl Strategy<Value = ExportTraceServiceRequest> {
    let scope = (scope(), many(3, span()), text()).prop_map(|(scope, spans, schema_url)| ScopeSpans {
        scope,
        spans,
        schema_url,
    });
    let resource = (resource(), many(2, scope), text())
        .prop_map(|(resource, scope_spans, schema_url)| ResourceSpans { resource, scope_spans, schema_url });
    many(3, resource).prop_map(|resource_spans| ExportTraceServiceRequest { resource_spans })
}

/// Requests with log records.
pub(super) fn logs() -> impl Strategy<Value = ExportLogsServiceRequest> {
    let scope = (scope(), many(3, log()), text()).prop_map(|(scope, log_records, schema_url)| ScopeLogs {
        scope,
        log_records,
        schema_url,
    });
    let resource = (resource(), many(2, scope), text())
        .prop_map(|(resource, scope_logs, schema_url)| ResourceLogs { resource, scope_logs, schema_url });
    many(3, resource).prop_map(|resource_logs| ExportLogsServiceRequest { resource_logs })
}

/// Requests with data points of every kind.
pub(super) fn metrics() -> impl Strategy<Value = ExportMetricsServiceRequest> {
    let scope = (scope(), many(2, metric()), text()).prop_map(|(scope, metrics, schema_url)| ScopeMetrics {
        scope,
        metrics,
        schema_url,
    });
    let resource = (resource(), many(2, scope), text()).prop_map(|(resource, scope_metrics, schema_url)| {
        ResourceMetrics { resource, scope_metrics, schema_url }
    });
    many(3, resource).prop_map(|resource_metrics| ExportMetricsServiceRequest { resource_metrics })
}

/// Up to a dozen edits.
pub(super) fn script() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<u8>(), any::<u16>(), any::<u8>(), any::<u8>())
        .prop_map(|(what, whom, key, value)| Step { what, whom, key, value });
    many(12, step)
}
