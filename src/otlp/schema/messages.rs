//! The tables, in the order of the `.proto` files: services, common, resource, trace, logs, metrics.

use super::{Field, Kind, Message, Presence};

const fn one(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Implicit }
}

const fn optional(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Explicit }
}

const fn choice(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::OneOf }
}

const fn many(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind, presence: Presence::Repeated }
}

const TRACE_ID: Kind = Kind::Id(16);
const SPAN_ID: Kind = Kind::Id(8);

macro_rules! message {
    ($table:ident, $name:literal, $($field:expr),+ $(,)?) => {
        pub(super) static $table: Message = Message { name: $name, fields: &[$($field),+] };
    };
}

message!(
    TRACES_REQUEST,
    "ExportTraceServiceRequest",
    many("resourceSpans", 1, Kind::Message(&RESOURCE_SPANS))
);
message!(
    METRICS_REQUEST,
    "ExportMetricsServiceRequest",
    many("resourceMetrics", 1, Kind::Message(&RESOURCE_METRICS)),
);
message!(LOGS_REQUEST, "ExportLogsServiceRequest", many("resourceLogs", 1, Kind::Message(&RESOURCE_LOGS)));

message!(
    TRACES_RESPONSE,
    "ExportTraceServiceResponse",
    one("partialSuccess", 1, Kind::Message(&TRACES_PARTIAL_SUCCESS)),
);
message!(
    METRICS_RESPONSE,
    "ExportMetricsServiceResponse",
    one("partialSuccess", 1, Kind::Message(&METRICS_PARTIAL_SUCCESS)),
);
message!(
    LOGS_RESPONSE,
    "ExportLogsServiceResponse",
    one("partialSuccess", 1, Kind::Message(&LOGS_PARTIAL_SUCCESS)),
);
message!(
    TRACES_PARTIAL_SUCCESS,
    "ExportTracePartialSuccess",
    one("rejectedSpans", 1, Kind::Int64),
    one("errorMessage", 2, Kind::String),
);
message!(
    METRICS_PARTIAL_SUCCESS,
    "ExportMetricsPartialSuccess",
    one("rejectedDataPoints", 1, Kind::Int64),
    one("errorMessage", 2, Kind::String),
);
message!(
    LOGS_PARTIAL_SUCCESS,
    "ExportLogsPartialSuccess",
    one("rejectedLogRecords", 1, Kind::Int64),
    one("errorMessage", 2, Kind::String),
);

