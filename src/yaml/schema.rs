//! Reading a JSON Schema: what it accepts, names and calls things.
//!
//! Pure questions to a schema as schemars writes it; not here: what follows from the answers (`check`).

use serde_json::{Map, Value as Json};

use super::{Node, Value};

pub(super) fn marked(schema: &Json, mark: &str) -> bool {
    schema.get(mark) == Some(&Json::Bool(true))
}

/// Whether the list `mark` of a schema names `name`.
pub(super) fn named_in(schema: &Json, mark: &str, name: &str) -> bool {
    let names = schema.get(mark).and_then(Json::as_array);
    names.is_some_and(|all| all.iter().any(|one| one == name))
}

pub(super) fn aliased(property: &Json, key: &str) -> bool {
    named_in(property, "x-aliases", key)
}

pub(super) fn find_property<'s>(properties: &'s Map<String, Json>, key: &str) -> Option<&'s Json> {
    let by_alias = || properties.values().find(|property| aliased(property, key));
    properties.get(key).or_else(by_alias)
}

/// What the schema says about keys it does not name; nothing means anything goes.
pub(super) fn others(schema: &Json) -> Option<&Json> {
    let rule = |key: &str| schema.get(key);
    let by_pattern = || {
        let patterns = rule("patternProperties")?.as_object()?;
        patterns.values().next()
    };
    by_pattern()
        .or_else(|| rule("additionalProperties"))
        .or_else(|| rule("unevaluatedProperties"))
        .filter(|schema| **schema != Json::Bool(true))
}

/// The types a schema names; none means any.
pub(super) fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(all)) => all.iter().filter_map(Json::as_str).collect(),
        _ if !constants(schema).is_empty() => vec!["string"],
        _ => Vec::new(),
    }
}

pub(super) fn is_string(schema: &Json) -> bool {
    types(schema) == ["string"] || types(schema) == ["string", "null"]
}

pub(super) fn accepts(schema: &Json, node: &Node) -> bool {
    if schema == &Json::Bool(false) {
        return false;
    }
    let types = types(schema);
    let kinds: &[&str] = match node.value {
        Value::Null => &["null"],
        Value::Bool(_) => &["boolean"],
        Value::Int(_) => &["integer", "number"],
        Value::Float(_) => &["number"],
        Value::Str(_) => &["string"],
        Value::Seq(_) => &["array"],
        Value::Map(_) => &["object"],
    };
    types.is_empty() || types.iter().any(|one| kinds.contains(one))
}

/// The texts a schema allows by `const` or `enum`; none means it does not say.
pub(super) fn constants(schema: &Json) -> Vec<&str> {
    let one = schema.get("const").and_then(Json::as_str);
    let many = schema.get("enum").and_then(Json::as_array);
    let many = many.into_iter().flatten().filter_map(Json::as_str);
    one.into_iter().chain(many).collect()
}

/// The one key of a schema that describes a variant as `{name: body}`.
pub(super) fn variant(schema: &Json) -> Option<&str> {
    let properties = schema.get("properties")?.as_object()?;
    let required = schema.get("required")?.as_array()?;
    match (properties.len(), required.as_slice()) {
        (1, [name]) => name.as_str(),
        _ => None,
    }
}

/// The key that all alternatives have with a constant value, and these values.
pub(super) fn discriminator<'s>(branches: &[&'s Json]) -> Option<(String, Vec<&'s str>)> {
    let first = branches.first()?.get("properties")?.as_object()?;
    let in_all = |key: &&String| {
        branches.iter().all(|branch| {
            let property = branch.get("properties").and_then(|all| all.get(key.as_str()));
            property.is_some_and(|p| !constants(p).is_empty())
        })
    };
    let key = first.keys().find(in_all)?;
    let names = branches.iter().flat_map(|branch| constants(&branch["properties"][key.as_str()]));
    Some((key.clone(), names.collect()))
}

pub(super) fn expectation(schema: &Json) -> String {
    let by_format = match schema.get("format").and_then(Json::as_str) {
        Some("duration") => "a duration such as 10s",
        Some("bytes") => "a size such as 512Mi",
        Some("probability") => "a probability such as 10% or 0.1",
        Some("rate") => "a rate per second such as 100",
        _ => "",
    };
    if !by_format.is_empty() {
        return by_format.to_owned();
    }
    let words = types(schema).into_iter().filter(|one| *one != "null");
    let words: Vec<&str> = words
        .map(|one| match one {
            "boolean" => "true or false",
            "integer" => "a whole number",
            "number" => "a number",
            "string" => "a string",
            "array" => "a list",
            _ => "a map",
        })
        .collect();
    words.join(" or ")
}

pub(super) fn listed(names: &[&str]) -> String {
    let quote = |name: &&str| match *name {
        "" => "\"\"".to_owned(),
        name => format!("`{name}`"),
    };
    let quoted: Vec<String> = names.iter().map(quote).collect();
    quoted.join(", ")
}
