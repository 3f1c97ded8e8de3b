//! From the command line to one tree: `--config` sources read, `--set` added, all merged in order.
//!
//! Maps merge deeply, lists and scalars replace, a later null wipes what was there. Every node keeps
//! the place it was written at. Not here: `${…}` (`substitute`).

use std::sync::Arc;

use crate::yaml::{Entry, Location, MAX_DEPTH, Node, Problems, Source, Value, parse_with_aliases};

/// The schemes a source can have; anything else before a `:` is refused, a lone letter is a path.
const SCHEMES: &str = "file, env and yaml";

/// A text split as a URI, as the Collector does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uri<'a> {
    pub(super) scheme: Option<&'a str>,
    pub(super) rest: &'a str,
}

/// Splits at the first `:` if a scheme stands before it: a letter, then letters, digits and `+ . -`.
pub(super) fn split_uri(text: &str) -> Uri<'_> {
    let scheme = text.split_once(':').filter(|(scheme, _)| {
        let tail_ok = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b));
        scheme.len() >= 2 && tail_ok && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
    });
    match scheme {
        Some((scheme, rest)) => Uri { scheme: Some(scheme), rest },
        None => Uri { scheme: None, rest: text },
    }
}

/// Looks up an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads what one `--config` names.
pub(super) fn fetch(uri: &str, env: Environment<'_>, problems: &mut Problems) -> Option<Source> {
    let parts = split_uri(uri);
    let mut refuse = |message: String, help: &str| {
        let place = Location::start_of(Arc::new(Source::new(uri, "")));
        problems.error(&place, "", message, Some(help.to_owned()).filter(|help| !help.is_empty()));
        None
    };
    match parts.scheme {
        None | Some("file") => match std::fs::read_to_string(parts.rest) {
            Ok(text) => Some(Source::new(parts.rest, text)),
            Err(error) => refuse(format!("cannot be read: {error}"), ""),
        },
        Some("env") => match env(parts.rest) {
            Some(text) => Some(Source::new(uri, text)),
            None => refuse("the environment variable is not set".to_owned(), ""),
        },
        Some("yaml") => Some(Source::new("--config yaml:", parts.rest)),
        Some("http" | "https") => refuse(
            "configuration is not fetched over the network".to_owned(),
            "download the file first and name its path",
        ),
        Some(other) => refuse(
            format!("unknown scheme `{other}`; the schemes are {SCHEMES}"),
            "a path with a colon is written `file:path`",
        ),
    }
}

/// What `--set a.b=v` says, as a source.
pub(super) fn set_source(set: &str, problems: &mut Problems) -> Option<Source> {
    match set.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => {
            let keys = path.trim().replace('.', "::");
            Some(Source::new("--set", format!("{keys}: {}", value.trim())))
        }
        _ => {
            let place = Location::start_of(Arc::new(Source::new("--set", set)));
            let help = "write it as --set=exporters.otlp.timeout=5s";
            problems.error(&place, "", "expected key=value", Some(help.to_owned()));
            None
        }
    }
}

/// Parses every source and merges them from left to right.
pub(super) fn merge_all(sources: &[Source], problems: &mut Problems) -> Option<Node> {
    let mut merged: Option<Node> = None;
    let mut failed = false;
    for source in sources {
        let node = match parse_with_aliases(source) {
            Ok(node) => expand_keys(node, problems),
            Err(found) => {
                problems.append(found);
                failed = true;
                continue;
            }
        };
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("expected a map of sections, found {}", node.kind());
            problems.error_at(&node, "", message, None);
            failed = true;
            continue;
        }
        merged = Some(match merged {
            None => node,
            Some(_) if node.is_null() => continue,
            Some(base) => merge(base, node),
        });
    }
    merged.filter(|_| !failed)
}

