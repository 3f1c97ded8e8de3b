//! The life of one connection: handshake, requests, ageing, farewell.
//!
//! ```text
//! accepted ─ handshake ─ serving ──▶ leaving (GOAWAY; requests under way go on) ──▶ closed
//!              5 s │       │ no first request, idle, too old, drain        │ grace over
//!                  ▼       ▼ client gone                                   ▼
//!               closed   closed                                           cut
//! ```
//!
//! The requests of a connection are its own tasks and end with it: when the connection is dropped, its
//! streams break, and every request that waits is dropped.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::frames::FrameGuard;
use super::service::{Intake, Peer, Service, respond};
use super::stall::WriteGuard;
use super::work::{Activity, Busy, Ending};
use crate::config::receiver as config;
use crate::internal_telemetry::metrics::Gauge;
use crate::tls::{PeerCertificate, ServerTls};

/// A request that cannot be answered for so long leaves its connection for dead.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// For the farewell of a connection that has nothing under way.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Largest head of an HTTP/1 request, and largest piece of its body.
const HTTP1_BUFFER: usize = 128 << 10;
/// How many streams a client may open and reset before it is thrown out (CVE-2023-44487).
const PENDING_RESETS: usize = 20;
/// How many streams may break by the client's fault before it is thrown out (RUSTSEC-2024-0003).
const LOCAL_RESETS: usize = 1024;

/// The configuration of one listener as far as connections are concerned.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) handshake: Duration,
    first_request: Duration,
    idle: Duration,
    age: Duration,
    age_grace: Duration,
    write_stall: Duration,
    http2: config::Http2,
    streams: u32,
    ping: Duration,
    ping_timeout: Duration,
    http1: Option<Http1>,
}

/// What only HTTP/1 has; absent on the port of gRPC.
#[derive(Debug, Clone)]
struct Http1 {
    head: Duration,
    keep_alive: bool,
}

impl Rules {
    pub(super) fn of_grpc(config: &config::Grpc) -> Self {
        let server = &config.keepalive.server_parameters;
        Self::new(&config.limits, server, &config.http2, config.max_concurrent_streams)
    }

    pub(super) fn of_http(config: &config::Http) -> Self {
        let server = &config.keepalive.server_parameters;
        let mut rules = Self::new(&config.limits, server, &config.http2, config.max_concurrent_streams);
        rules.idle = match (config.idle_timeout, server.max_connection_idle) {
            (Duration::ZERO, idle) | (idle, Duration::ZERO) => idle,
            (one, other) => one.min(other),
        };
        rules.write_stall = or(config.write_timeout, WRITE_STALL);
        rules.http1 = Some(Http1 {
            head: or(config.read_header_timeout, Duration::from_secs(30)),
            keep_alive: config.keep_alives_enabled,
        });
        rules
    }

    fn new(
        limits: &config::Limits,
        server: &config::ServerParameters,
        http2: &config::Http2,
        streams: u32,
    ) -> Self {
        Self {
            handshake: limits.handshake_timeout,
            first_request: limits.first_request_timeout,
            idle: server.max_connection_idle,
            age: server.max_connection_age,
            age_grace: server.max_connection_age_grace,
            write_stall: WRITE_STALL,
            http2: http2.clone(),
            streams: if streams == 0 { 128 } else { streams },
            ping: server.time,
            ping_timeout: server.timeout,
            http1: None,
        }
    }

    fn builder(&self, streams: Streams) -> auto::Builder<Streams> {
        let mut builder = auto::Builder::new(streams);
        let window = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .initial_stream_window_size(window(self.http2.initial_stream_window_size.0))
            .initial_connection_window_size(window(self.http2.initial_connection_window_size.0))
            .max_frame_size(window(self.http2.max_frame_size.0))
            .max_header_list_size(window(self.http2.max_header_list_size.0))
            .max_concurrent_streams(self.streams)
            .max_pending_accept_reset_streams(PENDING_RESETS)
            .max_local_error_reset_streams(LOCAL_RESETS)
            .keep_alive_interval((!self.ping.is_zero()).then_some(self.ping))
            .keep_alive_timeout(self.ping_timeout)
            .auto_date_header(self.http1.is_some());
        match &self.http1 {
            None => builder.http2_only(),
            Some(http1) => {
                builder
                    .http1()
                    .timer(TokioTimer::new())
                    .header_read_timeout(http1.head)
                    .keep_alive(http1.keep_alive)
                    .max_buf_size(HTTP1_BUFFER);
                builder
            }
        }
    }
}

fn or(configured: Duration, otherwise: Duration) -> Duration {
    if configured.is_zero() { otherwise } else { configured }
}

/// What every connection of one listener has in common.
pub(super) struct Port<I> {
    pub(super) service: Arc<Service<I>>,
    pub(super) rules: Rules,
    pub(super) tls: Option<ServerTls>,
    pub(super) ending: Arc<Ending>,
    /// Requests under way on this listener.
    pub(super) in_flight: Gauge,
}

