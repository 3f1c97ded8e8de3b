//! What servers answer: `Export…ServiceResponse` on success, `google.rpc.Status` otherwise, in protobuf
//! and in JSON, both ways.
//!
//! Not here: which refusal has which code (`receiver`), what a code means to a client (`exporter`).
//! Reading a status never fails: the answer of a broken server is an error all the same.

mod duration;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::json::JsonError;
use super::protobuf::{Builder, Fields, Raw};
use super::{Malformed, Signal, json};

/// The longest message that is sent, in bytes: percent-encoded in `grpc-message` and once more in
/// `grpc-status-details-bin` it must stay under the 8 KiB that clients grant all headers together.
pub const MAX_MESSAGE_BYTES: usize = 1024;

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";
const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// A `google.rpc.Status` with the details OTLP gives a meaning to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The gRPC code.
    pub code: i32,
    /// In English, for the sender's operator.
    pub message: String,
    /// RetryInfo: try again, after this time. Without it, a RESOURCE_EXHAUSTED is final.
    pub retry_after: Option<Duration>,
    /// BadRequest: what is wrong with the request.
    pub violations: Vec<FieldViolation>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path to the field, such as `resourceSpans[0].resource`.
    pub field: String,
    /// Why its value is bad.
    pub description: String,
}

impl Status {
    /// A status without details.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), ..Self::default() }
    }

    /// The encoded message: the value of `grpc-status-details-bin` before base64, and the body of HTTP
    /// errors.
    pub fn to_protobuf(&self) -> Bytes {
        let mut status = Builder::default();
        put_number(&mut status, 1, i64::from(self.code));
        put_text(&mut status, 2, &self.message);
        if let Some(delay) = self.retry_after {
            put_any(&mut status, RETRY_INFO, |info| {
                let inner = info.open(1);
                put_number(info, 1, duration::seconds(delay));
                put_number(info, 2, i64::from(delay.subsec_nanos()));
                info.close(inner);
            });
        }
        if !self.violations.is_empty() {
            put_any(&mut status, BAD_REQUEST, |bad_request| {
                for violation in &self.violations {
                    let inner = bad_request.open(1);
                    put_text(bad_request, 1, &violation.field);
                    put_text(bad_request, 2, &violation.description);
                    bad_request.close(inner);
                }
            });
        }
        status.finish().into()
    }

    /// The message as JSON: the body of HTTP errors.
    pub fn to_json(&self) -> Bytes {
        let retry_info = self
            .retry_after
            .map(|delay| json!({ "@type": RETRY_INFO, "retryDelay": duration::to_text(delay) }));
        let violation = |v: &FieldViolation| json!({ "field": v.field, "description": v.description });
        let bad_request = (!self.violations.is_empty()).then(|| {
            let violations: Vec<_> = self.violations.iter().map(violation).collect();
            json!({ "@type": BAD_REQUEST, "fieldViolations": violations })
        });
        let details: Vec<_> = retry_info.into_iter().chain(bad_request).collect();
        let mut status = json!({ "code": self.code, "message": self.message });
        if !details.is_empty() {
            status["details"] = Value::Array(details);
        }
        status.to_string().into()
    }

    /// Reads as much of an encoded message as can be read.
    pub fn from_protobuf(bytes: &[u8]) -> Self {
        let mut status = Self::default();
        for field in known(bytes) {
            match field {
                (1, Raw::Varint(code)) => status.code = code as i32,
                (2, Raw::Delimited(text)) => status.message = lossy(text),
                (3, Raw::Delimited(any)) => status.read_detail(any),
                _ => {}
            }
        }
        status
    }

    fn read_detail(&mut self, any: &[u8]) {
        let (mut type_url, mut value) = (&b""[..], &b""[..]);
        for field in known(any) {
            match field {
                (1, Raw::Delimited(text)) => type_url = text,
                (2, Raw::Delimited(bytes)) => value = bytes,
                _ => {}
            }
        }
        if type_url == RETRY_INFO.as_bytes() {
            self.retry_after = Some(read_retry_info(value));
        } else if type_url == BAD_REQUEST.as_bytes() {
            let violations = known(value).filter_map(|field| match field {
                (1, Raw::Delimited(violation)) => Some(read_violation(violation)),
                _ => None,
            });
            self.violations.extend(violations);
        }
    }

    /// Reads as much of a JSON text as can be read.
    pub fn from_json(text: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let code = value["code"].as_i64().and_then(|code| i32::try_from(code).ok());
        let mut status = Self::new(code.unwrap_or_default(), text_of(&value["message"]));
        for detail in elements(&value["details"]) {
            if detail["@type"] == RETRY_INFO {
                let delay = detail["retryDelay"].as_str().and_then(duration::from_text);
                status.retry_after = Some(delay.unwrap_or_default());
            } else if detail["@type"] == BAD_REQUEST {
                let violations = elements(&detail["fieldViolations"]).map(|violation| FieldViolation {
                    field: text_of(&violation["field"]),
                    description: text_of(&violation["description"]),
                });
                status.violations.extend(violations);
            }
        }
        status
    }
}

