//! What a destination's answer means: one table for gRPC, one for HTTP.

use std::time::{Duration, SystemTime};

use crate::batch::SendFailure;

use super::destination::SendError;

pub(super) const UNKNOWN: i32 = 2;
pub(super) const INVALID_ARGUMENT: i32 = 3;
pub(super) const DEADLINE_EXCEEDED: i32 = 4;
pub(super) const PERMISSION_DENIED: i32 = 7;
pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
pub(super) const UNIMPLEMENTED: i32 = 12;
pub(super) const INTERNAL: i32 = 13;
pub(super) const UNAVAILABLE: i32 = 14;
pub(super) const UNAUTHENTICATED: i32 = 16;

/// Longer messages of a destination are cut; they go into logs and answers.
const MAX_MESSAGE_BYTES: usize = 1024;

/// A failure by its gRPC status code.
pub(super) fn grpc(mut failure: SendFailure) -> SendError {
    crate::otlp::status::shorten(&mut failure.message, MAX_MESSAGE_BYTES);
    match failure.code {
        // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS
        1 | DEADLINE_EXCEEDED | 10 | 11 | UNAVAILABLE | 15 => SendError::Retryable(failure),
        // Only then does the destination expect to recover.
        RESOURCE_EXHAUSTED if failure.retry_after.is_some() => SendError::Retryable(failure),
        _ => SendError::Permanent(failure),
    }
}

/// A failure by its HTTP status; `code` of the failure is set from it.
pub(super) fn http(status: http::StatusCode, mut failure: SendFailure) -> SendError {
    crate::otlp::status::shorten(&mut failure.message, MAX_MESSAGE_BYTES);
    failure.code = code_of(status);
    match status.as_u16() {
        429 | 502 | 503 | 504 => SendError::Retryable(failure),
        _ => SendError::Permanent(failure),
    }
}

/// The gRPC code that says the same as an HTTP status to our own sender.
fn code_of(status: http::StatusCode) -> i32 {
    match status.as_u16() {
        400 | 413 | 415 | 422 => INVALID_ARGUMENT,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 | 501 => UNIMPLEMENTED,
        429 => RESOURCE_EXHAUSTED,
        502..=504 => UNAVAILABLE,
        500 => INTERNAL,
        _ => UNKNOWN,
    }
}

/// The gRPC code of a gRPC call that was answered by something that speaks only HTTP ("HTTP to gRPC
/// Status Code Mapping" of gRPC's documentation).
pub(super) fn code_of_foreign(status: http::StatusCode) -> i32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// A connection that could not be opened or broke off: it may be back soon.
pub(super) fn unreachable(message: String, retry_after: Option<Duration>) -> SendError {
    SendError::Retryable(SendFailure { code: UNAVAILABLE, message, retry_after })
}

/// An answer that cannot be understood, or a request that cannot be made: the same would happen again.
pub(super) fn unusable(code: i32, message: impl Into<String>) -> SendError {
    SendError::Permanent(SendFailure { code, message: message.into(), retry_after: None })
}

/// An error with its causes, as one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Reads `Retry-After`: seconds, or a date compared with `now`; a date gone by is no wait.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_secs);
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Decodes `grpc-message`: `%` and two hex digits are a byte; what is broken stays as it is.
pub(super) fn percent_decode(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let escaped = match after {
            [high, low, ..] if *first == b'%' => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                // Two hex digits are one byte.
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: i32, retry_after: Option<u64>) -> SendFailure {
        SendFailure { code, message: String::new(), retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn c1_grpc_codes_are_retried_exactly_as_in_the_table() {
        let retried = [1, 4, 10, 11, 14, 15];
        for code in 0..=20 {
            let expected = retried.contains(&code);
            let is_retried = |failure| matches!(grpc(failure), SendError::Retryable(_));
            assert_eq!(is_retried(failure(code, None)), expected, "{code}");
            assert_eq!(is_retried(failure(code, Some(1))), expected || code == 8, "{code} with RetryInfo");
        }
    }

    #[test]
    fn c1_http_statuses_are_retried_exactly_as_in_the_table() {
        for status in 300..=599 {
            let status = http::StatusCode::from_u16(status).unwrap();
            let is_retried = matches!(http(status, failure(0, None)), SendError::Retryable(_));
            assert_eq!(is_retried, [429, 502, 503, 504].contains(&status.as_u16()), "{status}");
        }
    }

    #[test]
    fn c3_retry_after_is_read_as_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text:?}");
        };
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("Sun, 06 Nov 1994 08:50:37 GMT", Some(60));
        check("Sun, 06 Nov 1994 08:48:37 GMT", Some(0));
        check("Sunday, 06-Nov-94 08:49:38 GMT", Some(1));
        check("-1", None);
        check("1.5", None);
        check("soon", None);
        check("", None);
        check("99999999999999999999", None);
    }

    #[test]
    fn grpc_messages_are_percent_decoded() {
        let check = |text: &str, expected: &str| assert_eq!(percent_decode(text.as_bytes()), expected);
        check("plain", "plain");
        check("100%25 full %e2%82%AC", "100% full €");
        check("bad %zz %2", "bad %zz %2");
        check("%ff", "\u{fffd}");
    }
}
