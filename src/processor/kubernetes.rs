//! `k8s_attributes`: writes to resources which pod they come from.
//!
//! The pod is found by the address of the connection, or by the rules of `pod_association`. Not here: what
//! is known of pods (`kubernetes::pods`), whose data it is (`authentication`). Invariant: where the address
//! tells the pod, what the sender wrote has no say in which pod it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use moka::sync::Cache;
use regex::Regex;

use super::Work;
use crate::config::processor::kubernetes::{
    Field, FieldOf, K8sAttributes, Metadata, OnMismatch, Source, SourceOf,
};
use crate::kubernetes::pods::{Container, Found, OTEL_ANNOTATION, Pod, Pods, whole};
use crate::otlp::{Draft, PartId};

/// How many pods' attributes are remembered ready to write; those of the others are put together anew.
const REMEMBERED: u64 = 1024;
/// What is compared with the pod even where it is not written.
const CHECKED: [(&str, Metadata); 4] = [
    ("k8s.pod.uid", Metadata::PodUid),
    ("k8s.pod.ip", Metadata::PodIp),
    ("k8s.pod.name", Metadata::PodName),
    ("k8s.namespace.name", Metadata::NamespaceName),
];

/// What one processor `k8s_attributes` does.
#[derive(Debug)]
pub struct PodAttributes {
    /// None: `passthrough`.
    pods: Option<Pods>,
    /// Rules of association, in order; each leads to a pod.
    rules: Vec<Vec<Lead>>,
    metadata: Vec<(&'static str, Metadata)>,
    /// Compared, and not written.
    checked: Vec<(&'static str, Metadata)>,
    images: Images,
    texts: Vec<Text>,
    excluded: Vec<Regex>,
    overwrites: bool,
    ready: Cache<(u64, u64), Arc<Ready>>,
}

/// What leads to a pod, or confirms it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    Connection,
    Ip,
    Uid,
    Name,
    Namespace,
    Node,
}

/// Which attributes of containers are written.
#[derive(Debug, Clone, Copy, Default)]
struct Images {
    container: bool,
    name: bool,
    tag: bool,
}

/// Labels or annotations that become attributes.
#[derive(Debug)]
struct Text {
    of: Of,
    keys: KeysOf,
    /// The attribute; with a pattern, `$1` stands for its first group.
    attribute: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    PodLabel,
    PodAnnotation,
    NamespaceLabel,
    NamespaceAnnotation,
}

#[derive(Debug)]
enum KeysOf {
    One(String),
    Pattern(Regex),
}

/// The attributes of one pod, ready to write.
#[derive(Debug)]
struct Ready {
    /// What the address proves.
    proven: Vec<(&'static str, Box<str>)>,
    /// What is only compared.
    checked: Vec<(&'static str, Box<str>)>,
    /// What is written where it is absent.
    texts: Vec<(Box<str>, Box<str>)>,
}

impl PodAttributes {
    /// A processor that knows pods by `pods`.
    pub fn new(config: &K8sAttributes, pods: &Pods) -> Self {
        let metadata = config.metadata();
        let has = |wanted: Metadata| metadata.iter().any(|(_, one)| *one == wanted);
        let images = Images {
            container: has(Metadata::ContainerName),
            name: has(Metadata::ImageName),
            tag: has(Metadata::ImageTag),
        };
        let checked = CHECKED.into_iter().filter(|(_, metadata)| !has(*metadata)).collect();
        let rules = config.pod_association.iter();
        let mut rules: Vec<Vec<Lead>> =
            rules.map(|rule| rule.sources.iter().filter_map(Lead::of).collect()).collect();
        if rules.is_empty() {
            rules.push(vec![Lead::Connection]);
        }
        let labels = config.extract.labels.iter().map(|field| Text::new(field, true));
        let annotations = config.extract.annotations.iter().map(|field| Text::new(field, false));
        let otel = config.extract.otel_annotations.then(Text::otel);
        // What is no regular expression was refused with the configuration.
        let excluded = config.exclude.pods.iter().filter_map(|pod| Regex::new(&pod.name).ok());
        Self {
            pods: config.watches().then(|| pods.clone()),
            rules,
            texts: otel.into_iter().chain(labels).chain(annotations).flatten().collect(),
            metadata,
            checked,
            images,
            excluded: excluded.collect(),
            overwrites: config.on_mismatch == OnMismatch::Overwrite,
            ready: Cache::new(REMEMBERED),
        }
    }

    /// Notes the edits.
    pub(super) fn run(&self, work: &mut Work<'_>) {
        let Some(pods) = &self.pods else { return pass_through(work) };
        let Work { draft, peer, pod: connected, .. } = work;
        for part in draft.parts() {
            let asked = Asked { pods, draft, part, peer: *peer, connected: connected.as_ref() };
            let Some((found, by_address)) = self.associate(&asked) else { continue };
            if self.excluded.iter().any(|excluded| excluded.is_match(&found.pod.name)) {
                continue;
            }
            let ready = self.ready(&found);
            self.write(pods, (draft, part), &ready, by_address);
            self.write_container(&found.pod, draft, part);
        }
    }

    /// The pod a resource comes from, and whether its address had a say in that. The first rule all of
    /// whose sources are there decides.
    fn associate(&self, asked: &Asked<'_, '_>) -> Option<(Found, bool)> {
        let rule = self.rules.iter().find(|rule| rule.iter().all(|lead| asked.has(*lead)))?;
        let found = rule.iter().find_map(|lead| asked.follow(*lead))?;
        let confirmed = rule.iter().all(|lead| asked.confirms(*lead, &found.pod));
        confirmed.then(|| (found, rule.contains(&Lead::Connection)))
    }

    fn ready(&self, found: &Found) -> Arc<Ready> {
        let of_namespace = found.namespace.as_ref().map_or(0, |namespace| namespace.stamp);
        self.ready.get_with((found.pod.stamp, of_namespace), || Arc::new(self.prepare(found)))
    }

    fn prepare(&self, found: &Found) -> Ready {
        let values = |of: &[(&'static str, Metadata)]| {
            let values =
                of.iter().filter_map(|(name, metadata)| Some((*name, value(&found.pod, *metadata)?)));
            values.collect()
        };
        let mut texts = Vec::new();
        for text in &self.texts {
            text.read(found, &mut texts);
        }
        Ready { proven: values(&self.metadata), checked: values(&self.checked), texts }
    }

    fn write(&self, pods: &Pods, (draft, part): (&mut Draft<'_>, PartId), ready: &Ready, by_address: bool) {
        let differs = |draft: &Draft<'_>, key: &str, expected: &str| match draft.resource_attribute(part, key)
        {
            None => Written::Absent,
            Some(value) => match &*value.to_text() {
                "" => Written::Absent,
                text if text == expected => Written::Same,
                _ => Written::Other,
            },
        };
        for (key, value) in &ready.proven {
            match differs(draft, key, value) {
                Written::Absent => draft.set_resource_attribute(part, key, &**value),
                Written::Other if by_address => {
                    pods.metrics().contradicted(key);
                    if self.overwrites {
                        draft.set_resource_attribute(part, key, &**value);
                    }
                }
                Written::Other | Written::Same => {}
            }
        }
        for (key, value) in ready.checked.iter().filter(|_| by_address) {
            if differs(draft, key, value) == Written::Other {
                pods.metrics().contradicted(key);
            }
        }
        for (key, value) in &ready.texts {
            if differs(draft, key, value) == Written::Absent {
                draft.set_resource_attribute(part, key, &**value);
            }
        }
    }

    /// The image is told where the pod has one container, or the sender says which it is.
    fn write_container(&self, pod: &Pod, draft: &mut Draft<'_>, part: PartId) {
        let named = draft.resource_attribute(part, "k8s.container.name");
        let container = match named.map(|name| name.to_text()) {
            Some(name) => pod.containers.iter().find(|container| *container.name == *name),
            None if pod.containers.len() == 1 => pod.containers.first(),
            None => None,
        };
        let Some(Container { name, image }) = container else { return };
        let (image, tag) = name_and_tag(image);
        let Images { container, name: image_name, tag: image_tag } = self.images;
        let wanted = [
            (container, "k8s.container.name", &**name),
            (image_name, "container.image.name", image),
            (image_tag, "container.image.tag", tag),
        ];
        for (_, key, value) in wanted.into_iter().filter(|(wanted, _, value)| *wanted && !value.is_empty()) {
            if draft.resource_attribute(part, key).is_none() {
                draft.set_resource_attribute(part, key, value);
            }
        }
    }
}

/// What stands at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    Absent,
    Same,
    Other,
}

/// Only the connection's address, for whoever knows pods.
fn pass_through(work: &mut Work<'_>) {
    let Some(peer) = work.peer else { return };
    let address = peer.ip().to_canonical().to_string();
    for part in work.draft.parts() {
        if work.draft.resource_attribute(part, "k8s.pod.ip").is_none() {
            work.draft.set_resource_attribute(part, "k8s.pod.ip", address.as_str());
        }
    }
}

/// What a resource and its connection say about its pod.
struct Asked<'a, 'd> {
    pods: &'a Pods,
    draft: &'a Draft<'d>,
    part: PartId,
    peer: Option<SocketAddr>,
    connected: Option<&'a Found>,
}

impl Asked<'_, '_> {
    fn text(&self, lead: Lead) -> Option<std::borrow::Cow<'_, str>> {
        let value = self.draft.resource_attribute(self.part, lead.attribute()?)?;
        Some(value.to_text()).filter(|text| !text.is_empty())
    }

    fn has(&self, lead: Lead) -> bool {
        match lead {
            Lead::Connection => self.peer.is_some(),
            lead => self.text(lead).is_some(),
        }
    }

    fn follow(&self, lead: Lead) -> Option<Found> {
        match lead {
            Lead::Connection => self.connected.cloned(),
            Lead::Ip => self.pods.at(self.text(lead)?.parse::<IpAddr>().ok()?),
            Lead::Uid => self.pods.with_uid(&self.text(lead)?),
            Lead::Name | Lead::Namespace | Lead::Node => None,
        }
    }

    fn confirms(&self, lead: Lead, pod: &Pod) -> bool {
        let text = self.text(lead);
        match (lead, text.as_deref()) {
            (Lead::Connection, _) => self.connected.is_some_and(|connected| connected.pod.uid == pod.uid),
            (Lead::Ip, Some(text)) => {
                text.parse::<IpAddr>().is_ok_and(|address| pod.addresses.contains(&address.to_canonical()))
            }
            (Lead::Uid, Some(text)) => *pod.uid == *text,
            (Lead::Name, Some(text)) => *pod.name == *text,
            (Lead::Namespace, Some(text)) => *pod.namespace == *text,
            (Lead::Node, Some(text)) => pod.node.as_deref() == Some(text),
            (_, None) => false,
        }
    }
}

impl Lead {
    /// What is no lead was refused with the configuration.
    fn of(source: &Source) -> Option<Self> {
        Some(match (source.from, source.name.as_str()) {
            (SourceOf::Connection, _) => Lead::Connection,
            (SourceOf::ResourceAttribute, "k8s.pod.ip") => Lead::Ip,
            (SourceOf::ResourceAttribute, "k8s.pod.uid") => Lead::Uid,
            (SourceOf::ResourceAttribute, "k8s.pod.name") => Lead::Name,
            (SourceOf::ResourceAttribute, "k8s.namespace.name") => Lead::Namespace,
            (SourceOf::ResourceAttribute, "k8s.node.name") => Lead::Node,
            (SourceOf::ResourceAttribute, _) => return None,
        })
    }

    fn attribute(self) -> Option<&'static str> {
        Some(match self {
            Lead::Connection => return None,
            Lead::Ip => "k8s.pod.ip",
            Lead::Uid => "k8s.pod.uid",
            Lead::Name => "k8s.pod.name",
            Lead::Namespace => "k8s.namespace.name",
            Lead::Node => "k8s.node.name",
        })
    }
}

/// The value of an attribute; those of containers depend on the resource too and are not told here.
fn value(pod: &Pod, metadata: Metadata) -> Option<Box<str>> {
    let name = |kind: &str| pod.owner(kind).map(|(name, _)| name);
    let uid = |kind: &str| pod.owner(kind).map(|(_, uid)| uid);
    let text = match metadata {
        Metadata::NamespaceName => Some(&*pod.namespace),
        Metadata::PodName => Some(&*pod.name),
        Metadata::PodUid => Some(&*pod.uid),
        Metadata::PodIp => return pod.addresses.first().map(|address| address.to_string().into()),
        Metadata::PodHostname => Some(pod.hostname.as_deref().unwrap_or(&pod.name)),
        Metadata::PodStartTime => pod.started.as_deref(),
        Metadata::NodeName => pod.node.as_deref(),
        Metadata::DeploymentName => pod.deployment(),
        Metadata::ReplicasetName => name("ReplicaSet"),
        Metadata::ReplicasetUid => uid("ReplicaSet"),
        Metadata::DaemonsetName => name("DaemonSet"),
        Metadata::DaemonsetUid => uid("DaemonSet"),
        Metadata::StatefulsetName => name("StatefulSet"),
        Metadata::StatefulsetUid => uid("StatefulSet"),
        Metadata::JobName => name("Job"),
        Metadata::JobUid => uid("Job"),
        Metadata::CronjobName => pod.cronjob(),
        Metadata::ContainerName | Metadata::ImageName | Metadata::ImageTag => None,
    };
    text.filter(|text| !text.is_empty()).map(Into::into)
}

/// The parts of `registry:5000/a/b:tag@sha256:…`; what has neither tag nor digest is `latest`.
fn name_and_tag(image: &str) -> (&str, &str) {
    let (named, has_digest) = match image.split_once('@') {
        Some((named, _)) => (named, true),
        None => (image, false),
    };
    match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (named, if has_digest || named.is_empty() { "" } else { "latest" }),
    }
}

impl Text {
    fn new(field: &Field, is_label: bool) -> Option<Self> {
        let of = match (field.from, is_label) {
            (FieldOf::Pod, true) => Of::PodLabel,
            (FieldOf::Pod, false) => Of::PodAnnotation,
            (FieldOf::Namespace, true) => Of::NamespaceLabel,
            (FieldOf::Namespace, false) => Of::NamespaceAnnotation,
        };
        let keys = match (&field.key, &field.key_regex) {
            (Some(key), _) => KeysOf::One(key.clone()),
            (None, Some(pattern)) => KeysOf::Pattern(whole(pattern).ok()?),
            (None, None) => return None,
        };
        let attribute = match (&field.tag_name, &keys) {
            (Some(name), _) => name.clone(),
            (None, KeysOf::One(key)) => format!("{}{key}", of.prefix()),
            (None, KeysOf::Pattern(_)) => format!("{}$0", of.prefix()),
        };
        Some(Self { of, keys, attribute })
    }

