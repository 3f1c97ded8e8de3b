//! The sections of components: every type there is, and how its keys are read.
//!
//! One table per section; the published schema and the reference file read the same tables. Not here:
//! which components run (`pipelines`).

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::connector::{self, Connector};
use super::exporter::{self, Exporter};
use super::extensions;
use super::id::ComponentId;
use super::pods;
use super::processor::{self, Processor};
use super::receiver;
use super::storage::FileStorage;
use super::verifiers;
use crate::yaml::{Entry, Location, Node, Problems, did_you_mean, join_key, read_at};

/// One receiver: its type and its keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Receiver {
    /// `otlp`: OTLP over gRPC and HTTP.
    Otlp(Box<receiver::Otlp>),
}

/// One extension: its type and its keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Extension {
    /// `health_check`: answers probes.
    HealthCheck(extensions::HealthCheck),
    /// `pprof`: accepted, serves nothing.
    Pprof(extensions::Pprof),
    /// `policies`: where the policies file is.
    Policies(extensions::Policies),
    /// `admin`: the read-only API and status page.
    Admin(extensions::Admin),
    /// `file_storage`: keeps sending queues on disk.
    FileStorage(Box<FileStorage>),
    /// `jwt`: proves senders by signed tokens.
    Jwt(Box<verifiers::Jwt>),
    /// `api_keys`: proves senders by keys of their own.
    ApiKeys(verifiers::ApiKeys),
    /// `service_account`: proves pods by their account's token.
    ServiceAccount(Box<verifiers::ServiceAccount>),
    /// `pods`: knows pods by their addresses.
    Pods(Box<pods::Pods>),
}

/// A type of component.
pub(super) struct Kind<T> {
    /// Its names: the present one, then older ones, which the Collector knows too.
    pub(super) names: &'static [&'static str],
    /// Reads the keys at a path.
    read: fn(&Node, &str, &mut Problems) -> Option<T>,
    /// The schema of the keys.
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

/// A section: what its components are called and which types there are.
pub(super) struct Section<T: 'static> {
    /// The key of the section.
    pub(super) name: &'static str,
    /// What one component of it is called.
    noun: &'static str,
    /// The types, in the order of the reference file.
    pub(super) kinds: &'static [Kind<T>],
}

macro_rules! kind {
    ($name:literal $(or $other:literal)?, $body:ty, $wrap:expr) => {
        Kind {
            names: &[$name $(, $other)?],
            read: |node, path, problems| read_body::<$body>(node, path, problems).map($wrap),
            schema: SchemaGenerator::subschema_for::<$body>,
        }
    };
}

/// The section `receivers`.
pub(super) const RECEIVERS: Section<Receiver> = Section {
    name: "receivers",
    noun: "receiver",
    kinds: &[kind!("otlp", receiver::Otlp, |otlp| Receiver::Otlp(Box::new(otlp)))],
};

/// The section `processors`.
pub(super) const PROCESSORS: Section<Processor> = Section {
    name: "processors",
    noun: "processor",
    kinds: &[
        kind!("memory_limiter", processor::MemoryLimiter, Processor::MemoryLimiter),
        kind!("tenant", processor::Tenant, Processor::Tenant),
        kind!("sampling", processor::Sampling, Processor::Sampling),
        kind!("probabilistic_sampler", processor::ProbabilisticSampler, Processor::ProbabilisticSampler),
        kind!("resource", processor::Resource, Processor::Resource),
        kind!("attributes", processor::Attributes, |keys| Processor::Attributes(Box::new(keys))),
        kind!("k8s_attributes" or "k8sattributes", processor::K8sAttributes, |keys| {
            Processor::K8sAttributes(Box::new(keys))
        }),
        kind!("batch", processor::Batch, Processor::Batch),
    ],
};

