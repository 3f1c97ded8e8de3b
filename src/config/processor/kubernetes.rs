//! Keys of the processor `k8s_attributes`: the Collector's, as far as no ReplicaSet or node is needed.

use std::time::Duration;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Found, Problem};
use crate::config::kubernetes::AuthType;
use crate::config::pods::{self, PodFilter};
use crate::yaml::did_you_mean;

/// A rule of association has at most so many sources, as in the Collector.
const MAX_SOURCES: usize = 4;
/// Lists of rules longer than this make every request dear.
const MAX_RULES: usize = 64;

/// The processor `k8s_attributes` (formerly `k8sattributes`): writes to resources which pod they come from.
/// The pod is found by the address of the connection, unless `pod_association` says otherwise. It needs
/// `get`, `list` and `watch` of pods, and of namespaces where their labels or annotations are used; it never
/// asks for ReplicaSets: the name of a Deployment is that of the ReplicaSet without the pod template's hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-unavailable" = ["watch_sync_period"]))]
pub struct K8sAttributes {
    /// How the API server is reached: as the pod's service account, or by `$KUBECONFIG`, else
    /// `~/.kube/config`. Default: serviceAccount.
    pub auth_type: AuthType,
    /// The context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
    /// Only writes the connection's address as `k8s.pod.ip`, for a gateway to find the pod by, and asks no
    /// API server. Default: false.
    pub passthrough: bool,
    /// Which pods are watched; without a filter by node, and without the extension `pods`, those of the
    /// whole cluster. All components that watch pods must say the same. Default: none.
    pub filter: PodFilter,
    /// What is written.
    pub extract: Extract,
    /// How the pod is found: the first rule all of whose sources are there decides. Attributes are what the
    /// sender wrote: rules that use them tell attributes, never tenants.
    /// Default: by the connection's address.
    pub pod_association: Vec<Association>,
    /// Pods whose data is left as it is.
    pub exclude: Exclude,
    /// Whether the start waits for the first list of pods. The Collector's default is false.
    /// Default: true.
    pub wait_for_metadata: bool,
    /// How long it waits; then data is taken, without attributes until the list is there.
    /// Default: 10s. Range: 0 to 5m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub wait_for_metadata_timeout: Duration,
    /// What becomes of `k8s.*` attributes a sender wrote that contradict the pod at its address.
    /// Attributes that labels and annotations give never replace others. Default: overwrite.
    pub on_mismatch: OnMismatch,
}

impl Default for K8sAttributes {
    fn default() -> Self {
        Self {
            auth_type: AuthType::default(),
            context: None,
            passthrough: false,
            filter: PodFilter::default(),
            extract: Extract::default(),
            pod_association: Vec::new(),
            exclude: Exclude::default(),
            wait_for_metadata: true,
            wait_for_metadata_timeout: Duration::from_secs(10),
            on_mismatch: OnMismatch::default(),
        }
    }
}

/// What becomes of attributes that contradict the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnMismatch {
    /// The pod's replace them.
    #[default]
    Overwrite,
    /// They stay, as in the Collector.
    Keep,
}

/// What is written to resources.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Extract {
    /// Attributes of the pod, its owners and its image. Default: k8s.namespace.name, k8s.pod.name,
    /// k8s.pod.uid, k8s.pod.start_time, k8s.deployment.name, k8s.node.name, container.image.name,
    /// container.image.tag.
    pub metadata: Vec<String>,
    /// Labels, as attributes. Default: none.
    pub labels: Vec<Field>,
    /// Annotations, as attributes. Default: none.
    pub annotations: Vec<Field>,
    /// Writes annotations `resource.opentelemetry.io/<attribute>` of pods as that attribute.
    /// Default: false.
    pub otel_annotations: bool,
    /// Without effect: the name of a Deployment always comes from its ReplicaSet's. Default: false.
    pub deployment_name_from_replicaset: bool,
}

/// A label or annotation that becomes an attribute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-unavailable" = ["regex"]))]
pub struct Field {
    /// The attribute; with `key_regex`, `$1` stands for its first group.
    /// Default: `k8s.pod.labels.<key>`, `k8s.namespace.annotations.<key>` and so on.
    pub tag_name: Option<String>,
    /// The key. Default: none, either it or `key_regex` is needed.
    pub key: Option<String>,
    /// Keys that fit this regular expression as a whole. Default: none.
    pub key_regex: Option<String>,
    /// Whose it is. Default: pod.
    pub from: FieldOf,
}

