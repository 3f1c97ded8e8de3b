//! The keys (field number and wire type) of the OTLP messages that are written out in code.

use crate::wire::{BYTES, FIXED32, FIXED64, VARINT, key};

/// The first field of every container: the resources of a request, the resource or scope that others
/// belong to, the data points of a metric, the elements of a list.
pub(super) const FIRST: u32 = key(1, BYTES);
/// The second of the containers: the scopes of a resource, the spans, metrics or log records of a scope.
pub(super) const SECOND: u32 = key(2, BYTES);
/// `schema_url` of both containers.
pub(super) const SCHEMA_URL: u32 = key(3, BYTES);

/// `InstrumentationScope`.
pub(super) mod scope {
    use super::*;
    pub(crate) const NAME: u32 = key(1, BYTES);
    pub(crate) const VERSION: u32 = key(2, BYTES);
    pub(crate) const ATTRIBUTE: u32 = key(3, BYTES);
    pub(crate) const DROPPED: u32 = key(4, VARINT);
}

/// `Span`.
pub(super) mod span {
    use super::*;
    pub(crate) const TRACE_ID: u32 = key(1, BYTES);
    pub(crate) const SPAN_ID: u32 = key(2, BYTES);
    pub(crate) const TRACE_STATE: u32 = key(3, BYTES);
    pub(crate) const PARENT_SPAN_ID: u32 = key(4, BYTES);
    pub(crate) const NAME: u32 = key(5, BYTES);
    pub(crate) const KIND: u32 = key(6, VARINT);
    pub(crate) const START: u32 = key(7, FIXED64);
    pub(crate) const END: u32 = key(8, FIXED64);
    pub(crate) const ATTRIBUTE: u32 = key(9, BYTES);
    pub(crate) const DROPPED_ATTRIBUTES: u32 = key(10, VARINT);
    pub(crate) const EVENT: u32 = key(11, BYTES);
    pub(crate) const DROPPED_EVENTS: u32 = key(12, VARINT);
    pub(crate) const LINK: u32 = key(13, BYTES);
    pub(crate) const DROPPED_LINKS: u32 = key(14, VARINT);
    pub(crate) const STATUS: u32 = key(15, BYTES);
    pub(crate) const FLAGS: u32 = key(16, FIXED32);
}

/// `Status`.
pub(super) mod status {
    use super::*;
    pub(crate) const MESSAGE: u32 = key(2, BYTES);
    pub(crate) const CODE: u32 = key(3, VARINT);
}

/// `LogRecord`.
pub(super) mod log {
    use super::*;
    pub(crate) const TIME: u32 = key(1, FIXED64);
    pub(crate) const SEVERITY_NUMBER: u32 = key(2, VARINT);
    pub(crate) const SEVERITY_TEXT: u32 = key(3, BYTES);
    pub(crate) const BODY: u32 = key(5, BYTES);
    pub(crate) const ATTRIBUTE: u32 = key(6, BYTES);
    pub(crate) const DROPPED: u32 = key(7, VARINT);
    pub(crate) const FLAGS: u32 = key(8, FIXED32);
    pub(crate) const TRACE_ID: u32 = key(9, BYTES);
    pub(crate) const SPAN_ID: u32 = key(10, BYTES);
    pub(crate) const OBSERVED_TIME: u32 = key(11, FIXED64);
    pub(crate) const EVENT_NAME: u32 = key(12, BYTES);
}

/// `Metric`, and the messages that hold its data points.
pub(super) mod metric {
    use super::*;
    pub(crate) const NAME: u32 = key(1, BYTES);
    pub(crate) const DESCRIPTION: u32 = key(2, BYTES);
    pub(crate) const UNIT: u32 = key(3, BYTES);
    pub(crate) const GAUGE: u32 = key(5, BYTES);
    pub(crate) const SUM: u32 = key(7, BYTES);
    pub(crate) const HISTOGRAM: u32 = key(9, BYTES);
    pub(crate) const EXPONENTIAL: u32 = key(10, BYTES);
    pub(crate) const SUMMARY: u32 = key(11, BYTES);
    pub(crate) const METADATA: u32 = key(12, BYTES);
    pub(crate) const TEMPORALITY: u32 = key(2, VARINT);
    pub(crate) const IS_MONOTONIC: u32 = key(3, VARINT);
}

/// `Span.Event`.
pub(super) mod event {
    use super::*;
    pub(crate) const ATTRIBUTE: u32 = key(3, BYTES);
}

/// `Span.Link`.
pub(super) mod link {
    use super::*;
    pub(crate) const ATTRIBUTE: u32 = key(4, BYTES);
}

/// `KeyValue`.
pub(super) mod attribute {
    use super::*;
    pub(crate) const KEY: u32 = key(1, BYTES);
    pub(crate) const VALUE: u32 = key(2, BYTES);
    pub(crate) const KEY_INDEX: u32 = key(3, VARINT);
}

/// `AnyValue`.
/// `ArrayValue`.
pub(super) mod array {
    use super::*;
    pub(crate) const VALUES: u32 = key(1, BYTES);
}

pub(super) mod value {
    use super::*;
    pub(crate) const STRING: u32 = key(1, BYTES);
    pub(crate) const BOOL: u32 = key(2, VARINT);
    pub(crate) const INT: u32 = key(3, VARINT);
    pub(crate) const DOUBLE: u32 = key(4, FIXED64);
    pub(crate) const ARRAY: u32 = key(5, BYTES);
    pub(crate) const KVLIST: u32 = key(6, BYTES);
    pub(crate) const BLOB: u32 = key(7, BYTES);
    pub(crate) const STRING_INDEX: u32 = key(8, VARINT);
}
