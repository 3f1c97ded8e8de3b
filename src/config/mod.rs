//! Static YAML: what a Collector's configuration file says, as types.
//!
//! ```text
//! --config, --set ──load──▶ one tree ──substitute──▶ no ${…} left ──components, pipelines──▶ Config
//! ```
//!
//! Every problem is reported at once with its place. Not here: what the components do, and the
//! policies file (`policies`). Invariant: a [`Config`] names only components it has.

mod components;
mod connections;
pub mod connector;
pub mod exporter;
pub mod extensions;
mod found;
mod id;
pub mod kubernetes;
mod load;
mod null;
mod pipelines;
pub mod pods;
pub mod processor;
pub mod receiver;
mod reference;
mod schema;
pub mod service;
pub mod storage;
mod substitute;
pub mod tls;
pub mod verifiers;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

pub use components::{Extension, Receiver, component_types};
pub use connector::Connector;
pub use exporter::{Exporter, SendingQueue};
pub use found::Found;
pub use id::{BadId, ComponentId, PipelineId};
pub use processor::Processor;
pub use reference::reference;
pub use schema::schema;

use crate::units::ByteSize;
use crate::yaml::{Node, Problems, Source, Value};

/// A whole configuration: components by id, and what runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What takes data in.
    pub receivers: BTreeMap<ComponentId, Receiver>,
    /// What looks at data and edits it.
    pub processors: BTreeMap<ComponentId, Processor>,
    /// What sends data on.
    pub exporters: BTreeMap<ComponentId, Exporter>,
    /// What leads from pipelines to pipelines.
    pub connectors: BTreeMap<ComponentId, Connector>,
    /// What runs beside the pipelines.
    pub extensions: BTreeMap<ComponentId, Extension>,
    /// Which of them run, and how they are connected.
    pub service: Service,
}

/// The section `service`.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// The extensions that run, in starting order; all of them are in [`Config::extensions`].
    pub extensions: Vec<ComponentId>,
    /// The pipelines.
    pub pipelines: BTreeMap<PipelineId, Pipeline>,
    /// The collector's own logs, metrics and traces.
    pub telemetry: service::Telemetry,
}

/// One pipeline; all ids are in [`Config`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// Where its data comes from, receivers and connectors; at least one, none twice.
    pub receivers: Vec<ComponentId>,
    /// What happens to it, in this order; none twice.
    pub processors: Vec<ComponentId>,
    /// Where it goes, exporters and connectors; at least one, none twice. Each gets all of it.
    pub exporters: Vec<ComponentId>,
}

/// The sections of a file, in the order of the reference.
const SECTIONS: [&str; 6] = ["receivers", "processors", "exporters", "connectors", "extensions", "service"];

impl Config {
    /// Reads a configuration from what `--config` (paths, `file:`, `env:`, `yaml:`) and `--set`
    /// (`a.b=v`) name, in this order, later ones over earlier ones. `env` looks up variables.
    ///
    /// Returns the warnings with the configuration.
    ///
    /// # Errors
    /// Every problem there is, warnings included; the caller shows them and does not start.
    pub fn load(
        uris: &[String],
        sets: &[String],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Problems), Problems> {
        let mut problems = Problems::new();
        let sources = uris.iter().filter_map(|uri| load::fetch(uri, env, &mut problems)).collect();
        Self::finish(sources, sets, env, problems)
    }

    /// The keys of the extension `policies`, if it runs.
    pub fn policies(&self) -> Option<&extensions::Policies> {
        self.running().find_map(|extension| match extension {
            Extension::Policies(keys) => Some(keys),
            _ => None,
        })
    }

    /// The keys of the extension `health_check`, if it runs.
    pub fn health_check(&self) -> Option<&extensions::HealthCheck> {
        self.running().find_map(|extension| match extension {
            Extension::HealthCheck(keys) => Some(keys),
            _ => None,
        })
    }

    /// The keys of the extension `admin`, if it runs.
    pub fn admin(&self) -> Option<&extensions::Admin> {
        self.running().find_map(|extension| match extension {
            Extension::Admin(keys) => Some(keys),
            _ => None,
        })
    }

    /// The exporters and connectors whose queues are in use: those of the levels of a `failover` are not.
    pub fn queues(&self) -> BTreeSet<&ComponentId> {
        let fails_over = |id: &ComponentId| matches!(self.connectors.get(id), Some(Connector::Failover(_)));
        let own = self.service.pipelines.values().filter(|p| !p.receivers.iter().all(fails_over));
        own.flat_map(|pipeline| &pipeline.exporters).filter(|id| self.sending_queue(id).is_some()).collect()
    }

