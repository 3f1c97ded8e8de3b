//! The arithmetic of OpenTelemetry consistent probability sampling: 56-bit thresholds and randomness.
//!
//! Pure numbers and their hexadecimal texts; where they stand in an item is `tracestate`, who samples is
//! `rules`. Invariant: a [`Threshold`] and a [`Randomness`] are below 2^56, and an item is kept iff its
//! randomness is at least the threshold.

use std::fmt;

use crate::policies::Upstream;

/// The number of randomness values, 2^56.
pub const RANDOMNESS_VALUES: u64 = 1 << 56;

/// Significant hexadecimal digits of a threshold made from a probability.
pub const DEFAULT_PRECISION: u8 = 4;

/// Hexadecimal digits of a full threshold or randomness.
const DIGITS: usize = 14;

/// The smallest probability a threshold can express, 2^-56.
pub const MIN_PROBABILITY: f64 = 1.0 / RANDOMNESS_VALUES as f64;

/// A rejection threshold T: an item is kept iff its randomness is at least T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Threshold(u64);

/// An item's randomness R, shared by all items of one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Randomness(u64);

impl Threshold {
    /// Keeps everything.
    pub const ALWAYS: Self = Self(0);

    /// A threshold from its number; `None` from 2^56 on.
    pub fn new(value: u64) -> Option<Self> {
        (value < RANDOMNESS_VALUES).then_some(Self(value))
    }

    /// The threshold of a probability, rounded half up to `precision` (1 to 14) significant hexadecimal
    /// digits, one more for each leading `f` or `0`. `None` outside [2^-56, 1]: such an item is left out.
    pub fn from_probability(probability: f64, precision: u8) -> Option<Self> {
        if !(MIN_PROBABILITY..=1.0).contains(&probability) {
            return None;
        }
        if probability == 1.0 {
            return Some(Self::ALWAYS);
        }
        let extra = (exponent(probability) / -4).max(exponent(1.0 - probability) / -4);
        let digits = (i64::from(precision) + extra).clamp(1, DIGITS as i64);
        let exact = RANDOMNESS_VALUES - (probability * RANDOMNESS_VALUES as f64).round() as u64;
        let shift = 4 * (DIGITS as i64 - digits);
        let rounded = if shift > 0 { ((exact + (1 << (shift - 1))) >> shift) << shift } else { exact };
        // A last digit is worth at most p, so rounding cannot reach 2^56; the full precision would serve.
        Self::new(rounded).or(Self::new(exact))
    }

    /// Reads 1 to 14 hexadecimal digits of any case, padded with zeros on the right.
    pub fn parse(text: &str) -> Option<Self> {
        let value = hexadecimal(text)?;
        Some(Self(value << (4 * (DIGITS - text.len()))))
    }

    /// The probability to be kept, in [2^-56, 1].
    pub fn probability(self) -> f64 {
        (RANDOMNESS_VALUES - self.0) as f64 / RANDOMNESS_VALUES as f64
    }

    /// What one kept item stands for, `1 / p`.
    pub fn adjusted_count(self) -> f64 {
        if self == Self::ALWAYS { 1.0 } else { 1.0 / self.probability() }
    }

    /// Whether an item of this randomness passes.
    pub fn keeps(self, randomness: Randomness) -> bool {
        randomness.0 >= self.0
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The digits as `th` carries them: lower case, no trailing zeros, `0` for [`Threshold::ALWAYS`].
    pub fn text(self) -> ThresholdText {
        let mut digits = hexadecimal_digits(self.0);
        let mut len = DIGITS;
        while len > 1 && digits[len - 1] == b'0' {
            len -= 1;
        }
        digits[len..].fill(b'0');
        ThresholdText { digits, len: len as u8 }
    }
}

impl Randomness {
    /// The largest randomness: kept at every probability.
    pub const MAX: Self = Self(RANDOMNESS_VALUES - 1);

    /// The low 56 bits of a number.
    pub fn from_low_bits(value: u64) -> Self {
        Self(value & (RANDOMNESS_VALUES - 1))
    }

    /// The last seven bytes of a trace id; `None` for the all-zero id.
    pub fn from_trace_id(id: &[u8; 16]) -> Option<Self> {
        let whole = u128::from_be_bytes(*id);
        (whole != 0).then(|| Self::from_low_bits(whole as u64))
    }