fn merge(base: Node, over: Node) -> Node {
    let (Value::Map(_), Value::Map(added)) = (&base.value, &over.value) else {
        return over;
    };
    let added = added.clone();
    let place = base.with(Value::Null);
    let Value::Map(mut entries) = base.value else {
        return over;
    };
    for entry in added {
        match entries.iter().position(|known| known.key == entry.key) {
            Some(at) if matches!(entry.value.value, Value::Map(_)) && !entries[at].value.is_null() => {
                let known = entries.remove(at);
                let value = merge(known.value.clone(), entry.value);
                entries.insert(at, Entry { value, ..known });
            }
            Some(at) => entries[at] = entry,
            None => entries.push(entry),
        }
    }
    place.with(Value::Map(entries))
}

/// Turns top-level keys such as `exporters::otlp::timeout` into nested maps.
fn expand_keys(node: Node, problems: &mut Problems) -> Node {
    let Value::Map(entries) = &node.value else {
        return node;
    };
    if !entries.iter().any(|entry| entry.key.contains("::")) {
        return node;
    }
    let mut merged = node.with(Value::Map(Vec::new()));
    for entry in entries {
        let mut keys = entry.key.split("::").collect::<Vec<_>>();
        if keys.len() > MAX_DEPTH || keys.iter().any(|key| key.is_empty()) {
            let help = "`::` stands between two keys, as in exporters::otlp::timeout";
            problems.error(&entry.key_location, &entry.key, "not a path of keys", Some(help.to_owned()));
            continue;
        }
        let mut value = entry.value.clone();
        while let Some(key) = keys.pop() {
            let key_location = entry.key_location.clone();
            let inner = Entry { key: key.to_owned(), key_location: key_location.clone(), value };
            value = Node::new(Value::Map(vec![inner]), key_location);
        }
        merged = merge(merged, value);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(texts: &[&str]) -> Node {
        let sources: Vec<Source> = texts.iter().map(|text| Source::new("f.yaml", *text)).collect();
        let mut problems = Problems::new();
        let node = merge_all(&sources, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        node.unwrap()
    }

    #[test]
    fn maps_merge_deeply_and_the_rest_is_replaced() {
        let node = merged(&["a: {b: 1, c: [1, 2]}\nd: 1\n", "a: {c: [3], e: 2}\nd: {x: 1}\n", ""]);
        assert_eq!(node.at("a.b").unwrap().value, Value::Int(1));
        assert_eq!(node.at("a.c").unwrap().items().len(), 1);
        assert_eq!(node.at("a.e").unwrap().value, Value::Int(2));
        assert_eq!(node.at("d.x").unwrap().value, Value::Int(1));
    }

    #[test]
    fn a_later_null_wipes_an_earlier_map() {
        let node = merged(&["a: {b: 1}\n", "a:\n"]);
        assert!(node.at("a").unwrap().is_null());
        let node = merged(&["a: {b: 1}\n", "a:\n", "a: {c: 1}\n"]);
        assert_eq!(node.at("a.b"), None);
    }

    #[test]
    fn double_colons_separate_keys() {
        let node = merged(&["a: {b: {c: 1}}\n", "a::b::d: 2\n"]);
        assert_eq!(node.at("a.b.c").unwrap().value, Value::Int(1));
        assert_eq!(node.at("a.b.d").unwrap().value, Value::Int(2));
    }

    #[test]
    fn uris_have_schemes_of_at_least_two_letters() {
        let check = |text: &str, scheme: Option<&str>| {
            assert_eq!(split_uri(text).scheme, scheme, "{text}");
        };
        check("file:a.yaml", Some("file"));
        check("a.yaml", None);
        check("C:\\a.yaml", None);
        check("./a:b.yaml", None);
        check("yaml:a::b: 1", Some("yaml"));
    }

    #[test]
    fn sources_that_cannot_be_read_are_reported() {
        let check = |uri: &str, expected: &str| {
            let mut problems = Problems::new();
            assert_eq!(fetch(uri, &|_| None, &mut problems), None);
            assert_eq!(problems.lines(), [format!("{uri}:1:1: {expected}")]);
        };
        check("env:NOPE", "the environment variable is not set");
        check(
            "https://example.com/c.yaml",
            "configuration is not fetched over the network; download the file first and name its path",
        );
        check(
            "ftp:x",
            "unknown scheme `ftp`; the schemes are file, env and yaml; a path with a colon is written `file:path`",
        );
    }
}
