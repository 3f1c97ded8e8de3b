//! `google.protobuf.Duration` as delays: never negative, at most 10,000 years.

use std::time::Duration;

/// The largest number of seconds the type allows.
const MAX_SECONDS: i64 = 315_576_000_000;

/// The whole seconds of a delay, as protobuf has them.
pub(super) fn seconds(delay: Duration) -> i64 {
    i64::try_from(delay.as_secs()).map_or(MAX_SECONDS, |seconds| seconds.min(MAX_SECONDS))
}

/// A delay from protobuf's two fields; what is negative or out of range counts as nothing.
pub(super) fn from_parts(seconds: i64, nanos: i64) -> Duration {
    if seconds < 0 || nanos < 0 {
        return Duration::ZERO;
    }
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    Duration::new(seconds.min(MAX_SECONDS).unsigned_abs(), nanos.unwrap_or(0))
}

/// A delay as JSON has it: seconds with 0, 3, 6 or 9 fractional digits, and `s`.
pub(super) fn to_text(delay: Duration) -> String {
    let (seconds, nanos) = (seconds(delay), delay.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos.is_multiple_of(1_000_000) => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => format!("{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
}

/// Reads a delay from JSON's form; digits past the ninth are dropped.
pub(super) fn from_text(text: &str) -> Option<Duration> {
    let number = text.strip_suffix('s')?;
    if number.starts_with('-') {
        return Some(Duration::ZERO);
    }
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{fraction:0<9.9}").parse().ok()?;
    Some(from_parts(whole.parse().ok()?, nanos))
}
