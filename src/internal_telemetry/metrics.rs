//! Counters and gauges as the parts of the program hold them: plain atomics, read by the encoders.
//!
//! Nothing on the road of a request touches a metrics library. Clones share their value.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::WindowStalls;
use super::storage::StorageWatch;
use crate::identity::TenantId;
use crate::otlp::{PerSignal, Signal};
use crate::outcome::CancelReason;

/// A number that only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicI64>);

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of one receiver and transport (`grpc` or `http`).
#[derive(Debug, Clone, Default)]
pub struct ReceiverMetrics {
    /// `otelcol_receiver_accepted_*`: items handed to the pipeline without error.
    pub accepted: PerSignal<Counter>,
    /// `otelcol_receiver_refused_*`: items of well-formed requests that were not accepted.
    pub refused: PerSignal<Counter>,
    /// `tollgate_receiver_requests_total{outcome="accepted"}`.
    pub requests_accepted: Counter,
    /// `tollgate_receiver_requests_total{outcome="refused"}`: refused, whatever the reason.
    pub requests_refused: Counter,
    /// `tollgate_receiver_requests_total{outcome="malformed"}`: not a valid OTLP request.
    pub requests_malformed: Counter,
    /// `tollgate_receiver_request_bytes_total`: request bodies after decompression.
    pub request_bytes: Counter,
    /// `tollgate_window_stalls_total{peer="receiver"}`: answers that clients let wait.
    pub stalls: WindowStalls,
    /// `tollgate_receiver_in_flight_requests`: read or worked on now.
    pub in_flight: Gauge,
    /// `tollgate_receiver_connections`: open now.
    pub connections: Gauge,
    /// `tollgate_receiver_connections_refused_total`: beyond a cap, or a handshake that failed.
    pub connections_refused: Counter,
}

/// `tollgate_cancellations_total`: requests whose work was stopped, each counted once; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancellations(Arc<[AtomicU64; CancelReason::ALL.len()]>);

impl Cancellations {
    /// Counts one request.
    pub fn count(&self, reason: CancelReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn get(&self, reason: CancelReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// Of one exporter.
#[derive(Debug, Clone, Default)]
pub struct ExporterMetrics {
    /// `tollgate_exporter_in_flight_limit`: how many requests at a time.
    pub in_flight_limit: Gauge,
    /// `otelcol_exporter_sent_*`: items the destination took.
    pub sent: PerSignal<Counter>,
    /// `otelcol_exporter_send_failed_*`: items given up.
    pub send_failed: PerSignal<Counter>,
    /// `otelcol_exporter_enqueue_failed_*`: items the queue had no room for.
    pub enqueue_failed: PerSignal<Counter>,
    /// `tollgate_window_stalls_total{peer="exporter"}`: requests that the destination let wait.
    pub stalls: WindowStalls,
    /// `otelcol_exporter_in_flight_requests`.
    pub in_flight: Gauge,
    /// `tollgate_exporter_retries_total`: attempts after the first.
    pub retries: Counter,
    /// `tollgate_exporter_sent_bytes_total`: request bodies before compression.
    pub sent_bytes: Counter,
    /// `otelcol_exporter_queue_size`, in units of the sizer.
    pub queue_size: Gauge,
    /// `otelcol_exporter_queue_capacity`, in units of the sizer.
    pub queue_capacity: Gauge,
    /// `tollgate_exporter_queue_bytes`.
    pub queue_bytes: Gauge,
    /// `tollgate_exporter_queue_capacity_bytes`.
    pub queue_capacity_bytes: Gauge,
    /// `tollgate_tenant_queue_bytes`.
    pub tenants: TenantBytes,
    /// `tollgate_exporter_queue_storage` and `tollgate_storage_*`.
    pub storage: StorageWatch,
    /// `tollgate_exporter_queue_oldest_age_seconds`.
    pub oldest: OldestWait,
}

/// How long the oldest batch waits, asked for when somebody reads; of several queues the longest.
#[derive(Clone, Default)]
pub struct OldestWait(Arc<Mutex<Vec<Box<WaitOf>>>>);

/// How long the oldest batch of one queue waits; `None` once the queue is gone.
type WaitOf = dyn Fn() -> Option<Duration> + Send + Sync;

impl OldestWait {
    /// Asks `queue` from now on, until it answers `None`.
    pub fn watch(&self, queue: impl Fn() -> Option<Duration> + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(queue));
    }

    /// The wait now; zero if nothing waits.
    pub fn read(&self) -> Duration {
        let mut longest = Duration::ZERO;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|queue| {
            let wait = queue();
            longest = longest.max(wait.unwrap_or_default());
            wait.is_some()
        });
        longest
    }
}

impl std::fmt::Debug for OldestWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OldestWait")
    }
}

