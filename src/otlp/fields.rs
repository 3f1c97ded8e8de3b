//! The fields of spans and log records that rules ask for, as the walk noted them.

use super::index::{Extent, LogAt, SpanAt};
use super::value::{Value, as_str};

/// The bytes at `extent` of a request.
pub(super) fn slice(request: &[u8], extent: Extent) -> &[u8] {
    request.get(extent.start as usize..extent.end as usize).unwrap_or_default()
}

/// The id that begins at `start`; none begins at 0.
fn id<const N: usize>(request: &[u8], start: u32) -> Option<[u8; N]> {
    let start = start as usize;
    request.get(start..start + N).filter(|_| start > 0)?.try_into().ok()
}

/// The fields of one span.
#[derive(Debug, Clone, Copy)]
pub struct SpanFields<'a> {
    pub(super) at: &'a SpanAt,
    pub(super) request: &'a [u8],
    pub(super) trace_state: Option<&'a [u8]>,
}

impl<'a> SpanFields<'a> {
    /// The trace id, if it has 16 bytes; all zero is possible.
    pub fn trace_id(&self) -> Option<[u8; 16]> {
        id(self.request, self.at.trace_id)
    }

    /// The span id, if it has 8 bytes.
    pub fn span_id(&self) -> Option<[u8; 8]> {
        id(self.request, self.at.span_id)
    }

    /// Whether a parent is named (not empty, not all zero).
    pub fn has_parent(&self) -> bool {
        self.at.has_parent
    }

    /// The name.
    pub fn name(&self) -> &'a str {
        as_str(self.name_bytes())
    }

    /// The name's bytes, which are UTF-8; cheaper to compare than [`SpanFields::name`].
    pub fn name_bytes(&self) -> &'a [u8] {
        slice(self.request, self.at.name)
    }

    /// The W3C tracestate, edits included.
    pub fn trace_state(&self) -> &'a str {
        as_str(self.trace_state_bytes())
    }

    /// The bytes of the W3C tracestate, which are UTF-8.
    pub fn trace_state_bytes(&self) -> &'a [u8] {
        self.trace_state.unwrap_or_else(|| slice(self.request, self.at.trace_state))
    }

    /// The number of the `SpanKind`.
    pub fn kind(&self) -> i32 {
        self.at.kind
    }

    /// The number of the `StatusCode`; 0 if there is no status.
    pub fn status(&self) -> i32 {
        self.at.status
    }

    /// When it started, in nanoseconds since 1970.
    pub fn start_unix_nano(&self) -> u64 {
        self.at.start_unix_nano
    }

    /// When it ended, in nanoseconds since 1970.
    pub fn end_unix_nano(&self) -> u64 {
        self.at.end_unix_nano
    }

    /// How long it took in nanoseconds; 0 if it ended before it started.
    pub fn duration_nano(&self) -> u64 {
        self.at.end_unix_nano.saturating_sub(self.at.start_unix_nano)
    }

    /// The W3C trace flags and OTLP's own.
    pub fn flags(&self) -> u32 {
        self.at.flags
    }
}

/// The fields of one log record.
#[derive(Debug, Clone, Copy)]
pub struct LogFields<'a> {
    pub(super) at: &'a LogAt,
    pub(super) request: &'a [u8],
}

impl<'a> LogFields<'a> {
    /// The trace id, if it has 16 bytes.
    pub fn trace_id(&self) -> Option<[u8; 16]> {
        id(self.request, self.at.trace_id)
    }

    /// The span id, if it has 8 bytes.
    pub fn span_id(&self) -> Option<[u8; 8]> {
        id(self.request, self.at.span_id)
    }

    /// The severity's number, 0 to 24.
    pub fn severity_number(&self) -> i32 {
        self.at.severity_number
    }

    /// The severity as the source calls it.
    pub fn severity_text(&self) -> &'a str {
        as_str(slice(self.request, self.at.severity_text))
    }

    /// The name of the event it is, or the empty string.
    pub fn event_name(&self) -> &'a str {
        as_str(slice(self.request, self.at.event_name))
    }

    /// The body, if there is one.
    pub fn body(&self) -> Option<Value<'a>> {
        (self.at.body.start > 0).then(|| Value::read(slice(self.request, self.at.body)))
    }

    /// When it happened, in nanoseconds since 1970; 0 if unknown.
    pub fn time_unix_nano(&self) -> u64 {
        self.at.time_unix_nano
    }

    /// When it was observed, in nanoseconds since 1970.
    pub fn observed_time_unix_nano(&self) -> u64 {
        self.at.observed_time_unix_nano
    }

    /// The W3C trace flags and OTLP's own.
    pub fn flags(&self) -> u32 {
        self.at.flags
    }
}
