//! The reference file `config/collector.yaml`: every component with every key, its documentation and
//! its default, written from the schema.
//!
//! What is off by default is there with a `#` before it; the rest is a configuration that loads
//! without a problem. Not here: what the keys mean (the types say it).

use std::collections::HashMap;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value as Json};

use super::components::described;
use super::pipelines::Written;
use crate::yaml::{Value, resolve_plain};

const HEAD: &str = "\
# yaml-language-server: $schema=collector.schema.json
#
# The configuration of Tollgate: every component with every key and its default.
#
# This file is written from the documentation of the program and loads as it is. A line that begins
# with `#` and a key is something that is off unless it is written. Values can be taken from the
# environment: ${env:NAME}, ${env:NAME:-default}; a `$` itself is `$$`. Components are named `type` or
# `type/name`.
";

/// What is written in place of a default: either the key needs a value, or a part that is off is shown.
const INSTEAD: [(&str, &str); 21] = [
    ("receivers.otlp.protocols.grpc", ON),
    ("receivers.otlp.protocols.http", ON),
    ("processors.memory_limiter.check_interval", "1s"),
    ("processors.memory_limiter.limit_percentage", "80"),
    ("processors.memory_limiter.spike_limit_percentage", "25"),
    ("processors.probabilistic_sampler.sampling_percentage", "10"),
    (
        "processors.resource.attributes",
        "[{key: deployment.environment.name, value: production, action: upsert}]",
    ),
    ("processors.attributes.actions", "[{key: http.request.header.authorization, action: delete}]"),
    ("exporters.otlp_grpc.endpoint", "backend.example.com:4317"),
    ("exporters.otlp_http.endpoint", "https://backend.example.com:4318"),
    ("exporters.file.path", "telemetry.jsonl"),
    ("connectors.routing.default_pipelines", "[traces/rest]"),
    (
        "connectors.routing.table",
        "[{tenants: [acme, \"shop-*\"], pipelines: [traces/acme]}, {tiers: [gold], pipelines: [traces/acme]}]",
    ),
    ("connectors.failover.priority_levels", "[[traces/first], [traces/second]]"),
    ("extensions.jwt.issuer", "https://issuer.example.com"),
    ("extensions.jwt.audiences", "[tollgate]"),
    ("extensions.jwt.jwks_url", "https://issuer.example.com/.well-known/jwks.json"),
    ("extensions.api_keys.file", "api-keys"),
    ("extensions.service_account.audiences", "[tollgate]"),
    ("extensions.pods.cluster_wide", "true"),
    (
        "service.extensions",
        "[health_check, policies, admin, pprof, file_storage, jwt, api_keys, service_account, pods]",
    ),
];

/// Marks a part that is shown although it is off by default.
const ON: &str = "on";

const PIPELINES: &str = "
    traces:
      receivers: [otlp]
      processors: [memory_limiter, k8s_attributes, tenant, sampling, probabilistic_sampler, resource, attributes, batch]
      exporters: [routing]
    traces/acme:
      receivers: [routing]
      exporters: [otlp_grpc, otlp_http, debug, file, nop]
    traces/rest:
      receivers: [routing]
      exporters: [failover]
    traces/first:
      receivers: [failover]
      exporters: [otlp_grpc]
    traces/second:
      receivers: [failover]
      exporters: [otlp_http]
    metrics:
      receivers: [otlp]
      processors: [memory_limiter, k8s_attributes, tenant, resource, attributes, batch]
      exporters: [otlp_grpc]
    logs:
      receivers: [otlp]
      processors: [memory_limiter, k8s_attributes, tenant, sampling, resource, attributes, batch]
      exporters: [otlp_grpc]
";

/// Lines of documentation end before this column.
const WIDTH: usize = 100;

/// Writes the reference file.
pub fn reference() -> String {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let components: Vec<_> = described()
        .into_iter()
        .map(|one| (one.section, one.names, (one.schema)(&mut generator).to_value()))
        .collect();
    let service = generator.subschema_for::<Written>().to_value();
    let definitions = generator.take_definitions(true);
    let mut writer = Writer { text: HEAD.to_owned(), definitions: &definitions, shown: HashMap::new() };
    let mut section = "";
    for (name, names, schema) in &components {
        if section != *name {
            section = name;
            writer.text.push_str(&format!("\n{section}:\n"));
        }
        writer.component(section, names, schema);
    }
    writer.text.push('\n');
    writer.key(Line { indent: 0, off: false }, "", "service", &service);
    writer.text
}

