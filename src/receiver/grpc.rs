//! What gRPC adds to HTTP/2 for a unary call: paths, the frame of a message, timeouts, trailers.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;

use crate::otlp::Signal;

/// Bytes before a message: one flag, and its length as a big-endian u32.
pub(super) const PREFIX: usize = 5;

/// Where a path leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// `Export` of a signal's service.
    Export(Signal),
    /// Anything else.
    Unknown,
}

/// Finds the method a path names.
pub(super) fn method(path: &str) -> Method {
    match path {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Method::Export(Signal::Traces),
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Method::Export(Signal::Metrics),
        "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Method::Export(Signal::Logs),
        _ => Method::Unknown,
    }
}

/// Whether a content type is that of gRPC with protobuf.
pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest == b"+proto" || rest.starts_with(b";"),
        None => false,
    }
}

/// The length the prefix announces, once it is there.
pub(super) fn announced(frame: &[u8]) -> Option<u64> {
    let length = frame.get(1..PREFIX)?;
    Some(u64::from(u32::from_be_bytes(length.try_into().ok()?)))
}

/// Why a body is not exactly one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFrame {
    /// Ends within the prefix or the message.
    #[error("the body ends before the message does")]
    Short,
    /// Something follows the message.
    #[error("the body holds more than one message")]
    Trailing,
    /// The flag is neither 0 nor 1.
    #[error("the compressed flag must be 0 or 1")]
    Flag,
}

/// Takes the message out of its frame; tells whether it is compressed.
pub(super) fn unframe(mut frame: Bytes) -> Result<(bool, Bytes), BadFrame> {
    let length = announced(&frame).ok_or(BadFrame::Short)?;
    let compressed = match frame[0] {
        0 => false,
        1 => true,
        _ => return Err(BadFrame::Flag),
    };
    let message = frame.split_off(PREFIX);
    match (message.len() as u64).cmp(&length) {
        std::cmp::Ordering::Less => Err(BadFrame::Short),
        std::cmp::Ordering::Equal => Ok((compressed, message)),
        std::cmp::Ordering::Greater => Err(BadFrame::Trailing),
    }
}

/// Puts a message into a frame, uncompressed.
pub(super) fn frame(message: &[u8]) -> Bytes {
    if message.is_empty() {
        return Bytes::from_static(&[0; PREFIX]);
    }
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    // Answers are limited to far less than 4 GiB.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// Reads `grpc-timeout`: at most eight digits and a unit; none if it is malformed.
pub(super) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Writes a message as `grpc-message` wants it: printable ASCII but `%`, the rest percent-encoded.
pub(super) fn percent_encode(message: &str) -> HeaderValue {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                text.push('%');
                text.push(char::from(HEX[usize::from(byte >> 4)]));
                text.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    // Only printable ASCII is left, which every header value may be.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_specification_writes_them() {
        let check = |text: &'static str, expected: Option<Duration>| {
            assert_eq!(timeout(&HeaderValue::from_static(text)), expected, "{text:?}");
        };
        check("1S", Some(Duration::from_secs(1)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check("5M", Some(Duration::from_secs(300)));
        check("250m", Some(Duration::from_millis(250)));
        check("7u", Some(Duration::from_micros(7)));
        check("0n", Some(Duration::ZERO));
        for malformed in ["", "S", "1", "1s", "123456789S", "-1S", "+1S", "1.5S", " 1S", "1S "] {
            check(malformed, None);
        }
    }

    #[test]
    fn a_body_is_exactly_one_frame() {
        let check = |frame: &'static [u8], expected: Result<(bool, &'static [u8]), BadFrame>| {
            let expected = expected.map(|(compressed, message)| (compressed, Bytes::from_static(message)));
            assert_eq!(unframe(Bytes::from_static(frame)), expected, "{frame:?}");
        };
        check(&[0, 0, 0, 0, 0], Ok((false, b"")));
        check(&[0, 0, 0, 0, 2, 8, 9], Ok((false, &[8, 9])));
        check(&[1, 0, 0, 0, 1, 8], Ok((true, &[8])));
        check(&[], Err(BadFrame::Short));
        check(&[0, 0, 0, 0], Err(BadFrame::Short));
        check(&[0, 0, 0, 0, 2, 8], Err(BadFrame::Short));
        check(&[0, 0, 0, 0, 1, 8, 9], Err(BadFrame::Trailing));
        check(&[2, 0, 0, 0, 1, 8], Err(BadFrame::Flag));
    }

    #[test]
    fn messages_are_percent_encoded() {
        let check = |text: &str, expected: &str| assert_eq!(percent_encode(text), expected);
        check("queue is full", "queue is full");
        check("100 % voll", "100 %25 voll");
        check("größe\n", "gr%C3%B6%C3%9Fe%0A");
    }

    #[test]
    fn content_types_of_other_codecs_are_not_grpc() {
        let check = |text: &str, expected: bool| assert_eq!(is_grpc(text.as_bytes()), expected, "{text}");
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc;charset=utf-8", true);
        check("application/grpc+json", false);
        check("application/grpc-web", false);
        check("application/x-protobuf", false);
    }
}
