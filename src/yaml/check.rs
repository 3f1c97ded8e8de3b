//! The check of a tree against a JSON Schema (2020-12, as schemars writes it): every problem at once.
//!
//! It also returns the tree that serde should read. Schema extensions, set with
//! `#[schemars(extend("x-secret" = true))]`:
//!
//! | key | meaning |
//! |---|---|
//! | `x-secret` | what stands here is never shown |
//! | `x-aliases` | further names of a key (serde knows them as `alias`) |
//! | `x-null-is-absent` | null means "not there" even where a map of defaults could be meant |

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::{Entry, Location, Node, Problems, Value, join_index, join_key};
use crate::units;

/// Words in a key that say its value is a secret, whatever the schema knows about it.
pub const SECRET_KEYS: [&str; 10] = [
    "authorization",
    "token",
    "password",
    "passwd",
    "secret",
    "pem",
    "cookie",
    "credential",
    "api-key",
    "api_key",
];

/// Two names count as similar from here on (Jaro-Winkler): `targt` and `target` have 0.97.
const SIMILAR: f64 = 0.8;

/// The known name that `name` was probably meant to be.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let scored = known.into_iter().map(|other| (strsim::jaro_winkler(&name, &other.to_lowercase()), other));
    let similar = scored.filter(|(score, _)| *score >= SIMILAR);
    similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// One place of the tree: the node, its path, and where to point when something is missing in it.
#[derive(Clone, Copy)]
struct Place<'a> {
    node: &'a Node,
    path: &'a str,
    named: &'a Location,
}

/// What a null stands for.
#[derive(Clone, Copy, PartialEq)]
enum Null {
    EmptyMap,
    EmptyList,
    Absent,
}

pub(super) struct Checker<'s, 'p> {
    definitions: Option<&'s Map<String, Json>>,
    schema: &'s Json,
    problems: &'p mut Problems,
}

impl<'s, 'p> Checker<'s, 'p> {
    pub(super) fn new(schema: &'s Json, problems: &'p mut Problems) -> Self {
        Self { definitions: schema.get("$defs").and_then(Json::as_object), schema, problems }
    }

    pub(super) fn root(&mut self, node: &Node, path: &str) -> Node {
        let place = Place { node, path, named: &node.location };
        self.check(place, self.schema)
    }

    fn error(&mut self, place: Place<'_>, message: String, help: Option<String>) {
        let location = &place.node.location;
        self.problems.error(location, place.path, message, help);
    }