/// How a line begins.
#[derive(Clone, Copy)]
struct Line {
    indent: usize,
    /// Whether the part is off: the line has a `#` where the part begins.
    off: bool,
}

impl Line {
    fn deeper(self) -> Self {
        Self { indent: self.indent + 2, ..self }
    }

    fn begin(self, rest: &str) -> String {
        let hash = if self.off { "#" } else { "" };
        format!("{hash}{}{rest}\n", " ".repeat(self.indent))
    }
}

struct Writer<'s> {
    text: String,
    definitions: &'s Map<String, Json>,
    /// The definitions that are written out, and where.
    shown: HashMap<&'s str, String>,
}

impl<'s> Writer<'s> {
    fn component(&mut self, section: &str, names: &[&str], schema: &'s Json) {
        let [name, older @ ..] = names else {
            return;
        };
        let line = Line { indent: 2, off: false };
        let body = self.resolve(schema).1;
        let description = body.get("description").and_then(Json::as_str).unwrap_or_default();
        let mut text = description.to_owned();
        if !older.is_empty() {
            text.push_str(&format!(" Also known as `{}`.", older.join("`, `")));
        }
        self.comment(line, &text);
        let keys = body.get("properties").and_then(Json::as_object);
        self.text.push_str(&line.begin(&format!("{name}:")));
        let path = format!("{section}.{name}");
        for (key, property) in keys.into_iter().flatten() {
            self.key(line.deeper(), &path, key, property);
        }
    }

    /// One key with its documentation and what is below it.
    fn key(&mut self, line: Line, parent: &str, key: &str, schema: &'s Json) {
        let path = if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        let (definition, body) = self.resolve(schema);
        let own = schema.get("description").or_else(|| body.get("description"));
        self.comment(line, own.and_then(Json::as_str).unwrap_or_default());
        self.choices(line, body);
        let instead = INSTEAD.iter().find(|(at, _)| *at == path).map(|(_, value)| *value);
        let default = schema.get("default").filter(|value| !value.is_null());
        if path == "service.pipelines" {
            self.text.push_str(&line.begin(&format!("{key}:{}", PIPELINES.trim_end())));
            return self.entry_keys(line, &path, body.get("additionalProperties"));
        }
        let line = match (instead, default) {
            (None, None) if self.optional(schema) => self.switched_off(line),
            _ => line,
        };
        let value = match instead {
            // What a secret serialises to is not its value.
            Some(ON) | None if default.is_some() && body.get("x-secret").is_some() => "\"\"".to_owned(),
            Some(ON) | None => default.map(yaml).unwrap_or_default(),
            Some(value) => value.to_owned(),
        };
        match body.get("properties").and_then(Json::as_object) {
            Some(keys) if !keys.is_empty() => self.map(line, &path, (key, definition), keys),
            _ if value.is_empty() => self.text.push_str(&line.begin(&format!("{key}:"))),
            _ => self.text.push_str(&line.begin(&format!("{key}: {value}"))),
        }
        self.entry_keys(line, &path, body.get("items"));
    }

