//! The spanned tree: what was written, and where.
//!
//! Not here: how text becomes a tree (`parse`) or a tree a typed value (`read`). Invariant: every
//! node and every key knows the source it was written in, also after trees of several files are merged.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// One text and the name it goes by in messages, for example `policies.yaml`.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The name as shown in messages: a path, or what stands for one.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// Names a text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A place in a source: where a key or a value begins, and the bytes a caret line marks.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    pub(super) source: Arc<Source>,
    pub(super) bytes: Range<usize>,
}

impl Location {
    /// The beginning of a source: for problems with a file as a whole.
    pub fn start_of(source: Arc<Source>) -> Self {
        Self { line: 1, column: 1, source, bytes: 0..0 }
    }

    /// The name of the source.
    pub fn file(&self) -> &str {
        &self.source.name
    }

    /// The source itself.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file(), self.line, self.column)
    }
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What was written.
    pub value: Value,
    /// Where. A block list or map that is the value of a key has the place of that key.
    pub location: Location,
    /// The text a substituted value had before it was read as YAML. A key that wants a string takes
    /// this text, so that `0123` and `true` survive. `None` for values that were not substituted.
    pub text: Option<String>,
    pub(super) extent: Range<usize>,
}

/// The kinds of value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    Seq(Vec<Node>),
    /// A map, in the order written; keys are unique.
    Map(Vec<Entry>),
}

/// One key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key's text.
    pub key: String,
    /// Where the key stands.
    pub key_location: Location,
    /// The value.
    pub value: Node,
}

impl Entry {
    /// Another value under the same key.
    pub fn with(&self, value: Node) -> Self {
        Self { key: self.key.clone(), key_location: self.key_location.clone(), value }
    }
}

impl Node {
    /// A node that was not written as such, but stands for something at `location`.
    pub fn new(value: Value, location: Location) -> Self {
        let extent = location.bytes.clone();
        Self { value, location, text: None, extent }
    }

    /// Another value at the same place.
    pub fn with(&self, value: Value) -> Self {
        let (location, text, extent) = (self.location.clone(), self.text.clone(), self.extent.clone());
        Self { value, location, text, extent }
    }

    /// The entries of a map; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::Seq(items) => items,
            _ => &[],
        }
    }

    /// The entry of a map with this key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The value of a map's key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The text of a string node: the original text if it was substituted.
    pub fn as_str(&self) -> Option<&str> {
        match (&self.value, &self.text) {
            (Value::Seq(_) | Value::Map(_), _) => None,
            (_, Some(text)) => Some(text),
            (Value::Str(text), None) => Some(text),
            _ => None,
        }
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The node at a path such as `rules[2].target` or `headers["a.b"]`; the empty path is the node
    /// itself.
    pub fn at(&self, path: &str) -> Option<&Node> {
        let mut node = self;
        let mut rest = path;
        while !rest.is_empty() {
            let (step, after) = next_step(rest)?;
            node = match step {
                Step::Key(key) => node.get(key)?,
                Step::Index(index) => node.items().get(index)?,
            };
            rest = after;
        }
        Some(node)
    }

    /// The kind of value in words, for messages: `a string`, `a list`, …
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a decimal number",
            Value::Str(_) => "a string",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

fn next_step(path: &str) -> Option<(Step<'_>, &str)> {
    if let Some(quoted) = path.strip_prefix("[\"") {
        let (key, rest) = quoted.split_once("\"]")?;
        return Some((Step::Key(key), rest.strip_prefix('.').unwrap_or(rest)));
    }
    if let Some(bracketed) = path.strip_prefix('[') {
        let (index, rest) = bracketed.split_once(']')?;
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        return Some((Step::Index(index.parse().ok()?), rest));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let rest = &path[end..];
    Some((Step::Key(&path[..end]), rest.strip_prefix('.').unwrap_or(rest)))
}

/// The path of a key below `path`; keys with `.` or `[` are quoted: `headers["a.b"]`.
pub fn join_key(path: &str, key: &str) -> String {
    if key.is_empty() || key.contains(['.', '[']) {
        format!("{path}[\"{key}\"]")
    } else if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The path of a list item below `path`: `rules[2]`.
pub fn join_index(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}