    /// The schema behind `$ref`, and whether any schema on the way is marked with `mark`.
    fn resolve(&self, mut schema: &'s Json) -> &'s Json {
        // A chain of references longer than this is a loop.
        for _ in 0..32 {
            let Some(name) = schema.get("$ref").and_then(Json::as_str) else {
                break;
            };
            let name = name.strip_prefix("#/$defs/").unwrap_or(name);
            match self.definitions.and_then(|all| all.get(name)) {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    /// The alternatives of a schema, nested ones included; the schema itself if it has none.
    fn branches(&self, schema: &'s Json) -> Vec<&'s Json> {
        let schema = self.resolve(schema);
        let alternatives =
            ["anyOf", "oneOf"].iter().filter_map(|key| schema.get(key).and_then(Json::as_array));
        let nested: Vec<&'s Json> = alternatives.flatten().collect();
        if nested.is_empty() {
            return vec![schema];
        }
        let all = nested.into_iter().flat_map(|one| self.branches(one));
        all.collect()
    }

    fn check(&mut self, place: Place<'_>, schema: &'s Json) -> Node {
        if marked(schema, "x-secret") || marked(self.resolve(schema), "x-secret") {
            self.problems.mask(place.node);
        }
        let branches = self.branches(schema);
        let node = self.coerced(place.node, schema, &branches);
        let place = Place { node: &node, ..place };
        let fitting: Vec<&'s Json> =
            branches.iter().copied().filter(|branch| accepts(branch, &node)).collect();
        match fitting.as_slice() {
            [] => {
                let expected: BTreeSet<String> = branches
                    .iter()
                    .filter(|branch| types(branch) != ["null"])
                    .map(|branch| expectation(branch))
                    .collect();
                let expected: Vec<String> = expected.into_iter().collect();
                let message = format!("expected {}, found {}", expected.join(" or "), node.kind());
                let help = matches!(node.value, Value::Int(_) | Value::Float(_) | Value::Bool(_))
                    .then(|| "put the value in quotes".to_owned())
                    .filter(|_| branches.iter().any(|b| types(b).contains(&"string")));
                self.error(place, message, help);
                node
            }
            [only] => self.one(place, only),
            several => self.choose(place, several),
        }
    }

    /// The node in the form the schema asks for: what null stands for, and the original text of a
    /// substituted value where text is wanted.
    fn coerced(&self, node: &Node, schema: &'s Json, branches: &[&'s Json]) -> Node {
        let mut node = node.clone();
        if node.is_null() && !branches.iter().any(|b| accepts(b, &node)) {
            match self.null(schema) {
                Null::EmptyMap => node.value = Value::Map(Vec::new()),
                Null::EmptyList => node.value = Value::Seq(Vec::new()),
                Null::Absent => {}
            }
        }
        if let Some(text) = node.text.clone()
            && !matches!(node.value, Value::Null | Value::Seq(_) | Value::Map(_))
            && !branches.iter().any(|b| !is_string(b) && accepts(b, &node))
            && branches.iter().any(|b| types(b).contains(&"string"))
        {
            node.value = Value::Str(text);
        }
        node
    }

    fn null(&self, schema: &'s Json) -> Null {
        let branches = self.branches(schema);
        let absent = marked(schema, "x-null-is-absent")
            || branches.iter().any(|b| types(b).is_empty() && !b.is_boolean());
        let has = |kind: &str| branches.iter().any(|b| types(b).contains(&kind));
        match () {
            () if absent => Null::Absent,
            () if has("object") => Null::EmptyMap,
            () if has("array") => Null::EmptyList,
            () => Null::Absent,
        }
    }

    /// Checks against one of several alternatives of the same kind.
    fn choose(&mut self, place: Place<'_>, branches: &[&'s Json]) -> Node {
        let allowed: Vec<&str> = branches.iter().flat_map(|b| constants(b)).collect();
        let all_constant = branches.iter().all(|b| !constants(b).is_empty());
        if all_constant {
            self.constant(place, &allowed);
            return place.node.clone();
        }
        if let Some((key, names)) = discriminator(branches) {
            return self.tagged(place, branches, (&key, &names));
        }
        if branches.iter().all(|b| variant(b).is_some()) {
            return self.external(place, branches);
        }
        let mut best: Option<(Problems, Node)> = None;
        for branch in branches {
            let mut problems = Problems::new();
            let mut trial =
                Checker { definitions: self.definitions, schema: self.schema, problems: &mut problems };
            let node = trial.one(place, branch);
            if best.as_ref().is_none_or(|(known, _)| problems.len() < known.len()) {
                best = Some((problems, node));
            }
        }
        match best {
            Some((problems, node)) => {
                self.problems.append(problems);
                node
            }
            None => place.node.clone(),
        }
    }

    /// Alternatives told apart by the constant value of one key, such as `type: latency`.
    fn tagged(&mut self, place: Place<'_>, branches: &[&'s Json], (key, names): (&str, &[&str])) -> Node {
        let Some(tag) = place.node.get(key) else {
            let help = format!("one of: {}", names.join(", "));
            let message = format!("the key `{key}` is missing");
            self.problems.error(place.named, place.path, message, Some(help));
            return place.node.clone();
        };
        let branch = branches.iter().find(|branch| {
            let property = branch.get("properties").and_then(|all| all.get(key));
            let name = tag.as_str().unwrap_or_default();
            property.is_some_and(|p| constants(p).contains(&name))
        });
        match branch {
            Some(branch) => self.one(place, branch),
            None => {
                let path = join_key(place.path, key);
                let place = Place { node: tag, path: &path, named: &tag.location };
                self.constant(place, names);
                place.node.clone()
            }
        }
    }

    /// Alternatives that are maps of one key each.
    fn external(&mut self, place: Place<'_>, branches: &[&'s Json]) -> Node {
        let names: Vec<&str> = branches.iter().filter_map(|b| variant(b)).collect();
        let written = place.node.entries().first();
        let branch = written.and_then(|entry| names.iter().position(|name| *name == entry.key));
        match (branch, written) {
            (Some(index), _) => self.one(place, branches[index]),
            (None, Some(entry)) => {
                self.unknown_key(place.path, entry, &names);
                place.node.clone()
            }
            (None, None) => {
                let help = format!("one of: {}", names.join(", "));
                let message = "expected a map of one key".to_owned();
                self.problems.error(place.named, place.path, message, Some(help));
                place.node.clone()
            }
        }
    }

    fn one(&mut self, place: Place<'_>, schema: &'s Json) -> Node {
        match &place.node.value {
            Value::Map(entries) => self.map(place, entries, schema),
            Value::Seq(items) => self.list(place, items, schema),
            Value::Str(text) => {
                let allowed = constants(schema);
                if !allowed.is_empty() {
                    self.constant(place, &allowed);
                } else if let Some((wrong, help)) = wrong_text(text, schema) {
                    self.error(place, wrong, help);
                }
                place.node.clone()
            }
            Value::Int(_) | Value::Float(_) => {
                if let Some((wrong, help)) = wrong_number(place.node, schema) {
                    self.error(place, wrong, help);
                }
                place.node.clone()
            }
            Value::Null | Value::Bool(_) => place.node.clone(),
        }
    }

    fn constant(&mut self, place: Place<'_>, allowed: &[&str]) {
        let text = place.node.as_str().unwrap_or_default();
        if allowed.contains(&text) {
            return;
        }
        let meant = did_you_mean(text, allowed.iter().copied());
        let help = with_meant(meant, format!("allowed: {}", listed(allowed)));
        self.error(place, format!("unknown value `{text}`"), Some(help));
    }

    fn unknown_key(&mut self, path: &str, entry: &Entry, known: &[&str]) {
        let meant = did_you_mean(&entry.key, known.iter().copied());
        let help = match known {
            [] => "this takes no keys".to_owned(),
            _ => with_meant(meant, format!("keys here: {}", known.join(", "))),
        };
        let path = join_key(path, &entry.key);
        let message = "unknown key";
        self.problems.error(&entry.key_location, &path, message, Some(help));
    }

    fn map(&mut self, place: Place<'_>, entries: &[Entry], schema: &'s Json) -> Node {
        let properties = schema.get("properties").and_then(Json::as_object);
        let others = others(schema);
        let closed = others == Some(&Json::Bool(false));
        let names: Vec<&str> = properties.map_or(Vec::new(), |all| all.keys().map(String::as_str).collect());
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let property = properties.and_then(|all| find_property(all, &entry.key));
            let path = join_key(place.path, &entry.key);
            match property.or(others.filter(|_| !closed)) {
                Some(schema) => {
                    let known = property.is_some();
                    kept.extend(self.entry(entry, &path, schema, known));
                }
                None if closed => {
                    if names.iter().any(|name| {
                        marked(&properties.map_or(Json::Null, |p| p[*name].clone()), "x-secret")
                            && did_you_mean(&entry.key, [*name]).is_some()
                    }) {
                        self.problems.mask(&entry.value);
                    }
                    self.unknown_key(place.path, entry, &names);
                }
                None => kept.push(entry.clone()),
            }
        }
        self.required(place, &kept, schema);
        Node { value: Value::Map(kept), ..place.node.clone() }
    }

