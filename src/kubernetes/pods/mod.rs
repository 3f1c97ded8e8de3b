//! Who is at this address: the pods of this node, or of the cluster, as the API server tells them.
//!
//! ```text
//! API server ──list, watch──▶ follow ──trim──▶ Store ◀── at(address), with_uid(uid)
//!                  ▲                              │
//!                  └ keep: labels and annotations └─ Found { pod, namespace }
//!                    that configuration and policies name
//! ```
//!
//! There is one watch of pods in the program, and one of namespaces if a label or annotation of theirs is
//! named; ReplicaSets are never asked for. Not here: what a pod means for tenants (`authentication`) and
//! attributes (`processor`). Invariants: nothing a sender wrote has a say in [`Pods::identify`]; while the
//! API server is away what is known stays in use; memory is bounded by `max_pods`.

mod follow;
mod keep;
mod names;
mod record;
mod settings;
mod store;
mod view;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;
use tokio::time::Instant;

pub use follow::StartError;
pub use keep::{Keep, Keys};
pub use record::{Container, Known, Namespace, Pod};
pub use settings::{OTEL_ANNOTATION, Settings, whole};

use crate::internal_telemetry::{LookupFor, LookupOutcome, PodMetrics, Telemetry};
use crate::policies::Plan;
use store::Store;

/// How many unknown senders are remembered; more are given the grace of a newcomer again.
const NEWCOMERS: u64 = 10_000;
/// How long an unknown sender is remembered after its last request.
const NEWCOMER_IDLE: Duration = Duration::from_secs(600);

/// The pods that are known; clones are the same.
#[derive(Debug, Clone)]
pub struct Pods(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: RwLock<Store>,
    settings: RwLock<Option<Settings>>,
    wanted: Mutex<Wanted>,
    keep: watch::Sender<Arc<Keep>>,
    listed: watch::Sender<Listed>,
    newcomers: Cache<IpAddr, Instant>,
    metrics: Arc<PodMetrics>,
    telemetry: Telemetry,
    watching: Mutex<Option<crate::tasks::Scope>>,
}

/// Who asks for which labels and annotations.
#[derive(Debug, Default)]
struct Wanted {
    configured: Keep,
    of_policies: Keep,
}

/// What was listed once.
#[derive(Debug, Clone, Copy, Default)]
struct Listed {
    pods: bool,
    namespaces: bool,
}

/// A pod and its namespace.
#[derive(Debug, Clone)]
pub struct Found {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its namespace, if namespaces are watched and this one is known.
    pub namespace: Option<Arc<Namespace>>,
}

/// Who sends, by its address alone.
#[derive(Debug, Clone)]
pub enum Sender {
    /// This pod.
    Pod(Found),
    /// Nobody can tell: no pod, a node's address, no address.
    Unknown,
    /// It may be told in a moment: the client should come back.
    ComeBack,
}

impl Pods {
    /// Nothing is watched yet.
    pub fn new(telemetry: &Telemetry) -> Self {
        Self(Arc::new(Shared {
            store: RwLock::new(Store::new(0, Duration::ZERO)),
            settings: RwLock::default(),
            wanted: Mutex::default(),
            keep: watch::Sender::new(Arc::default()),
            listed: watch::Sender::default(),
            newcomers: Cache::builder().max_capacity(NEWCOMERS).time_to_idle(NEWCOMER_IDLE).build(),
            metrics: telemetry.pods().clone(),
            telemetry: telemetry.clone(),
            watching: Mutex::default(),
        }))
    }

    /// What is measured.
    pub fn metrics(&self) -> &Arc<PodMetrics> {
        &self.0.metrics
    }