impl<I: Intake> Port<I> {
    /// Serves one connection to its end; `draining` asks it to leave. Tells whether the handshake succeeded.
    pub(super) async fn serve<S>(
        self: Arc<Self>,
        socket: S,
        peer: Option<SocketAddr>,
        draining: CancellationToken,
    ) -> bool
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let socket = WriteGuard::new(socket, self.rules.write_stall);
        let Some(tls) = &self.tls else {
            self.converse(socket, Peer { address: peer, certificate: None }, draining).await;
            return true;
        };
        let handshake = TlsAcceptor::from(tls.current()).accept(socket);
        let handshake = tokio::time::timeout(self.rules.handshake, handshake);
        match draining.run_until_cancelled(handshake).await {
            Some(Ok(Ok(socket))) => {
                let certificate = PeerCertificate::of(socket.get_ref().1.peer_certificates()).map(Arc::new);
                self.converse(socket, Peer { address: peer, certificate }, draining).await;
                true
            }
            Some(Ok(Err(error))) => {
                tracing::debug!(name: "connection.handshake_failed", %error, "TLS handshake failed");
                false
            }
            Some(Err(_late)) => false,
            // Drained before there was anything to serve.
            None => true,
        }
    }

    async fn converse<S>(self: Arc<Self>, socket: S, peer: Peer, draining: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let streams = Streams(TaskTracker::new());
        self.clone().drive(socket, peer, draining, &streams).await;
        // The connection is gone, so its requests are about to end.
        streams.0.close();
        streams.0.wait().await;
    }

    async fn drive<S>(self: Arc<Self>, socket: S, peer: Peer, draining: CancellationToken, streams: &Streams)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new(&self.ending, &self.in_flight, &self.service.metrics.cancellations);
        let activity = Arc::new(activity);
        let (requests, counted) = (self.service.clone(), activity.clone());
        let service = service_fn(move |request| {
            respond(requests.clone(), Busy::new(counted.clone()), peer.clone(), request)
        });
        let builder = self.rules.builder(streams.clone());
        let socket = FrameGuard::new(socket);
        let flood = socket.flood();
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
        let life = Life::new(&self.rules, activity);
        let mut alarm = std::pin::pin!(tokio::time::sleep_until(life.first_look()));
        let mut phase = Phase::Serving;
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(name: "connection.broken", %error, "connection broke");
                    }
                    return;
                }
                () = alarm.as_mut() => match phase {
                    Phase::Leaving => return life.activity.cut(),
                    Phase::Draining(since) => match life.rests_until(since, Instant::now()) {
                        Some(at) => alarm.as_mut().reset(at),
                        None => return,
                    },
                    Phase::Serving => match life.look(Instant::now()) {
                        Look::Again(at) => alarm.as_mut().reset(at),
                        Look::Leave(grace) => {
                            phase = Phase::Leaving;
                            connection.as_mut().graceful_shutdown();
                            rearm(alarm.as_mut(), grace);
                        }
                    },
                },
                () = flood.seen() => {
                    tracing::debug!(name: "connection.flooded", "too many frames that ask for nothing");
                    phase = Phase::Leaving;
                    connection.as_mut().graceful_shutdown();
                    rearm(alarm.as_mut(), Some(LAST_WORDS));
                }
                () = draining.cancelled(), if !matches!(phase, Phase::Draining(_)) => {
                    phase = Phase::Draining(Instant::now());
                    connection.as_mut().graceful_shutdown();
                    // Who drains sets the deadline, for all connections together; but a client that has
                    // nothing under way and does not go is not waited for.
                    rearm(alarm.as_mut(), Some(LAST_WORDS));
                }
            }
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy)]
enum Phase {
    Serving,
    /// Told to go, and cut by the alarm.
    Leaving,
    /// As above because the receiver drains, since then.
    Draining(Instant),
}

/// Sets the alarm; none means practically never.
fn rearm(alarm: Pin<&mut Sleep>, after: Option<Duration>) {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
    alarm.reset(Instant::now() + after.unwrap_or(NEVER));
}

/// When a connection has lived long enough.
struct Life {
    activity: Arc<Activity>,
    first_request_by: Instant,
    idle: Option<Duration>,
    old_at: Option<Instant>,
    grace: Option<Duration>,
}

/// What the alarm found.
enum Look {
    /// Nothing; look again then.
    Again(Instant),
    /// Time to leave, cut after the grace; none means never.
    Leave(Option<Duration>),
}

impl Life {
    fn new(rules: &Rules, activity: Arc<Activity>) -> Self {
        let some = |duration: Duration| (!duration.is_zero()).then_some(duration);
        // Connections made together must not be renewed together.
        let old_at = some(rules.age).map(|age| activity.opened + age.mul_f64(0.9 + 0.2 * fastrand::f64()));
        Self {
            first_request_by: activity.opened + rules.first_request,
            idle: some(rules.idle),
            old_at,
            grace: some(rules.age_grace),
            activity,
        }
    }

    fn first_look(&self) -> Instant {
        [self.old_at, self.idle.map(|idle| self.activity.opened + idle)]
            .into_iter()
            .flatten()
            .fold(self.first_request_by, Instant::min)
    }

    fn look(&self, now: Instant) -> Look {
        if self.old_at.is_some_and(|at| at <= now) {
            return Look::Leave(self.grace);
        }
        let silent = self.activity.is_silent();
        let idle_at = self.idle.map(|idle| self.activity.idle_since(now) + idle);
        if silent && self.first_request_by <= now || idle_at.is_some_and(|at| at <= now) {
            return Look::Leave(Some(LAST_WORDS));
        }
        let first_request_by = silent.then_some(self.first_request_by);
        let next = [self.old_at, idle_at, first_request_by].into_iter().flatten().min();
        // With no limit at all there is nothing to look for; a day is as good as never.
        Look::Again(next.unwrap_or(now + Duration::from_secs(24 * 3600)))
    }
}

impl Life {
    /// How long at least to wait for a client that was told to go; none: it had time enough.
    fn rests_until(&self, told: Instant, now: Instant) -> Option<Instant> {
        let until = self.activity.idle_since(now).max(told) + LAST_WORDS;
        (until > now).then_some(until)
    }
}

/// Runs the HTTP/2 streams of one connection, on its worker, as tasks it waits for.
///
/// They are not tasks of a scope, because they cannot outlive the connection, which is one: dropping it
/// breaks their streams, and a broken stream ends its task at once.
#[derive(Clone)]
struct Streams(TaskTracker);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}
