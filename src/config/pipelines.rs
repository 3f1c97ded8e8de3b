//! The section `service`: which components run and how they are connected.
//!
//! Here every reference is checked against what is declared. Not here: the graph itself
//! (`crate::pipeline`).

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::id::{BadId, ComponentId, PipelineId};
use super::{Pipeline, Service, service};
use crate::otlp::Signal;
use crate::yaml::{Entry, Location, Node, Problems, Value, did_you_mean, join_key, read_at};

/// Ids and where they are declared.
type Ids = Vec<(ComponentId, Location)>;

/// Every component that is declared.
pub(super) struct Declared {
    pub(super) receivers: Ids,
    pub(super) processors: Ids,
    pub(super) exporters: Ids,
    pub(super) connectors: Ids,
    pub(super) extensions: Ids,
}

/// What runs, and how it is connected.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    /// The extensions that run; those not named here do not. Default: none.
    #[schemars(length(max = 1000))]
    extensions: Vec<String>,
    /// The pipelines by `signal` or `signal/name`; the signals are traces, metrics and logs. At least one.
    pipelines: BTreeMap<String, WrittenPipeline>,
    /// The collector's own logs, metrics and traces.
    telemetry: service::Telemetry,
}

/// One pipeline: data goes from every receiver through the processors to every exporter.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct WrittenPipeline {
    /// Where its data comes from: receivers and connectors; at least one.
    receivers: Vec<String>,
    /// What happens to it, in this order. Default: none.
    processors: Vec<String>,
    /// Where it goes: exporters and connectors; at least one.
    exporters: Vec<String>,
}

/// What is referred to, for messages.
#[derive(Clone, Copy)]
struct Role {
    noun: &'static str,
    plural: &'static str,
}

const RECEIVER: Role = Role { noun: "receiver", plural: "receivers" };
const PROCESSOR: Role = Role { noun: "processor", plural: "processors" };
const EXPORTER: Role = Role { noun: "exporter", plural: "exporters" };
const CONNECTOR: Role = Role { noun: "connector", plural: "connectors" };
const EXTENSION: Role = Role { noun: "extension", plural: "extensions" };

/// Reads the section and checks every reference in it, also if a part of it cannot be read.
pub(super) fn read(node: &Node, declared: &Declared, problems: &mut Problems) -> Option<Service> {
    let written: Option<Written> = read_at(node, "service", problems);
    if let Some(written) = &written {
        let section = node.get("telemetry").unwrap_or(node);
        written.telemetry.check(section, "service.telemetry", problems);
    }
    let mut used = BTreeSet::new();
    let mut references = References { declared, used: &mut used, problems };
    let extensions = node
        .get("extensions")
        .map(|list| references.list(list, "service.extensions", (EXTENSION, &declared.extensions)));
    let pipelines = references.pipelines(node);
    if !problems.has_errors() {
        note_unused(declared, &used, problems);
    }
    Some(Service { extensions: extensions.unwrap_or_default(), pipelines, telemetry: written?.telemetry })
}

fn note_unused(declared: &Declared, used: &BTreeSet<(&'static str, ComponentId)>, problems: &mut Problems) {
    let sections = [
        (RECEIVER, &declared.receivers),
        (PROCESSOR, &declared.processors),
        (EXPORTER, &declared.exporters),
        (CONNECTOR, &declared.connectors),
        (EXTENSION, &declared.extensions),
    ];
    for (role, ids) in sections {
        for (id, place) in ids.iter().filter(|(id, _)| !used.contains(&(role.noun, id.clone()))) {
            let path = join_key(role.plural, id.as_str());
            let message = format!("this {} is not used, so it is not started", role.noun);
            problems.warning(place, &path, message, None);
        }
    }
}

/// Whether this is a list of nothing; anything that is no list has been reported as such.
fn is_empty(list: &Node) -> bool {
    match &list.value {
        Value::Null => true,
        Value::Seq(items) => items.is_empty(),
        _ => false,
    }
}

/// The signals, and the one that was probably meant.
fn signals(entry: &Entry, bad: BadId) -> String {
    let known = Signal::ALL.map(Signal::as_str);
    let all = format!("signals: {}", known.join(", "));
    let written = entry.key.split('/').next().unwrap_or_default();
    match did_you_mean(written, known).filter(|_| bad == BadId::Signal) {
        Some(name) => format!("did you mean `{name}`?\n{all}"),
        None => all,
    }
}

struct References<'d, 'p> {
    declared: &'d Declared,
    used: &'p mut BTreeSet<(&'static str, ComponentId)>,
    problems: &'p mut Problems,
}