/// The section `exporters`.
pub(super) const EXPORTERS: Section<Exporter> = Section {
    name: "exporters",
    noun: "exporter",
    kinds: &[
        kind!("otlp_grpc" or "otlp", exporter::OtlpGrpc, |keys| Exporter::OtlpGrpc(Box::new(keys))),
        kind!("otlp_http" or "otlphttp", exporter::OtlpHttp, |keys| Exporter::OtlpHttp(Box::new(keys))),
        kind!("debug", exporter::Debug, Exporter::Debug),
        kind!("file", exporter::File, Exporter::File),
        kind!("nop", exporter::Nop, Exporter::Nop),
    ],
};

/// The section `connectors`.
pub(super) const CONNECTORS: Section<Connector> = Section {
    name: "connectors",
    noun: "connector",
    kinds: &[
        kind!("routing", connector::Routing, Connector::Routing),
        kind!("failover", connector::Failover, |keys| Connector::Failover(Box::new(keys))),
    ],
};

/// The section `extensions`.
pub(super) const EXTENSIONS: Section<Extension> = Section {
    name: "extensions",
    noun: "extension",
    kinds: &[
        kind!("health_check", extensions::HealthCheck, Extension::HealthCheck),
        kind!("policies", extensions::Policies, Extension::Policies),
        kind!("admin", extensions::Admin, Extension::Admin),
        kind!("file_storage", FileStorage, |keys| Extension::FileStorage(Box::new(keys))),
        kind!("jwt", verifiers::Jwt, |keys| Extension::Jwt(Box::new(keys))),
        kind!("api_keys", verifiers::ApiKeys, Extension::ApiKeys),
        kind!("service_account", verifiers::ServiceAccount, |keys| Extension::ServiceAccount(Box::new(keys))),
        kind!("pods", pods::Pods, |keys| Extension::Pods(Box::new(keys))),
        kind!("pprof", extensions::Pprof, Extension::Pprof),
    ],
};

/// The types of every section by their present names, for people.
pub fn component_types() -> Vec<(&'static str, Vec<&'static str>)> {
    fn names<T>(section: &Section<T>) -> (&'static str, Vec<&'static str>) {
        (section.name, section.kinds.iter().map(|kind| kind.names[0]).collect())
    }
    vec![names(&RECEIVERS), names(&PROCESSORS), names(&EXPORTERS), names(&CONNECTORS), names(&EXTENSIONS)]
}

/// A component's keys, and what a schema cannot say about them.
trait Body: DeserializeOwned + JsonSchema {
    /// Problems: path below the component, text, whether the program cannot start with it.
    fn findings(&self) -> Vec<(String, String, bool)> {
        Vec::new()
    }
}

macro_rules! checked {
    ($($body:ty),* $(,)?) => {$(
        impl Body for $body {
            fn findings(&self) -> Vec<(String, String, bool)> {
                let found = self.check().into_iter();
                found.map(|one| (one.at, one.problem.to_string(), one.problem.is_error())).collect()
            }
        }
    )*};
}

checked! {
    receiver::Otlp,
    exporter::OtlpGrpc,
    exporter::OtlpHttp,
    exporter::File,
    connector::Routing,
    connector::Failover,
    processor::MemoryLimiter,
    processor::ProbabilisticSampler,
    processor::Resource,
    processor::Attributes,
    processor::Batch,
    processor::K8sAttributes,
    verifiers::Jwt,
    verifiers::ApiKeys,
    verifiers::ServiceAccount,
}

impl Body for FileStorage {
    fn findings(&self) -> Vec<(String, String, bool)> {
        self.check()
    }
}

impl Body for pods::Pods {
    fn findings(&self) -> Vec<(String, String, bool)> {
        self.check().into_iter().map(|(at, problem)| (at.to_owned(), problem.to_string(), true)).collect()
    }
}

impl Body for processor::Tenant {}
impl Body for processor::Sampling {}
impl Body for exporter::Debug {}
impl Body for exporter::Nop {}
impl Body for extensions::HealthCheck {}
impl Body for extensions::Pprof {}
impl Body for extensions::Policies {
    fn findings(&self) -> Vec<(String, String, bool)> {
        self.check().into_iter().map(|(at, text)| (at, text, true)).collect()
    }
}
impl Body for extensions::Admin {}

