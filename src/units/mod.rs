//! Quantities as people write them: sizes, probabilities, rates, durations.
//!
//! Text in, checked value out, and text again. Invariant: what is ambiguous (`100m`, a bare `1` for a
//! probability, a duration without a unit) is refused with the ways to write it clearly, never guessed.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadByteSize {
    /// Not a number with a known unit.
    #[error("`{0}` is not a size; write for example 64MiB, 512Mi, 1G or a number of bytes")]
    Syntax(String),
    /// A lone `m`, which Kubernetes reads as one thousandth.
    #[error("`{0}` is ambiguous: m means milli in Kubernetes; write {1}Mi or {1}M")]
    Milli(String, String),
    /// Does not fit 64 bits.
    #[error("`{0}` is more than 64 bits can hold")]
    TooLarge(String),
}

impl ByteSize {
    /// Reads `512Mi`, `64MiB`, `1G`, `1.5GB`, `4096`, `10B`; units in any case, but no lone `m`.
    ///
    /// # Errors
    /// [`BadByteSize`]: its text says how to write it.
    pub fn parse(text: &str) -> Result<Self, BadByteSize> {
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
        let (number, unit) = trimmed.split_at(end.unwrap_or(trimmed.len()));
        let unit = unit.trim_start();
        if unit == "m" {
            return Err(BadByteSize::Milli(text.to_owned(), number.to_owned()));
        }
        let syntax = || BadByteSize::Syntax(text.to_owned());
        let factor = factor(&unit.to_ascii_lowercase()).ok_or_else(syntax)?;
        let number = number.replace('_', "");
        let too_large = || BadByteSize::TooLarge(text.to_owned());
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(too_large);
        }
        if number.is_empty() || number.starts_with('.') || number.ends_with('.') {
            return Err(syntax());
        }
        let number: f64 = number.parse().map_err(|_| syntax())?;
        #[allow(clippy::cast_precision_loss, reason = "a factor is at most 2^60 and exact")]
        let bytes = (number * factor as f64).round();
        if bytes >= 18_446_744_073_709_551_615.0 {
            return Err(too_large());
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked: not negative (no sign is read) and below 2^64"
        )]
        Ok(Self(bytes as u64))
    }
}

fn factor(unit: &str) -> Option<u64> {
    Some(match unit {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return None,
    })
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let exact = |(size, _): &&(u64, &str)| self.0 >= *size && self.0.is_multiple_of(*size);
        match units.iter().find(exact) {
            Some((size, unit)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A probability in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Probability(f64);

/// Why something is not a probability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProbability {
    /// Not a number, percentage or fraction.
    #[error("`{0}` is not a probability; write for example 10%, 0.1 or 1/10")]
    Syntax(String),
    /// A number without point, which could be meant as a percentage.
    #[error("{0} is ambiguous; write 100% or {0}%")]
    Ambiguous(String),
    /// Not above 0, or above 1.
    #[error("{0} is out of range; a probability is above 0% and at most 100%")]
    Range(String),
}

impl Probability {
    /// Certainty.
    pub const ONE: Self = Self(1.0);

    /// Checks a number.
    ///
    /// # Errors
    /// [`BadProbability::Range`] unless it is in (0, 1].
    pub fn new(value: f64) -> Result<Self, BadProbability> {
        match value > 0.0 && value <= 1.0 {
            true => Ok(Self(value)),
            false => Err(BadProbability::Range(value.to_string())),
        }
    }

    /// Reads `10%`, `0.1`, `1.0`, `1/10`.
    ///
    /// # Errors
    /// [`BadProbability`]: its text says how to write it.
    pub fn parse(text: &str) -> Result<Self, BadProbability> {
        let trimmed = text.trim();
        let syntax = || BadProbability::Syntax(text.to_owned());
        let value = if let Some(percent) = trimmed.strip_suffix('%') {
            plain_number(percent.trim_end()).ok_or_else(syntax)? / 100.0
        } else if let Some((part, whole)) = trimmed.split_once('/') {
            let part = plain_number(part.trim()).ok_or_else(syntax)?;
            part / plain_number(whole.trim()).ok_or_else(syntax)?
        } else if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadProbability::Ambiguous(trimmed.to_owned()));
        } else {
            plain_number(trimmed).ok_or_else(syntax)?
        };
        Self::new(value).map_err(|_| BadProbability::Range(trimmed.to_owned()))
    }

    /// The value, in (0, 1].
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A number of digits with an optional point and exponent; no sign, no `inf`.
fn plain_number(text: &str) -> Option<f64> {
    let first = text.bytes().next()?;
    let allowed = |b: u8| b.is_ascii_digit() || b".eE-".contains(&b);
    if !(first.is_ascii_digit() || first == b'.') || !text.bytes().all(allowed) {
        return None;
    }
    text.parse().ok()
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Twelve decimals hide what the multiplication adds; no rule is that fine.
        let percent = format!("{:.12}", self.0 * 100.0);
        let percent = percent.trim_end_matches('0').trim_end_matches('.');
        match percent {
            "0" => write!(f, "{:e}", self.0),
            _ => write!(f, "{percent}%"),
        }
    }
}

