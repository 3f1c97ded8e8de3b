//! What is known of pods, as metrics: a closed set of series, shown once pods are watched.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

use super::catalog;
use super::families::Families;
use super::metrics::{Counter, Gauge};

/// What a watch is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Pods.
    Pods,
    /// Namespaces.
    Namespaces,
}

impl Watched {
    /// The name of the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Watched::Pods => "pods",
            Watched::Namespaces => "namespaces",
        }
    }
}

/// Of what one watch keeps.
#[derive(Debug, Default)]
pub struct ListMetrics {
    /// `tollgate_kubernetes_objects`.
    pub objects: Gauge,
    /// `tollgate_kubernetes_listed`: 1 once a first list was had.
    pub listed: Gauge,
    /// `tollgate_kubernetes_lists_total`: lists that were complete.
    pub lists: Counter,
    started: AtomicBool,
}

impl ListMetrics {
    /// There is such a watch: its series are shown from now on.
    pub fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }
}

/// What an address was looked up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupFor {
    /// Whose data it is.
    Identity,
    /// Attributes of resources.
    Attributes,
}

/// What came of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupOutcome {
    /// A pod runs there, or ran there a moment ago and attributes are asked for.
    Found,
    /// No pod has the address.
    Unknown,
    /// The pod that had it has ended.
    Ended,
    /// It is a node's: a pod of the host's network, or an address translated on the way.
    HostNetwork,
    /// No list of pods was had yet, or its namespace is not known yet.
    NotListed,
    /// No pod has it, and its sender was told to come back because that may change in a moment.
    Newcomer,
    /// There is no address: a unix socket.
    NoAddress,
}

impl LookupOutcome {
    /// Every outcome, in the order of the discriminants.
    const ALL: [Self; 7] = [
        Self::Found,
        Self::Unknown,
        Self::Ended,
        Self::HostNetwork,
        Self::NotListed,
        Self::Newcomer,
        Self::NoAddress,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Unknown => "unknown",
            Self::Ended => "ended",
            Self::HostNetwork => "host_network",
            Self::NotListed => "not_listed",
            Self::Newcomer => "newcomer",
            Self::NoAddress => "no_address",
        }
    }
}

/// Everything that is measured about pods.
#[derive(Debug, Default)]
pub struct PodMetrics {
    pods: ListMetrics,
    namespaces: ListMetrics,
    /// `tollgate_pods_left_out_total`: pods beyond `max_pods`.
    pub left_out: Counter,
    lookups: [[Counter; LookupOutcome::ALL.len()]; 2],
    mismatches: RwLock<BTreeMap<&'static str, Counter>>,
}

impl PodMetrics {
    /// The metrics of what one watch keeps.
    pub fn watch(&self, watched: Watched) -> &ListMetrics {
        match watched {
            Watched::Pods => &self.pods,
            Watched::Namespaces => &self.namespaces,
        }
    }

    /// Counts one look-up.
    pub fn count(&self, purpose: LookupFor, outcome: LookupOutcome) {
        self.lookups[purpose as usize][outcome as usize].add(1);
    }

    /// Counts a resource whose sender wrote an attribute that contradicts its pod; `attribute` is one of
    /// those `k8s_attributes` can write.
    pub fn contradicted(&self, attribute: &'static str) {
        if let Some(counter) = self.mismatches.read().unwrap_or_else(PoisonError::into_inner).get(attribute) {
            return counter.add(1);
        }
        self.mismatches.write().unwrap_or_else(PoisonError::into_inner).entry(attribute).or_default().add(1);
    }

    pub(super) fn read(&self, families: &mut Families) {
        for watched in [Watched::Pods, Watched::Namespaces] {
            let watch = self.watch(watched);
            if !watch.started.load(Ordering::Relaxed) {
                continue;
            }
            let labels = [watched.as_str()];
            families.add(&catalog::KUBERNETES_OBJECTS, &labels, watch.objects.get());
            families.add(&catalog::KUBERNETES_LISTED, &labels, watch.listed.get());
            families.add(&catalog::KUBERNETES_LISTS, &labels, watch.lists.get());
        }
        if !self.pods.started.load(Ordering::Relaxed) {
            return;
        }
        families.add(&catalog::PODS_LEFT_OUT, &[], self.left_out.get());
        for (purpose, name) in [(LookupFor::Identity, "identity"), (LookupFor::Attributes, "attributes")] {
            for outcome in LookupOutcome::ALL {
                let counter = &self.lookups[purpose as usize][outcome as usize];
                families.add(&catalog::POD_LOOKUPS, &[name, outcome.as_str()], counter.get());
            }
        }
        for (attribute, counter) in self.mismatches.read().unwrap_or_else(PoisonError::into_inner).iter() {
            families.add(&catalog::POD_MISMATCHES, &[attribute], counter.get());
        }
    }
}
