//! `service.telemetry.resource`: two forms of the same list of attributes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the collector says it is: keys with values, where null removes one of the automatic ones
/// (`service.name`, `service.version`, `service.instance.id`); or `attributes`, a list of `name` and
/// `value`, with an optional `schema_url`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Resource(pub BTreeMap<String, Value>);

/// A resource entry that is neither form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadResource {
    /// An attribute's value is a map or a list.
    #[error("resource attribute `{0}` must be a string, a number or a boolean")]
    Value(String),
    /// An entry of the `attributes` list.
    #[error("resource.attributes[{0}] must have `name` and `value`")]
    Entry(usize),
}

impl Resource {
    /// The attributes in either form; `None` removes an automatic one.
    ///
    /// # Errors
    /// [`BadResource`]: the file is refused.
    pub fn attributes(&self) -> Result<Vec<(String, Option<String>)>, BadResource> {
        let mut attributes = Vec::new();
        for (key, value) in &self.0 {
            match (key.as_str(), value) {
                ("attributes", Value::Array(entries)) => {
                    for (i, entry) in entries.iter().enumerate() {
                        let name = entry.get("name").and_then(Value::as_str);
                        let name = name.ok_or(BadResource::Entry(i))?;
                        let value = entry.get("value").ok_or(BadResource::Entry(i))?;
                        attributes.push((name.to_owned(), scalar(name, value)?));
                    }
                }
                ("schema_url", _) => {}
                (key, value) => attributes.push((key.to_owned(), scalar(key, value)?)),
            }
        }
        Ok(attributes)
    }
}

fn scalar(key: &str, value: &Value) -> Result<Option<String>, BadResource> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Bool(_) | Value::Number(_) => Ok(Some(value.to_string())),
        Value::Array(_) | Value::Object(_) => Err(BadResource::Value(key.to_owned())),
    }
}
