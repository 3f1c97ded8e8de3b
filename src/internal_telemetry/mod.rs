//! What this program says of itself: metrics, logs, traces.
//!
//! Parts of the program hold plain counters ([`metrics`]) that [`Telemetry`] hands out by component id:
//! the same id gives the same counters, so they survive a reload of the configuration. A reading of all
//! of them ([`Families`]) is made only when somebody asks, and Prometheus text, OTLP push and the admin
//! API are made from that one reading.

mod authentication;
mod catalog;
mod families;
pub mod logging;
pub mod metrics;
mod models;
mod own_resource;
mod pods;
mod policies;
pub mod push;
mod reading;
mod sampling;
mod stalls;
mod storage;
pub mod text;
pub mod traces;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use tokio::time::Instant;

pub use authentication::{AuthenticationMetrics, AuthenticationOutcome};
pub use catalog::{Definition, Kind, metrics_reference, metrics_table};
pub use families::{Families, Family, Point, Value};
pub use logging::LogFormat;
pub use metrics::WatchMetrics;
pub use models::{ModelMetrics, TenantModels};
pub use own_resource::OwnResource;
pub use pods::{ListMetrics, LookupFor, LookupOutcome, PodMetrics, Watched};
pub use policies::PoliciesMetrics;
pub use sampling::{
    BudgetThreshold, Decision, RandomnessMetrics, RuleMetrics, SamplingMetrics, TenantSampling,
};
pub use stalls::{Progress, WindowStalls};
pub use storage::{StorageUsage, StorageWatch};
pub use traces::Traces;
pub use usage::Usage;

use crate::cgroup::Capacity;
use crate::otlp::PerSignal;
use crate::outcome::Ledger;
use crate::tasks::{Scope, TaskInfo};
use metrics::{
    Cancellations, Counter, ExporterMetrics, FailoverMetrics, Gauge, MemoryLimiterMetrics, ProcessorMetrics,
    ReceiverMetrics, SamplerMetrics,
};

/// Everything that is measured; clones are the same.
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    started_at: SystemTime,
    resource: OwnResource,
    ledger: Arc<Ledger>,
    receivers: ById<(String, &'static str), ReceiverMetrics>,
    exporters: ById<String, ExporterMetrics>,
    failovers: ById<String, FailoverMetrics>,
    processors: ById<String, ProcessorMetrics>,
    memory_limiters: ById<String, MemoryLimiterMetrics>,
    samplers: ById<String, SamplerMetrics>,
    sampling: Arc<SamplingMetrics>,
    models: Arc<ModelMetrics>,
    policies: Arc<PoliciesMetrics>,
    authentication: Arc<AuthenticationMetrics>,
    pods: Arc<PodMetrics>,
    watches: ById<&'static str, WatchMetrics>,
    requests_normalised: PerSignal<Counter>,
    cancellations: Cancellations,
    tls: Mutex<BTreeMap<String, Tls>>,
    pushes: Counter,
    pushes_failed: Counter,
    log_lines_suppressed: OnceLock<Counter>,
    workers: Gauge,
    ready: Gauge,
    tasks: RwLock<Option<Scope>>,
    capacity: OnceLock<Capacity>,
    requests_held: OnceLock<Arc<AtomicU64>>,
    pools: Mutex<Vec<(String, u64)>>,
}

