//! From a queue to a destination: every exporter is a queue, consumers, and something that sends.
//!
//! ```text
//!  queue ──lease──▶ consumer ──attempt──▶ destination      consumers: tasks, dealt to the workers;
//!                      ▲  │                    │            destinations: one per worker, so that a
//!                      └──┴── wait, again ◀────┘            connection and its users share a thread
//! ```
//!
//! Each worker opens its own connections; requests of one worker share them. Invariants: a leased batch
//! ends in exactly one place; a slow destination holds up nobody but its own queue; after
//! [`Exporter::drain`] nothing of the exporter runs and nothing waits.

mod answer;
mod body;
mod connect;
mod consumer;
mod debug;
mod destination;
mod file;
mod nop;
mod otlp_grpc;
mod otlp_http;
mod pool;
mod retry;
mod seldom;
mod share;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::batch::SendFailure;
use crate::config::exporter::{self as config, BadEndpoint, Batching, RetryOnFailure, SendingQueue};
use crate::internal_telemetry::metrics::ExporterMetrics;
use crate::outcome::DroppedReason;
use crate::queue::{Bounds, Merging, Queue, Wanted};
use crate::tasks::{Scope, Workers};
use crate::tls::{ClientTls, TlsError};

use consumer::Consumer;
use destination::Destination;

/// Merged without waiting: at 600 B a span, requests of about 1,700 spans; larger ones cost more per span.
const OPPORTUNISTIC_BYTES: u64 = 1024 * 1024;
/// What batches are merged to at most where nothing else is said: larger requests are refused for good by
/// receivers of OTLP/gRPC with default limits.
const MERGED_BYTES: u64 = 4 * 1024 * 1024;
/// Without a queue every sender waits for its own request, as many as these at a time.
const CONSUMERS_WITHOUT_QUEUE: usize = 64;
/// What consumers and connections get to stop once they are told.
const GRACE: Duration = Duration::from_secs(1);

/// One exporter; clones are the same exporter.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Prepared>);

#[derive(Debug)]
struct Prepared {
    id: Arc<str>,
    kind: Kind,
    plan: Plan,
    queue: Queue,
    metrics: ExporterMetrics,
    running: Mutex<Option<Running>>,
}

/// What sends, not yet connected.
#[derive(Debug)]
enum Kind {
    OtlpGrpc(Box<otlp_grpc::Settings>),
    OtlpHttp(Box<otlp_http::Settings>),
    Debug(config::Debug),
    Nop,
    File(config::File),
}

/// How consumers work.
#[derive(Debug, Clone)]
struct Plan {
    consumers: usize,
    timeout: Option<Duration>,
    max_request_bytes: u64,
    retry: RetryOnFailure,
    awaits_results: bool,
    blocks_on_overflow: bool,
}

#[derive(Debug)]
struct Running {
    consumers: Scope,
    connections: Scope,
    tls: Option<ClientTls>,
    /// Resolves when what sends has put down everything, for those that write behind.
    finished: Option<oneshot::Receiver<()>>,
}

/// Why an exporter cannot be made from its configuration; [`config::Exporter::check`] finds all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrepareError {
    /// Not a destination.
    #[error("{key}: {bad}")]
    Endpoint {
        /// The key.
        key: &'static str,
        /// What is wrong.
        bad: BadEndpoint,
    },
    /// Not a header or authority.
    #[error("`{0}` cannot be set as a header")]
    Header(String),
}

/// Why an exporter cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates or keys do not load.
    #[error("exporter `{exporter}`: tls: {error}")]
    Tls {
        /// The id of the exporter.
        exporter: String,
        /// What is wrong.
        error: TlsError,
    },
    /// The file cannot be opened.
    #[error("exporter `{exporter}`: path: {error}")]
    File {
        /// The id of the exporter.
        exporter: String,
        /// What is wrong.
        error: std::io::Error,
    },
}