    /// Whether pods are watched at all.
    pub fn is_watching(&self) -> bool {
        self.0.settings.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The labels and annotations that a revision of the policies names are kept from now on; if some of
    /// them were not, everything is listed again.
    pub fn serve(&self, plan: &Plan) {
        self.want(|wanted| wanted.of_policies = settings::keep_of_policies(plan));
    }

    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut wanted);
        let all = wanted.configured.clone().merged(&wanted.of_policies);
        self.0.keep.send_if_modified(|keep| {
            let needs_more = !keep.covers(&all);
            if needs_more {
                *keep = Arc::new(all);
            }
            needs_more
        });
    }

    /// Who sends from an address. Takes well below a microsecond.
    pub fn identify(&self, address: Option<IpAddr>) -> Sender {
        let (sender, outcome) = self.tell(address);
        self.0.metrics.count(LookupFor::Identity, outcome);
        sender
    }

    fn tell(&self, address: Option<IpAddr>) -> (Sender, LookupOutcome) {
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return (Sender::Unknown, LookupOutcome::NoAddress);
        };
        if !self.is_listed() {
            let refuse = self.with_settings(|settings| settings.refuse_before_first_list);
            let sender = if refuse.unwrap_or(true) { Sender::ComeBack } else { Sender::Unknown };
            return (sender, LookupOutcome::NotListed);
        }
        let (found, is_host) = {
            let store = self.0.store.read().unwrap_or_else(PoisonError::into_inner);
            (store.at(address).map(|pod| found(&store, pod)), store.is_host(address))
        };
        match found {
            Some(found) if !found.pod.has_ended() => (Sender::Pod(found), LookupOutcome::Found),
            None if is_host => (Sender::Unknown, LookupOutcome::HostNetwork),
            other => {
                let outcome = if other.is_some() { LookupOutcome::Ended } else { LookupOutcome::Unknown };
                match self.is_newcomer(address) {
                    true => (Sender::ComeBack, LookupOutcome::Newcomer),
                    false => (Sender::Unknown, outcome),
                }
            }
        }
    }

    /// Whether an address that no running pod has was met a moment ago for the first time.
    fn is_newcomer(&self, address: IpAddr) -> bool {
        let grace = self.with_settings(|settings| settings.newcomer_grace).unwrap_or_default();
        if grace.is_zero() {
            return false;
        }
        let now = Instant::now();
        let first = self.0.newcomers.get_with(address, || now);
        now.saturating_duration_since(first) < grace
    }

    /// The pod at an address, for attributes: one that ended a moment ago too.
    pub fn at(&self, address: IpAddr) -> Option<Found> {
        let store = self.0.store.read().unwrap_or_else(PoisonError::into_inner);
        store.at(address.to_canonical()).map(|pod| found(&store, pod))
    }

    /// The pod at the other end of a connection, for attributes; counts what came of it.
    pub fn connected(&self, address: Option<IpAddr>) -> Option<Found> {
        let (found, outcome) = self.look(address);
        self.0.metrics.count(LookupFor::Attributes, outcome);
        found
    }

    fn look(&self, address: Option<IpAddr>) -> (Option<Found>, LookupOutcome) {
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return (None, LookupOutcome::NoAddress);
        };
        let store = self.0.store.read().unwrap_or_else(PoisonError::into_inner);
        match store.at(address) {
            Some(pod) => (Some(found(&store, pod)), LookupOutcome::Found),
            None if store.is_host(address) => (None, LookupOutcome::HostNetwork),
            None if !self.is_listed() => (None, LookupOutcome::NotListed),
            None => (None, LookupOutcome::Unknown),
        }
    }

    /// The pod with a uid, for attributes.
    pub fn with_uid(&self, uid: &str) -> Option<Found> {
        let store = self.0.store.read().unwrap_or_else(PoisonError::into_inner);
        store.with_uid(uid).map(|pod| found(&store, pod))
    }

    /// Whether everything that is watched was listed once.
    pub fn is_listed(&self) -> bool {
        let listed = *self.0.listed.borrow();
        listed.pods && (listed.namespaces || !self.0.keep.borrow().wants_namespaces())
    }

    fn with_settings<T>(&self, read: impl FnOnce(&Settings) -> T) -> Option<T> {
        self.0.settings.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(read)
    }
}

fn found(store: &Store, pod: &Arc<Pod>) -> Found {
    Found { pod: pod.clone(), namespace: store.namespace(&pod.namespace).cloned() }
}
