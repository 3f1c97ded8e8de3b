//! Keys of the processors `resource` and `attributes`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The processor `resource`: edits resource attributes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resource {
    /// The edits, in this order; at least one. Default: none.
    pub attributes: Vec<Action>,
}

/// The processor `attributes`: edits attributes of spans, data points and log records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Attributes {
    /// The edits, in this order; at least one. Default: none.
    pub actions: Vec<Action>,
    /// Only items that fit are edited. Default: none, all are.
    pub include: Option<Match>,
    /// Items that fit are left as they are, also if `include` fits. Default: none.
    pub exclude: Option<Match>,
}

/// One edit of one attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-unavailable" = ["pattern", "converted_type"]))]
pub struct Action {
    /// The attribute's key.
    #[schemars(length(min = 1))]
    pub key: String,
    /// What happens to it.
    pub action: ActionKind,
    /// The value to write. One of `value`, `from_attribute` and `from_context` is needed, except for
    /// delete. Default: none.
    #[serde(default)]
    pub value: Option<AttributeValue>,
    /// The attribute to copy the value from; without it nothing happens. Default: none.
    #[serde(default)]
    pub from_attribute: Option<String>,
    /// Where to take the value from: `metadata.<key>` (a header of the request, several values joined by
    /// `;`) or `client.address`. Default: none.
    #[serde(default)]
    pub from_context: Option<String>,
}

/// What an edit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-unavailable" = ["hash", "extract", "convert"]))]
pub enum ActionKind {
    /// Writes the value where the key is absent.
    Insert,
    /// Writes the value where the key is present.
    Update,
    /// Writes the value.
    Upsert,
    /// Removes the key.
    Delete,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AttributeValue {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// Text.
    Str(String),
}

/// Which items a processor edits: an item fits if every key given here fits it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// How texts are compared.
    pub match_type: MatchType,
    /// The Collector's cache of results; without effect. Default: none.
    #[serde(default)]
    pub regexp: Option<RegexpCache>,
    /// Any of these is the resource's `service.name`. Default: none.
    #[serde(default)]
    pub services: Vec<String>,
    /// All of these resource attributes are there. Default: none.
    #[serde(default)]
    pub resources: Vec<AttributeMatch>,
    /// Any of these is the instrumentation scope. Default: none.
    #[serde(default)]
    pub libraries: Vec<LibraryMatch>,
    /// All of these attributes are there. Default: none.
    #[serde(default)]
    pub attributes: Vec<AttributeMatch>,
    /// Any of these is the span's name. Default: none.
    #[serde(default)]
    pub span_names: Vec<String>,
    /// Any of these is the span's kind, such as SPAN_KIND_SERVER. Default: none.
    #[serde(default)]
    pub span_kinds: Vec<String>,
    /// Any of these is the log record's body, if that is text. Default: none.
    #[serde(default)]
    pub log_bodies: Vec<String>,
    /// Any of these is the log record's severity text. Default: none.
    #[serde(default)]
    pub log_severity_texts: Vec<String>,
    /// The log record is at least this severe. Default: none.
    #[serde(default)]
    pub log_severity_number: Option<SeverityMatch>,
    /// Any of these is the metric's name. Default: none.
    #[serde(default)]
    pub metric_names: Vec<String>,
}

/// How texts are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MatchType {
    /// They are equal.
    Strict,
    /// The regular expression is found in it.
    Regexp,
}

/// The Collector's cache of regular expression results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RegexpCache {
    /// Without effect. Default: false.
    pub cacheenabled: bool,
    /// Without effect. Default: 0.
    pub cachemaxnumentries: u32,
}

/// An attribute that must be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttributeMatch {
    /// Its key.
    #[schemars(length(min = 1))]
    pub key: String,
    /// Its value; a regular expression with `match_type: regexp`. Default: none, any value fits.
    #[serde(default)]
    pub value: Option<AttributeValue>,
}

/// An instrumentation scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibraryMatch {
    /// Its name.
    pub name: String,
    /// Its version. Default: none, any version fits; "" fits a scope without version.
    #[serde(default)]
    pub version: Option<String>,
}

/// A least severity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SeverityMatch {
    /// The least severity number; 9 is INFO. Default: 0. Range: 0 to 24.
    #[schemars(range(min = 0, max = 24))]
    pub min: u8,
    /// Whether records without a severity number fit. Default: false.
    pub match_undefined: bool,
}