/// Bytes by tenant, asked for when somebody reads; several queues of one exporter are added up.
#[derive(Clone, Default)]
pub struct TenantBytes(Arc<Mutex<Vec<Box<BytesOf>>>>);

/// What one queue has of each tenant, by label; `None` once the queue is gone.
type BytesOf = dyn Fn() -> Option<Vec<(TenantId, u64)>> + Send + Sync;

impl TenantBytes {
    /// Asks `queue` from now on, until it answers `None`.
    pub fn watch(&self, queue: impl Fn() -> Option<Vec<(TenantId, u64)>> + Send + Sync + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(queue));
    }

    /// The bytes of each tenant now.
    pub fn read(&self) -> BTreeMap<TenantId, u64> {
        let mut sums = BTreeMap::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|queue| match queue() {
            Some(tenants) => {
                tenants.into_iter().for_each(|(tenant, bytes)| *sums.entry(tenant).or_default() += bytes);
                true
            }
            None => false,
        });
        sums
    }
}

impl std::fmt::Debug for TenantBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantBytes")
    }
}

/// Of one connector `failover`.
#[derive(Debug, Clone, Default)]
pub struct FailoverMetrics {
    /// `tollgate_failover_level`: the level in use, from 1; 0 while none works.
    pub level: Gauge,
    /// `tollgate_failover_switches_total`.
    pub switches: Counter,
    sent: Arc<RwLock<BTreeMap<String, Counter>>>,
}

impl FailoverMetrics {
    /// `tollgate_failover_sent_items_total` of one exporter.
    pub fn sent_by(&self, exporter: &str) -> Counter {
        let mut sent = self.sent.write().unwrap_or_else(PoisonError::into_inner);
        sent.entry(exporter.to_owned()).or_default().clone()
    }

    pub(super) fn sent(&self) -> BTreeMap<String, Counter> {
        self.sent.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Of one processor.
#[derive(Debug, Clone, Default)]
pub struct ProcessorMetrics {
    /// `otelcol_processor_incoming_items`.
    pub incoming: PerSignal<Counter>,
    /// `otelcol_processor_outgoing_items`.
    pub outgoing: PerSignal<Counter>,
}

/// How the watch of a resource of the API server goes.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    /// 1 while the API server tells what changes.
    pub up: Gauge,
    /// Lists and watches that failed or broke off.
    pub failures: Counter,
}

/// Of one memory limiter.
#[derive(Debug, Clone, Default)]
pub struct MemoryLimiterMetrics {
    /// `otelcol_processor_memory_limiter_accepted_*`: items that passed.
    pub accepted: PerSignal<Counter>,
    /// `otelcol_processor_memory_limiter_refused_*`: items that were refused.
    pub refused: PerSignal<Counter>,
}

/// Of one `probabilistic_sampler`: `otelcol_processor_probabilistic_sampler_count_*_sampled`.
#[derive(Debug, Clone, Default)]
pub struct SamplerMetrics(Arc<RwLock<BTreeMap<SamplerKey, Counter>>>);

/// Signal, what the decision rests on, whether the item was kept.
type SamplerKey = (Signal, String, bool);

impl SamplerMetrics {
    /// Counts items decided about on the ground of `policy`, one of the five the Collector has or the
    /// configured attribute's name.
    pub fn count(&self, signal: Signal, policy: &str, (sampled, items): (bool, u64)) {
        let key = (signal, policy.to_owned(), sampled);
        if let Some(counter) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return counter.add(items);
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().add(items);
    }

    pub(super) fn all(&self) -> BTreeMap<SamplerKey, Counter> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
