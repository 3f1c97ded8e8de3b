//! An event as one line. Whatever an event carries, it stays one line: control characters are escaped.

use std::fmt::{self, Write};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

/// The form of lines.
#[derive(Debug)]
pub(super) enum Form {
    /// For people: time, level, message, then `key=value`.
    Text { caller: bool, initial: Map<String, Value>, colours: bool },
    /// For machines: one object.
    Json { caller: bool, initial: Map<String, Value> },
}

impl Form {
    /// The line, with its newline; `left_out` is named if it is not 0.
    pub(super) fn line(&self, event: &Event<'_>, at: Timestamp, left_out: u64) -> String {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if left_out > 0 {
            fields.pairs.push(("left_out", left_out.into()));
        }
        match self {
            Form::Text { caller, initial, colours } => {
                let paint = if *colours { paint } else { plain };
                text(event.metadata(), at, &fields, (*caller, initial, paint))
            }
            Form::Json { caller, initial } => json(event.metadata(), at, fields, (*caller, initial)),
        }
    }
}

/// The name an author gave to an event; events without one are named after their place.
fn stable_name<'a>(metadata: &'a Metadata<'_>) -> Option<&'a str> {
    Some(metadata.name()).filter(|name| !name.starts_with("event "))
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn json(
    metadata: &Metadata<'_>,
    at: Timestamp,
    fields: Fields,
    (caller, initial): (bool, &Map<String, Value>),
) -> String {
    let mut line = Map::new();
    line.insert("ts".into(), time(at).into());
    line.insert("level".into(), level_name(*metadata.level()).into());
    if let Some(name) = stable_name(metadata) {
        line.insert("event".into(), name.into());
    }
    line.insert("msg".into(), fields.message.into());
    if caller {
        line.insert("caller".into(), metadata.target().into());
    }
    let own = fields.pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
    for (key, value) in own.chain(initial.clone()) {
        // Lines are read by key, so a field cannot take the place of the level.
        let key = if line.contains_key(&key) { format!("field.{key}") } else { key };
        line.insert(key, value);
    }
    let mut line = Value::Object(line).to_string();
    line.push('\n');
    line
}

type Paint = fn(Level) -> (&'static str, &'static str);

fn plain(_: Level) -> (&'static str, &'static str) {
    ("", "")
}

fn paint(level: Level) -> (&'static str, &'static str) {
    let colour = match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    };
    (colour, "\x1b[0m")
}

fn text(
    metadata: &Metadata<'_>,
    at: Timestamp,
    fields: &Fields,
    (caller, initial, paint): (bool, &Map<String, Value>, Paint),
) -> String {
    let (on, off) = paint(*metadata.level());
    let level = level_name(*metadata.level()).to_ascii_uppercase();
    let mut line = format!("{} {on}{level:5}{off} ", time(at));
    escape(&mut line, &fields.message);
    let mut pair = |key: &str, value: &Value| {
        line.push(' ');
        escape(&mut line, key);
        line.push('=');
        match value {
            Value::String(text) if is_bare(text) => line.push_str(text),
            // JSON's quoting leaves no control character below U+0020; the others follow.
            value => escape(&mut line, &value.to_string()),
        }
    };
    fields.pairs.iter().for_each(|(key, value)| pair(key, value));
    initial.iter().for_each(|(key, value)| pair(key, value));
    if let Some(name) = stable_name(metadata) {
        pair("event", &name.into());
    }
    if caller {
        pair("caller", &metadata.target().into());
    }
    line.push('\n');
    line
}

fn is_bare(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"' || c == '=')
}

fn escape(line: &mut String, text: &str) {
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
}

/// What an event carries.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    pairs: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            (name, value) => self.pairs.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            // Writing to a String cannot fail.
            let _written = write!(text, ": {cause}");
            source = cause.source();
        }
        self.add(field, text.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}").into());
    }
}
