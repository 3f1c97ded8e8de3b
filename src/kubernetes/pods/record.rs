//! What is kept of a pod and of a namespace.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::keep::{Keep, Kept};
use super::names::Names;
use super::view::{NamespaceView, OwnerView, PodView};

/// What the API server puts on pods of a Deployment: the hash its ReplicaSet's name ends with.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Jobs of a CronJob end with the minute they were due, counted from 1970: 8 digits until 2160. Fewer are
/// part of somebody's name.
const MIN_MINUTE_DIGITS: usize = 8;
/// More addresses no pod has.
const MAX_ADDRESSES: usize = 8;
/// More containers are not told apart by anybody.
const MAX_CONTAINERS: usize = 32;

/// A pod as it is remembered.
#[derive(Debug)]
pub struct Pod {
    /// Unique in time.
    pub uid: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Where it runs.
    pub node: Option<Arc<str>>,
    /// What it calls itself, if that is not its name.
    pub hostname: Option<Box<str>>,
    /// Its addresses; those of its node if it shares the node's network.
    pub addresses: Box<[IpAddr]>,
    /// Whether it shares its node's network, and therefore its addresses.
    pub host_network: bool,
    /// When it started, as the API server writes it (RFC 3339).
    pub started: Option<Box<str>>,
    /// Its containers, if anybody asks for them.
    pub containers: Box<[Container]>,
    /// Tells this state of the pod from every other.
    pub stamp: u64,
    created: Box<str>,
    hosts: Box<[IpAddr]>,
    owner: Option<Owner>,
    labels: Kept,
    annotations: Kept,
    keep: Arc<Keep>,
    has_ended: AtomicBool,
}

/// A container as it is remembered.
#[derive(Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: Arc<str>,
    /// Its image, as it was asked for.
    pub image: Arc<str>,
}

/// The controller of a pod.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    kind: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    /// How much of a ReplicaSet's name is its Deployment's.
    deployment: Option<u16>,
}

/// A namespace as it is remembered.
#[derive(Debug)]
pub struct Namespace {
    /// Tells this state of the namespace from every other.
    pub stamp: u64,
    labels: Kept,
    annotations: Kept,
    keep: Arc<Keep>,
}

/// What is known of a label or annotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known<'a> {
    /// It has this value.
    Value(&'a str),
    /// It is not there, or its value is too long to be kept.
    Absent,
    /// It was not asked for when the object was read; that is about to change.
    NotYet,
}

impl<'a> Known<'a> {
    /// The value, if there is one.
    pub fn value(self) -> Option<&'a str> {
        match self {
            Known::Value(value) => Some(value),
            Known::Absent | Known::NotYet => None,
        }
    }
}

/// A number no other state has.
fn next_stamp() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn find<'k>(kept: &'k Kept, key: &str) -> Option<&'k str> {
    kept.iter().find(|(known, _)| **known == *key).map(|(_, value)| &**value)
}

fn known<'k>(kept: &'k Kept, is_kept: bool, key: &str) -> Known<'k> {
    match find(kept, key) {
        Some(value) => Known::Value(value),
        None if is_kept => Known::Absent,
        None => Known::NotYet,
    }
}

fn pairs(kept: &Kept) -> impl Iterator<Item = (&str, &str)> {
    kept.iter().map(|(key, value)| (&**key, &**value))
}

impl Pod {
    /// Keeps of a pod what is asked for.
    pub(super) fn new(view: &PodView, keep: &Arc<Keep>, names: &mut Names) -> Self {
        let containers = view.containers.iter().take(if keep.containers { MAX_CONTAINERS } else { 0 });
        let containers = containers.map(|container| Container {
            name: names.get(&container.name),
            image: names.get(container.image.as_deref().unwrap_or_default()),
        });
        Self {
            containers: containers.collect(),
            uid: view.uid().into(),
            name: view.name().into(),
            namespace: names.get(view.namespace()),
            node: view.node.as_deref().map(|node| names.get(node)),
            hostname: view.hostname.as_deref().map(Into::into),
            addresses: view.addresses.iter().copied().take(MAX_ADDRESSES).collect(),
            host_network: view.host_network,
            started: view.started.as_deref().map(Into::into),
            stamp: next_stamp(),
            created: view.created.as_deref().unwrap_or_default().into(),
            hosts: view.hosts.iter().copied().take(MAX_ADDRESSES).collect(),
            owner: owner(view).map(|owner| Owner::new(owner, view, names)),
            labels: keep.pod_labels.select(&view.labels, names),
            annotations: keep.pod_annotations.select(&view.annotations, names),
            keep: keep.clone(),
            has_ended: AtomicBool::new(view.has_ended),
        }
    }

