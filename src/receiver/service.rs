//! One request on one listener, whatever its transport: headers first, then the body, then the pipeline.
//!
//! Invariant: nothing of the body is read before the headers are admitted, and once it is admitted the
//! body is read without a pause for anything but the client: an unread body would hold the connection's
//! window against its neighbours.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body::Body;
use tokio::time::Instant;

use super::answer::Fault;
use super::body::{self, Bounds, Gathered, Shape, Unread};
use super::budget::Budget;
use super::grpc::{self, BadFrame};
use super::reply::{self, Format, GRPC_ENCODINGS, Reply};
use super::waiting::{Begun, Waiting};
use super::web::{self, Cors, Encodings};
use super::work::{Busy, unless_hurried};
use super::{Arrival, Metrics};
use crate::authentication::Credentials;
use crate::compression::{Codec, DecompressError, decompress};
use crate::config::receiver as config;
use crate::internal_telemetry::metrics::ReceiverMetrics;
use crate::otlp::json::to_protobuf;
use crate::otlp::{Limits, PerSignal, Signal};
use crate::pipeline::{Accepted, Admitted, Authentication, Pass, Refusal, Transport};
use crate::tls::PeerCertificate;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// What Envoy, and with it most meshes, tells the service behind it: how many milliseconds it waits.
const HTTP_TIMEOUT_TEXT: &str = "x-envoy-expected-rq-timeout-ms";
const HTTP_TIMEOUT: HeaderName = HeaderName::from_static(HTTP_TIMEOUT_TEXT);
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Where requests go: the two hooks of `serve`, under one name.
pub(super) trait Intake: Send + Sync + 'static {
    fn authenticate(&self, credentials: Credentials<'_>) -> Option<Authentication>;
    fn admit(&self, arrival: &Arrival<'_>) -> Result<Pass, Refusal>;
    fn accept(
        &self,
        request: crate::pipeline::Request,
    ) -> impl Future<Output = Result<Accepted, Refusal>> + Send;
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    /// Absent on unix sockets.
    pub(super) address: Option<SocketAddr>,
    /// Absent without TLS, or where clients need not prove who they are.
    pub(super) certificate: Option<Arc<PeerCertificate>>,
}

/// What every request of one listener has in common.
pub(super) struct Service<I> {
    pub(super) intake: I,
    pub(super) memory: Budget,
    pub(super) metrics: Metrics,
    pub(super) rules: Rules,
    pub(super) waiting: Waiting,
}

/// The configuration of one listener as far as requests are concerned.
#[derive(Debug)]
pub(super) struct Rules {
    /// Largest message, before and after decompression.
    limit: usize,
    max_response: usize,
    request_timeout: Duration,
    read_timeout: Duration,
    progress: Duration,
    include_metadata: bool,
    /// None on the port of gRPC, which takes nothing else.
    web: Option<Web>,
}

/// What only OTLP/HTTP has.
#[derive(Debug)]
struct Web {
    paths: PerSignal<String>,
    encodings: Encodings,
    cors: Option<Cors>,
    response_headers: Vec<(HeaderName, HeaderValue)>,
}

impl Rules {
    pub(super) fn of_grpc(config: &config::Grpc) -> Self {
        Self {
            limit: config.max_message_bytes(),
            max_response: bytes(config.limits.max_response_size.0),
            request_timeout: config.limits.request_timeout,
            read_timeout: config.limits.request_timeout,
            progress: config.limits.body_progress_timeout,
            include_metadata: config.include_metadata,
            web: None,
        }
    }

    pub(super) fn of_http(config: &config::Http) -> Self {
        let path = |signal| match signal {
            Signal::Traces => config.traces_url_path.clone(),
            Signal::Metrics => config.metrics_url_path.clone(),
            Signal::Logs => config.logs_url_path.clone(),
        };
        let web = Web {
            paths: PerSignal::from_fn(path),
            encodings: Encodings::new(&config.compression_algorithms),
            cors: Cors::new(config.cors.as_ref()),
            response_headers: web::response_headers(&config.response_headers),
        };
        let read_timeout = match config.read_timeout {
            Duration::ZERO => config.limits.request_timeout,
            timeout => timeout,
        };
        Self {
            limit: config.max_body_bytes(),
            max_response: bytes(config.limits.max_response_size.0),
            request_timeout: config.limits.request_timeout,
            read_timeout,
            progress: config.limits.body_progress_timeout,
            include_metadata: config.include_metadata,
            web: Some(web),
        }
    }

    /// When the client stops waiting, or we do.
    fn deadline(&self, now: Instant, transport: Transport, headers: &HeaderMap) -> Result<Instant, Fault> {
        let mut patience = self.request_timeout;
        if let Some(value) = headers.get(GRPC_TIMEOUT) {
            patience = patience.min(grpc::timeout(value).ok_or(Fault::Timeout { header: "grpc-timeout" })?);
        }
        if transport == Transport::Http
            && let Some(value) = headers.get(HTTP_TIMEOUT)
        {
            let stated = web::timeout(value).ok_or(Fault::Timeout { header: HTTP_TIMEOUT_TEXT })?;
            patience = patience.min(stated);
        }
        Ok(now + patience)
    }

    /// The message as protobuf, out of its frame, its compression and its text.
    fn decode(&self, plan: &Plan<'_>, content: Bytes) -> Result<Bytes, Fault> {
        let (compressed, message) = match plan.transport {
            Transport::Grpc => grpc::unframe(content)?,
            Transport::Http => (plan.codec.is_some(), content),
        };
        let message = match (compressed, plan.codec) {
            (false, _) => message,
            (true, Some(codec)) => decompressed(codec, &message, plan.bounds.limit)?,
            (true, None) => return Err(Fault::CompressedHow),
        };
        match plan.format {
            Format::Protobuf => Ok(message),
            Format::Json => Ok(to_protobuf(plan.signal, &message, &Limits::for_message_size(self.limit))?),
        }
    }
}

fn decompressed((codec, encoding): (Codec, &'static str), data: &[u8], limit: usize) -> Result<Bytes, Fault> {
    decompress(codec, data, limit).map_err(|error| match error {
        DecompressError::TooLarge { .. } => Fault::TooLarge { limit },
        _ => Fault::Decompress { encoding },
    })
}

/// A configured size as a length in memory.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// How to talk to the client.
#[derive(Clone, Copy)]
enum Dialect<'a> {
    Grpc,
    Http(&'a Web, Option<Format>),
    /// HTTP on the port of gRPC.
    None,
}

/// What the headers said.
struct Plan<'a> {
    signal: Signal,
    transport: Transport,
    format: Format,
    codec: Option<(Codec, &'static str)>,
    shape: Shape,
    announced: Option<u64>,
    bounds: Bounds,
    /// Whether the largest message is the tenant's, not the listener's.
    is_bound_of_tenant: bool,
    deadline: Instant,
    metrics: &'a ReceiverMetrics,
}

/// Answers a request; `busy` lives as long as it does and learns why work on it was stopped.
///
/// Written so that the future is small, for it is moved several times: arguments of an `async fn` would
/// be stored twice, and every layer of calls once more.
///
/// # Cancel safety
/// Dropping it drops the request, unless the pipeline has taken it over.
pub(super) fn respond<I, B>(
    service: Arc<Service<I>>,
    mut busy: Busy,
    peer: Peer,
    request: Request<B>,
) -> impl Future<Output = Result<Response<Reply>, Infallible>>
where
    I: Intake,
    B: Body<Data = Bytes> + Unpin,
{
    let (mut head, body) = request.into_parts();
    async move {
        let service = &*service;
        let dialect = service.dialect(&head.headers);
        if let Dialect::Http(web, _) = dialect
            && let Some(answer) = web.preflight(&head)
        {
            busy.answered(None);
            return Ok(answer);
        }
        let origin = dialect.origin(&head.headers);
        let mut deadline = None;
        let working = async {
            let mut plan = service.plan(dialect, &mut head)?;
            deadline = Some(plan.deadline);
            let mut begun = Begun { body, gathered: Gathered::new(plan.shape, service.memory.charge()) };
            let certificate = peer.certificate.as_ref();
            let address = peer.address.map(|address| address.ip());
            let shown = Credentials { headers: &head.headers, certificate, address };
            let admitted = match service.intake.authenticate(shown) {
                None => None,
                Some(Authentication::Ready(admitted)) => Some(admitted?),
                Some(Authentication::Waiting(asked)) => {
                    let times = (&plan.bounds, plan.deadline);
                    let waiting = service.waiting.read(asked, begun, times, |unread| plan.fault(unread));
                    let admitted;
                    // Rare, and too large to be part of every request.
                    (admitted, begun) = Box::pin(waiting).await?;
                    Some(admitted)
                }
            };
            let pass = service.admit(&mut plan, &peer, &head.headers, admitted.as_ref())?;
            let read = body::read(&mut begun.body, &mut begun.gathered, &plan.bounds).await;
            let read = read.map_err(|unread| plan.fault(unread));
            let (content, mut held) = begun.gathered.whole();
            let body = read.and_then(|()| service.rules.decode(&plan, content));
            let body = body.inspect_err(|fault| plan.count_too_large(fault, &pass))?;
            // The message, and what it is rewritten to.
            if !held.take(2 * body.len() as u64) {
                return Err(Refusal::no_memory().into());
            }
            let request = crate::pipeline::Request {
                signal: plan.signal,
                body,
                headers: std::mem::take(&mut head.headers),
                peer: peer.address,
                admitted,
                transport: plan.transport,
                deadline: plan.deadline,
                pass,
            };
            plan.metrics.request_bytes.add(request.body.len() as u64);
            if Instant::now() >= plan.deadline {
                return Err(Refusal::DeadlineExceeded.into());
            }
            match tokio::time::timeout_at(plan.deadline, service.intake.accept(request)).await {
                Ok(Ok(accepted)) => Ok((plan.signal, accepted)),
                Ok(Err(refusal)) => Err(refusal.into()),
                Err(_elapsed) => Err(Refusal::DeadlineExceeded.into()),
            }
        };
        let result = unless_hurried(working, busy.hurry()).await;
        busy.answered(result.as_ref().err().and_then(|fault| busy.stopped_by(fault, deadline)));
        Ok(service.answer(dialect, origin, result))
    }
}

impl<I: Intake> Service<I> {
    fn dialect(&self, headers: &HeaderMap) -> Dialect<'_> {
        let content_type = headers.get(CONTENT_TYPE);
        if content_type.is_some_and(|value| grpc::is_grpc(value.as_bytes())) {
            Dialect::Grpc
        } else if let Some(web) = &self.rules.web {
            Dialect::Http(web, web::format(headers))
        } else {
            Dialect::None
        }
    }

    /// Reads the headers.
    fn plan(&self, dialect: Dialect<'_>, head: &mut request::Parts) -> Result<Plan<'_>, Fault> {
        let now = Instant::now();
        let rules = &self.rules;
        let announced = announced(&head.headers);
        let (signal, format, codec) = match dialect {
            Dialect::Grpc => (grpc_signal(head)?, Format::Protobuf, grpc_codec(&head.headers)?),
            Dialect::Http(web, format) => {
                let signal = web.signal(head)?;
                let format = format.ok_or(Fault::MediaType)?;
                (signal, format, web.encodings.find(&head.headers)?)
            }
            Dialect::None => return Err(Fault::MediaType),
        };
        let (transport, shape, metrics) = match dialect {
            Dialect::Grpc => (Transport::Grpc, Shape::Frame, &self.metrics.grpc),
            _ => (Transport::Http, Shape::Plain(announced), &self.metrics.http),
        };
        let deadline = rules.deadline(now, transport, &head.headers)?;
        // A request that takes all the memory there is for requests would never get it.
        let limit = rules.limit.min(bytes(self.memory.most() / 3));
        if announced.is_some_and(|length| length > shape.most(limit)) {
            return Err(Fault::TooLarge { limit });
        }
        if announced.is_some_and(|length| !self.memory.has_room(length)) {
            return Err(Refusal::no_memory().into());
        }
        if rules.include_metadata {
            authority_as_host(head);
        }
        let bounds =
            Bounds { limit, progress: rules.progress, deadline: deadline.min(now + rules.read_timeout) };
        Ok(Plan {
            signal,
            transport,
            format,
            codec,
            shape,
            announced,
            bounds,
            is_bound_of_tenant: false,
            deadline,
            metrics,
        })
    }

    /// Asks for admission, and bounds the body by what its tenant may send.
    fn admit(
        &self,
        plan: &mut Plan<'_>,
        peer: &Peer,
        headers: &HeaderMap,
        admitted: Option<&Admitted>,
    ) -> Result<Pass, Fault> {
        let Plan { signal, transport, announced, .. } = *plan;
        let peer = peer.address;
        let pass = self.intake.admit(&Arrival { signal, transport, headers, announced, peer, admitted })?;
        if let Some(limit) = pass.max_bytes().map(bytes).filter(|most| *most < plan.bounds.limit) {
            (plan.bounds.limit, plan.is_bound_of_tenant) = (limit, true);
            if announced.is_some_and(|length| length > plan.shape.most(limit)) {
                pass.too_large();
                return Err(Fault::TooLarge { limit });
            }
        }
        Ok(pass)
    }

    fn answer(
        &self,
        dialect: Dialect<'_>,
        origin: Option<HeaderValue>,
        result: Result<(Signal, Accepted), Fault>,
    ) -> Response<Reply> {
        let most = self.rules.max_response;
        let metrics = match dialect {
            Dialect::Grpc | Dialect::None => &self.metrics.grpc,
            Dialect::Http(..) => &self.metrics.http,
        };
        let result = match result {
            Ok((signal, accepted)) => {
                metrics.requests_accepted.add(1);
                metrics.accepted[signal].add(accepted.items.saturating_sub(accepted.rejected));
                Ok((signal, accepted))
            }
            Err(fault) => {
                let verdict = fault.verdict();
                count(metrics, &fault, verdict.malformed);
                Err((fault, verdict))
            }
        };
        let mut response = match (dialect, result) {
            (Dialect::None, _) => reply::http_empty(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            (Dialect::Grpc, Ok((_, accepted))) => reply::grpc_accepted(accepted, most),
            (Dialect::Grpc, Err((fault, verdict))) => reply::grpc_refused(&fault, &verdict),
            (Dialect::Http(web, format), result) => {
                let format = format.unwrap_or(Format::Json);
                let response = match result {
                    Ok((signal, accepted)) => reply::http_accepted(accepted, signal, format, most),
                    Err((fault, verdict)) => reply::http_refused(&fault, &verdict, format, most),
                };
                web.finish(origin, response)
            }
        };
        response.body_mut().watch(&metrics.stalls);
        response
    }
}

impl Dialect<'_> {
    /// Which page sends, where that matters.
    fn origin(self, headers: &HeaderMap) -> Option<HeaderValue> {
        match self {
            Dialect::Http(Web { cors: Some(_), .. }, _) => headers.get(ORIGIN).cloned(),
            _ => None,
        }
    }
}

impl Plan<'_> {
    /// Counts a request that is larger than its tenant may send.
    fn count_too_large(&self, fault: &Fault, pass: &Pass) {
        if self.is_bound_of_tenant && matches!(fault, Fault::TooLarge { .. }) {
            pass.too_large();
        }
    }

    fn fault(&self, unread: Unread) -> Fault {
        match unread {
            Unread::TooLarge => Fault::TooLarge { limit: self.bounds.limit },
            Unread::Trailing => BadFrame::Trailing.into(),
            Unread::Deadline if self.bounds.deadline == self.deadline => Refusal::DeadlineExceeded.into(),
            Unread::Deadline | Unread::Stalled => Fault::Stalled,
            Unread::NoMemory => Refusal::no_memory().into(),
            Unread::Broken => Fault::Broken,
        }
    }
}

impl Web {
    fn preflight(&self, head: &request::Parts) -> Option<Response<Reply>> {
        self.cors.as_ref()?.preflight(&head.method, &head.headers)
    }

    fn signal(&self, head: &request::Parts) -> Result<Signal, Fault> {
        let path = head.uri.path();
        let (signal, _) = self.paths.iter().find(|(_, taken)| *taken == path).ok_or(Fault::NotFound)?;
        if head.method == Method::POST { Ok(signal) } else { Err(Fault::Method) }
    }

    /// Adds the headers that every answer has.
    fn finish(&self, origin: Option<HeaderValue>, mut response: Response<Reply>) -> Response<Reply> {
        if let Some(cors) = &self.cors {
            cors.expose(origin.as_ref(), response.headers_mut());
        }
        for (name, value) in &self.response_headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }
}

fn count(metrics: &ReceiverMetrics, fault: &Fault, malformed: bool) {
    let counter = if malformed { &metrics.requests_malformed } else { &metrics.requests_refused };
    counter.add(1);
    tracing::debug!(name: "request.refused", %fault, "request refused");
}

fn grpc_signal(head: &request::Parts) -> Result<Signal, Fault> {
    if head.version != Version::HTTP_2 {
        return Err(Fault::Version);
    }
    if head.method != Method::POST {
        return Err(Fault::Method);
    }
    match grpc::method(head.uri.path()) {
        grpc::Method::Export(signal) => Ok(signal),
        grpc::Method::Unknown => Err(Fault::NoSuchMethod),
    }
}

fn grpc_codec(headers: &HeaderMap) -> Result<Option<(Codec, &'static str)>, Fault> {
    match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(b"gzip") => Ok(Some((Codec::Gzip, "gzip"))),
        Some(b"zstd") => Ok(Some((Codec::Zstd, "zstd"))),
        Some(_) => Err(Fault::Encoding { supported: GRPC_ENCODINGS }),
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// HTTP/2 has the host outside the headers; the Collector shows it as `Host`.
fn authority_as_host(head: &mut request::Parts) {
    if let Some(authority) = head.uri.authority()
        && !head.headers.contains_key(HOST)
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, value);
    }
}