    /// One entry; `None` if it is a null that stands for "not there".
    fn entry(&mut self, entry: &Entry, path: &str, schema: &'s Json, known: bool) -> Option<Entry> {
        let mut value = Cow::Borrowed(&entry.value);
        if entry.value.is_null() && known {
            match self.null(schema) {
                Null::Absent => return None,
                Null::EmptyMap => value.to_mut().value = Value::Map(Vec::new()),
                Null::EmptyList => value.to_mut().value = Value::Seq(Vec::new()),
            }
        }
        let place = Place { node: &value, path, named: &entry.key_location };
        let value = self.check(place, schema);
        Some(Entry { value, ..entry.clone() })
    }

    fn required(&mut self, place: Place<'_>, entries: &[Entry], schema: &'s Json) {
        let required = schema.get("required").and_then(Json::as_array);
        let properties = schema.get("properties").and_then(Json::as_object);
        for name in required.into_iter().flatten().filter_map(Json::as_str) {
            let there = |entry: &Entry| {
                let property = properties.and_then(|all| all.get(name));
                entry.key == name || property.is_some_and(|p| aliased(p, &entry.key))
            };
            if !entries.iter().any(there) {
                let message = format!("the key `{name}` is missing");
                self.problems.error(place.named, place.path, message, None);
            }
        }
    }

