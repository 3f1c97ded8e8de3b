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
//! [`Exporter::drain`] nothing of the exporter runs and nothing waits, except on disk.

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
mod stores;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::batch::SendFailure;
use crate::config::exporter::{self as config, BadEndpoint, Batching, RetryOnFailure, SendingQueue};
use crate::flow::Board;
use crate::internal_telemetry::metrics::ExporterMetrics;
use crate::outcome::DroppedReason;
use crate::queue::{Bounds, Queue, Wanted};
use crate::tasks::{Scope, Workers};
use crate::tls::{ClientTls, TlsError};

use consumer::{Consumer, Ending};
use destination::Destination;
use stores::Opening;
pub use stores::{Storage, StoreOpenError, Stores};

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
    bounds: Bounds,
    wanted: Wanted,
    storage: Option<Storage>,
    /// There from the beginning in memory, and once it is open on disk.
    queue: OnceLock<Queue>,
    board: OnceLock<Arc<Board>>,
    metrics: ExporterMetrics,
    running: Mutex<Option<Running>>,
    /// Those whose queue on disk it uses.
    stores: Mutex<Option<Stores>>,
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
    /// Past what a batch is given up; 0: never.
    gives_up_after: Duration,
    awaits_results: bool,
    blocks_on_overflow: bool,
}

#[derive(Debug)]
struct Running {
    consumers: Scope,
    connections: Scope,
    ending: Ending,
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
    /// The queue on disk cannot be used.
    #[error("extensions.{extension}.{error} (the queue of exporter `{exporter}`)")]
    Storage {
        /// The id of the exporter.
        exporter: String,
        /// The id of the storage.
        extension: String,
        /// What is wrong.
        error: StoreOpenError,
    },
}

impl Exporter {
    /// Does everything that can fail without network or disk. With a `storage` its queue is on disk.
    ///
    /// # Errors
    /// [`PrepareError`]: the configuration was not checked, or is refused.
    pub fn prepare(
        id: &str,
        config: &config::Exporter,
        storage: Option<Storage>,
        metrics: ExporterMetrics,
    ) -> Result<Self, PrepareError> {
        let kind = match config {
            config::Exporter::OtlpGrpc(config) => Kind::OtlpGrpc(Box::new(otlp_grpc::Settings::new(config)?)),
            config::Exporter::OtlpHttp(config) => Kind::OtlpHttp(Box::new(otlp_http::Settings::new(config)?)),
            config::Exporter::Debug(config) => Kind::Debug(config.clone()),
            config::Exporter::Nop(_) => Kind::Nop,
            config::Exporter::File(config) => Kind::File(config.clone()),
        };
        let (plan, bounds, wanted) = plan(config, storage.as_ref());
        let (board, running, stores) = (OnceLock::new(), Mutex::default(), Mutex::default());
        let (id, queue) = (id.into(), OnceLock::new());
        let prepared =
            Prepared { id, kind, plan, bounds, wanted, storage, queue, board, metrics, running, stores };
        let exporter = Self(Arc::new(prepared));
        if exporter.0.storage.is_none() {
            exporter.queue().set_slots(exporter.0.plan.consumers);
        }
        Ok(exporter)
    }

    /// Opens its queue on disk, if it has one, or takes it from an earlier configuration. To be called
    /// before it is started.
    ///
    /// # Errors
    /// [`StartError::Storage`]: the program cannot start.
    pub async fn open(&self, stores: &Stores) -> Result<(), StartError> {
        let Some(storage) = &self.0.storage else { return Ok(()) };
        let Prepared { bounds, wanted, metrics, .. } = &*self.0;
        let opening = Opening { storage, bounds: *bounds, wanted: *wanted, metrics };
        let queue = stores.take(opening).await.map_err(|error| StartError::Storage {
            exporter: self.0.id.to_string(),
            extension: storage.extension.to_string(),
            error,
        })?;
        if let Some(board) = self.0.board.get() {
            queue.follow(board);
        }
        *self.stores() = Some(stores.clone());
        // Opened once; a second time changes nothing.
        let _is_set = self.0.queue.set(queue);
        Ok(())
    }

    /// This configuration is in force: a queue that was taken over is what it says.
    pub fn take_over(&self) {
        let Prepared { bounds, wanted, plan, .. } = &*self.0;
        if self.is_durable() {
            self.queue().configure(*bounds, *wanted);
            self.queue().set_slots(plan.consumers);
        }
    }

    /// Reads shares of tenants whenever `board` says that they changed.
    pub fn follow(&self, board: &Arc<Board>) {
        if !self.is_durable() {
            self.queue().follow(board);
        }
        // Followed once; a second time changes nothing.
        let _is_set = self.0.board.set(board.clone());
    }

    /// Whether its queue is on disk.
    pub fn is_durable(&self) -> bool {
        self.0.storage.is_some()
    }

    /// The component id, as in the configuration.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Where batches for this exporter go. One on disk takes none before it is open.
    pub fn queue(&self) -> &Queue {
        self.0.queue.get_or_init(|| {
            let queue = Queue::new(self.0.bounds, self.0.wanted, &self.0.metrics);
            if self.is_durable() {
                queue.close();
            }
            queue
        })
    }