impl Exporter {
    /// Does everything that can fail without network or disk.
    ///
    /// # Errors
    /// [`PrepareError`]: the configuration was not checked, or is refused.
    pub fn prepare(
        id: &str,
        config: &config::Exporter,
        metrics: ExporterMetrics,
    ) -> Result<Self, PrepareError> {
        let kind = match config {
            config::Exporter::OtlpGrpc(config) => Kind::OtlpGrpc(Box::new(otlp_grpc::Settings::new(config)?)),
            config::Exporter::OtlpHttp(config) => Kind::OtlpHttp(Box::new(otlp_http::Settings::new(config)?)),
            config::Exporter::Debug(config) => Kind::Debug(config.clone()),
            config::Exporter::Nop(_) => Kind::Nop,
            config::Exporter::File(config) => Kind::File(config.clone()),
        };
        let (plan, bounds, wanted) = plan(config);
        let queue = Queue::new(bounds, wanted, &metrics);
        queue.set_slots(plan.consumers);
        let running = Mutex::new(None);
        Ok(Self(Arc::new(Prepared { id: id.into(), kind, plan, queue, metrics, running })))
    }

    /// The component id, as in the configuration.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where batches for this exporter go.
    pub fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// Whether batches must carry a receipt: without a queue and with `wait_for_result` senders are
    /// answered with the destination's answer.
    pub fn awaits_results(&self) -> bool {
        self.0.plan.awaits_results
    }

    /// Whether senders wait for room in the queue until their deadline.
    pub fn blocks_on_overflow(&self) -> bool {
        self.0.plan.blocks_on_overflow
    }

    /// Its certificates and authorities, once it is started and if it speaks TLS.
    pub fn tls(&self) -> Option<ClientTls> {
        self.running().as_ref().and_then(|running| running.tls.clone())
    }

    /// Loads certificates, opens files and starts the consumers; connections are opened when there is
    /// something to send. To be called once.
    ///
    /// # Errors
    /// [`StartError`]: the program cannot start.
    pub fn start(&self, scope: &Scope, workers: &Workers) -> Result<(), StartError> {
        let scope = scope.child(&self.0.id);
        let mut running = Running {
            consumers: scope.child("consumers"),
            connections: scope.child("connections"),
            tls: None,
            finished: None,
        };
        // Tasks that belong to no worker's connections run on the first.
        let _runtime = workers.all().first().map(|worker| worker.handle().enter());
        let exporter = || self.0.id.to_string();
        let on = |worker: &crate::tasks::Worker| pool::Place::new(&running.connections, worker.handle());
        match &self.0.kind {
            Kind::OtlpGrpc(settings) => {
                let tls = settings.load_tls(&running.connections);
                let tls = tls.map_err(|error| StartError::Tls { exporter: exporter(), error })?;
                self.consume(&running, workers, |worker| settings.connect(tls.as_ref(), &on(worker)));
                running.tls = tls;
            }
            Kind::OtlpHttp(settings) => {
                let tls = settings.load_tls(&running.connections);
                let tls = tls.map_err(|error| StartError::Tls { exporter: exporter(), error })?;
                self.consume(&running, workers, |worker| settings.connect(tls.as_ref(), &on(worker)));
                running.tls = tls;
            }
            Kind::Debug(config) => {
                let log = Arc::new(debug::Log::new(&self.0.id, config));
                self.consume(&running, workers, |_| log.clone());
            }
            Kind::Nop => self.consume(&running, workers, |_| Arc::new(nop::Nowhere)),
            Kind::File(config) => {
                let opened = file::Writer::start(config, self.0.plan.consumers);
                let (writer, finished) =
                    opened.map_err(|error| StartError::File { exporter: exporter(), error })?;
                let writer = Arc::new(writer);
                self.consume(&running, workers, |_| writer.clone());
                running.finished = Some(finished);
            }
        }
        *self.running() = Some(running);
        Ok(())
    }

    fn consume<D: Destination>(
        &self,
        running: &Running,
        workers: &Workers,
        connect: impl Fn(&crate::tasks::Worker) -> Arc<D>,
    ) {
        let shared =
            Arc::new(consumer::Shared::new(&self.0.id, &self.0.queue, &self.0.plan, &self.0.metrics));
        let all = workers.all();
        let used = &all[..all.len().min(self.0.plan.consumers)];
        let destinations: Vec<Arc<D>> = used.iter().map(connect).collect();
        for i in 0..self.0.plan.consumers {
            let (worker, destination) = (&used[i % used.len()], &destinations[i % used.len()]);
            let consumer = Consumer::new(shared.clone(), destination.clone());
            let token = running.consumers.token().clone();
            running.consumers.spawn_on(worker.handle(), "consumer", async move {
                token.run_until_cancelled(consumer.run()).await;
            });
        }
    }