    fn list(&mut self, place: Place<'_>, items: &[Node], schema: &'s Json) -> Node {
        let limit = |key: &str| schema.get(key).and_then(Json::as_u64);
        if limit("minItems").is_some_and(|min| (items.len() as u64) < min) {
            let message = format!("expected at least {} items", limit("minItems").unwrap_or(0));
            self.error(place, message, None);
        }
        if limit("maxItems").is_some_and(|max| (items.len() as u64) > max) {
            let message = format!("expected at most {} items", limit("maxItems").unwrap_or(0));
            self.error(place, message, None);
        }
        let checked = items.iter().enumerate().map(|(index, node)| {
            let Some(schema) = schema.get("items") else {
                return node.clone();
            };
            let path = join_index(place.path, index);
            let place = Place { node, path: &path, named: &node.location };
            self.check(place, schema)
        });
        let checked = checked.collect();
        Node { value: Value::Seq(checked), ..place.node.clone() }
    }
}

fn marked(schema: &Json, mark: &str) -> bool {
    schema.get(mark) == Some(&Json::Bool(true))
}

fn aliased(property: &Json, key: &str) -> bool {
    let aliases = property.get("x-aliases").and_then(Json::as_array);
    aliases.is_some_and(|all| all.iter().any(|alias| alias == key))
}

fn find_property<'s>(properties: &'s Map<String, Json>, key: &str) -> Option<&'s Json> {
    let by_alias = || properties.values().find(|property| aliased(property, key));
    properties.get(key).or_else(by_alias)
}

/// What the schema says about keys it does not name; nothing means anything goes.
fn others(schema: &Json) -> Option<&Json> {
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
fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(all)) => all.iter().filter_map(Json::as_str).collect(),
        _ if !constants(schema).is_empty() => vec!["string"],
        _ => Vec::new(),
    }
}

fn is_string(schema: &Json) -> bool {
    types(schema) == ["string"] || types(schema) == ["string", "null"]
}