    /// Reads exactly 14 hexadecimal digits of any case.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == DIGITS { hexadecimal(text).map(Self) } else { None }
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The 14 digits as `rv` carries them.
    pub fn text(self) -> ThresholdText {
        ThresholdText { digits: hexadecimal_digits(self.0), len: DIGITS as u8 }
    }
}

/// The hexadecimal digits of a threshold or randomness, without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThresholdText {
    digits: [u8; DIGITS],
    len: u8,
}

impl ThresholdText {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for ThresholdText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The threshold of an item behind a stage of probability `p` that finds threshold `incoming`.
///
/// Never below `incoming`. `None`: the item is left out, because the product falls below 2^-56 or `p` is 0.
pub fn combine(incoming: Option<Threshold>, p: f64, upstream: Upstream) -> Option<Threshold> {
    Rounded::default().combine(incoming, p, upstream)
}

/// The threshold made last: most items of a resource have one probability.
#[derive(Debug, Clone, Copy)]
pub struct Rounded {
    probability: f64,
    threshold: Option<Threshold>,
}

impl Default for Rounded {
    fn default() -> Self {
        Self { probability: 1.0, threshold: Some(Threshold::ALWAYS) }
    }
}

impl Rounded {
    /// As [`combine`], but makes no threshold twice in a row.
    pub fn combine(&mut self, incoming: Option<Threshold>, p: f64, upstream: Upstream) -> Option<Threshold> {
        let arrived = incoming.unwrap_or(Threshold::ALWAYS);
        if p >= 1.0 {
            return Some(arrived);
        }
        let own = match upstream {
            Upstream::Equalize => p,
            Upstream::Multiply => p * arrived.probability(),
        };
        if own != self.probability {
            *self = Self { probability: own, threshold: Threshold::from_probability(own, DEFAULT_PRECISION) };
        }
        self.threshold.map(|own| own.max(arrived))
    }
}

/// The exponent of `frexp`: `x` is in `[0.5, 1) * 2^exponent`.
fn exponent(x: f64) -> i64 {
    ((x.to_bits() >> 52) & 0x7ff) as i64 - 1022
}

/// Reads 1 to 14 hexadecimal digits.
fn hexadecimal(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > DIGITS {
        return None;
    }
    let digit = |b: u8| (b as char).to_digit(16).map(u64::from);
    text.bytes().try_fold(0, |value, b| Some(value << 4 | digit(b)?))
}

fn hexadecimal_digits(value: u64) -> [u8; DIGITS] {
    std::array::from_fn(|i| b"0123456789abcdef"[(value >> (4 * (DIGITS - 1 - i)) & 0xf) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn th(p: f64, precision: u8) -> String {
        Threshold::from_probability(p, precision).unwrap().text().to_string()
    }

    #[test]
    fn probabilities_have_the_texts_of_the_specification() {
        let check = |p: f64, expected: &str| assert_eq!(th(p, 4), expected, "{p}");
        check(1.0, "0");
        check(0.999, "004189");
        check(0.99, "028f6");
        check(0.9, "199a");
        check(0.75, "4");
        check(0.5, "8");
        check(1.0 / 3.0, "aaab");
        check(0.333, "aac1");
        check(0.25, "c");
        check(0.2, "cccd");
        check(0.125, "e");
        check(0.1, "e666");
        check(1.0 / 16.0, "f");
        check(0.05, "f3333");
        check(0.01, "fd70a");
        check(0.001, "ffbe77");
        check(0.0001, "fff9724");
        check(1e-6, "ffffef39");
        check(MIN_PROBABILITY, "ffffffffffffff");
    }

    #[test]
    fn precision_adds_digits() {
        let check = |p: f64, precision: u8, expected: &str| assert_eq!(th(p, precision), expected);
        check(0.1, 3, "e66");
        check(0.1, 4, "e666");
        check(0.1, 5, "e6666");
        check(0.01, 3, "fd71");
        check(0.01, 4, "fd70a");
        check(0.01, 5, "fd70a4");
    }

    #[test]
    fn probabilities_outside_the_range_have_no_threshold() {
        for p in [0.0, -0.1, 1.000001, MIN_PROBABILITY / 2.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Threshold::from_probability(p, 4), None, "{p}");
        }
    }

    #[test]
    fn texts_are_read_strictly() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(Threshold::parse(text).map(Threshold::value), expected, "{text:?}");
        };
        check("0", Some(0));
        check("8", Some(1 << 55));
        check("004189", Some(0x0000_4189_0000_0000));
        check("FD70a", Some(0x00fd_70a0_0000_0000));
        check("ffffffffffffff", Some(RANDOMNESS_VALUES - 1));
        check("", None);
        check("fffffffffffffff", None);
        check("-1", None);
        check("0x1", None);
        check("8é", None);
        assert_eq!(Randomness::parse("6e6d1a75832a2f").unwrap().value(), 0x6e6d1a75832a2f);
        assert_eq!(Randomness::parse("6e6d1a75832a2"), None);
        assert_eq!(Randomness::parse("6e6d1a75832a2g"), None);
    }

