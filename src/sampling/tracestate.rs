//! The `ot` member of a W3C tracestate: where a span carries its threshold and its randomness.
//!
//! ```text
//! ot=th:e666;rv:6e6d1a75832a2f;k1:13,vendor=x      members joined by `,`; sub-keys of `ot` by `;`
//! ```
//!
//! [`read`] and [`write`] serve the policies' rules; the stricter reading of the Collector's
//! `probabilistic_sampler` is `strict_tracestate`. Invariant: other members and unknown sub-keys survive, and a
//! malformed `ot` is never rewritten.

use super::threshold::{Randomness, Threshold};

/// Characters the value of `ot` may have.
pub(super) const MAX_OT_VALUE: usize = 256;

/// Members a tracestate may have.
const MAX_MEMBERS: usize = 32;

/// What `ot` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// `th`: what earlier stages decided.
    pub threshold: Option<Threshold>,
    /// `rv`: explicit randomness, in place of the trace id's.
    pub randomness: Option<Randomness>,
}

/// The `ot` member cannot be read: decide as if it were absent, write nothing, count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the `ot` member of the tracestate is malformed")]
pub struct MalformedOt;

/// Finds threshold and randomness in a tracestate.
///
/// # Errors
/// [`MalformedOt`]: more than one `ot`, or one that is not of sub-keys with a proper `th` and `rv`.
pub fn read(trace_state: &str) -> Result<Found, MalformedOt> {
    if trace_state.is_empty() {
        return Ok(Found::default());
    }
    match only_ot(trace_state)? {
        None => Ok(Found::default()),
        Some(value) => read_value(value),
    }
}

/// Writes `trace_state` to `out` with `th` set to `threshold`, or erased; tells whether it fits.
///
/// `randomness` is inserted as `rv`, which must not be there yet: nobody overwrites it.
///
/// What does not fit (`ot` above 256 characters, a 33rd member) leaves without `th`: the count is then
/// unknown, not wrong. The changed member goes to the front, as W3C asks. The text must have passed
/// [`read`].
pub fn write(
    out: &mut String,
    trace_state: &str,
    threshold: Option<Threshold>,
    randomness: Option<Randomness>,
) -> bool {
    out.clear();
    let mut fits = true;
    if let Some(threshold) = threshold {
        out.push_str("ot=th:");
        out.push_str(threshold.text().as_str());
        if let Some(randomness) = randomness {
            out.push_str(";rv:");
            out.push_str(randomness.text().as_str());
        }
        write_other_sub_keys(out, trace_state);
        fits = out.len() - "ot=".len() <= MAX_OT_VALUE && others(trace_state).count() < MAX_MEMBERS;
    }
    if threshold.is_none() || !fits {
        out.clear();
        out.push_str("ot=");
        write_other_sub_keys(out, trace_state);
        if out.len() == "ot=".len() {
            out.clear();
        }
    }
    for member in others(trace_state) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(member);
    }
    fits
}

fn write_other_sub_keys(out: &mut String, trace_state: &str) {
    let value = members(trace_state).find_map(ot_value).unwrap_or_default();
    for sub in value.split(';').filter(|sub| !sub.is_empty() && !sub.starts_with("th:")) {
        if !out.ends_with('=') {
            out.push(';');
        }
        out.push_str(sub);
    }
}

fn members(trace_state: &str) -> impl Iterator<Item = &str> {
    trace_state.split(',').map(trimmed).filter(|member| !member.is_empty())
}

/// Without the blanks around; most members have none.
pub(super) fn trimmed(member: &str) -> &str {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let bytes = member.as_bytes();
    match bytes.first().is_some_and(blank) || bytes.last().is_some_and(blank) {
        true => member.trim_matches([' ', '\t']),
        false => member,
    }
}

/// The members of other vendors.
fn others(trace_state: &str) -> impl Iterator<Item = &str> {
    members(trace_state).filter(|member| ot_value(member).is_none())
}

fn ot_value(member: &str) -> Option<&str> {
    member.strip_prefix("ot=")
}

fn only_ot(trace_state: &str) -> Result<Option<&str>, MalformedOt> {
    let mut found = members(trace_state).filter_map(ot_value);
    match (found.next(), found.next()) {
        (Some(_), Some(_)) => Err(MalformedOt),
        (first, _) => Ok(first),
    }
}

fn read_value(value: &str) -> Result<Found, MalformedOt> {
    let (mut found, mut seen_th, mut seen_rv) = (Found::default(), false, false);
    if value.len() > MAX_OT_VALUE {
        return Err(MalformedOt);
    }
    for sub in value.split(';') {
        let (key, text) = sub.split_once(':').ok_or(MalformedOt)?;
        match key {
            "th" if !std::mem::replace(&mut seen_th, true) => {
                found.threshold = Some(Threshold::parse(text).ok_or(MalformedOt)?);
            }
            "rv" if !std::mem::replace(&mut seen_rv, true) => {
                found.randomness = Some(Randomness::parse(text).ok_or(MalformedOt)?);
            }
            "th" | "rv" => return Err(MalformedOt),
            _ if sub_key(sub).is_none() => return Err(MalformedOt),
            _ => {}
        }
    }
    Ok(found)
}

