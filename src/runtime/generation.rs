//! One configuration at work: its receivers and exporters, and how the next one takes over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::authentication::Credentials;
use crate::config::ComponentId;
use crate::exporter::{Exporter, StartError, Stores};
use crate::internal_telemetry::traces::request_span;
use crate::internal_telemetry::{Telemetry, TlsReading};
use crate::outcome::CancelReason;
use crate::pipeline::{Accepted, Entrance, Graph, Refusal, Request, Transport};
use crate::receiver::{Arrival, Bound, Budget, Hooks, Metrics, Receiver, Sockets};
use crate::tasks::{Scope, Workers};
use crate::tls::ClientTls;

/// How often a retired generation looks whether its queues are empty.
const LOOK: Duration = Duration::from_millis(100);

/// The receivers and exporters of one configuration.
pub(super) struct Generation {
    receivers: Vec<(ComponentId, Receiver)>,
    exporters: Vec<Exporter>,
    scope: Scope,
}

impl Generation {
    /// Binds every socket, starts the exporters, then serves. Sockets that `sockets` holds are shared.
    pub(super) async fn start(
        graph: Graph,
        scope: &Scope,
        (workers, budget): (&Workers, &Budget),
        (sockets, stores): (&mut Sockets, &Stores),
    ) -> anyhow::Result<Self> {
        let mut bound: Vec<(ComponentId, Bound, Entrance)> = Vec::new();
        for (id, config, entrance) in graph.receivers {
            bound.push((id, Receiver::bind(&config, sockets).await?, entrance));
        }
        let scope = scope.child("pipelines");
        if let Err((id, error)) = graph.verifiers.start(&scope).await {
            scope.close(Instant::now() + super::STOP_GRACE).await;
            anyhow::bail!("extensions.{id}: {error}");
        }
        if let Err(error) = start_exporters(&graph.exporters, (&scope, workers), stores).await {
            for exporter in &graph.exporters {
                exporter.drain(Instant::now()).await;
            }
            // Verifiers have begun to follow their keys.
            scope.close(Instant::now() + super::STOP_GRACE).await;
            return Err(error.into());
        }
        for limiter in graph.limiters {
            let stop = scope.token().clone();
            scope.spawn("memory_limiter", async move { limiter.watch(stop).await });
        }
        let receivers = bound
            .into_iter()
            .map(|(id, bound, entrance)| (id, serve(bound, (entrance, budget), &scope, workers)));
        Ok(Self { receivers: receivers.collect(), exporters: graph.exporters, scope })
    }