/// An `Export…ServiceResponse`: the request was taken, perhaps not all of it.
///
/// With nothing rejected and no message, `partial_success` is unset: full success. With nothing rejected
/// and a message, the message is a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportResponse {
    /// Items that were rejected for good.
    pub rejected: u64,
    /// Why, in English.
    pub message: String,
}

impl ExportResponse {
    /// The encoded message; empty on full success. It is the same for all signals.
    pub fn to_protobuf(&self) -> Bytes {
        let mut response = Builder::default();
        let partial_success = response.open(1);
        put_number(&mut response, 1, i64::try_from(self.rejected).unwrap_or(i64::MAX));
        put_text(&mut response, 2, &self.message);
        response.close_or_forget(partial_success);
        response.finish().into()
    }

    /// The message as JSON; `{}` on full success.
    pub fn to_json(&self, signal: Signal) -> Bytes {
        let mut text = Vec::new();
        json::response_from_protobuf(signal, &self.to_protobuf(), &mut text);
        text.into()
    }

    /// Reads an encoded message; unknown fields are ignored, a negative count is none.
    ///
    /// # Errors
    /// [`Malformed`]: this is no answer of an OTLP server; whether it took the data is unknown.
    pub fn from_protobuf(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut response = Self::default();
        for field in Fields::of(bytes) {
            match field? {
                (1, Raw::Delimited(partial_success)) => response.read_partial_success(partial_success)?,
                (1, _) => return Err(Malformed::WireType),
                _ => {}
            }
        }
        Ok(response)
    }

    fn read_partial_success(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        for field in Fields::of(bytes) {
            match field? {
                (1, Raw::Varint(rejected)) => {
                    self.rejected = u64::try_from(rejected as i64).unwrap_or_default();
                }
                (2, Raw::Delimited(message)) => {
                    self.message = std::str::from_utf8(message).map_err(|_| Malformed::Utf8)?.to_owned();
                }
                (1 | 2, _) => return Err(Malformed::WireType),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads a JSON text; unknown keys are ignored, no text at all is full success.
    ///
    /// # Errors
    /// [`JsonError`]: as with [`ExportResponse::from_protobuf`].
    pub fn from_json(signal: Signal, text: &[u8]) -> Result<Self, JsonError> {
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let bytes = json::response_to_protobuf(signal, text)?;
        // What has just been written is well-formed.
        Ok(Self::from_protobuf(&bytes).unwrap_or_default())
    }
}

/// Cuts a message to at most `max_bytes` (S12), at a character, with `…` where it was cut if that fits.
pub fn shorten(message: &mut String, max_bytes: usize) {
    const MARK: &str = "…";
    if message.len() <= max_bytes {
        return;
    }
    let mark = if max_bytes >= MARK.len() { MARK } else { "" };
    let mut end = max_bytes - mark.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    message.push_str(mark);
}

fn put_number(builder: &mut Builder, number: u32, value: i64) {
    if value != 0 {
        builder.put(Some(number), Raw::Varint(value as u64));
    }
}

fn put_text(builder: &mut Builder, number: u32, text: &str) {
    if !text.is_empty() {
        builder.put(Some(number), Raw::Delimited(text.as_bytes()));
    }
}

fn put_any(status: &mut Builder, type_url: &str, write_value: impl FnOnce(&mut Builder)) {
    let any = status.open(3);
    put_text(status, 1, type_url);
    let value = status.open(2);
    write_value(status);
    status.close(value);
    status.close(any);
}

/// The fields up to the first that cannot be read.
fn known(bytes: &[u8]) -> impl Iterator<Item = (u32, Raw<'_>)> {
    Fields::of(bytes).map_while(Result::ok)
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// No delay given, or a negative one, means at once.
fn read_retry_info(bytes: &[u8]) -> Duration {
    let (mut seconds, mut nanos) = (0, 0);
    let delays = known(bytes).filter_map(|field| match field {
        (1, Raw::Delimited(delay)) => Some(delay),
        _ => None,
    });
    for field in delays.flat_map(known) {
        match field {
            (1, Raw::Varint(value)) => seconds = value as i64,
            (2, Raw::Varint(value)) => nanos = value as i64,
            _ => {}
        }
    }
    duration::from_parts(seconds, nanos)
}

fn read_violation(bytes: &[u8]) -> FieldViolation {
    let mut violation = FieldViolation::default();
    for field in known(bytes) {
        match field {
            (1, Raw::Delimited(text)) => violation.field = lossy(text),
            (2, Raw::Delimited(text)) => violation.description = lossy(text),
            _ => {}
        }
    }
    violation
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn elements(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
