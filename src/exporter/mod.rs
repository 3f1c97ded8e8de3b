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
mod crew;
mod cut;
mod debug;
mod destination;
mod error;
mod failover;
mod file;
mod handover;
mod nop;
mod open;
mod otlp_grpc;
mod otlp_http;
mod pace;
mod plan;
mod pool;
mod retry;
mod seldom;
mod share;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::batch::{Batch, SendFailure};
use crate::config::connector::Failover;
use crate::config::exporter as config;
use crate::flow::Board;
use crate::internal_telemetry::metrics::{ExporterMetrics, FailoverMetrics};
use crate::outcome::{DroppedReason, RefusedReason};
use crate::queue::{Bounds, Queue, Wanted};
use crate::tasks::{Scope, Worker, Workers};
use crate::tls::ClientTls;

use consumer::Ending;
use crew::Crew;
use destination::Destination;
pub use error::{PrepareError, StartError};
use open::{Kind, Opened};
use plan::{Plan, Sending};
pub use stores::{Storage, StoreOpenError, Stores};

/// What consumers and connections get to stop once they are told.
const GRACE: Duration = Duration::from_secs(1);

/// One exporter; clones are the same exporter.
#[derive(Debug, Clone)]
pub struct Exporter(Arc<Prepared>);

#[derive(Debug)]
struct Prepared {
    id: Arc<str>,
    sender: Sender,
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

/// What sends.
#[derive(Debug)]
enum Sender {
    One(Kind),
    /// The levels of a failover: the ids of exporters, and how they send.
    Group {
        levels: Vec<(Arc<str>, Kind, Sending)>,
        retry_interval: Duration,
        metrics: FailoverMetrics,
    },
}

#[derive(Debug)]
struct Running {
    /// Owns the task that deals consumers to workers.
    dealing: Scope,
    consumers: Scope,
    connections: Scope,
    ending: Ending,
    tls: Vec<ClientTls>,
    /// Resolve when what sends has put down everything, for those that write behind.
    finished: Vec<oneshot::Receiver<()>>,
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
        let sender = Sender::One(Kind::new(config)?);
        let plan = plan::of_exporter(config, storage.as_ref());
        Ok(Self::assemble((id, storage), sender, plan, metrics))
    }

    /// As [`Exporter::prepare`], for a connector `failover`: one queue before the exporters of its `levels`,
    /// which are named by their ids and used without their own queues.
    ///
    /// # Errors
    /// As [`Exporter::prepare`].
    pub fn prepare_failover(
        (id, storage): (&str, Option<Storage>),
        config: &Failover,
        levels: &[(&str, &config::Exporter)],
        (metrics, health): (ExporterMetrics, FailoverMetrics),
    ) -> Result<Self, PrepareError> {
        let sendings: Vec<Sending> = levels.iter().map(|(_, config)| Sending::of(config)).collect();
        let mut kinds = Vec::with_capacity(levels.len());
        for ((id, config), sending) in levels.iter().zip(&sendings) {
            kinds.push((Arc::from(*id), Kind::new(config)?, *sending));
        }
        let retry_interval = config.retry_interval;
        let sender = Sender::Group { levels: kinds, retry_interval, metrics: health };
        let plan = plan::of_failover(config, &sendings, storage.as_ref());
        Ok(Self::assemble((id, storage), sender, plan, metrics))
    }

