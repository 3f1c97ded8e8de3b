//! What `null` means in a Collector's file: a name without a body is all defaults.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the default value.
pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads `null` as present with all defaults: a section of which only the name is written is on.
pub(super) fn null_is_present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    null_is_default(deserializer).map(Some)
}