    /// Whether two states tell the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.name, &self.namespace, &self.node) == (&other.name, &other.namespace, &other.node)
            && (&self.started, &self.created, self.has_ended())
                == (&other.started, &other.created, other.has_ended())
            && (&self.addresses, &self.hosts, self.host_network)
                == (&other.addresses, &other.hosts, other.host_network)
            && (&self.labels, &self.annotations, &self.owner)
                == (&other.labels, &other.annotations, &other.owner)
            && (&self.containers, &self.hostname) == (&other.containers, &other.hostname)
            && Arc::ptr_eq(&self.keep, &other.keep)
    }

    /// Whether it runs no more.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Orders pods that have one address: the greatest is the one that has it now. Of those that started in
    /// one second it is the one told last.
    pub(super) fn precedence(&self) -> (bool, &str, u64) {
        (!self.has_ended(), self.started.as_deref().unwrap_or(&self.created), self.stamp)
    }

    /// The addresses that are its own.
    pub(super) fn own_addresses(&self) -> &[IpAddr] {
        if self.host_network { &[] } else { &self.addresses }
    }

    /// The addresses of its node.
    pub(super) fn host_addresses(&self) -> &[IpAddr] {
        &self.hosts
    }

    /// A label.
    pub fn label(&self, key: &str) -> Known<'_> {
        known(&self.labels, self.keep.pod_labels.has(key), key)
    }

    /// An annotation.
    pub fn annotation(&self, key: &str) -> Known<'_> {
        known(&self.annotations, self.keep.pod_annotations.has(key), key)
    }

    /// Every label that was kept.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.labels)
    }

    /// Every annotation that was kept.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.annotations)
    }

    /// The name and uid of the controller, if it is of this kind.
    pub fn owner(&self, kind: &str) -> Option<(&str, &str)> {
        let owner = self.owner.as_ref().filter(|owner| *owner.kind == *kind)?;
        Some((&owner.name, &owner.uid))
    }

    /// The Deployment its ReplicaSet belongs to, told by the ReplicaSet's name.
    pub fn deployment(&self) -> Option<&str> {
        let owner = self.owner.as_ref()?;
        owner.name.get(..usize::from(owner.deployment?))
    }

    /// The CronJob its Job belongs to, told by the Job's name.
    pub fn cronjob(&self) -> Option<&str> {
        let (job, _) = self.owner("Job")?;
        let (cronjob, minute) = job.rsplit_once('-')?;
        let is_minute = minute.len() >= MIN_MINUTE_DIGITS && minute.bytes().all(|byte| byte.is_ascii_digit());
        is_minute.then_some(cronjob).filter(|name| !name.is_empty())
    }
}

/// Who made the pod: its controller.
fn owner(view: &PodView) -> Option<&OwnerView> {
    view.owners.iter().find(|owner| owner.controller == Some(true)).or(view.owners.first())
}

impl Owner {
    fn new(owner: &OwnerView, view: &PodView, names: &mut Names) -> Self {
        let deployment = || {
            let hash = view.labels.get(TEMPLATE_HASH).filter(|hash| !hash.is_empty())?;
            let name = owner.name.strip_suffix(hash.as_str())?.strip_suffix('-')?;
            (owner.kind == "ReplicaSet" && !name.is_empty()).then(|| u16::try_from(name.len()).ok())?
        };
        Self {
            kind: names.get(&owner.kind),
            name: names.get(&owner.name),
            uid: names.get(&owner.uid),
            deployment: deployment(),
        }
    }
}

impl Namespace {
    pub(super) fn new(view: &NamespaceView, keep: &Arc<Keep>, names: &mut Names) -> Self {
        Self {
            stamp: next_stamp(),
            labels: keep.namespace_labels.select(&view.labels, names),
            annotations: keep.namespace_annotations.select(&view.annotations, names),
            keep: keep.clone(),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.annotations == other.annotations
            && Arc::ptr_eq(&self.keep, &other.keep)
    }

    /// A label.
    pub fn label(&self, key: &str) -> Known<'_> {
        known(&self.labels, self.keep.namespace_labels.has(key), key)
    }

    /// An annotation.
    pub fn annotation(&self, key: &str) -> Known<'_> {
        known(&self.annotations, self.keep.namespace_annotations.has(key), key)
    }

    /// Every label that was kept.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.labels)
    }

    /// Every annotation that was kept.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs(&self.annotations)
    }
}