    /// Annotations that name their attribute themselves.
    fn otel() -> Option<Self> {
        let pattern = whole(&format!("{}(.+)", regex::escape(OTEL_ANNOTATION))).ok()?;
        Some(Self { of: Of::PodAnnotation, keys: KeysOf::Pattern(pattern), attribute: "$1".to_owned() })
    }

    /// Adds the attributes it gives a pod.
    fn read(&self, found: &Found, texts: &mut Vec<(Box<str>, Box<str>)>) {
        let (pod, namespace) = (&found.pod, found.namespace.as_deref());
        let all: Vec<(&str, &str)> = match (self.of, namespace) {
            (Of::PodLabel, _) => pod.labels().collect(),
            (Of::PodAnnotation, _) => pod.annotations().collect(),
            (Of::NamespaceLabel, Some(namespace)) => namespace.labels().collect(),
            (Of::NamespaceAnnotation, Some(namespace)) => namespace.annotations().collect(),
            (Of::NamespaceLabel | Of::NamespaceAnnotation, None) => return,
        };
        for (key, value) in all {
            let attribute: Box<str> = match &self.keys {
                KeysOf::One(wanted) if wanted == key => self.attribute.as_str().into(),
                KeysOf::One(_) => continue,
                KeysOf::Pattern(pattern) => match pattern.captures(key) {
                    Some(captures) => {
                        let mut name = String::new();
                        captures.expand(&self.attribute, &mut name);
                        name.into()
                    }
                    None => continue,
                },
            };
            if !attribute.is_empty() {
                texts.push((attribute, value.into()));
            }
        }
    }
}

impl Of {
    fn prefix(self) -> &'static str {
        match self {
            Of::PodLabel => "k8s.pod.labels.",
            Of::PodAnnotation => "k8s.pod.annotations.",
            Of::NamespaceLabel => "k8s.namespace.labels.",
            Of::NamespaceAnnotation => "k8s.namespace.annotations.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_taken_apart() {
        let check = |image: &str, expected: (&str, &str)| assert_eq!(name_and_tag(image), expected);
        check("nginx", ("nginx", "latest"));
        check("nginx:1.27", ("nginx", "1.27"));
        check("registry:5000/a/b", ("registry:5000/a/b", "latest"));
        check("registry:5000/a/b:v1@sha256:00", ("registry:5000/a/b", "v1"));
        check("a/b@sha256:00", ("a/b", ""));
        check("", ("", ""));
    }
}