/// Splits `key:value` of the `ot` member, checking the characters of both.
pub(super) fn sub_key(sub: &str) -> Option<(&str, &str)> {
    let (key, value) = sub.split_once(':')?;
    let key_ok = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let value_ok = value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    (key_ok && value_ok).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn threshold_and_randomness_are_found_among_others() {
        let check = |text: &str, th: &str, rv: &str| {
            let expected = Found { threshold: Threshold::parse(th), randomness: Randomness::parse(rv) };
            assert_eq!(read(text), Ok(expected), "{text:?}");
        };
        check("", "", "");
        check("vendor=x", "", "");
        check("ot=th:8", "8", "");
        check("a=b , ot=rv:6e6d1a75832a2f;th:E666;k1:13,", "e666", "6e6d1a75832a2f");
        check("ot=p:8", "", "");
        check("other=th:8", "", "");
        check("xot=th:8", "", "");
    }

    #[test]
    fn malformed_members_are_told_apart_from_absent_ones() {
        let long = format!("ot=k:{}", "x".repeat(255));
        for text in [
            "ot=",
            "ot=th",
            "ot=th:",
            "ot=th:xyz",
            "ot=th:123456789abcdef",
            "ot=rv:1",
            "ot=th:8;",
            "ot=th:8;th:8",
            "ot=th:8,ot=th:8",
            "ot=T:8",
            "ot=a b:c",
            "a=b,ot=th:-1",
            &long,
        ] {
            assert_eq!(read(text), Err(MalformedOt), "{text:?}");
        }
    }

    #[test]
    fn writing_keeps_everything_else() {
        let check = |before: &str, th: &str, after: &str| {
            let mut out = "old".to_owned();
            assert!(write(&mut out, before, Threshold::parse(th), None));
            assert_eq!(out, after, "{before:?} {th:?}");
        };
        check("", "e666", "ot=th:e666");
        check("ot=th:8", "e666", "ot=th:e666");
        check("ot=rv:6e6d1a75832a2f;th:8;k1:13,z@sys=q", "c", "ot=th:c;rv:6e6d1a75832a2f;k1:13,z@sys=q");
        check("a=1, ot=k1:13 ,b=2", "0", "ot=th:0;k1:13,a=1,b=2");
        check("ot=th:8", "", "");
        check("ot=th:8,a=1", "", "a=1");
        check("ot=th:8;k1:13", "", "ot=k1:13");
        let (mut out, th, rv) = (String::new(), Threshold::parse("8"), Randomness::parse("90000000000000"));
        assert!(write(&mut out, "a=b,ot=k1:13", th, rv));
        assert_eq!(out, "ot=th:8;rv:90000000000000;k1:13,a=b");
    }

    #[test]
    fn what_does_not_fit_leaves_without_threshold() {
        let long = format!("ot=k:{}", "x".repeat(250));
        let mut out = String::new();
        assert!(!write(&mut out, &long, Threshold::parse("8"), None));
        assert_eq!(out, long);
        let many = (0..32).map(|i| format!("v{i}=x")).collect::<Vec<_>>().join(",");
        assert!(!write(&mut out, &many, Threshold::parse("8"), None));
        assert_eq!(out, many);
    }

    proptest! {
        #[test]
        fn members_and_sub_keys_survive(
            subs in prop::collection::vec("[a-q][a-z0-9]{0,4}:[a-zA-Z0-9._-]{0,8}", 0..5),
            before in prop::collection::vec("[a-m][a-z]{0,5}=[a-z]{1,5}", 0..4),
            after in prop::collection::vec("[a-m][a-z]{0,5}=[a-z]{1,5}", 0..4),
            th in 0..super::super::threshold::RANDOMNESS_VALUES,
        ) {
            let mut all = before.clone();
            if !subs.is_empty() {
                all.push(format!("ot={}", subs.join(";")));
            }
            all.extend(after.clone());
            let text = all.join(",");
            let (mut out, threshold) = (String::new(), Threshold::new(th));
            prop_assert!(write(&mut out, &text, threshold, None));
            prop_assert_eq!(read(&out).unwrap().threshold, threshold);
            let others: Vec<String> = before.into_iter().chain(after).collect();
            let (ot, rest) = out.split_once(',').unwrap_or((&out, ""));
            prop_assert_eq!(rest, others.join(","));
            let kept: Vec<&str> = ot[3..].split(';').skip(1).collect();
            prop_assert_eq!(kept, subs);
        }

        #[test]
        fn no_text_makes_reading_or_writing_panic(text in ".{0,80}", th in 0..1000_u64) {
            if read(&text).is_ok() {
                write(&mut String::new(), &text, Threshold::new(th), None);
            }
        }
    }
}