fn accepts(schema: &Json, node: &Node) -> bool {
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
fn constants(schema: &Json) -> Vec<&str> {
    let one = schema.get("const").and_then(Json::as_str);
    let many = schema.get("enum").and_then(Json::as_array);
    let many = many.into_iter().flatten().filter_map(Json::as_str);
    one.into_iter().chain(many).collect()
}

/// The one key of a schema that describes a variant as `{name: body}`.
fn variant(schema: &Json) -> Option<&str> {
    let properties = schema.get("properties")?.as_object()?;
    let required = schema.get("required")?.as_array()?;
    match (properties.len(), required.as_slice()) {
        (1, [name]) => name.as_str(),
        _ => None,
    }
}

/// The key that all alternatives have with a constant value, and these values.
fn discriminator<'s>(branches: &[&'s Json]) -> Option<(String, Vec<&'s str>)> {
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

fn expectation(schema: &Json) -> String {
    let allowed = constants(schema);
    if !allowed.is_empty() {
        return format!("one of {}", listed(&allowed));
    }
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

fn listed(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn with_meant(meant: Option<&str>, rest: String) -> String {
    match meant {
        Some(name) => format!("did you mean `{name}`?\n{rest}"),
        None => rest,
    }
}

type Wrong = (String, Option<String>);

fn wrong_text(text: &str, schema: &Json) -> Option<Wrong> {
    let unit = match schema.get("format").and_then(Json::as_str) {
        Some("duration") => units::duration::parse(text).err().map(|e| e.to_string()),
        Some("bytes") => units::ByteSize::parse(text).err().map(|e| e.to_string()),
        Some("probability") => units::Probability::parse(text).err().map(|e| e.to_string()),
        Some("rate") => units::Rate::parse(text).err().map(|e| e.to_string()),
        _ => None,
    };
    if let Some(message) = unit {
        return Some((message, None));
    }
    let limit = |key: &str| schema.get(key).and_then(Json::as_u64);
    let length = text.chars().count() as u64;
    if limit("minLength").is_some_and(|min| length < min) {
        let message = match length {
            0 => "cannot be empty".to_owned(),
            _ => format!("shorter than {} characters", limit("minLength")?),
        };
        return Some((message, None));
    }
    if limit("maxLength").is_some_and(|max| length > max) {
        return Some((format!("longer than {} characters", limit("maxLength")?), None));
    }
    let pattern = schema.get("pattern").and_then(Json::as_str)?;
    let fits = regex::Regex::new(pattern).ok()?.is_match(text);
    (!fits).then(|| (format!("does not match the pattern {pattern}"), None))
}

fn wrong_number(node: &Node, schema: &Json) -> Option<Wrong> {
    let (number, shown) = match node.value {
        #[allow(clippy::cast_precision_loss, reason = "bounds are far from 2^53 or powers of two")]
        Value::Int(number) => (number as f64, number.to_string()),
        Value::Float(number) => (number, number.to_string()),
        _ => return None,
    };
    let format = schema.get("format").and_then(Json::as_str).unwrap_or_default();
    let unit = match format {
        "probability" if matches!(node.value, Value::Int(_)) => {
            units::Probability::parse(&shown).err().map(|e| e.to_string())
        }
        "probability" => units::Probability::new(number).err().map(|e| e.to_string()),
        "rate" => units::Rate::new(number).err().map(|e| e.to_string()),
        "duration" if number != 0.0 => units::duration::parse(&shown).err().map(|e| e.to_string()),
        _ => None,
    };
    if let Some(message) = unit {
        return Some((message, None));
    }
    let bound = |key: &str| schema.get(key).and_then(Json::as_f64);
    let (least, most) = type_range(format);
    let least = bound("minimum").map_or(least, |min| min.max(least));
    let most = bound("maximum").map_or(most, |max| max.min(most));
    let above = bound("exclusiveMinimum").unwrap_or(f64::NEG_INFINITY);
    let below = bound("exclusiveMaximum").unwrap_or(f64::INFINITY);
    let inside = number >= least && number <= most && number > above && number < below;
    if inside || (number.is_infinite() && least.is_infinite() && most.is_infinite()) {
        return None;
    }
    let mut rules = Vec::new();
    if above > f64::NEG_INFINITY && above >= least {
        rules.push(format!("above {above}"));
    } else if least > f64::NEG_INFINITY {
        rules.push(format!("at least {least}"));
    }
    if below < f64::INFINITY && below <= most {
        rules.push(format!("below {below}"));
    } else if most < f64::INFINITY {
        rules.push(format!("at most {most}"));
    }
    let rules = rules.join(" and ");
    Some((format!("{shown} is out of range; it must be {rules}"), None))
}

/// The range of a number type. Ends of 64-bit ranges are powers of two, so exact enough here.
fn type_range(format: &str) -> (f64, f64) {
    match format {
        "uint8" => (0.0, f64::from(u8::MAX)),
        "uint16" => (0.0, f64::from(u16::MAX)),
        "uint32" => (0.0, f64::from(u32::MAX)),
        "uint64" | "uint" | "bytes" => (0.0, 18_446_744_073_709_551_615.0),
        "int8" => (f64::from(i8::MIN), f64::from(i8::MAX)),
        "int16" => (f64::from(i16::MIN), f64::from(i16::MAX)),
        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
        "int64" | "int" => (-9_223_372_036_854_775_808.0, 9_223_372_036_854_775_807.0),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}