/// A number per second, above 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Rate(f64);

/// Why something is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRate {
    /// Not a number.
    #[error("`{0}` is not a rate; write a number per second, for example 100 or 0.5")]
    Syntax(String),
    /// Not above 0, or infinite.
    #[error("{0} is out of range; a rate is above 0")]
    Range(String),
}

impl Rate {
    /// Checks a number per second.
    ///
    /// # Errors
    /// [`BadRate::Range`] unless it is finite and above 0.
    pub fn new(per_second: f64) -> Result<Self, BadRate> {
        match per_second > 0.0 && per_second.is_finite() {
            true => Ok(Self(per_second)),
            false => Err(BadRate::Range(per_second.to_string())),
        }
    }

    /// Reads `100`, `0.5`, `100/s`, `1k`, `2.5M`.
    ///
    /// # Errors
    /// [`BadRate`]: its text says how to write it.
    pub fn parse(text: &str) -> Result<Self, BadRate> {
        let trimmed = text.trim();
        let number = trimmed.strip_suffix("/s").unwrap_or(trimmed).trim_end();
        let (number, factor) = match number.as_bytes().last() {
            Some(b'k' | b'K') => (&number[..number.len() - 1], 1e3),
            Some(b'M') => (&number[..number.len() - 1], 1e6),
            _ => (number, 1.0),
        };
        let value = plain_number(number).ok_or_else(|| BadRate::Syntax(text.to_owned()))?;
        Self::new(value * factor)
    }

    /// The number per second.
    pub fn per_second(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// `FromStr`, serde and the schema of a unit, from its `parse`, its `Display` and a way to read a
/// number that stands without unit.
macro_rules! unit {
    ($name:ident, $bad:ident, $format:literal, $types:tt, $expecting:literal, $whole:expr, $float:expr) => {
        impl FromStr for $name {
            type Err = $bad;

            fn from_str(text: &str) -> Result<Self, $bad> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let text = self.to_string();
                match text.parse() {
                    Ok(number) => serializer.serialize_u64(number),
                    Err(_) => serializer.serialize_str(&text),
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Read;
                impl Visitor<'_> for Read {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }

                    fn visit_u64<E: de::Error>(self, number: u64) -> Result<$name, E> {
                        let read: fn(u64) -> Result<$name, $bad> = $whole;
                        read(number).map_err(E::custom)
                    }

                    fn visit_f64<E: de::Error>(self, number: f64) -> Result<$name, E> {
                        let read: fn(f64) -> Result<$name, $bad> = $float;
                        read(number).map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Read)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "format": $format })
            }
        }
    };
}

unit!(
    ByteSize,
    BadByteSize,
    "bytes",
    ["string", "integer"],
    "a size such as 512Mi",
    |bytes| Ok(ByteSize(bytes)),
    |number| Err(BadByteSize::Syntax(number.to_string()))
);
unit!(
    Probability,
    BadProbability,
    "probability",
    ["string", "number"],
    "a probability such as 10% or 0.1",
    |whole| Probability::parse(&whole.to_string()),
    Probability::new
);
unit!(
    Rate,
    BadRate,
    "rate",
    ["string", "number"],
    "a rate per second such as 100",
    |whole| Rate::parse(&whole.to_string()),
    Rate::new
);

pub mod duration;

#[cfg(test)]
mod tests;
