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
use crate::yaml::{Location, Node, Problems, did_you_mean, join_key, read_at};

/// Ids and where they are declared.
type Ids = Vec<(ComponentId, Location)>;

/// Every component that is declared.
pub(super) struct Declared {
    pub(super) receivers: Ids,
    pub(super) processors: Ids,
    pub(super) exporters: Ids,
    pub(super) extensions: Ids,
}

/// The section `service` as it is written.
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
    /// Where its data comes from; at least one.
    receivers: Vec<String>,
    /// What happens to it, in this order. Default: none.
    processors: Vec<String>,
    /// Where it goes; at least one.
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
const EXTENSION: Role = Role { noun: "extension", plural: "extensions" };

/// Reads the section and checks every reference in it.
pub(super) fn read(node: &Node, declared: &Declared, problems: &mut Problems) -> Option<Service> {
    let written: Written = read_at(node, "service", problems)?;
    let mut service =
        Service { extensions: Vec::new(), pipelines: BTreeMap::new(), telemetry: written.telemetry };
    let mut used = BTreeSet::new();
    let mut references = References { declared, used: &mut used, problems };
    if let Some(list) = node.get("extensions") {
        service.extensions = references.list(list, "service.extensions", (EXTENSION, &declared.extensions));
    }
    let pipelines = node.get("pipelines");
    if written.pipelines.is_empty() {
        let place = pipelines.unwrap_or(node);
        let help = "write for example `traces: {receivers: [otlp], exporters: [debug]}`".to_owned();
        let message = "at least one pipeline is needed";
        references.problems.error_at(place, "service.pipelines", message, Some(help));
    }
    for entry in pipelines.map(Node::entries).unwrap_or_default() {
        let path = join_key("service.pipelines", &entry.key);
        match PipelineId::parse(&entry.key) {
            Ok(id) => {
                let pipeline = references.pipeline(&entry.value, &path, id.signal);
                service.pipelines.insert(id, pipeline);
            }
            Err(bad) => {
                let signals = Signal::ALL.map(Signal::as_str);
                let kind = entry.key.split('/').next().unwrap_or_default();
                let meant = did_you_mean(kind, signals).filter(|_| bad == BadId::Signal);
                let help = format!("signals: {}", signals.join(", "));
                let help = meant.map_or(help.clone(), |name| format!("did you mean `{name}`?\n{help}"));
                references.problems.error(&entry.key_location, &path, bad.to_string(), Some(help));
                references.pipeline(&entry.value, &path, Signal::Traces);
            }
        }
    }
    note_unused(declared, &used, problems);
    Some(service)
}

fn note_unused(declared: &Declared, used: &BTreeSet<(&'static str, ComponentId)>, problems: &mut Problems) {
    let sections = [
        (RECEIVER, &declared.receivers),
        (PROCESSOR, &declared.processors),
        (EXPORTER, &declared.exporters),
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

struct References<'d, 'p> {
    declared: &'d Declared,
    used: &'p mut BTreeSet<(&'static str, ComponentId)>,
    problems: &'p mut Problems,
}

impl References<'_, '_> {
    fn pipeline(&mut self, node: &Node, path: &str, signal: Signal) -> Pipeline {
        let declared = self.declared;
        let mut list = |role: Role, ids: &Ids, needed: bool| {
            let path = format!("{path}.{}", role.plural);
            let written = node.get(role.plural);
            if needed && written.is_none_or(|list| list.items().is_empty()) {
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
        self.fit_signal(node, path, signal);
        pipeline
    }

    /// Processors that know only some signals.
    fn fit_signal(&mut self, node: &Node, path: &str, signal: Signal) {
        let items = node.get("processors").map(Node::items).unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let id = item.as_str().and_then(|text| ComponentId::parse(text).ok());
            let sampler = id.is_some_and(|id| id.type_name() == "probabilistic_sampler");
            if sampler && signal == Signal::Metrics {
                let path = format!("{path}.processors[{index}]");
                let message = "`probabilistic_sampler` takes traces and logs, not metrics";
                self.problems.error_at(item, &path, message, None);
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
            if !ids.iter().any(|(known, _)| *known == id) {
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