    /// Sends what waits until `deadline`, stops everything, and drops what is left; returns how many items
    /// that was. What is committed afterwards is dropped at once.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn drain(&self, deadline: Instant) -> u64 {
        self.0.queue.close();
        let scopes = self.running().as_ref().map(|r| (r.consumers.clone(), r.connections.clone()));
        if let Some((consumers, connections)) = scopes {
            // Whether all ended in time makes no difference to what follows.
            consumers.finished(deadline).await;
            consumers.close(Instant::now() + GRACE).await;
            let finished = self.running().as_mut().and_then(|running| running.finished.take());
            if let Some(finished) = finished {
                // Also an error means that the writer is gone.
                let _ended = tokio::time::timeout(GRACE, finished).await;
            }
            connections.close(Instant::now() + GRACE).await;
        }
        self.drop_rest()
    }

    fn drop_rest(&self) -> u64 {
        let mut items = 0;
        for batch in self.0.queue.take_all() {
            items += batch.items();
            self.0.metrics.send_failed[batch.signal()].add(batch.items());
            match batch.is_awaited() {
                true => batch.refused_by_destination(SendFailure {
                    code: answer::UNAVAILABLE,
                    message: "the collector is shutting down".into(),
                    retry_after: None,
                }),
                false => batch.dropped(DroppedReason::Shutdown),
            }
        }
        if items > 0 {
            tracing::warn!(name: "exporter.drain_incomplete", exporter = self.id(), items,
                "drain deadline passed; what waited in memory is lost");
        }
        items
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How consumers work, what the queue holds, and what is leased at a time.
fn plan(config: &config::Exporter) -> (Plan, Bounds, Wanted) {
    let defaults = SendingQueue::default();
    let default_retry = RetryOnFailure::default();
    let no_retry = RetryOnFailure { enabled: false, ..RetryOnFailure::default() };
    let no_limit = config::OtlpGrpc::default().max_request_size;
    let (queue, retry, timeout, max_request_size) = match config {
        config::Exporter::OtlpGrpc(c) => {
            (&c.sending_queue, &c.retry_on_failure, c.timeout, c.max_request_size)
        }
        config::Exporter::OtlpHttp(c) => {
            (&c.sending_queue, &c.retry_on_failure, c.timeout, c.max_request_size)
        }
        config::Exporter::Debug(_) | config::Exporter::Nop(_) => {
            (&defaults, &no_retry, Duration::ZERO, no_limit)
        }
        config::Exporter::File(_) => (&defaults, &default_retry, Duration::ZERO, no_limit),
    };
    let most = match config {
        config::Exporter::OtlpHttp(c) if c.max_conns_per_host > 0 => c.max_conns_per_host,
        _ => usize::MAX,
    };
    let consumers = if queue.enabled { queue.num_consumers } else { CONSUMERS_WITHOUT_QUEUE };
    let plan = Plan {
        consumers: consumers.clamp(1, most),
        timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
        max_request_bytes: max_request_size.0,
        retry: retry.clone(),
        awaits_results: !queue.enabled || queue.wait_for_result,
        blocks_on_overflow: queue.enabled && queue.block_on_overflow,
    };
    let capacity = if queue.enabled { queue.queue_size } else { u64::MAX };
    let bounds = Bounds { sizer: queue.sizer, capacity, max_bytes: queue.max_bytes.0 };
    let merging = if config.tenant_headers().is_empty() { Merging::Signal } else { Merging::Tenant };
    (plan, bounds, wanted(queue, max_request_size.0, merging))
}

fn wanted(queue: &SendingQueue, max_bytes: u64, merging: Merging) -> Wanted {
    match &queue.batch {
        // Whose request failed could not be told otherwise.
        _ if !queue.enabled => Wanted { merging: Merging::Nothing, ..Wanted::up_to(max_bytes) },
        None => Wanted { merging, ..Wanted::up_to(OPPORTUNISTIC_BYTES.min(max_bytes)) },
        Some(batch) => Wanted {
            sizer: batch.sizer,
            min: batch.min_size,
            max: if batch.max_size == 0 { u64::MAX } else { batch.max_size },
            max_bytes: merged_bytes(batch).min(max_bytes),
            flush_timeout: batch.flush_timeout,
            merging,
        },
    }
}

/// How large merged requests may become: as large as is asked for in bytes, else what receivers take by
/// default.
fn merged_bytes(batch: &Batching) -> u64 {
    match batch.sizer {
        config::Sizer::Bytes => MERGED_BYTES.max(batch.min_size).max(batch.max_size),
        config::Sizer::Items | config::Sizer::Requests => MERGED_BYTES,
    }
}