    #[test]
    fn randomness_is_the_end_of_the_trace_id() {
        let id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes();
        let r = Randomness::from_trace_id(&id).unwrap();
        assert_eq!(r.text().as_str(), "48eb211c80319c");
        assert_eq!(Randomness::from_trace_id(&[0; 16]), None);
        let share = r.value() as f64 / RANDOMNESS_VALUES as f64;
        assert!((share - 0.2848).abs() < 1e-4);
    }

    #[test]
    fn an_item_is_kept_from_its_probability_upwards() {
        let r = Randomness::parse("6e6d1a75832a2f").unwrap();
        let keeps = |p: f64| Threshold::from_probability(p, 14).unwrap().keeps(r);
        assert!(!keeps(0.5686));
        assert!(keeps(0.5687));
        assert!(keeps(1.0));
    }

    #[test]
    fn stages_combine() {
        let check = |incoming: &str, p: f64, upstream: Upstream, expected: &str| {
            let got = combine(Threshold::parse(incoming), p, upstream);
            assert_eq!(got.map_or("-".into(), |t| t.text().to_string()), expected, "{incoming} {p}");
        };
        check("8", 0.5, Upstream::Multiply, "c");
        check("8", 0.1, Upstream::Multiply, "f3333");
        check("e666", 0.1, Upstream::Multiply, "fd70a");
        check("fd70a", 0.25, Upstream::Multiply, "ff5c28");
        check("ffffffffffffff", 0.5, Upstream::Multiply, "-");
        check("8", 0.1, Upstream::Equalize, "e666");
        check("e666", 0.5, Upstream::Equalize, "e666");
        check("e666", 1.0, Upstream::Equalize, "e666");
        check("e666", 1.0, Upstream::Multiply, "e666");
        check("e666", 0.0, Upstream::Equalize, "-");
        check("", 0.1, Upstream::Multiply, "e666");
        check("", 1.0, Upstream::Multiply, "0");
    }

    proptest! {
        #[test]
        fn thresholds_survive_their_text(value in 0..RANDOMNESS_VALUES) {
            let t = Threshold::new(value).unwrap();
            prop_assert_eq!(Threshold::parse(t.text().as_str()), Some(t));
            prop_assert_eq!(Randomness::parse(Randomness(value).text().as_str()), Some(Randomness(value)));
        }

        #[test]
        fn thresholds_fall_as_probability_grows(a in 1e-17..1.0_f64, b in 1e-17..1.0_f64, precision in 1..15_u8) {
            let (small, large) = (a.min(b), a.max(b));
            if let Some(strict) = Threshold::from_probability(small, precision) {
                let lax = Threshold::from_probability(large, precision).unwrap();
                prop_assert!(lax <= strict);
            }
        }

        #[test]
        fn rounding_stays_within_the_precision(exponent in -40.0..0.0_f64, precision in 1..5_u8) {
            let p = exponent.exp2();
            let t = Threshold::from_probability(p, precision).unwrap();
            let error = (t.probability() - p).abs() / p;
            prop_assert!(error <= 0.5 * 16.0_f64.powi(1 - i32::from(precision)) * 1.0001);
        }

        #[test]
        fn a_stage_never_lowers_the_threshold(
            incoming in 0..RANDOMNESS_VALUES, p in 1e-12..1.0_f64, r in 0..RANDOMNESS_VALUES,
        ) {
            let (incoming, r) = (Threshold(incoming), Randomness(r));
            for upstream in [Upstream::Equalize, Upstream::Multiply] {
                let Some(out) = combine(Some(incoming), p, upstream) else { continue };
                prop_assert!(out >= incoming);
                prop_assert!(!out.keeps(r) || incoming.keeps(r));
                let wider = combine(Some(incoming), (p * 1.5).min(1.0), upstream).unwrap();
                prop_assert!(!out.keeps(r) || wider.keeps(r), "kept at p, so kept at every larger p");
            }
        }
    }
}
