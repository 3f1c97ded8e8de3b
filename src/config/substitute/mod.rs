//! `${…}` in values: environment variables, files, inline YAML.
//!
//! It follows the merge and touches values only, by the Collector's rules: the innermost reference
//! first, until nothing changes; then every `$$` is one `$`. A value that is one reference takes any
//! type, and keeps its text for keys that want a string.

use std::ops::Range;

use super::load::{Environment, Uri, split_uri};
use crate::yaml::{
    Entry, MAX_DEPTH, Node, Problems, Source, Value, join_index, join_key, parse_with_aliases,
};

/// The most rounds one value may take; the Collector's limit.
const MAX_ROUNDS: usize = 1000;
/// The most references one configuration may resolve: stops a file that names itself twice.
const MAX_REFERENCES: usize = 100_000;

/// Resolves every reference in a tree.
pub(super) fn substitute(node: &Node, env: Environment<'_>, problems: &mut Problems) -> Node {
    let mut resolver = Resolver { env, problems, references: 0, level: 0 };
    resolver.walk(node, "")
}

struct Resolver<'e, 'p> {
    env: Environment<'e>,
    problems: &'p mut Problems,
    references: usize,
    level: usize,
}

/// What a reference stands for.
struct Resolved {
    node: Node,
    /// The text itself; `None` for what only has a tree.
    text: String,
}

impl Resolver<'_, '_> {
    fn walk(&mut self, node: &Node, path: &str) -> Node {
        match &node.value {
            Value::Seq(_) | Value::Map(_) if self.level > MAX_DEPTH => {
                let message = format!("references make it nested deeper than {MAX_DEPTH} levels");
                let help = "does a file refer to itself?".to_owned();
                self.problems.error_at(node, path, message, Some(help));
                node.with(Value::Null)
            }
            Value::Seq(items) => {
                self.level += 1;
                let items = items.iter().enumerate();
                let walked = items.map(|(index, item)| self.walk(item, &join_index(path, index)));
                let walked = walked.collect();
                self.level -= 1;
                node.with(Value::Seq(walked))
            }
            Value::Map(entries) => {
                self.level += 1;
                let walked = entries
                    .iter()
                    .map(|entry| entry.with(self.walk(&entry.value, &join_key(path, &entry.key))));
                let walked = walked.collect();
                self.level -= 1;
                node.with(Value::Map(walked))
            }
            Value::Str(text) if text.contains('$') => self.scalar(node, text.clone(), path),
            _ => node.clone(),
        }
    }

    fn scalar(&mut self, node: &Node, text: String, path: &str) -> Node {
        let mut text = text;
        let mut whole = false;
        for _ in 0..MAX_ROUNDS {
            let Some(range) = find(&text) else {
                let unescaped = text.replace("$$", "$");
                let mut done = node.with(Value::Str(unescaped.clone()));
                done.text = whole.then_some(unescaped);
                return done;
            };
            let reference = &text[range.clone()];
            let Some(resolved) = self.resolve(node, reference, path) else {
                return node.with(Value::Null);
            };
            if reference.len() < text.len() {
                if matches!(resolved.node.value, Value::Seq(_) | Value::Map(_)) {
                    let message =
                        format!("`{reference}` inside text must be a single value, not a list or map");
                    self.problems.error_at(node, path, message, None);
                    return node.with(Value::Null);
                }
                text = [&text[..range.start], &resolved.text, &text[range.end..]].concat();
                whole = false;
                continue;
            }
            match resolved.node.value {
                Value::Str(_) => (text, whole) = (resolved.text, true),
                Value::Seq(_) | Value::Map(_) => {
                    let mut tree = self.walk(&resolved.node, path);
                    tree.text = Some(resolved.text.replace("$$", "$"));
                    return tree;
                }
                value => {
                    let mut done = node.with(value);
                    done.text = Some(resolved.text.replace("$$", "$"));
                    return done;
                }
            }
        }
        let message = format!("still has references after {MAX_ROUNDS} rounds");
        self.problems.error_at(node, path, message, Some("does a value refer to itself?".to_owned()));
        node.with(Value::Null)
    }