fn read_body<T: Body>(node: &Node, path: &str, problems: &mut Problems) -> Option<T> {
    let body: T = read_at(node, path, problems)?;
    for (at, message, is_error) in body.findings() {
        let place = nearest(node, &at);
        let path = match at.as_str() {
            "" => path.to_owned(),
            at => format!("{path}.{at}"),
        };
        if is_error {
            problems.error(place, &path, message, None);
        } else {
            problems.warning(place, &path, message, None);
        }
    }
    Some(body)
}

/// Where a path is written, or the nearest that is written above it.
fn nearest<'n>(node: &'n Node, path: &str) -> &'n Location {
    let mut path = path;
    loop {
        if let Some(found) = node.at(path) {
            return &found.location;
        }
        path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
    }
}

/// A type of component as the reference file shows it.
pub(super) struct Described {
    pub(super) section: &'static str,
    pub(super) names: &'static [&'static str],
    pub(super) schema: fn(&mut SchemaGenerator) -> Schema,
}

/// Every type of component, section by section.
pub(super) fn described() -> Vec<Described> {
    let mut all = RECEIVERS.described();
    all.extend(PROCESSORS.described());
    all.extend(EXPORTERS.described());
    all.extend(CONNECTORS.described());
    all.extend(EXTENSIONS.described());
    all
}

impl<T> Section<T> {
    fn described(&self) -> Vec<Described> {
        let section = self.name;
        let kinds = self.kinds.iter();
        kinds.map(|kind| Described { section, names: kind.names, schema: kind.schema }).collect()
    }
}

/// What a section has.
pub(super) struct Components<T> {
    /// The components that could be read.
    pub(super) components: BTreeMap<ComponentId, T>,
    /// All ids, those of unreadable components included, and where they stand.
    pub(super) declared: Vec<(ComponentId, Location)>,
}

impl<T> Components<T> {
    pub(super) fn names(&self) -> Vec<(ComponentId, Location)> {
        self.declared.clone()
    }
}

/// Reads one section of the file.
pub(super) fn read<T>(tree: &Node, section: &Section<T>, problems: &mut Problems) -> Components<T> {
    let mut read = Components { components: BTreeMap::new(), declared: Vec::new() };
    let Some(node) = tree.get(section.name) else {
        return read;
    };
    if !node.is_null() && !matches!(node.value, crate::yaml::Value::Map(_)) {
        let message = format!("expected a map of {}, found {}", section.name, node.kind());
        problems.error_at(node, section.name, message, None);
    }
    for entry in node.entries() {
        let path = join_key(section.name, &entry.key);
        let id = match ComponentId::parse(&entry.key) {
            Ok(id) => id,
            Err(bad) => {
                problems.error(&entry.key_location, &path, bad.to_string(), None);
                continue;
            }
        };
        read.declared.push((id.clone(), entry.key_location.clone()));
        let known = |kind: &&Kind<T>| kind.names.contains(&id.type_name());
        match section.kinds.iter().find(known) {
            Some(kind) => {
                let body = (kind.read)(&entry.value, &path, problems);
                read.components.extend(body.map(|body| (id, body)));
            }
            None => unknown_type(section, entry, &id, problems),
        }
    }
    read
}

fn unknown_type<T>(section: &Section<T>, entry: &Entry, id: &ComponentId, problems: &mut Problems) {
    let names: Vec<&str> = section.kinds.iter().flat_map(|kind| kind.names).copied().collect();
    let available = format!("{} types here: {}", section.noun, names.join(", "));
    let help = match did_you_mean(id.type_name(), names) {
        Some(name) => format!("did you mean `{name}`?\n{available}"),
        None => available,
    };
    let path = join_key(section.name, &entry.key);
    let message = format!("unknown {} type `{}`", section.noun, id.type_name());
    problems.error(&entry.key_location, &path, message, Some(help));
}
