//! The open connections of one worker to one destination, and reading what comes back on them.
//!
//! Invariant: every task of a connection belongs to the exporter's scope.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::TokioTimer;
use tokio::runtime::Handle;

use crate::compression::{self, Codec, DecompressError};
use crate::internal_telemetry::WindowStalls;
use crate::tasks::Scope;
use crate::tls::ClientTls;

use super::answer;
use super::body::Body;
use super::connect::Connector;
use super::destination::SendError;

/// Where the tasks of connections run, and where it is counted that sending on them stalls.
#[derive(Debug, Clone)]
pub(super) struct Place {
    scope: Scope,
    runtime: Handle,
    stalls: WindowStalls,
}

impl Place {
    pub(super) fn new(scope: &Scope, runtime: &Handle, stalls: &WindowStalls) -> Self {
        Self { scope: scope.clone(), runtime: runtime.clone(), stalls: stalls.clone() }
    }
}

impl hyper::rt::Executor<Pin<Box<dyn Future<Output = ()> + Send>>> for Place {
    fn execute(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        drop(self.scope.spawn_on(&self.runtime, "connection", task));
    }
}

/// How connections are kept.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    pub(super) http2_only: bool,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_idle: usize,
    /// After how long silence to ping, how long to wait for the answer, and whether also when idle.
    pub(super) ping: Option<(Duration, Duration, bool)>,
}

/// A request of which the destination takes nothing for so long is sent again, whatever its timeout.
const LONGEST_STALL: Duration = Duration::from_secs(30);
/// Room for a burst of answers; they are small.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// As above, for all streams of a connection.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// The connections of one worker to one address.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    tls: Option<ClientTls>,
    keeping: Keeping,
    place: Place,
    client: Mutex<(u64, Client<Connector, Body>)>,
}

impl Pool {
    pub(super) fn new(
        connector: Connector,
        tls: Option<&ClientTls>,
        keeping: Keeping,
        place: &Place,
    ) -> Self {
        let generation = tls.map_or(0, ClientTls::generation);
        let client = Mutex::new((generation, build(&connector, &keeping, place)));
        Self { connector, tls: tls.cloned(), keeping, place: place.clone(), client }
    }

    /// Sends one request and waits for the head of the answer.
    /// Given up when the destination takes nothing of it for [`LONGEST_STALL`].
    pub(super) async fn request(
        &self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, SendError> {
        let progress = request.body_mut().watched(&self.place.stalls);
        let response = tokio::select! {
            biased;
            response = self.client().request(request) => response,
            () = progress.stalled(LONGEST_STALL) => {
                let message = format!("the destination took nothing for {LONGEST_STALL:?}");
                return Err(answer::unreachable(message, None));
            }
        };
        response.map_err(|error| {
            let wait = if error.is_connect() { self.connector.backoff() } else { None };
            answer::unreachable(answer::causes(&error), wait)
        })
    }

    /// The connections in use; after certificates changed, new ones.
    fn client(&self) -> Client<Connector, Body> {
        let generation = self.tls.as_ref().map_or(0, ClientTls::generation);
        let mut current = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != generation {
            *current = (generation, build(&self.connector, &self.keeping, &self.place));
        }
        current.1.clone()
    }
}

fn build(connector: &Connector, keeping: &Keeping, place: &Place) -> Client<Connector, Body> {
    let mut builder = legacy::Client::builder(place.clone());
    builder
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(keeping.idle_timeout)
        .pool_max_idle_per_host(keeping.max_idle)
        .http2_only(keeping.http2_only)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW);
    if let Some((time, timeout, while_idle)) = keeping.ping {
        builder
            .http2_keep_alive_interval(time)
            .http2_keep_alive_timeout(timeout)
            .http2_keep_alive_while_idle(while_idle);
    }
    builder.build(connector.clone())
}

/// A body that has been read.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) data: Bytes,
    pub(super) trailers: Option<http::HeaderMap>,
    /// Whether there was more than the limit; then `data` is the beginning.
    pub(super) is_cut: bool,
}

/// Reads at most `limit` bytes of a body.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<Read, SendError> {
    let mut read = Read::default();
    let mut data = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| answer::unreachable(answer::causes(&error), None))?;
        match frame.into_data() {
            Ok(more) if data.len() + more.len() > limit => {
                data.extend_from_slice(&more[..limit - data.len()]);
                read.is_cut = true;
                break;
            }
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => read.trailers = frame.into_trailers().ok().or(read.trailers),
        }
    }
    read.data = data.freeze();
    Ok(read)
}

/// Decompresses an answer by the name of its encoding.
pub(super) fn decompress(encoding: &[u8], data: Bytes, limit: usize) -> Result<Bytes, SendError> {
    let name = std::str::from_utf8(encoding).unwrap_or_default();
    if ["", "identity"].contains(&name) {
        return Ok(data);
    }
    let Some(codec) = Codec::named(name) else {
        return Err(answer::unusable(answer::INTERNAL, format!("the answer is encoded as {name:?}")));
    };
    compression::decompress(codec, &data, limit).map_err(|error| match error {
        DecompressError::TooLarge { .. } => too_large(limit),
        DecompressError::Malformed => answer::unusable(answer::INTERNAL, "the answer does not decompress"),
    })
}

/// An answer beyond the limit; the request must not be sent again.
pub(super) fn too_large(limit: usize) -> SendError {
    answer::unusable(answer::RESOURCE_EXHAUSTED, format!("the answer is larger than {limit} bytes"))
}