    /// Items it still has to deliver; none once its queue serves another configuration.
    pub fn items(&self) -> u64 {
        let has_left = self.is_durable() && self.stores().is_none();
        if has_left { 0 } else { self.queue().items() }
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
            ending: Ending::default(),
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
        let shared = Arc::new(consumer::Shared::new(&self.0.id, self.queue(), &self.0.plan, &self.0.metrics));
        let all = workers.all();
        let used = &all[..all.len().min(self.0.plan.consumers)];
        let destinations: Vec<Arc<D>> = used.iter().map(connect).collect();
        for i in 0..self.0.plan.consumers {
            let (worker, destination) = (&used[i % used.len()], &destinations[i % used.len()]);
            let consumer = Consumer::new(shared.clone(), destination.clone(), &running.ending);
            let token = running.consumers.token().clone();
            running.consumers.spawn_on(worker.handle(), "consumer", async move {
                token.run_until_cancelled(consumer.run()).await;
            });
        }
    }

    /// Sends what waits until `deadline`, stops everything, and drops what is left; returns how many items
    /// that was. What is committed afterwards is dropped at once. With a queue on disk nothing is dropped:
    /// it is delivered only as long as the destination takes it, and the rest stays for the next start.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn drain(&self, deadline: Instant) -> u64 {
        if self.step_aside(deadline).await {
            return 0;
        }
        self.queue().close();
        if let Some(running) = self.running().as_ref().filter(|_| self.is_durable()) {
            running.ending.no_waits.cancel();
        }
        self.stop(deadline).await;
        let dropped = self.drop_rest();
        let stores = self.stores().take();
        if let Some((stores, storage)) = stores.zip(self.0.storage.as_ref()) {
            self.queue().close_log(deadline.max(Instant::now()) + GRACE).await;
            stores.closed(&storage.folder);
        }
        dropped
    }

    /// Whether its queue serves another configuration as well.
    pub fn is_replaced(&self) -> bool {
        let stores = self.stores();
        let shared = stores.as_ref().zip(self.0.storage.as_ref());
        shared.is_some_and(|(stores, storage)| stores.is_shared(&storage.folder))
    }

    /// Leaves its queue on disk to another configuration that uses it, if there is one: attempts under way
    /// end, until `deadline`; whether it left, now or before.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn step_aside(&self, deadline: Instant) -> bool {
        let Some(storage) = &self.0.storage else { return false };
        let has_left = {
            let mut stores = self.stores();
            let Some(shared) = &*stores else { return true };
            let has_left = shared.leave(&storage.folder);
            if has_left {
                *stores = None;
            }
            has_left
        };
        if has_left {
            if let Some(running) = &*self.running() {
                running.ending.no_leases.cancel();
                running.ending.no_waits.cancel();
            }
            self.stop(deadline).await;
        }
        has_left
    }

    async fn stop(&self, deadline: Instant) {
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
    }

    fn drop_rest(&self) -> u64 {
        let (mut items, mut stored) = (0, 0);
        for (batch, is_kept) in self.queue().take_all() {
            if is_kept {
                stored += batch.items();
                batch.stored();
                continue;
            }
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
        if stored > 0 {
            tracing::info!(name: "queue.stored", exporter = self.id(), items = stored,
                "what is not delivered stays on disk for the next start");
        }
        items
    }

    fn stores(&self) -> std::sync::MutexGuard<'_, Option<Stores>> {
        self.0.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How consumers work, what the queue holds, and what is leased at a time.
fn plan(config: &config::Exporter, storage: Option<&Storage>) -> (Plan, Bounds, Wanted) {
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
        gives_up_after: retry.gives_up_after(storage.is_some()),
        awaits_results: !queue.enabled || queue.wait_for_result,
        blocks_on_overflow: queue.enabled && queue.block_on_overflow,
    };
    (plan, bounds(queue, storage), wanted(queue, max_request_size.0))
}

fn bounds(queue: &SendingQueue, storage: Option<&Storage>) -> Bounds {
    let sizer = queue.sizer;
    let Some(storage) = storage else {
        let capacity = if queue.enabled { queue.capacity(None) } else { u64::MAX };
        return Bounds { sizer, capacity, max_bytes: queue.memory_bytes().0, max_requests: u64::MAX };
    };
    let max_bytes = queue.max_bytes.map_or(u64::MAX, |most| most.0).min(storage.live_bytes());
    let max_requests = storage.keys.max_records;
    let most = match sizer {
        config::Sizer::Requests => max_requests,
        config::Sizer::Bytes => max_bytes,
        config::Sizer::Items => u64::MAX,
    };
    Bounds { sizer, capacity: queue.capacity(Some(most)), max_bytes, max_requests }
}

fn wanted(queue: &SendingQueue, max_bytes: u64) -> Wanted {
    match &queue.batch {
        // Whose request failed could not be told otherwise.
        _ if !queue.enabled => Wanted { sizer: config::Sizer::Requests, max: 1, ..Wanted::up_to(max_bytes) },
        None => Wanted::up_to(OPPORTUNISTIC_BYTES.min(max_bytes)),
        Some(batch) => Wanted {
            sizer: batch.sizer,
            min: batch.min_size,
            max: if batch.max_size == 0 { u64::MAX } else { batch.max_size },
            max_bytes: merged_bytes(batch).min(max_bytes),
            flush_timeout: batch.flush_timeout,
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
