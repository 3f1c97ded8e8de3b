//! The receiver `otlp`: OTLP/gRPC and OTLP/HTTP from the socket to the pipeline's door.
//!
//! ```text
//! control runtime              worker (one of several single-threaded runtimes)
//! accept ─ caps ─ deal ──────▶ TLS ─ HTTP ─ headers: admit ─ body ─ decompress ─ JSON ─▶ accept
//!                                                                 answer ◀──────────────┘
//! ```
//!
//! Not here: what a request means (`pipeline`). Invariants: everything a client can do to this side has a
//! limit in bytes and in time; a request whose client went away is dropped; an unread body is never
//! waited with.

mod answer;
mod body;
mod budget;
mod connection;
mod frames;
mod grpc;
mod listen;
mod reply;
mod service;
mod sockets;
mod stall;
#[cfg(test)]
mod tests;
mod waiting;
mod web;
mod work;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use connection::Port;
use listen::{Caps, Dealing, Listener};
use service::{Intake, Service};
use work::Ending;

pub use budget::Budget;
pub use listen::Address;
pub use sockets::Sockets;

use crate::authentication::Credentials;
use crate::config::receiver::{BadEndpoint, Endpoint, Limits, Otlp};
use crate::internal_telemetry::metrics::{Cancellations, ReceiverMetrics};
use crate::outcome::CancelReason;
pub use crate::pipeline::Arrival;
use crate::pipeline::{Accepted, Authentication, Pass, Refusal, Request, Transport};
use crate::tasks::{Scope, Workers};
use crate::tls::{ServerTls, TlsError};

/// Tells who sends; see [`Hooks::authenticate`].
pub type Authenticate = Arc<dyn Fn(Credentials<'_>) -> Authentication + Send + Sync>;

/// Where requests go.
#[derive(Clone)]
pub struct Hooks<G, A> {
    /// Asked who sends when only the headers are known; none: nobody needs to know.
    pub authenticate: Option<Authenticate>,
    /// What bodies under way are charged to.
    pub memory: Budget,
    /// Asked when only the headers are known, `Fn(&Arrival) -> Result<Pass, Refusal>`; must not wait.
    pub admit: G,
    /// Takes the request, `Fn(Request) -> Future<Output = Result<Accepted, Refusal>>`; dropped when the
    /// client goes away or the deadline passes.
    pub accept: A,
}

impl<G, A, F> Intake for Hooks<G, A>
where
    G: Fn(&Arrival<'_>) -> Result<Pass, Refusal> + Send + Sync + 'static,
    A: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Accepted, Refusal>> + Send + 'static,
{
    fn authenticate(&self, credentials: Credentials<'_>) -> Option<Authentication> {
        self.authenticate.as_ref().map(|authenticate| authenticate(credentials))
    }

    fn admit(&self, arrival: &Arrival<'_>) -> Result<Pass, Refusal> {
        (self.admit)(arrival)
    }

    fn accept(&self, request: Request) -> impl Future<Output = Result<Accepted, Refusal>> + Send {
        (self.accept)(request)
    }
}

/// The counters of one receiver, by transport. Connections count for the listener's own transport,
/// requests for the one they use.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Label `transport="grpc"`.
    pub grpc: ReceiverMetrics,
    /// Label `transport="http"`.
    pub http: ReceiverMetrics,
    /// Requests whose work was stopped.
    pub cancellations: Cancellations,
}

/// Why a receiver cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The endpoint is not one.
    #[error("{endpoint:?}: {error}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong.
        error: BadEndpoint,
    },
    /// The system does not let us listen there.
    #[error("cannot listen on {endpoint}: {error}")]
    Listen {
        /// As configured.
        endpoint: String,
        /// The system's answer.
        error: io::Error,
    },
    /// The certificates cannot be used.
    #[error("tls of {endpoint}: {error}")]
    Tls {
        /// As configured.
        endpoint: String,
        /// What is wrong.
        error: TlsError,
    },
}

/// A receiver with its sockets bound, and nothing accepted yet.
#[derive(Debug)]
pub struct Bound {
    doors: Vec<Door>,
}

/// One listener.
#[derive(Debug)]
struct Door {
    listener: Listener,
    address: Address,
    transport: Transport,
    tls: Option<ServerTls>,
    limits: Limits,
    connections: connection::Rules,
    requests: service::Rules,
}

/// A receiver that serves.
#[derive(Debug)]
pub struct Receiver {
    /// Owns the connections.
    scope: Scope,
    /// Owns the listening sockets.
    doors: Scope,
    addresses: Vec<(Transport, Address)>,
    tls: Vec<(Transport, ServerTls)>,
    ending: Arc<Ending>,
}

/// For answers on their way when the time of a drain is over.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