    /// Names and addresses of the receivers: `otlp/grpc`, `otlp/http`, `otlp/second/grpc`.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        let of = |(id, receiver): &(ComponentId, Receiver)| {
            let named = |(transport, address): &(Transport, crate::receiver::Address)| {
                (format!("{id}/{}", transport.as_str()), address.to_string())
            };
            receiver.local_addrs().iter().map(named).collect::<Vec<_>>()
        };
        self.receivers.iter().flat_map(of).collect()
    }

    /// Shows how reloading certificates goes, of every listener and every exporter that has any.
    pub(super) fn show_tls(&self, telemetry: &Telemetry) {
        for (id, receiver) in &self.receivers {
            for (transport, tls) in receiver.tls() {
                let tls = tls.clone();
                let component = format!("receiver/{id}/{}", transport.as_str());
                let read =
                    move || TlsReading { failed_reloads: tls.failed_reloads(), not_after: tls.not_after() };
                telemetry.watch_tls(&component, read);
            }
        }
        for exporter in &self.exporters {
            let tls = exporter.tls();
            if !tls.is_empty() {
                let read = move || TlsReading {
                    failed_reloads: tls.iter().map(ClientTls::failed_reloads).sum(),
                    not_after: tls.iter().filter_map(ClientTls::not_after).min(),
                };
                telemetry.watch_tls(&format!("exporter/{}", exporter.id()), read);
            }
        }
    }

    /// Takes no more data, then delivers until `deadline`; the rest is dropped and counted.
    pub(super) async fn drain(&self, deadline: Instant) {
        self.close_receivers(deadline, CancelReason::Drain).await;
        self.close_exporters(deadline).await;
    }

    async fn close_receivers(&self, deadline: Instant, why: CancelReason) {
        for (_, receiver) in &self.receivers {
            receiver.stop_accepting().await;
        }
        // The grace ends for all of them at once.
        for (_, receiver) in &self.receivers {
            receiver.leave(deadline, why).await;
        }
        for (_, receiver) in &self.receivers {
            receiver.close().await;
        }
    }

    async fn close_exporters(&self, deadline: Instant) {
        // All of them at once: one that is slow must not take the others' time.
        let drains = self.exporters.iter().map(|exporter| {
            let exporter = exporter.clone();
            self.scope.spawn("drain", async move {
                exporter.drain(deadline).await;
            })
        });
        for drain in drains.collect::<Vec<_>>() {
            if let Err(error) = drain.await {
                tracing::error!(name: "drain.failed", %error, "an exporter failed while it drained");
            }
        }
        self.scope.close(Instant::now() + super::STOP_GRACE).await;
    }

    fn items(&self) -> u64 {
        self.exporters.iter().map(Exporter::items).sum()
    }

    /// This generation is in force: queues it shares with an earlier one are as its configuration says.
    pub(super) fn take_over(&self) {
        self.exporters.iter().for_each(Exporter::take_over);
    }

    /// Leaves queues on disk that another generation uses to it.
    async fn step_aside(&self, grace: Duration) {
        let replaced = self.exporters.iter().filter(|exporter| exporter.is_replaced()).cloned();
        let leaving = replaced.map(|exporter| {
            self.scope.spawn("step_aside", async move {
                exporter.step_aside(Instant::now() + grace).await;
            })
        });
        for left in leaving.collect::<Vec<_>>() {
            if let Err(error) = left.await {
                tracing::error!(name: "drain.failed", %error, "an exporter failed while it stepped aside");
            }
        }
    }

    /// Steps aside for its successor: requests under way finish within `grace`, what is queued is
    /// delivered in the background, however long that takes.
    pub(super) fn retire(self, scope: &Scope, grace: Duration) -> Retired {
        let retired = Retired {
            generation: Arc::new(self),
            stop: scope.token().child_token(),
            drained: Arc::default(),
        };
        let Retired { generation, stop, drained } = retired.clone();
        scope.spawn("retired", async move {
            generation.step_aside(grace).await;
            generation.close_receivers(Instant::now() + grace, CancelReason::Reload).await;
            let empty = async {
                while generation.items() > 0 {
                    tokio::time::sleep(LOOK).await;
                    // A later configuration may use a queue that this one's successor did not.
                    generation.step_aside(grace).await;
                }
            };
            if stop.run_until_cancelled(empty).await.is_some() {
                generation.close_exporters(Instant::now() + grace).await;
                drained.store(true, Ordering::Release);
            }
        });
        retired
    }
}

/// Opens every queue on disk before anything is sent.
async fn start_exporters(
    exporters: &[Exporter],
    (scope, workers): (&Scope, &Workers),
    stores: &Stores,
) -> Result<(), StartError> {
    for exporter in exporters {
        exporter.open(stores).await?;
    }
    exporters.iter().try_for_each(|exporter| exporter.start(scope, workers))
}

/// A generation that delivers what it accepted and takes nothing new.
#[derive(Clone)]
pub(super) struct Retired {
    generation: Arc<Generation>,
    stop: CancellationToken,
    drained: Arc<AtomicBool>,
}

impl Retired {
    /// Whether nothing is left of it.
    pub(super) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// How many items it still has to deliver.
    pub(super) fn items(&self) -> u64 {
        self.generation.items()
    }

    /// Ends it by `deadline`, because the program ends.
    pub(super) async fn drain(&self, deadline: Instant) {
        self.stop.cancel();
        if !self.is_drained() {
            self.generation.drain(deadline).await;
        }
    }
}

/// Writes on the request's span how it ended.
fn note(span: &tracing::Span, result: &Result<Accepted, Refusal>) {
    if span.is_disabled() {
        return;
    }
    match result {
        Ok(accepted) => span.record("items", accepted.items).record("outcome", "accepted"),
        Err(_) => span.record("outcome", "refused"),
    };
}

fn serve(
    bound: Bound,
    (entrance, budget): (Entrance, &Budget),
    scope: &Scope,
    workers: &Workers,
) -> Receiver {
    let metrics = Metrics {
        grpc: entrance.metrics(Transport::Grpc).clone(),
        http: entrance.metrics(Transport::Http).clone(),
        cancellations: entrance.cancellations().clone(),
    };
    let (knowing, admitting, accepting) = (entrance.clone(), entrance.clone(), entrance);
    let hooks = Hooks {
        memory: budget.clone(),
        authenticate: Some(Arc::new(move |credentials: Credentials<'_>| knowing.authenticate(credentials))),
        admit: move |arrival: &Arrival<'_>| admitting.admit(arrival),
        accept: move |request: Request| {
            let entrance = accepting.clone();
            let span = request_span(request.signal, request.transport.as_str(), &request.headers);
            let told = span.clone();
            async move {
                let result = entrance.accept(request).await;
                note(&told, &result);
                result
            }
            .instrument(span)
        },
    };
    bound.serve(hooks, scope, workers, metrics)
}