    fn map(
        &mut self,
        line: Line,
        path: &str,
        (key, definition): (&str, Option<&'s str>),
        keys: &'s Map<String, Json>,
    ) {
        if let Some(place) = definition.and_then(|name| self.shown.get(name)) {
            let text = format!("{key}: {{}} # keys as in {place}");
            self.text.push_str(&line.begin(&text));
            return;
        }
        self.shown.extend(definition.map(|name| (name, path.to_owned())));
        self.text.push_str(&line.begin(&format!("{key}:")));
        for (key, property) in keys {
            self.key(line.deeper(), path, key, property);
        }
    }

    /// The keys of the entries of a list or map, as documentation.
    fn entry_keys(&mut self, line: Line, path: &str, schema: Option<&'s Json>) {
        let Some(schema) = schema else {
            return;
        };
        let (definition, body) = self.resolve(schema);
        let Some(keys) = body.get("properties").and_then(Json::as_object) else {
            return;
        };
        let seen = definition.and_then(|name| self.shown.get(name)).cloned();
        let off = self.switched_off(line);
        if let Some(place) = seen {
            return self.text.push_str(&off.begin(&format!("  # keys of an entry as in {place}")));
        }
        self.shown.extend(definition.map(|name| (name, path.to_owned())));
        self.text.push_str(&off.begin("  # the keys of an entry:"));
        for (key, property) in keys {
            self.key(off.deeper(), &format!("{path}[]"), key, property);
        }
    }

    /// The line in a part that is off; what is below stays off.
    fn switched_off(&self, line: Line) -> Line {
        Line { off: true, ..line }
    }

    fn comment(&mut self, line: Line, text: &str) {
        let width = WIDTH.saturating_sub(line.indent + 2).max(40);
        for paragraph in text.split("\n\n").filter(|paragraph| !paragraph.is_empty()) {
            let mut row = String::new();
            for word in paragraph.split_whitespace() {
                if !row.is_empty() && row.chars().count() + 1 + word.chars().count() > width {
                    self.text.push_str(&line.begin(&format!("# {row}")));
                    row.clear();
                }
                if !row.is_empty() {
                    row.push(' ');
                }
                row.push_str(word);
            }
            self.text.push_str(&line.begin(&format!("# {row}")));
        }
    }

    /// The values that are allowed and what they mean.
    fn choices(&mut self, line: Line, body: &'s Json) {
        let named = body.get("enum").and_then(Json::as_array);
        for value in named.into_iter().flatten().filter_map(Json::as_str) {
            self.comment(line, &format!("- {}", quoted(value)));
        }
        let branches = body.get("oneOf").and_then(Json::as_array);
        for branch in branches.into_iter().flatten() {
            let meaning = branch.get("description").and_then(Json::as_str).unwrap_or_default();
            if let Some(value) = branch.get("const").and_then(Json::as_str) {
                self.comment(line, &format!("- {}: {meaning}", quoted(value)));
            }
        }
    }

    /// The name of the definition a schema refers to, and the schema behind it; of alternatives the
    /// first that is not null.
    fn resolve(&self, schema: &'s Json) -> (Option<&'s str>, &'s Json) {
        let null = |one: &&'s Json| one.get("type").and_then(Json::as_str) != Some("null");
        let first = ["anyOf", "allOf"].iter().find_map(|key| {
            let branches = schema.get(key).and_then(Json::as_array)?;
            branches.iter().find(null)
        });
        let schema = first.unwrap_or(schema);
        let name = schema.get("$ref").and_then(Json::as_str);
        let name = name.and_then(|name| name.strip_prefix("#/$defs/"));
        match name.and_then(|name| self.definitions.get_key_value(name)) {
            Some((name, body)) if body.get("anyOf").is_some() => (Some(name), self.resolve(body).1),
            Some((name, body)) => (Some(name), body),
            None => (None, schema),
        }
    }

    /// Whether nothing is a value: what has no default and need not be written.
    fn optional(&self, schema: &Json) -> bool {
        let branches = schema.get("anyOf").and_then(Json::as_array);
        let is_null = |one: &Json| one.get("type").and_then(Json::as_str) == Some("null");
        let types = schema.get("type").and_then(Json::as_array);
        let explicit = branches.is_some_and(|all| all.iter().any(is_null))
            || types.is_some_and(|all| all.iter().any(|one| one == "null"));
        explicit || schema.get("$ref").is_none()
    }
}

/// A default in YAML, on one line.
fn yaml(value: &Json) -> String {
    match value {
        Json::String(text) => quoted(text),
        Json::Array(items) => {
            let items: Vec<String> = items.iter().map(yaml).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(entries) => {
            let known = entries.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<String> =
                known.map(|(key, value)| format!("{}: {}", quoted(key), yaml(value))).collect();
            format!("{{{}}}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text as YAML: plain where that means the same everywhere.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let colon_inside = text.contains(':') && !text.ends_with(':') && !text.starts_with(':');
    let simple = text.chars().all(|c| plain(c) || (c == ':' && colon_inside));
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/');
    match resolve_plain(text) {
        Value::Str(_) if simple && begins => text.to_owned(),
        _ => Json::String(text.to_owned()).to_string(),
    }
}