message!(
    ANY_VALUE,
    "AnyValue",
    choice("stringValue", 1, Kind::String),
    choice("boolValue", 2, Kind::Bool),
    choice("intValue", 3, Kind::Int64),
    choice("doubleValue", 4, Kind::Double),
    choice("arrayValue", 5, Kind::Message(&ARRAY_VALUE)),
    choice("kvlistValue", 6, Kind::Message(&KEY_VALUE_LIST)),
    choice("bytesValue", 7, Kind::Bytes),
    choice("stringValueStrindex", 8, Kind::Int32),
);
message!(ARRAY_VALUE, "ArrayValue", many("values", 1, Kind::Message(&ANY_VALUE)));
message!(KEY_VALUE_LIST, "KeyValueList", many("values", 1, Kind::Message(&KEY_VALUE)));
message!(
    KEY_VALUE,
    "KeyValue",
    one("key", 1, Kind::String),
    one("value", 2, Kind::Message(&ANY_VALUE)),
    one("keyStrindex", 3, Kind::Int32),
);
message!(
    SCOPE,
    "InstrumentationScope",
    one("name", 1, Kind::String),
    one("version", 2, Kind::String),
    many("attributes", 3, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", 4, Kind::Uint32),
);
message!(
    ENTITY_REF,
    "EntityRef",
    one("schemaUrl", 1, Kind::String),
    one("type", 2, Kind::String),
    many("idKeys", 3, Kind::String),
    many("descriptionKeys", 4, Kind::String),
);
message!(
    RESOURCE,
    "Resource",
    many("attributes", 1, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", 2, Kind::Uint32),
    many("entityRefs", 3, Kind::Message(&ENTITY_REF)),
);

message!(
    RESOURCE_SPANS,
    "ResourceSpans",
    one("resource", 1, Kind::Message(&RESOURCE)),
    many("scopeSpans", 2, Kind::Message(&SCOPE_SPANS)),
    one("schemaUrl", 3, Kind::String),
);
message!(
    SCOPE_SPANS,
    "ScopeSpans",
    one("scope", 1, Kind::Message(&SCOPE)),
    many("spans", 2, Kind::Message(&SPAN)),
    one("schemaUrl", 3, Kind::String),
);
message!(
    SPAN,
    "Span",
    one("traceId", 1, TRACE_ID),
    one("spanId", 2, SPAN_ID),
    one("traceState", 3, Kind::String),
    one("parentSpanId", 4, SPAN_ID),
    one("flags", 16, Kind::Fixed32),
    one("name", 5, Kind::String),
    one("kind", 6, Kind::Enum(SPAN_KINDS)),
    one("startTimeUnixNano", 7, Kind::Fixed64),
    one("endTimeUnixNano", 8, Kind::Fixed64),
    many("attributes", 9, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", 10, Kind::Uint32),
    many("events", 11, Kind::Message(&EVENT)),
    one("droppedEventsCount", 12, Kind::Uint32),
    many("links", 13, Kind::Message(&LINK)),
    one("droppedLinksCount", 14, Kind::Uint32),
    one("status", 15, Kind::Message(&STATUS)),
);
message!(
    EVENT,
    "Event",
    one("timeUnixNano", 1, Kind::Fixed64),
    one("name", 2, Kind::String),
    many("attributes", 3, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", 4, Kind::Uint32),
);
message!(
    LINK,
    "Link",
    one("traceId", 1, TRACE_ID),
    one("spanId", 2, SPAN_ID),
    one("traceState", 3, Kind::String),
    many("attributes", 4, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", 5, Kind::Uint32),
    one("flags", 6, Kind::Fixed32),
);
message!(STATUS, "Status", one("message", 2, Kind::String), one("code", 3, Kind::Enum(STATUS_CODES)),);

message!(
    RESOURCE_LOGS,
    "ResourceLogs",
    one("resource", 1, Kind::Message(&RESOURCE)),
    many("scopeLogs", 2, Kind::Message(&SCOPE_LOGS)),
    one("schemaUrl", 3, Kind::String),
);
message!(
    SCOPE_LOGS,
    "ScopeLogs",
    one("scope", 1, Kind::Message(&SCOPE)),
    many("logRecords", 2, Kind::Message(&LOG_RECORD)),
    one("schemaUrl", 3, Kind::String),
);
message!(
    LOG_RECORD,
    "LogRecord",
    one("timeUnixNano", 1, Kind::Fixed64),
    one("observedTimeUnixNano", 11, Kind::Fixed64),
    one("severityNumber", 2, Kind::Enum(SEVERITIES)),
    one("severityText", 3, Kind::String),
    one("body", 5, Kind::Message(&ANY_VALUE)),
    many("attributes", 6, Kind::Message(&KEY_VALUE)),
    one("droppedAttributesCount", 7, Kind::Uint32),
    one("flags", 8, Kind::Fixed32),
    one("traceId", 9, TRACE_ID),
    one("spanId", 10, SPAN_ID),
    one("eventName", 12, Kind::String),
);

message!(
    RESOURCE_METRICS,
    "ResourceMetrics",
    one("resource", 1, Kind::Message(&RESOURCE)),
    many("scopeMetrics", 2, Kind::Message(&SCOPE_METRICS)),
    one("schemaUrl", 3, Kind::String),
);
message!(
    SCOPE_METRICS,
    "ScopeMetrics",
    one("scope", 1, Kind::Message(&SCOPE)),
    many("metrics", 2, Kind::Message(&METRIC)),
    one("schemaUrl", 3, Kind::String),
);
message!(
    METRIC,
    "Metric",
    one("name", 1, Kind::String),
    one("description", 2, Kind::String),
    one("unit", 3, Kind::String),
    choice("gauge", 5, Kind::Message(&GAUGE)),
    choice("sum", 7, Kind::Message(&SUM)),
    choice("histogram", 9, Kind::Message(&HISTOGRAM)),
    choice("exponentialHistogram", 10, Kind::Message(&EXPONENTIAL_HISTOGRAM)),
    choice("summary", 11, Kind::Message(&SUMMARY)),
    many("metadata", 12, Kind::Message(&KEY_VALUE)),
);
message!(GAUGE, "Gauge", many("dataPoints", 1, Kind::Message(&NUMBER_POINT)));
message!(
    SUM,
    "Sum",
    many("dataPoints", 1, Kind::Message(&NUMBER_POINT)),
    one("aggregationTemporality", 2, Kind::Enum(TEMPORALITIES)),
    one("isMonotonic", 3, Kind::Bool),
);
message!(
    HISTOGRAM,
    "Histogram",
    many("dataPoints", 1, Kind::Message(&HISTOGRAM_POINT)),
    one("aggregationTemporality", 2, Kind::Enum(TEMPORALITIES)),
);
message!(
    EXPONENTIAL_HISTOGRAM,
    "ExponentialHistogram",
    many("dataPoints", 1, Kind::Message(&EXPONENTIAL_HISTOGRAM_POINT)),
    one("aggregationTemporality", 2, Kind::Enum(TEMPORALITIES)),
);
message!(SUMMARY, "Summary", many("dataPoints", 1, Kind::Message(&SUMMARY_POINT)));
message!(
    NUMBER_POINT,
    "NumberDataPoint",
    many("attributes", 7, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", 2, Kind::Fixed64),
    one("timeUnixNano", 3, Kind::Fixed64),
    choice("asDouble", 4, Kind::Double),
    choice("asInt", 6, Kind::Sfixed64),
    many("exemplars", 5, Kind::Message(&EXEMPLAR)),
    one("flags", 8, Kind::Uint32),
);
message!(
    HISTOGRAM_POINT,
    "HistogramDataPoint",
    many("attributes", 9, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", 2, Kind::Fixed64),
    one("timeUnixNano", 3, Kind::Fixed64),
    one("count", 4, Kind::Fixed64),
    optional("sum", 5, Kind::Double),
    many("bucketCounts", 6, Kind::Fixed64),
    many("explicitBounds", 7, Kind::Double),
    many("exemplars", 8, Kind::Message(&EXEMPLAR)),
    one("flags", 10, Kind::Uint32),
    optional("min", 11, Kind::Double),
    optional("max", 12, Kind::Double),
);
message!(
    EXPONENTIAL_HISTOGRAM_POINT,
    "ExponentialHistogramDataPoint",
    many("attributes", 1, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", 2, Kind::Fixed64),
    one("timeUnixNano", 3, Kind::Fixed64),
    one("count", 4, Kind::Fixed64),
    optional("sum", 5, Kind::Double),
    one("scale", 6, Kind::Sint32),
    one("zeroCount", 7, Kind::Fixed64),
    one("positive", 8, Kind::Message(&BUCKETS)),
    one("negative", 9, Kind::Message(&BUCKETS)),
    one("flags", 10, Kind::Uint32),
    many("exemplars", 11, Kind::Message(&EXEMPLAR)),
    optional("min", 12, Kind::Double),
    optional("max", 13, Kind::Double),
    one("zeroThreshold", 14, Kind::Double),
);
message!(BUCKETS, "Buckets", one("offset", 1, Kind::Sint32), many("bucketCounts", 2, Kind::Uint64),);
message!(
    SUMMARY_POINT,
    "SummaryDataPoint",
    many("attributes", 7, Kind::Message(&KEY_VALUE)),
    one("startTimeUnixNano", 2, Kind::Fixed64),
    one("timeUnixNano", 3, Kind::Fixed64),
    one("count", 4, Kind::Fixed64),
    one("sum", 5, Kind::Double),
    many("quantileValues", 6, Kind::Message(&VALUE_AT_QUANTILE)),
    one("flags", 8, Kind::Uint32),
);
message!(
    VALUE_AT_QUANTILE,
    "ValueAtQuantile",
    one("quantile", 1, Kind::Double),
    one("value", 2, Kind::Double),
);
message!(
    EXEMPLAR,
    "Exemplar",
    many("filteredAttributes", 7, Kind::Message(&KEY_VALUE)),
    one("timeUnixNano", 2, Kind::Fixed64),
    choice("asDouble", 3, Kind::Double),
    choice("asInt", 6, Kind::Sfixed64),
    one("spanId", 4, SPAN_ID),
    one("traceId", 5, TRACE_ID),
);

const SPAN_KINDS: &[(&str, i32)] = &[
    ("SPAN_KIND_UNSPECIFIED", 0),
    ("SPAN_KIND_INTERNAL", 1),
    ("SPAN_KIND_SERVER", 2),
    ("SPAN_KIND_CLIENT", 3),
    ("SPAN_KIND_PRODUCER", 4),
    ("SPAN_KIND_CONSUMER", 5),
];
const STATUS_CODES: &[(&str, i32)] =
    &[("STATUS_CODE_UNSET", 0), ("STATUS_CODE_OK", 1), ("STATUS_CODE_ERROR", 2)];
const TEMPORALITIES: &[(&str, i32)] = &[
    ("AGGREGATION_TEMPORALITY_UNSPECIFIED", 0),
    ("AGGREGATION_TEMPORALITY_DELTA", 1),
    ("AGGREGATION_TEMPORALITY_CUMULATIVE", 2),
];
const SEVERITIES: &[(&str, i32)] = &[
    ("SEVERITY_NUMBER_UNSPECIFIED", 0),
    ("SEVERITY_NUMBER_TRACE", 1),
    ("SEVERITY_NUMBER_TRACE2", 2),
    ("SEVERITY_NUMBER_TRACE3", 3),
    ("SEVERITY_NUMBER_TRACE4", 4),
    ("SEVERITY_NUMBER_DEBUG", 5),
    ("SEVERITY_NUMBER_DEBUG2", 6),
    ("SEVERITY_NUMBER_DEBUG3", 7),
    ("SEVERITY_NUMBER_DEBUG4", 8),
    ("SEVERITY_NUMBER_INFO", 9),
    ("SEVERITY_NUMBER_INFO2", 10),
    ("SEVERITY_NUMBER_INFO3", 11),
    ("SEVERITY_NUMBER_INFO4", 12),
    ("SEVERITY_NUMBER_WARN", 13),
    ("SEVERITY_NUMBER_WARN2", 14),
    ("SEVERITY_NUMBER_WARN3", 15),
    ("SEVERITY_NUMBER_WARN4", 16),
    ("SEVERITY_NUMBER_ERROR", 17),
    ("SEVERITY_NUMBER_ERROR2", 18),
    ("SEVERITY_NUMBER_ERROR3", 19),
    ("SEVERITY_NUMBER_ERROR4", 20),
    ("SEVERITY_NUMBER_FATAL", 21),
    ("SEVERITY_NUMBER_FATAL2", 22),
    ("SEVERITY_NUMBER_FATAL3", 23),
    ("SEVERITY_NUMBER_FATAL4", 24),
];