/// Whose label or annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("x-unavailable" = ["node", "deployment", "statefulset", "daemonset", "job"]))]
pub enum FieldOf {
    /// The pod's.
    #[default]
    Pod,
    /// Its namespace's.
    Namespace,
}

/// A rule of association.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Association {
    /// What must be there and lead to one pod, 1 to 4.
    pub sources: Vec<Source>,
}

/// What leads to a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Where it is.
    pub from: SourceOf,
    /// The attribute: `k8s.pod.ip` or `k8s.pod.uid`; beside one of them or the connection also
    /// `k8s.pod.name`, `k8s.namespace.name` and `k8s.node.name`. Default: none.
    #[serde(default)]
    pub name: String,
}

/// Where a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceOf {
    /// The address of the connection.
    Connection,
    /// An attribute of the resource.
    ResourceAttribute,
}

/// Pods whose data is left as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exclude {
    /// By name. Default: jaeger-agent and jaeger-collector.
    pub pods: Vec<ExcludedPod>,
}

impl Default for Exclude {
    fn default() -> Self {
        let pods = ["jaeger-agent", "jaeger-collector"];
        Self { pods: pods.map(|name| ExcludedPod { name: name.to_owned() }).to_vec() }
    }
}

/// A pod by its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExcludedPod {
    /// A regular expression found in the name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// An attribute that `extract.metadata` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are those of the attributes")]
pub enum Metadata {
    NamespaceName,
    PodName,
    PodUid,
    PodIp,
    PodHostname,
    PodStartTime,
    NodeName,
    DeploymentName,
    ReplicasetName,
    ReplicasetUid,
    DaemonsetName,
    DaemonsetUid,
    StatefulsetName,
    StatefulsetUid,
    JobName,
    JobUid,
    CronjobName,
    ContainerName,
    ImageName,
    ImageTag,
}

/// Every attribute there is, with its name.
pub const METADATA: [(&str, Metadata); 20] = [
    ("k8s.namespace.name", Metadata::NamespaceName),
    ("k8s.pod.name", Metadata::PodName),
    ("k8s.pod.uid", Metadata::PodUid),
    ("k8s.pod.ip", Metadata::PodIp),
    ("k8s.pod.hostname", Metadata::PodHostname),
    ("k8s.pod.start_time", Metadata::PodStartTime),
    ("k8s.node.name", Metadata::NodeName),
    ("k8s.deployment.name", Metadata::DeploymentName),
    ("k8s.replicaset.name", Metadata::ReplicasetName),
    ("k8s.replicaset.uid", Metadata::ReplicasetUid),
    ("k8s.daemonset.name", Metadata::DaemonsetName),
    ("k8s.daemonset.uid", Metadata::DaemonsetUid),
    ("k8s.statefulset.name", Metadata::StatefulsetName),
    ("k8s.statefulset.uid", Metadata::StatefulsetUid),
    ("k8s.job.name", Metadata::JobName),
    ("k8s.job.uid", Metadata::JobUid),
    ("k8s.cronjob.name", Metadata::CronjobName),
    ("k8s.container.name", Metadata::ContainerName),
    ("container.image.name", Metadata::ImageName),
    ("container.image.tag", Metadata::ImageTag),
];

/// What the Collector writes by default.
const DEFAULT_METADATA: [&str; 8] = [
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.pod.uid",
    "k8s.pod.start_time",
    "k8s.deployment.name",
    "k8s.node.name",
    "container.image.name",
    "container.image.tag",
];

/// Attributes the Collector knows, and why they are not here.
const UNAVAILABLE: [(&str, &str); 10] = [
    ("k8s.deployment.uid", "it needs a watch of all ReplicaSets of the cluster; take k8s.deployment.name"),
    ("k8s.cronjob.uid", "it needs a watch of all Jobs of the cluster; take k8s.cronjob.name"),
    ("k8s.node.uid", "it needs a watch of nodes; take k8s.node.name"),
    ("k8s.cluster.uid", "write it with the processor `resource`"),
    ("container.id", "the sender's SDK knows its own; it is kept"),
    ("container.image.repo_digests", "take container.image.name and container.image.tag"),
    ("service.name", "use extract.otel_annotations, or a label in extract.labels with a tag_name"),
    ("service.namespace", "use extract.otel_annotations, or a label in extract.labels with a tag_name"),
    ("service.version", "use extract.otel_annotations, or a label in extract.labels with a tag_name"),
    ("service.instance.id", "use extract.otel_annotations, or a label in extract.labels with a tag_name"),
];

