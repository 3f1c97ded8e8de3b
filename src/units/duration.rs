//! Durations in text: `10s`, `1.5s`, `1h30m0s`, `500ms`, `2d`, `0`. For fields:
//! `#[serde(with = "crate::units::duration")] #[schemars(schema_with = "crate::units::duration::schema")]`.

use std::fmt;
use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serializer};

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// A number without unit.
    #[error("{0} has no unit; write for example {0}s or {0}ms")]
    NoUnit(String),
    /// Below zero.
    #[error("`{0}` is negative; a duration is at least 0")]
    Negative(String),
    /// Anything else.
    #[error("`{0}` is not a duration; write for example 10s, 500ms or 1h30m")]
    Syntax(String),
}

/// Reads a duration.
///
/// # Errors
/// [`BadDuration`]: its text says how to write it.
pub fn parse(text: &str) -> Result<Duration, BadDuration> {
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    if trimmed.starts_with('-') {
        return Err(BadDuration::Negative(text.to_owned()));
    }
    if trimmed.parse::<f64>().is_ok() {
        return Err(BadDuration::NoUnit(trimmed.to_owned()));
    }
    let unsigned = trimmed.strip_prefix('+').unwrap_or(trimmed);
    let spelled = unsigned.replace(['µ', 'μ'], "u");
    let leading = match spelled.starts_with('.') {
        true => format!("0{spelled}"),
        false => spelled,
    };
    humantime::parse_duration(&leading).map_err(|_| BadDuration::Syntax(text.to_owned()))
}

/// The shortest Go form: `1h30m`, `1.5s`, `200ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            _ if nanos.is_multiple_of(1_000_000) => format!("{}ms", nanos / 1_000_000),
            _ if nanos.is_multiple_of(1_000) => format!("{}us", nanos / 1_000),
            _ => format!("{nanos}ns"),
        };
    }
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        text.push_str(&format!("{hours}h"));
    }
    if minutes > 0 {
        text.push_str(&format!("{minutes}m"));
    }
    if nanos > 0 {
        let fraction = format!("{nanos:09}");
        text.push_str(&format!("{rest}.{}s", fraction.trim_end_matches('0')));
    } else if rest > 0 {
        text.push_str(&format!("{rest}s"));
    }
    text
}

/// Serde: writes the shortest Go form.
///
/// # Errors
/// The serializer's.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// Serde: reads text, or the number 0.
///
/// # Errors
/// [`BadDuration`] as the deserializer's error.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Read)
}

/// The JSON Schema of a duration.
pub fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "integer"], "format": "duration", "minimum": 0, "maximum": 0 })
}

struct Read;

impl Visitor<'_> for Read {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 10s")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        parse(&number.to_string()).map_err(E::custom)
    }
}

/// The same for `Option<Duration>`: `with = "crate::units::duration::optional"`.
pub mod optional {
    use super::{Deserialize, Deserializer, Duration, Schema, SchemaGenerator};
    use super::{Serializer, json_schema};

    /// Serde: as for a duration; nothing for `None`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// Serde: as for a duration; null is `None`.
    ///
    /// # Errors
    /// [`BadDuration`](super::BadDuration) as the deserializer's error.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        #[derive(Deserialize)]
        struct Text(#[serde(with = "super")] Duration);
        Ok(Option::<Text>::deserialize(deserializer)?.map(|Text(duration)| duration))
    }

    /// The JSON Schema of a duration or null.
    pub fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer", "null"], "format": "duration", "minimum": 0, "maximum": 0
        })
    }
}
