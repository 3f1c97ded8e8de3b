//! The numeric strings of the `sampling.priority` attribute, in the syntax of Go's `ParseFloat`.
//!
//! Only the sign of the number matters, so nothing is computed that would need big arithmetic. Beyond
//! Rust's own syntax: underscores between digits, hexadecimal floats with a binary exponent, and numbers
//! out of range are no numbers.

use std::cmp::Ordering;

/// How the number compares with zero; `None` if it is not a number, NaN, or out of range.
pub(super) fn sign(text: &str) -> Option<Ordering> {
    if !underscores_separate_digits(text) {
        return None;
    }
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, plain.as_str()),
    };
    let magnitude = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hexadecimal) => hexadecimal_magnitude(hexadecimal)?,
        None => decimal_magnitude(digits)?,
    };
    Some(if negative { magnitude.reverse() } else { magnitude })
}

fn decimal_magnitude(digits: &str) -> Option<Ordering> {
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value: f64 = digits.parse().ok()?;
    let spelled_out = digits.starts_with(['i', 'I']);
    if value.is_infinite() && !spelled_out { None } else { value.partial_cmp(&0.0) }
}

/// `digits[.digits]p[±]digits`, where underflow is zero and overflow no number.
fn hexadecimal_magnitude(text: &str) -> Option<Ordering> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let proper = !(whole.is_empty() && fraction.is_empty())
        && whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_hexdigit())
        && !exponent_digits.is_empty()
        && exponent_digits.bytes().all(|b| b.is_ascii_digit());
    if !proper {
        return None;
    }
    let (mut bits, mut sticky, mut scale) = (0_u64, false, -4 * fraction.len() as i64);
    for digit in whole.chars().chain(fraction.chars()).filter_map(|c| c.to_digit(16)) {
        if bits >> 60 == 0 {
            bits = bits << 4 | u64::from(digit);
        } else {
            sticky |= digit != 0;
            scale += 4;
        }
    }
    if bits == 0 {
        return Some(Ordering::Equal);
    }
    let exponent = exponent_digits.parse::<i64>().unwrap_or(10_000).min(10_000);
    let exponent = if text.contains("p-") || text.contains("P-") { -exponent } else { exponent };
    let top = scale + exponent + 63 - i64::from(bits.leading_zeros());
    let aligned = bits << bits.leading_zeros();
    // The largest double has 53 ones; 54 round up to infinity. Half of the smallest rounds to zero.
    let overflows = top > 1023 || (top == 1023 && aligned >> 10 == (1 << 54) - 1);
    let vanishes = top < -1075 || (top == -1075 && aligned == 1 << 63 && !sticky);
    match (overflows, vanishes) {
        (true, _) => None,
        (_, true) => Some(Ordering::Equal),
        _ => Some(Ordering::Greater),
    }
}

/// Whether each underscore stands between two digits, or between a base prefix and a digit.
fn underscores_separate_digits(text: &str) -> bool {
    if !text.contains('_') {
        return true;
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let hexadecimal = unsigned.starts_with("0x") || unsigned.starts_with("0X");
    let bytes = if hexadecimal { &unsigned.as_bytes()[2..] } else { unsigned.as_bytes() };
    let is_digit = |b: u8| b.is_ascii_digit() || hexadecimal && b.is_ascii_hexdigit();
    let (mut after_digit, mut after_underscore) = (hexadecimal, false);
    for &b in bytes {
        if b == b'_' && !after_digit || b != b'_' && after_underscore && !is_digit(b) {
            return false;
        }
        (after_digit, after_underscore) = (is_digit(b), b == b'_');
    }
    !after_underscore
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::{Equal, Greater, Less};

    #[test]
    fn numbers_have_the_syntax_of_go() {
        let check = |text: &str, expected: Option<Ordering>| assert_eq!(sign(text), expected, "{text:?}");
        for zero in ["0", "-0", "0.0", ".0", "0.", "0e9", "1e-999", "0x0p9", "0x1p-2000", "0x1p-1075", "+0"] {
            check(zero, Some(Equal));
        }
        for positive in [
            "1", "+1", ".5", "5.", "1e3", "1E-3", "inf", "+Inf", "Infinity", "0x1p-2", "0X.8P+1", "0x1.p1",
            "1_0", "0x_1p0",
        ] {
            check(positive, Some(Greater));
        }
        for positive in ["1_23.50_0_0e+1_2", "0x_1_2.3_4_5p+1_2", "0x1.8p-1075", "0x1.fffffffffffff7p1023"] {
            check(positive, Some(Greater));
        }
        for negative in ["-1", "-inf", "-0x1p0", "-.5"] {
            check(negative, Some(Less));
        }
        for none in [
            "",
            " 1",
            "1 ",
            "nan",
            "abc",
            "1e999",
            "-1e999",
            "0x1",
            "0xp1",
            "0x1p",
            "0x1p1024",
            "0x1.fffffffffffff8p1023",
            "++1",
            "-+1",
            "_1",
            "1_",
            "1__0",
            "1_.5",
            "1._5",
            "1_e5",
            "1e_5",
            "1e5_",
            "e5",
            ".",
            "infin",
            "0x1p1.5",
            "1f",
        ] {
            check(none, None);
        }
    }
}