impl References<'_, '_> {
    fn pipelines(&mut self, service: &Node) -> BTreeMap<PipelineId, Pipeline> {
        let mut read = BTreeMap::new();
        let section = service.get("pipelines");
        let entries = section.map(Node::entries).unwrap_or_default();
        if entries.is_empty() && section.is_none_or(|node| node.is_null() || node.items().is_empty()) {
            let help = "write for example `traces: {receivers: [otlp], exporters: [debug]}`".to_owned();
            let message = "at least one pipeline is needed";
            let place = section.unwrap_or(service);
            self.problems.error_at(place, "service.pipelines", message, Some(help));
        }
        for entry in entries {
            let path = join_key("service.pipelines", &entry.key);
            match PipelineId::parse(&entry.key) {
                Ok(id) => {
                    let pipeline = self.pipeline(&entry.value, &path, Some(id.signal));
                    if read.insert(id, pipeline).is_some() {
                        let message = "the same pipeline, written another way, is already there";
                        self.problems.error(&entry.key_location, &path, message, None);
                    }
                }
                Err(bad) => {
                    self.problems.error(
                        &entry.key_location,
                        &path,
                        bad.to_string(),
                        Some(signals(entry, bad)),
                    );
                    self.pipeline(&entry.value, &path, None);
                }
            }
        }
        read
    }

    fn pipeline(&mut self, node: &Node, path: &str, signal: Option<Signal>) -> Pipeline {
        let declared = self.declared;
        let mut list = |role: Role, ids: &Ids, needed: bool| {
            let path = format!("{path}.{}", role.plural);
            let written = node.get(role.plural);
            if needed && written.is_none_or(is_empty) {
                let place = written.unwrap_or(node);
                let message = format!("a pipeline needs at least one {}", role.noun);
                self.problems.error_at(place, &path, message, None);
            }
            written.map_or_else(Vec::new, |list| self.list(list, &path, (role, ids)))
        };
        let pipeline = Pipeline {
            receivers: list(RECEIVER, &declared.receivers, true),
            processors: list(PROCESSOR, &declared.processors, false),
            exporters: list(EXPORTER, &declared.exporters, true),
        };
        self.fit(node, path, signal);
        pipeline
    }

    /// Processors that know only some signals, or need another before them.
    fn fit(&mut self, node: &Node, path: &str, signal: Option<Signal>) {
        let items = node.get("processors").map(Node::items).unwrap_or_default();
        // Behind a connector it is looked up what stands before it, once all pipelines are known.
        let is_connector = |item: &Node| {
            let id = item.as_str().and_then(|text| ComponentId::parse(text).ok());
            self.declared.connectors.iter().any(|(known, _)| Some(known) == id.as_ref())
        };
        let receivers = node.get("receivers").map(Node::items).unwrap_or_default();
        let mut tenant_known = receivers.iter().any(is_connector);
        for (index, item) in items.iter().enumerate() {
            let id = item.as_str().and_then(|text| ComponentId::parse(text).ok());
            let path = format!("{path}.processors[{index}]");
            match id.as_ref().map(ComponentId::type_name) {
                Some("probabilistic_sampler") if signal == Some(Signal::Metrics) => {
                    let message = "`probabilistic_sampler` takes traces and logs, not metrics";
                    self.problems.error_at(item, &path, message, None);
                }
                Some("sampling") if !tenant_known => {
                    let message = "`sampling` goes by tenant, and no `tenant` stands before it";
                    let help = "write `tenant` before it, as in processors: [tenant, sampling]".to_owned();
                    self.problems.error_at(item, &path, message, Some(help));
                }
                Some("tenant") => tenant_known = true,
                _ => {}
            }
        }
    }

    /// The ids of a list; those that are wrong are reported and left out.
    fn list(&mut self, list: &Node, path: &str, (role, ids): (Role, &Ids)) -> Vec<ComponentId> {
        let mut read: Vec<ComponentId> = Vec::new();
        for (index, item) in list.items().iter().enumerate() {
            let path = format!("{path}[{index}]");
            let text = item.as_str().unwrap_or_default();
            let id = match ComponentId::parse(text) {
                Ok(id) => id,
                Err(bad) => {
                    self.problems.error_at(item, &path, bad.to_string(), None);
                    continue;
                }
            };
            let connects = ["receiver", "exporter"].contains(&role.noun);
            let is_connector = connects && self.declared.connectors.iter().any(|(known, _)| *known == id);
            if is_connector && !read.contains(&id) {
                self.used.insert((CONNECTOR.noun, id.clone()));
                read.push(id);
            } else if !is_connector && !ids.iter().any(|(known, _)| *known == id) {
                self.undefined(item, &path, (role, ids));
            } else if read.contains(&id) {
                let message = format!("{} `{id}` is named twice", role.noun);
                match role.noun {
                    // The order of these matters, so twice means something; elsewhere it does not.
                    "processor" | "extension" => self.problems.error_at(item, &path, message, None),
                    _ => self.problems.warning_at(item, &path, message, None),
                }
            } else {
                self.used.insert((role.noun, id.clone()));
                read.push(id);
            }
        }
        read
    }

    fn undefined(&mut self, item: &Node, path: &str, (role, ids): (Role, &Ids)) {
        let text = item.as_str().unwrap_or_default();
        let known: Vec<&str> = ids.iter().map(|(id, _)| id.as_str()).collect();
        let defined = match known.as_slice() {
            [] => format!("no {} is defined in `{}`", role.noun, role.plural),
            names => format!("defined: {}", names.join(", ")),
        };
        let help = match did_you_mean(text, known.iter().copied()) {
            Some(name) => format!("did you mean `{name}`?\n{defined}"),
            None => defined,
        };
        let message = format!("{} `{text}` is not defined in `{}`", role.noun, role.plural);
        self.problems.error_at(item, path, message, Some(help));
    }
}