    fn assemble(
        (id, storage): (&str, Option<Storage>),
        sender: Sender,
        (plan, bounds, wanted): (Plan, Bounds, Wanted),
        metrics: ExporterMetrics,
    ) -> Self {
        metrics.in_flight_limit.set(i64::try_from(plan.consumers).unwrap_or(i64::MAX));
        let (board, running, stores) = (OnceLock::new(), Mutex::default(), Mutex::default());
        let (id, queue) = (id.into(), OnceLock::new());
        let prepared =
            Prepared { id, sender, plan, bounds, wanted, storage, queue, board, metrics, running, stores };
        let exporter = Self(Arc::new(prepared));
        if !exporter.is_durable() {
            exporter.queue().set_slots(exporter.0.plan.consumers);
        }
        exporter
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

    /// What of a request goes to its queue: the batches, those above `batch.max_size` in pieces.
    #[must_use]
    pub fn cut(&self, batches: Vec<Batch>) -> Vec<Batch> {
        cut::cut(batches, &self.0.wanted)
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

    /// Its certificates and authorities, once it is started, of each destination that speaks TLS.
    pub fn tls(&self) -> Vec<ClientTls> {
        self.running().as_ref().map_or_else(Vec::new, |running| running.tls.clone())
    }

    /// Loads certificates, opens files and starts the consumers; connections are opened when there is
    /// something to send. To be called once.
    ///
    /// # Errors
    /// [`StartError`]: the program cannot start.
    pub fn start(&self, scope: &Scope, workers: &Workers) -> Result<(), StartError> {
        let scope = scope.child(&self.0.id);
        let mut running = Running {
            dealing: scope.child("dealing"),
            consumers: scope.child("consumers"),
            connections: scope.child("connections"),
            ending: Ending::default(),
            tls: Vec::new(),
            finished: Vec::new(),
        };
        // Tasks that belong to no worker's connections run on the first.
        let first = workers.team().least_loaded();
        let _runtime = first.as_ref().map(|worker| worker.handle().enter());
        let (connections, stalls) = (running.connections.clone(), self.0.metrics.stalls.clone());
        let place = move |worker: &Worker| pool::Place::new(&connections, worker.handle(), &stalls);
        let mut open = |id: &Arc<str>, kind: &Kind| -> Result<Opened, StartError> {
            let mut opened = kind.open(id, &running.connections, self.0.plan.consumers)?;
            running.tls.extend(opened.tls());
            running.finished.extend(opened.finished());
            Ok(opened)
        };
        match &self.0.sender {
            Sender::One(kind) => {
                let one = open(&self.0.id, kind)?;
                self.consume(&running, workers, move |worker| Arc::new(one.connect(&place(worker))));
            }
            Sender::Group { levels, retry_interval, metrics } => {
                let mut opened = Vec::with_capacity(levels.len());
                for (id, kind, sending) in levels {
                    opened.push((open(id, kind)?, sending.timeout));
                }
                let names = levels.iter().map(|(id, _, _)| id.clone()).collect();
                let shared = failover::Shared::new(&self.0.id, names, *retry_interval, metrics);
                let shared = Arc::new(shared);
                self.consume(&running, workers, move |worker| {
                    let level = |(one, timeout): &(Opened, Option<Duration>)| failover::Level {
                        destination: one.connect(&place(worker)),
                        timeout: *timeout,
                    };
                    let levels = opened.iter().map(level).collect();
                    Arc::new(failover::Group { levels, shared: shared.clone() })
                });
            }
        }
        *self.running() = Some(running);
        Ok(())
    }

    fn consume<D: Destination>(
        &self,
        running: &Running,
        workers: &Workers,
        connect: impl Fn(&Worker) -> Arc<D> + Send + 'static,
    ) {
        let shared =
            consumer::Shared::new(&self.0.id, (self.queue(), &running.ending), &self.0.plan, &self.0.metrics);
        let crew = Crew {
            shared: Arc::new(shared),
            consumers: self.0.plan.consumers,
            scope: running.consumers.clone(),
            team: workers.team().clone(),
            connect,
            destinations: BTreeMap::new(),
        };
        crew.start(&running.dealing);
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

    async fn stop(&self, deadline: Instant) {
        let scopes = |r: &Running| (r.dealing.clone(), r.consumers.clone(), r.connections.clone());
        let scopes = self.running().as_ref().map(scopes);
        if let Some((dealing, consumers, connections)) = scopes {
            dealing.close(Instant::now() + GRACE).await;
            // Whether all ended in time makes no difference to what follows.
            consumers.finished(deadline).await;
            consumers.close(Instant::now() + GRACE).await;
            let finished = self.running().as_mut().map(|running| std::mem::take(&mut running.finished));
            for finished in finished.into_iter().flatten() {
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
                true => {
                    let message = "the collector is shutting down".into();
                    let failure = SendFailure { code: answer::UNAVAILABLE, message, retry_after: None };
                    batch.refused_after(failure, RefusedReason::Shutdown);
                }
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

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