impl Receiver {
    /// Reads certificates and binds the sockets, or shares those held, on the runtime that will accept.
    ///
    /// # Errors
    /// [`BindError`]; sockets already bound are closed.
    pub async fn bind(config: &Otlp, sockets: &mut Sockets) -> Result<Bound, BindError> {
        let mut doors = Vec::new();
        if let Some(grpc) = &config.protocols.grpc {
            let tls = grpc.tls.as_ref().map(|tls| ServerTls::load(tls, &[b"h2"]));
            let (listener, address, tls) = open((&grpc.endpoint, grpc.transport), tls, sockets).await?;
            doors.push(Door {
                listener,
                address,
                transport: Transport::Grpc,
                tls,
                limits: grpc.limits.clone(),
                connections: connection::Rules::of_grpc(grpc),
                requests: service::Rules::of_grpc(grpc),
            });
        }
        if let Some(http) = &config.protocols.http {
            let tls = http.tls.as_ref().map(|tls| ServerTls::load(tls, &[b"h2", b"http/1.1"]));
            let (listener, address, tls) = open((&http.endpoint, http.transport), tls, sockets).await?;
            doors.push(Door {
                listener,
                address,
                transport: Transport::Http,
                tls,
                limits: http.limits.clone(),
                connections: connection::Rules::of_http(http),
                requests: service::Rules::of_http(http),
            });
        }
        Ok(Bound { doors })
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> &[(Transport, Address)] {
        &self.addresses
    }

    /// The certificates of its listeners.
    pub fn tls(&self) -> &[(Transport, ServerTls)] {
        &self.tls
    }

    /// Closes the listening sockets, which are free to be bound again when it returns; connections go on.
    ///
    /// # Cancel safety
    /// May be called again; closing goes on.
    pub async fn stop_accepting(&self) {
        // Nothing an accept loop waits for outlasts its cancellation.
        self.doors.close(Instant::now() + Duration::from_secs(1)).await;
    }

    /// Stops accepting, sends GOAWAY on every connection, lets requests under way finish until
    /// `deadline`, then answers the others that the collector shuts down.
    ///
    /// # Cancel safety
    /// May be called again; leaving goes on.
    pub async fn leave(&self, deadline: Instant, why: CancelReason) {
        self.stop_accepting().await;
        self.ending.begin(why);
        self.scope.token().cancel();
        if !self.scope.finished(deadline).await {
            self.ending.hurry();
        }
    }

    /// Cuts what is left half a second from now. No task of the receiver is alive when it returns.
    ///
    /// # Cancel safety
    /// May be called again.
    pub async fn close(&self) {
        self.scope.close(Instant::now() + LAST_ANSWERS).await;
    }
}

impl Bound {
    /// Where it listens.
    pub fn local_addrs(&self) -> Vec<(Transport, Address)> {
        self.doors.iter().map(|door| (door.transport, door.address.clone())).collect()
    }

    /// Starts to accept, on the caller's runtime; connections are served by `workers`, in tasks of a scope
    /// below `scope`.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn serve<G, A, F>(
        self,
        hooks: Hooks<G, A>,
        scope: &Scope,
        workers: &Workers,
        metrics: Metrics,
    ) -> Receiver
    where
        G: Fn(&Arrival<'_>) -> Result<Pass, Refusal> + Clone + Send + Sync + 'static,
        A: Fn(Request) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<Accepted, Refusal>> + Send + 'static,
    {
        let addresses = self.local_addrs();
        let scope = scope.child("receiver");
        let doors = scope.child("accept");
        let mut secured = Vec::new();
        let ending = Ending::new(&scope);
        for door in self.doors {
            if let Some(tls) = &door.tls {
                tls.watch(&scope);
                secured.push((door.transport, tls.clone()));
            }
            let dealing = Dealing {
                scope: scope.clone(),
                team: workers.team().clone(),
                accepting: doors.token().clone(),
                metrics: match door.transport {
                    Transport::Grpc => metrics.grpc.clone(),
                    Transport::Http => metrics.http.clone(),
                },
                caps: Caps::new(&door.limits),
            };
            let service = Service {
                intake: hooks.clone(),
                memory: hooks.memory.clone(),
                metrics: metrics.clone(),
                rules: door.requests,
                waiting: waiting::Waiting::default(),
            };
            let port = Port {
                service: Arc::new(service),
                rules: door.connections,
                tls: door.tls,
                ending: ending.clone(),
                in_flight: dealing.metrics.in_flight.clone(),
            };
            doors.spawn("accept", listen::accept(door.listener, Arc::new(port), dealing));
        }
        Receiver { scope, doors, addresses, tls: secured, ending }
    }
}

async fn open(
    (endpoint, network): (&str, crate::config::receiver::Network),
    tls: Option<Result<ServerTls, TlsError>>,
    sockets: &mut Sockets,
) -> Result<(Listener, Address, Option<ServerTls>), BindError> {
    let named = || endpoint.to_owned();
    let tls = tls.transpose().map_err(|error| BindError::Tls { endpoint: named(), error })?;
    let place = Endpoint::parse(endpoint, network)
        .map_err(|error| BindError::Endpoint { endpoint: named(), error })?;
    let refused = |error| BindError::Listen { endpoint: named(), error };
    let listener = sockets.listen(&place).await.map_err(refused)?;
    let address = listener.address().map_err(refused)?;
    Ok((listener, address, tls))
}