/// Attributes that lead to a pod by themselves.
const LEADING: [&str; 2] = ["k8s.pod.ip", "k8s.pod.uid"];
/// Attributes that can only confirm what another source led to.
const CONFIRMING: [&str; 3] = ["k8s.pod.name", "k8s.namespace.name", "k8s.node.name"];

impl K8sAttributes {
    /// What is written, in order; what is not known was refused with the configuration.
    pub fn metadata(&self) -> Vec<(&'static str, Metadata)> {
        let named = |wanted: &str| METADATA.into_iter().find(|(name, _)| *name == wanted);
        match self.extract.metadata.as_slice() {
            [] => DEFAULT_METADATA.into_iter().filter_map(named).collect(),
            names => names.iter().filter_map(|name| named(name)).collect(),
        }
    }

    /// Whether it needs to know pods.
    pub fn watches(&self) -> bool {
        !self.passthrough
    }

    /// Every problem of this processor, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let mut add = |at: String, problem: Problem| found.push(Found { at, problem });
        if self.context.is_some() && self.auth_type != AuthType::KubeConfig {
            add("context".to_owned(), Problem::Pods(pods::Problem::NoKubeconfig));
        }
        for (at, problem) in self.filter.check() {
            add(at.to_owned(), Problem::Pods(problem));
        }
        if self.wait_for_metadata_timeout > Duration::from_secs(300) {
            add("wait_for_metadata_timeout".to_owned(), Problem::TooLong("5m"));
        }
        for (index, name) in self.extract.metadata.iter().enumerate() {
            let at = format!("extract.metadata[{index}]");
            if let Some((_, why)) = UNAVAILABLE.iter().find(|(known, _)| known == name) {
                add(at, Problem::NoMetadata(name.clone(), (*why).to_owned()));
            } else if !METADATA.iter().any(|(known, _)| known == name) {
                let names = METADATA.map(|(known, _)| known);
                let way_out = match did_you_mean(name, names) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("there are {}", names.join(", ")),
                };
                add(at, Problem::NoMetadata(name.clone(), way_out));
            }
        }
        for (key, fields) in [("labels", &self.extract.labels), ("annotations", &self.extract.annotations)] {
            for (index, field) in fields.iter().enumerate() {
                check_field(&format!("extract.{key}[{index}]"), field, &mut add);
            }
        }
        self.check_association(&mut add);
        for (index, pod) in self.exclude.pods.iter().enumerate() {
            check_pattern(format!("exclude.pods[{index}].name"), &pod.name, &mut add);
        }
        found
    }

    fn check_association(&self, add: &mut impl FnMut(String, Problem)) {
        if self.pod_association.len() > MAX_RULES {
            add("pod_association".to_owned(), Problem::TooMany(MAX_RULES));
        }
        for (index, rule) in self.pod_association.iter().enumerate() {
            let at = format!("pod_association[{index}]");
            if !(1..=MAX_SOURCES).contains(&rule.sources.len()) {
                add(format!("{at}.sources"), Problem::Sources(MAX_SOURCES));
            }
            let mut leads = false;
            for (index, source) in rule.sources.iter().enumerate() {
                let at = format!("{at}.sources[{index}]");
                match source.from {
                    SourceOf::Connection => leads = true,
                    SourceOf::ResourceAttribute if LEADING.contains(&source.name.as_str()) => leads = true,
                    SourceOf::ResourceAttribute if CONFIRMING.contains(&source.name.as_str()) => {}
                    SourceOf::ResourceAttribute => {
                        add(format!("{at}.name"), Problem::AssociationName(source.name.clone()));
                        leads = true;
                    }
                }
            }
            if !leads && !rule.sources.is_empty() {
                add(at, Problem::NoLead);
            }
        }
    }
}

fn check_field(at: &str, field: &Field, add: &mut impl FnMut(String, Problem)) {
    if field.key.is_some() == field.key_regex.is_some() {
        add(at.to_owned(), Problem::OneKey);
    }
    if let Some(pattern) = &field.key_regex {
        check_pattern(format!("{at}.key_regex"), pattern, add);
    }
}

fn check_pattern(at: String, pattern: &str, add: &mut impl FnMut(String, Problem)) {
    if let Err(error) = Regex::new(pattern) {
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default();
        add(at, Problem::Pattern(reason.strip_prefix("error: ").unwrap_or(reason).to_owned()));
    }
}
