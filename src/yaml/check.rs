//! The check of a tree against a JSON Schema (2020-12, as schemars writes it): every problem at once.
//!
//! It also returns the tree that serde should read. Schema extensions, set with
//! `#[schemars(extend("x-secret" = true))]`:
//!
//! | key | meaning |
//! |---|---|
//! | `x-secret` | what stands here is never shown |
//! | `x-aliases` | further names of a key (serde knows them as `alias`) |
//! | `x-unavailable` | known keys or values that Tollgate does not have (yet) |

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use super::bounds::{wrong_number, wrong_text};
use super::schema::{
    accepts, aliased, constants, discriminator, expectation, find_property, is_string, listed, marked,
    named_in, others, types, variant,
};
use super::{Entry, Location, Node, Problems, Value, join_index, join_key};

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
    Kept,
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
        let text = place.node.as_str().unwrap_or_default();
        if self.unavailable(schema, text) {
            self.error(place, format!("`{text}` is not available in Tollgate"), None);
            return place.node.clone();
        }
        let branches = self.branches(schema);
        let node = self.coerced(place.node, schema, &branches);
        let place = Place { node: &node, ..place };
        let fitting: Vec<&'s Json> =
            branches.iter().copied().filter(|branch| accepts(branch, &node)).collect();
        match fitting.as_slice() {
            [] => {
                self.wrong_kind(place, &branches);
                node.into_owned()
            }
            [only] => self.one(place, only),
            several => self.choose(place, several),
        }
    }

    /// Whether a secret can stand here or below.
    fn holds_secret(&self, schema: &'s Json, depth: usize) -> bool {
        let branches = self.branches(schema);
        let below = |schema: &'s Json| {
            let named = schema.get("properties").and_then(Json::as_object);
            let named = named.into_iter().flat_map(Map::values);
            let mut below = named.chain(others(schema)).chain(schema.get("items"));
            // Types do not nest deeper before their secrets; it also ends recursive ones.
            depth < 5 && below.any(|inner| self.holds_secret(inner, depth + 1))
        };
        marked(schema, "x-secret")
            || branches.iter().any(|branch| marked(branch, "x-secret") || below(branch))
    }

    fn wrong_kind(&mut self, place: Place<'_>, branches: &[&'s Json]) {
        let allowed: Vec<&str> = branches.iter().flat_map(|branch| constants(branch)).collect();
        let kinds = branches.iter().filter(|b| types(b) != ["null"] && constants(b).is_empty());
        let mut expected: BTreeSet<String> = kinds.map(|branch| expectation(branch)).collect();
        if !allowed.is_empty() {
            expected.insert(format!("one of {}", listed(&allowed)));
        }
        let expected: Vec<String> = expected.into_iter().collect();
        let message = format!("expected {}, found {}", expected.join(" or "), place.node.kind());
        if branches.iter().any(|branch| self.holds_secret(branch, 0)) {
            self.problems.mask(place.node);
        }
        let quotable = matches!(place.node.value, Value::Int(_) | Value::Float(_) | Value::Bool(_))
            && branches.iter().any(|b| types(b).contains(&"string"));
        let help = quotable.then(|| "put the value in quotes".to_owned());
        self.error(place, message, help);
    }

    /// Whether the schema knows a value that Tollgate does not have.
    fn unavailable(&self, schema: &'s Json, text: &str) -> bool {
        let schema = self.resolve(schema);
        let inner = schema.get("anyOf").and_then(Json::as_array);
        let mut all = inner.into_iter().flatten().map(|one| self.resolve(one)).chain([schema]);
        all.any(|one| named_in(one, "x-unavailable", text))
    }

    /// The node in the form the schema asks for: what null stands for, and the original text of a
    /// substituted value where text is wanted; that of a variable that is not set is empty.
    fn coerced<'n>(&self, node: &'n Node, schema: &'s Json, branches: &[&'s Json]) -> Cow<'n, Node> {
        let text_wanted = branches.iter().any(|b| types(b).contains(&"string"));
        if node.is_null() {
            return match (self.null(schema), &node.text) {
                (Null::EmptyMap, _) => Cow::Owned(node.with(Value::Map(Vec::new()))),
                (Null::EmptyList, _) => Cow::Owned(node.with(Value::Seq(Vec::new()))),
                (Null::Absent, Some(text)) if text_wanted => Cow::Owned(node.with(Value::Str(text.clone()))),
                (Null::Kept | Null::Absent, _) => Cow::Borrowed(node),
            };
        }
        let fits = branches.iter().any(|b| !is_string(b) && accepts(b, node));
        match &node.text {
            Some(text) if text_wanted && !fits => Cow::Owned(node.with(Value::Str(text.clone()))),
            _ => Cow::Borrowed(node),
        }
    }

    /// What a null stands for where the schema does not take one itself.
    fn null(&self, schema: &'s Json) -> Null {
        let branches = self.branches(schema);
        let has = |kind: &str| branches.iter().any(|b| types(b).contains(&kind));
        let accepted = branches.iter().any(|b| types(b).is_empty()) || has("null");
        match () {
            () if accepted => Null::Kept,
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
                self.problems.unknown_key(place.path, entry, &names);
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

    /// A key that a closed map does not have.
    fn refused_key(&mut self, path: &str, entry: &Entry, schema: &'s Json) {
        let properties = schema.get("properties").and_then(Json::as_object);
        let names: Vec<&str> = properties.map_or(Vec::new(), |all| all.keys().map(String::as_str).collect());
        let meant = did_you_mean(&entry.key, names.iter().copied());
        let meant = meant.and_then(|name| properties?.get(name));
        if meant.is_some_and(|property| self.holds_secret(property, 0)) {
            self.problems.mask(&entry.value);
        }
        if named_in(schema, "x-unavailable", &entry.key) {
            let path = join_key(path, &entry.key);
            let help = format!("keys here: {}", names.join(", "));
            let message = "this key is not available in Tollgate";
            self.problems.error(&entry.key_location, &path, message, Some(help));
        } else {
            self.problems.unknown_key(path, entry, &names);
        }
    }

    fn map(&mut self, place: Place<'_>, entries: &[Entry], schema: &'s Json) -> Node {
        let properties = schema.get("properties").and_then(Json::as_object);
        let others = others(schema);
        let closed = others == Some(&Json::Bool(false));
        let needed = schema.get("required").and_then(Json::as_array);
        let needs = |entry: &Entry| needed.is_some_and(|all| all.iter().any(|name| *name == *entry.key));
        let mut kept = Vec::with_capacity(entries.len());
        for entry in entries {
            let property = properties.and_then(|all| find_property(all, &entry.key));
            let path = join_key(place.path, &entry.key);
            match property.or(others.filter(|_| !closed)) {
                Some(schema) => {
                    let may_lack = property.is_some() && !(entry.value.text.is_some() && needs(entry));
                    kept.extend(self.entry(entry, &path, schema, may_lack));
                }
                None if closed => self.refused_key(place.path, entry, schema),
                None => kept.push(entry.clone()),
            }
        }
        self.required(place, &kept, schema);
        place.node.with(Value::Map(kept))
    }

    /// One entry; `None` if it may lack and is a null that stands for "not there".
    fn entry(&mut self, entry: &Entry, path: &str, schema: &'s Json, may_lack: bool) -> Option<Entry> {
        if entry.value.is_null() && may_lack && self.null(schema) == Null::Absent {
            return None;
        }
        let place = Place { node: &entry.value, path, named: &entry.key_location };
        let value = self.check(place, schema);
        Some(entry.with(value))
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
        place.node.with(Value::Seq(checked))
    }
}

pub(super) fn with_meant(meant: Option<&str>, rest: String) -> String {
    match meant {
        Some(name) => format!("did you mean `{name}`?\n{rest}"),
        None => rest,
    }
}