    /// What `${…}` stands for; `None` once a problem is reported.
    fn resolve(&mut self, node: &Node, reference: &str, path: &str) -> Option<Resolved> {
        self.references += 1;
        let uri = &reference[2..reference.len() - 1];
        let parts = split_uri(uri);
        // `${VAR:-text}`: what looks like a scheme is a variable with a default.
        let parts = if parts.rest.starts_with('-') { Uri { scheme: None, rest: uri } } else { parts };
        let fetched = if self.references > MAX_REFERENCES {
            Err((format!("more than {MAX_REFERENCES} references"), None))
        } else if parts.rest.contains('$') {
            Err((format!("`{reference}` holds a `$`, which a reference cannot"), None))
        } else {
            self.fetch(node, parts.scheme.unwrap_or("env"), parts.rest, path)
        };
        match fetched {
            Ok((name, text)) => Some(read(node, name, text)),
            Err((message, help)) => {
                self.problems.error_at(node, path, message, help);
                None
            }
        }
    }

    /// The text behind a reference, and the name of the file it came from.
    fn fetch(
        &mut self,
        node: &Node,
        scheme: &str,
        rest: &str,
        path: &str,
    ) -> Result<(Option<String>, String), (String, Option<String>)> {
        match scheme {
            "env" => self.variable(node, rest, path).map(|text| (None, text)),
            "yaml" => Ok((None, rest.to_owned())),
            "file" => match std::fs::read_to_string(rest) {
                Ok(text) => Ok((Some(rest.to_owned()), text)),
                Err(error) => Err((format!("the file `{rest}` cannot be read: {error}"), None)),
            },
            "http" | "https" => Err((
                "configuration is not fetched over the network".to_owned(),
                Some("download the file first and use ${file:path}".to_owned()),
            )),
            _ => Err((
                format!("unknown scheme `{scheme}` in a reference"),
                Some("the schemes are env, file and yaml; `$$` stands for a single `$`".to_owned()),
            )),
        }
    }

    fn variable(&mut self, node: &Node, rest: &str, path: &str) -> Result<String, (String, Option<String>)> {
        let (name, default) = match rest.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (rest, None),
        };
        let first_ok = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first_ok || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let help = "a name is letters, digits and underscores and begins with no digit";
            return Err((format!("`{name}` is not an environment variable's name"), Some(help.to_owned())));
        }
        match ((self.env)(name), default) {
            (Some(text), _) => Ok(text),
            (None, Some(default)) => Ok(default.to_owned()),
            (None, None) => {
                let message = format!("the environment variable `{name}` is not set; the value is null");
                let help = format!("write ${{env:{name}:-text}} for a default");
                self.problems.warning_at(node, path, message, Some(help));
                Ok(String::new())
            }
        }
    }
}

/// Reads a text as YAML; a text that is none, or a string, stands for itself as it is.
fn read(node: &Node, name: Option<String>, text: String) -> Resolved {
    let source = Source::new(name.clone().unwrap_or_default(), text.clone());
    let value = match parse_with_aliases(&source) {
        Ok(tree) => match tree.value {
            Value::Str(_) => node.with(Value::Str(text.clone())),
            Value::Seq(_) | Value::Map(_) if name.is_some() => tree,
            _ => moved(node, tree),
        },
        Err(_) => node.with(Value::Str(text.clone())),
    };
    Resolved { node: value, text }
}

/// The tree with every place set to where the reference stands: nobody can open an environment
/// variable at line 3.
fn moved(to: &Node, tree: Node) -> Node {
    let value = match tree.value {
        Value::Seq(items) => Value::Seq(items.into_iter().map(|item| moved(to, item)).collect()),
        Value::Map(entries) => {
            let moved = entries.into_iter().map(|entry| Entry {
                key: entry.key,
                key_location: to.location.clone(),
                value: moved(to, entry.value),
            });
            Value::Map(moved.collect())
        }
        scalar => scalar,
    };
    to.with(value)
}

/// The reference to resolve next, with its `${` and `}`: the last `${` before the first `}` that has
/// one. `None` also if that one is escaped by an odd number of `$`.
fn find(text: &str) -> Option<Range<usize>> {
    let mut from = 0;
    loop {
        let close = from + text[from..].find('}')?;
        let Some(open) = text[from..close].rfind("${").map(|at| from + at) else {
            from = close + 1;
            continue;
        };
        let dollars = text[..open].bytes().rev().take_while(|b| *b == b'$').count();
        return (dollars.is_multiple_of(2)).then_some(open..close + 1);
    }
}

#[cfg(test)]
mod tests;