    /// The queue of an exporter, or of a connector that has one; the defaults where it has no such keys.
    fn sending_queue(&self, id: &ComponentId) -> Option<Cow<'_, SendingQueue>> {
        if let Some(exporter) = self.exporters.get(id) {
            return Some(exporter.sending_queue().map_or_else(Cow::default, Cow::Borrowed));
        }
        self.connectors.get(id)?.sending_queue().map(Cow::Borrowed)
    }

    /// Where an exporter, or a connector that has a queue, keeps it; none: in memory.
    pub fn storage_of(&self, id: &ComponentId) -> Option<(&ComponentId, &storage::FileStorage)> {
        storage::of(&*self.sending_queue(id)?, &self.extensions)
    }

    /// What the file says may wait in a queue in memory, in bytes, if it says so; none if the queue is on
    /// disk.
    pub fn memory_of_queue(&self, id: &ComponentId) -> Option<Option<ByteSize>> {
        self.storage_of(id).is_none().then_some(())?;
        Some(self.sending_queue(id)?.max_bytes)
    }

    /// The most that may wait in the queue of an exporter, or of a connector that has one, in bytes.
    pub fn max_queue_bytes(&self, id: &ComponentId) -> Option<ByteSize> {
        let queue = self.sending_queue(id)?;
        Some(match self.storage_of(id) {
            None => queue.memory_bytes(),
            Some((_, storage)) => queue.max_bytes.map_or(storage.max_size, |most| most.min(storage.max_size)),
        })
    }

    fn running(&self) -> impl Iterator<Item = &Extension> {
        self.running_by_id().map(|(_, extension)| extension)
    }

    /// The processors that some pipeline names.
    pub fn used_processors(&self) -> impl Iterator<Item = (&ComponentId, &Processor)> {
        let is_used = |id: &ComponentId| {
            self.service.pipelines.values().any(|pipeline| pipeline.processors.contains(id))
        };
        self.processors.iter().filter(move |(id, _)| is_used(id))
    }

    /// The extensions that run, in starting order.
    pub fn running_by_id(&self) -> impl Iterator<Item = (&ComponentId, &Extension)> {
        self.service.extensions.iter().filter_map(|id| Some((id, self.extensions.get(id)?)))
    }

    /// As [`Config::load`], from texts: the embedded configuration, tests.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        sources: &[Source],
        sets: &[String],
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Problems), Problems> {
        Self::finish(sources.to_vec(), sets, env, Problems::new())
    }

    fn finish(
        mut sources: Vec<Source>,
        sets: &[String],
        env: &dyn Fn(&str) -> Option<String>,
        mut problems: Problems,
    ) -> Result<(Self, Problems), Problems> {
        sources.extend(sets.iter().filter_map(|set| load::set_source(set, &mut problems)));
        let merged = load::merge_all(&sources, &mut problems);
        let config = merged.and_then(|tree| {
            let tree = substitute::substitute(&tree, env, &mut problems);
            read(&tree, &mut problems)
        });
        problems.into_result(config)
    }
}

/// Reads the whole tree; `None` if a part of it could not be read.
fn read(tree: &Node, problems: &mut Problems) -> Option<Config> {
    for entry in tree.entries().iter().filter(|entry| !SECTIONS.contains(&entry.key.as_str())) {
        problems.unknown_key("", entry, &SECTIONS);
    }
    let receivers = components::read(tree, &components::RECEIVERS, problems);
    let processors = components::read(tree, &components::PROCESSORS, problems);
    let exporters = components::read(tree, &components::EXPORTERS, problems);
    let extensions = components::read(tree, &components::EXTENSIONS, problems);
    let connectors = components::read(tree, &components::CONNECTORS, problems);
    let declared = pipelines::Declared {
        receivers: receivers.names(),
        processors: processors.names(),
        exporters: exporters.names(),
        connectors: connectors.names(),
        extensions: extensions.names(),
    };
    let nothing = tree.with(Value::Null);
    let section = tree.get("service").unwrap_or(&nothing);
    let service = pipelines::read(section, &declared, problems);
    if let Some(service) = service.as_ref().filter(|_| !problems.has_errors()) {
        let parts = connections::Parts {
            tree,
            connectors: &connectors.components,
            exporters: &exporters.components,
            pipelines: &service.pipelines,
        };
        connections::check(&parts, problems);
    }
    let storages = storage::Declared {
        exporters: &exporters,
        connectors: &connectors,
        extensions: &extensions,
        service: service.as_ref(),
    };
    storage::check_references(tree, &storages, problems);
    let config = Config {
        receivers: receivers.components,
        processors: processors.components,
        exporters: exporters.components,
        connectors: connectors.components,
        extensions: extensions.components,
        service: service?,
    };
    pods::check_together(&config, tree, problems);
    Some(config)
}

#[cfg(test)]
mod tests;
