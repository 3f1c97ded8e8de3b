//! Reads values out of the spanned tree of a policies file, reporting every problem where it stands.
//!
//! A reader returns `None` after it reported, or where a key is absent; reading goes on either way.
//! Not here: which keys there are (`document`, `rule`, `matching`). Invariant: a value returned was
//! written exactly as such; nothing is guessed.

use std::time::Duration;

use crate::units::{Probability, duration};
use crate::yaml::{Entry, Node, Problems, Value, did_you_mean, join_index, join_key};

/// A node and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

/// The keys of a map.
pub(super) struct Keys {
    /// Those that work.
    pub(super) known: &'static [&'static str],
    /// Those that will, and what to say until then.
    pub(super) later: &'static [(&'static str, &'static str)],
}

/// What is said about keys whose time has not come.
pub(super) const STAGE_2: &str = "needs stage 2, which is not yet available";
pub(super) const STAGE_3: &str = "needs stage 3, which is not yet available";

impl<'n> At<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self { node, path: String::new() }
    }

    /// The value of a key; a null was reported by [`refuse_nulls`] and counts as absent.
    pub(super) fn key(&self, key: &str) -> Option<At<'n>> {
        let node = self.node.get(key).filter(|node| !node.is_null())?;
        Some(At { node, path: join_key(&self.path, key) })
    }

    /// Whether a key was written, with whatever value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.node.entry(key).is_some()
    }

    pub(super) fn error(&self, problems: &mut Problems, message: impl Into<String>) {
        problems.error_at(self.node, &self.path, message, None);
    }

    pub(super) fn error_with(
        &self,
        problems: &mut Problems,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        problems.error_at(self.node, &self.path, message, Some(help.into()));
    }

    pub(super) fn warning(
        &self,
        problems: &mut Problems,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        problems.warning_at(self.node, &self.path, message, Some(help.into()));
    }

    /// The items of a list.
    pub(super) fn items(&self, problems: &mut Problems) -> Vec<At<'n>> {
        if !matches!(self.node.value, Value::Seq(_)) {
            self.wrong_type(problems, "a list");
        }
        let numbered = self.node.items().iter().enumerate().filter(|(_, node)| !node.is_null());
        numbered.map(|(i, node)| At { node, path: join_index(&self.path, i) }).collect()
    }

    /// The entries of a map, nulls left out, with the place of each key.
    pub(super) fn entries(&self, problems: &mut Problems) -> Vec<(&'n Entry, At<'n>)> {
        if !matches!(self.node.value, Value::Map(_)) {
            self.wrong_type(problems, "a map");
        }
        let entries = self.node.entries().iter().filter(|entry| !entry.value.is_null());
        entries
            .map(|entry| (entry, At { node: &entry.value, path: join_key(&self.path, &entry.key) }))
            .collect()
    }

    /// Checks that this is a map of known keys; tells whether it is a map at all.
    pub(super) fn check_keys(&self, keys: &Keys, problems: &mut Problems) -> bool {
        if !matches!(self.node.value, Value::Map(_)) {
            self.wrong_type(problems, "a map");
            return false;
        }
        for entry in self.node.entries() {
            let path = join_key(&self.path, &entry.key);
            let key = entry.key.as_str();
            if let Some((_, when)) = keys.later.iter().find(|(later, _)| *later == key) {
                problems.error(&entry.key_location, &path, *when, None);
            } else if !keys.known.contains(&key) {
                let later = keys.later.iter().map(|(later, _)| *later);
                let help = suggestion(key, keys.known, later);
                problems.error(&entry.key_location, &path, "unknown key", Some(help));
            }
        }
        true
    }

    pub(super) fn wrong_type(&self, problems: &mut Problems, expected: &str) {
        let message = format!("expected {expected}, found {}", self.node.kind());
        self.error(problems, message);
    }

    pub(super) fn text(&self, problems: &mut Problems) -> Option<&'n str> {
        match &self.node.value {
            Value::Str(text) => Some(text),
            Value::Int(_) | Value::Float(_) => {
                self.error_with(problems, "expected a string, found a number", "quote it");
                None
            }
            Value::Bool(_) => {
                self.error_with(problems, "expected a string, found true or false", "quote it");
                None
            }
            _ => {
                self.wrong_type(problems, "a string");
                None
            }
        }
    }

    /// A text that is not empty and has at most `max` bytes.
    pub(super) fn short_text(&self, max: usize, problems: &mut Problems) -> Option<&'n str> {
        let text = self.text(problems)?;
        if text.is_empty() || text.len() > max {
            self.error(problems, format!("has {} bytes; allowed are 1 to {max}", text.len()));
            return None;
        }
        Some(text)
    }

    /// `true`, the only value of switches such as `keep`.
    pub(super) fn only_true(&self, problems: &mut Problems) -> Option<()> {
        match self.node.value {
            Value::Bool(true) => Some(()),
            Value::Bool(false) => {
                self.error_with(problems, "can only be true", "leave the key out instead of false");
                None
            }
            _ => {
                self.wrong_type(problems, "true");
                None
            }
        }
    }

    pub(super) fn probability(&self, problems: &mut Problems) -> Option<f64> {
        let parsed = match &self.node.value {
            Value::Int(0) => {
                self.error_with(problems, "0 is no probability", "to keep nothing write drop: true");
                return None;
            }
            Value::Int(value) => Probability::parse(&value.to_string()),
            Value::Float(value) => Probability::new(*value),
            Value::Str(text) => Probability::parse(text),
            _ => {
                self.wrong_type(problems, "a probability such as 10%, 0.1 or 1/10");
                return None;
            }
        };
        match parsed {
            Ok(probability) => Some(probability.get()),
            Err(bad) => {
                self.error(problems, bad.to_string());
                None
            }
        }
    }

    pub(super) fn number(&self, problems: &mut Problems) -> Option<f64> {
        match self.node.value {
            Value::Int(value) => Some(value as f64),
            Value::Float(value) => Some(value),
            _ => {
                self.wrong_type(problems, "a number");
                None
            }
        }
    }

    pub(super) fn duration(&self, problems: &mut Problems) -> Option<Duration> {
        let text = match &self.node.value {
            Value::Str(text) => text.clone(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            _ => {
                self.wrong_type(problems, "a duration such as 250ms, 2s or 1h");
                return None;
            }
        };
        match duration::parse(&text) {
            Ok(duration) => Some(duration),
            Err(bad) => {
                self.error(problems, bad.to_string());
                None
            }
        }
    }

    pub(super) fn instant(&self, problems: &mut Problems) -> Option<jiff::Timestamp> {
        let text = self.text(problems)?;
        match text.parse() {
            Ok(at) => Some(at),
            Err(_) => {
                let help = "write an RFC 3339 time with zone, for example \"2026-09-29T00:00:00Z\"";
                self.error_with(problems, "not a time with zone", help);
                None
            }
        }
    }

    /// One of a closed set of names.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let text = self.text(problems)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        self.not_among(&names, problems);
        None
    }

    /// Reports a value outside a set of names.
    pub(super) fn not_among(&self, names: &[&str], problems: &mut Problems) {
        let text = self.node.as_str().unwrap_or_default();
        let help = suggestion(text, names, std::iter::empty());
        self.error_with(problems, format!("unknown value `{text}`"), help);
    }
}

/// What an unknown name may have meant; names of later stages are suggested, but not listed.
pub(super) fn suggestion<'k>(name: &str, known: &[&'k str], later: impl Iterator<Item = &'k str>) -> String {
    let allowed = format!("allowed: {}", known.join(", "));
    match did_you_mean(name, known.iter().copied().chain(later)) {
        Some(meant) => format!("did you mean `{meant}`?\n{allowed}"),
        None => allowed,
    }
}

/// Reports every null below a node: a missing value is never "nothing to do".
pub(super) fn refuse_nulls(at: &At<'_>, problems: &mut Problems) {
    for (i, item) in at.node.items().iter().enumerate() {
        let path = join_index(&at.path, i);
        if item.is_null() {
            problems.error_at(item, &path, "is null", Some("give a value, or leave the item out".to_owned()));
        }
        refuse_nulls(&At { node: item, path }, problems);
    }
    for entry in at.node.entries() {
        let path = join_key(&at.path, &entry.key);
        if entry.value.is_null() {
            let help = "give a value, or leave the key out".to_owned();
            problems.error(&entry.key_location, &path, "is null", Some(help));
        }
        refuse_nulls(&At { node: &entry.value, path }, problems);
    }
}