impl Telemetry {
    /// Counters at zero, for a program that describes itself as `resource`.
    pub fn new(resource: OwnResource) -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            started_at: SystemTime::now(),
            resource,
            ledger: Arc::default(),
            receivers: ById::default(),
            exporters: ById::default(),
            failovers: ById::default(),
            processors: ById::default(),
            memory_limiters: ById::default(),
            samplers: ById::default(),
            sampling: Arc::default(),
            models: Arc::default(),
            policies: Arc::default(),
            authentication: Arc::default(),
            pods: Arc::default(),
            watches: ById::default(),
            requests_normalised: PerSignal::default(),
            cancellations: Cancellations::default(),
            tls: Mutex::default(),
            pushes: Counter::default(),
            pushes_failed: Counter::default(),
            log_lines_suppressed: OnceLock::new(),
            workers: Gauge::default(),
            ready: Gauge::default(),
            tasks: RwLock::default(),
            capacity: OnceLock::new(),
            requests_held: OnceLock::new(),
            pools: Mutex::default(),
        }))
    }

    /// Counters at zero and the automatic resource attributes.
    pub fn detached() -> Self {
        Self::new(OwnResource::automatic())
    }

    /// The counters of a receiver's transport: `grpc` or `http`.
    pub fn receiver(&self, id: &str, transport: &'static str) -> ReceiverMetrics {
        self.0.receivers.get((id.to_owned(), transport))
    }

    /// The counters of an exporter.
    pub fn exporter(&self, id: &str) -> ExporterMetrics {
        self.0.exporters.get(id.to_owned())
    }

    /// Which level a failover uses.
    pub fn failover(&self, id: &str) -> FailoverMetrics {
        self.0.failovers.get(id.to_owned())
    }

    /// The counters of a processor.
    pub fn processor(&self, id: &str) -> ProcessorMetrics {
        self.0.processors.get(id.to_owned())
    }

    /// The counters of a memory limiter, beside those every processor has.
    pub fn memory_limiter(&self, id: &str) -> MemoryLimiterMetrics {
        self.0.memory_limiters.get(id.to_owned())
    }

    /// The counters of one `probabilistic_sampler`.
    pub fn sampler(&self, id: &str) -> SamplerMetrics {
        self.0.samplers.get(id.to_owned())
    }

    /// The books of all tenants.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.0.ledger
    }

    /// What sampling decided.
    pub fn sampling(&self) -> &Arc<SamplingMetrics> {
        &self.0.sampling
    }

    /// Items by model and version.
    pub fn models(&self) -> &Arc<ModelMetrics> {
        &self.0.models
    }

    /// What became of the policies file.
    pub fn policies(&self) -> &Arc<PoliciesMetrics> {
        &self.0.policies
    }

    /// Who proved what.
    pub fn authentication(&self) -> &Arc<AuthenticationMetrics> {
        &self.0.authentication
    }

    /// What is known of pods.
    pub fn pods(&self) -> &Arc<PodMetrics> {
        &self.0.pods
    }

    /// How the watch of a resource of the API server goes: `configmaps`, `pods`.
    pub fn kubernetes_watch(&self, resource: &'static str) -> WatchMetrics {
        self.0.watches.get(resource)
    }

    /// Requests that were decoded and encoded once because of their shape.
    pub fn requests_normalised(&self) -> &PerSignal<Counter> {
        &self.0.requests_normalised
    }

    /// Requests whose work was stopped.
    pub fn cancellations(&self) -> &Cancellations {
        &self.0.cancellations
    }

    /// Shows the certificates of a component. A second call for the same component, after a reload of the
    /// configuration, goes on counting from where the first had come.
    pub fn watch_tls(&self, component: &str, read: impl Fn() -> TlsReading + Send + Sync + 'static) {
        let mut tls = self.0.tls.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tls.get(component).map_or(0, |tls| tls.read().failed_reloads);
        tls.insert(component.to_owned(), Tls { before, read: Box::new(read) });
    }

    /// How many threads carry requests.
    pub fn workers(&self) -> &Gauge {
        &self.0.workers
    }

    /// 1 while the collector takes data.
    pub fn ready(&self) -> &Gauge {
        &self.0.ready
    }

    /// Counts the tasks of the tree that `root` belongs to.
    pub fn watch_tasks(&self, root: &Scope) {
        *self.0.tasks.write().unwrap_or_else(PoisonError::into_inner) = Some(root.clone());
    }

    /// The tasks that are alive, at most `most`.
    pub fn tasks(&self, most: usize) -> Vec<TaskInfo> {
        let root = self.0.tasks.read().unwrap_or_else(PoisonError::into_inner);
        root.as_ref().map_or_else(Vec::new, |root| root.tasks(most))
    }

    /// Shows what this process may use; the first call counts.
    pub fn watch_capacity(&self, capacity: &Capacity) {
        self.0.capacity.get_or_init(|| capacity.clone());
    }

    /// Shows the bytes that requests under way hold; the first call counts.
    pub fn watch_requests(&self, held: Arc<AtomicU64>) {
        self.0.requests_held.get_or_init(|| held);
    }

    /// Replaces the bounds of what may take memory, by name, in bytes.
    pub fn set_pools(&self, pools: Vec<(String, u64)>) {
        *self.0.pools.lock().unwrap_or_else(PoisonError::into_inner) = pools;
    }

    /// Shows how many lines the log left out; the first call counts.
    pub fn watch_log(&self, suppressed: Counter) {
        self.0.log_lines_suppressed.get_or_init(|| suppressed);
    }

    /// What this program says it is.
    pub fn resource(&self) -> &OwnResource {
        &self.0.resource
    }

    /// Reads every metric.
    pub fn read(&self) -> Families {
        reading::read(&self.0)
    }
}

/// What there is to say of a component's certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsReading {
    /// How often they changed and could not be used.
    pub failed_reloads: u64,
    /// When they end, in seconds since 1970; none if there are none.
    pub not_after: Option<i64>,
}

/// A component's certificates.
struct Tls {
    before: u64,
    read: Box<dyn Fn() -> TlsReading + Send + Sync>,
}

impl Tls {
    fn read(&self) -> TlsReading {
        let reading = (self.read)();
        TlsReading { failed_reloads: self.before + reading.failed_reloads, ..reading }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.read())
    }
}

/// Values that are made when first asked for and then stay.
#[derive(Debug)]
struct ById<K, V>(Mutex<BTreeMap<K, V>>);

impl<K, V> Default for ById<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Clone, V: Default + Clone> ById<K, V> {
    fn get(&self, id: K) -> V {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    fn all(&self) -> BTreeMap<K, V> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
