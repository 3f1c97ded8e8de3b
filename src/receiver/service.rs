//! One request on one listener, whatever its transport: headers first, then the body, then the pipeline.
//!
//! Invariant: nothing of the body is read before the headers are admitted, and once it is admitted the
//! body is read without a pause for anything but the client: an unread body would hold the connection's
//! window against its neighbours.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body::Body;
use tokio::time::Instant;

use super::answer::Fault;
use super::body::{self, Bounds, Shape, Unread};
use super::grpc::{self, BadFrame};
use super::reply::{self, Format, GRPC_ENCODINGS, Reply};
use super::web::{self, Cors, Encodings};
use super::{Arrival, Metrics};
use crate::compression::{Codec, DecompressError, decompress};
use crate::config::receiver as config;
use crate::internal_telemetry::metrics::ReceiverMetrics;
use crate::otlp::json::to_protobuf;
use crate::otlp::{Limits, PerSignal, Signal};
use crate::pipeline::{Accepted, Refusal, Transport};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Where requests go: the two hooks of `serve`, under one name.
pub(super) trait Intake: Send + Sync + 'static {
    fn admit(&self, arrival: &Arrival<'_>) -> Result<(), Refusal>;
    fn accept(
        &self,
        request: crate::pipeline::Request,
    ) -> impl Future<Output = Result<Accepted, Refusal>> + Send;
}

/// What every request of one listener has in common.
pub(super) struct Service<I> {
    pub(super) intake: I,
    pub(super) metrics: Metrics,
    pub(super) rules: Rules,
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
        let mib = match config.max_recv_msg_size_mib {
            0 => 4,
            mib => mib as usize,
        };
        Self {
            limit: mib << 20,
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
        let limit = match config.max_request_body_size.0 {
            0 => config::Http::default().max_request_body_size.0,
            limit => limit,
        };
        let read_timeout = match config.read_timeout {
            Duration::ZERO => config.limits.request_timeout,
            timeout => timeout,
        };
        Self {
            limit: bytes(limit),
            max_response: bytes(config.limits.max_response_size.0),
            request_timeout: config.limits.request_timeout,
            read_timeout,
            progress: config.limits.body_progress_timeout,
            include_metadata: config.include_metadata,
            web: Some(web),
        }
    }

    /// When the client stops waiting, or we do.
    fn deadline(&self, now: Instant, headers: &HeaderMap) -> Result<Instant, Fault> {
        let patience = match headers.get(GRPC_TIMEOUT) {
            None => self.request_timeout,
            Some(value) => grpc::timeout(value).ok_or(Fault::Timeout)?.min(self.request_timeout),
        };
        Ok(now + patience)
    }

    fn decompress(&self, (codec, encoding): (Codec, &'static str), data: &[u8]) -> Result<Bytes, Fault> {
        decompress(codec, data, self.limit).map_err(|error| match error {
            DecompressError::TooLarge { .. } => Fault::TooLarge { limit: self.limit },
            _ => Fault::Decompress { encoding },
        })
    }
}

/// A configured size as a length in memory.
fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// One request on its way in.
struct Call<'a, B> {
    head: request::Parts,
    body: B,
    peer: Option<SocketAddr>,
    signal: Signal,
    transport: Transport,
    metrics: &'a ReceiverMetrics,
}

impl<I: Intake> Service<I> {
    /// Answers a request.
    ///
    /// # Cancel safety
    /// Dropping it drops the request, unless the pipeline has taken it over.
    pub(super) async fn respond<B>(&self, peer: Option<SocketAddr>, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes>,
    {
        let content_type = request.headers().get(CONTENT_TYPE);
        if content_type.is_some_and(|value| grpc::is_grpc(value.as_bytes())) {
            self.respond_grpc(peer, request).await
        } else if let Some(web) = &self.rules.web {
            self.respond_http(web, peer, request).await
        } else {
            self.metrics.grpc.requests_malformed.add(1);
            reply::http_empty(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        }
    }

    async fn respond_grpc<B>(&self, peer: Option<SocketAddr>, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes>,
    {
        let metrics = &self.metrics.grpc;
        let result = match grpc_signal(&request) {
            Err(fault) => Err(fault),
            Ok(signal) => {
                let (head, body) = request.into_parts();
                let transport = Transport::Grpc;
                self.export_grpc(Call { head, body, peer, signal, transport, metrics }).await
            }
        };
        match result {
            Ok(accepted) => reply::grpc_accepted(accepted, self.rules.max_response),
            Err(fault) => {
                let verdict = fault.verdict();
                count(metrics, &fault, verdict.malformed);
                reply::grpc_refused(&fault, &verdict)
            }
        }
    }

    async fn export_grpc<B>(&self, call: Call<'_, B>) -> Result<Accepted, Fault>
    where
        B: Body<Data = Bytes>,
    {
        let now = Instant::now();
        let codec = grpc_codec(&call.head.headers)?;
        let deadline = self.rules.deadline(now, &call.head.headers)?;
        let (frame, call) = self.read(call, Shape::Frame, now, deadline).await?;
        let (compressed, message) = grpc::unframe(frame)?;
        let message = match (compressed, codec) {
            (false, _) => message,
            (true, Some(codec)) => self.rules.decompress(codec, &message)?,
            (true, None) => return Err(Fault::CompressedHow),
        };
        self.hand_over(call, message, deadline).await
    }

    async fn respond_http<B>(
        &self,
        web: &Web,
        peer: Option<SocketAddr>,
        request: Request<B>,
    ) -> Response<Reply>
    where
        B: Body<Data = Bytes>,
    {
        let most = self.rules.max_response;
        let cors = web.cors.as_ref();
        let origin = cors.and_then(|_| request.headers().get(ORIGIN).cloned());
        if let Some(answer) = cors.and_then(|cors| cors.preflight(request.method(), request.headers())) {
            return answer;
        }
        let format = web::format(request.headers());
        let result = match http_signal(web, &request) {
            Err(fault) => Err(fault),
            Ok(signal) => self.export_http(web, format, (signal, peer), request).await,
        };
        let mut response = match result {
            Ok((signal, format, accepted)) => reply::http_accepted(accepted, signal, format, most),
            Err(fault) => {
                let verdict = fault.verdict();
                count(&self.metrics.http, &fault, verdict.malformed);
                reply::http_refused(&fault, &verdict, format.unwrap_or(Format::Json), most)
            }
        };
        if let Some(cors) = cors {
            cors.expose(origin.as_ref(), response.headers_mut());
        }
        for (name, value) in &web.response_headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }

    async fn export_http<B>(
        &self,
        web: &Web,
        format: Option<Format>,
        (signal, peer): (Signal, Option<SocketAddr>),
        request: Request<B>,
    ) -> Result<(Signal, Format, Accepted), Fault>
    where
        B: Body<Data = Bytes>,
    {
        let now = Instant::now();
        let format = format.ok_or(Fault::MediaType)?;
        let codec = web.encodings.find(request.headers())?;
        let deadline = self.rules.deadline(now, request.headers())?;
        let (head, body) = request.into_parts();
        let call = Call { head, body, peer, signal, transport: Transport::Http, metrics: &self.metrics.http };
        let shape = Shape::Plain(announced(&call.head.headers));
        let (mut message, call) = self.read(call, shape, now, deadline).await?;
        if let Some(codec) = codec {
            message = self.rules.decompress(codec, &message)?;
        }
        if format == Format::Json {
            message = to_protobuf(signal, &message, &Limits::for_message_size(self.rules.limit))?;
        }
        Ok((signal, format, self.hand_over(call, message, deadline).await?))
    }

    /// Asks for admission, then reads the body.
    async fn read<'a, B>(
        &self,
        call: Call<'a, B>,
        shape: Shape,
        now: Instant,
        deadline: Instant,
    ) -> Result<(Bytes, Call<'a, ()>), Fault>
    where
        B: Body<Data = Bytes>,
    {
        let Call { mut head, body, peer, signal, transport, metrics } = call;
        let limit = self.rules.limit;
        let announced = announced(&head.headers);
        if announced.is_some_and(|length| length > shape.most(limit)) {
            return Err(Fault::TooLarge { limit });
        }
        if self.rules.include_metadata {
            authority_as_host(&mut head);
        }
        self.intake.admit(&Arrival { signal, transport, headers: &head.headers, announced, peer })?;
        let read_by = deadline.min(now + self.rules.read_timeout);
        let bounds = Bounds { limit, progress: self.rules.progress, deadline: read_by };
        let content = match body::read(body, shape, &bounds).await {
            Ok(content) => content,
            Err(Unread::TooLarge) => return Err(Fault::TooLarge { limit }),
            Err(Unread::Trailing) => return Err(BadFrame::Trailing.into()),
            Err(Unread::Deadline) if read_by == deadline => return Err(Refusal::DeadlineExceeded.into()),
            Err(Unread::Deadline | Unread::Stalled) => return Err(Fault::Stalled),
            Err(Unread::Broken) => return Err(Fault::Broken),
        };
        Ok((content, Call { head, body: (), peer, signal, transport, metrics }))
    }

    /// Gives the request to the pipeline and waits until it owns it.
    async fn hand_over(&self, call: Call<'_, ()>, body: Bytes, deadline: Instant) -> Result<Accepted, Fault> {
        let Call { head, peer, signal, transport, metrics, .. } = call;
        metrics.request_bytes.add(body.len() as u64);
        if Instant::now() >= deadline {
            return Err(Refusal::DeadlineExceeded.into());
        }
        let headers = head.headers;
        let request = crate::pipeline::Request { signal, body, headers, peer, transport, deadline };
        let accepted = match tokio::time::timeout_at(deadline, self.intake.accept(request)).await {
            Ok(result) => result?,
            Err(_elapsed) => return Err(Refusal::DeadlineExceeded.into()),
        };
        metrics.requests_accepted.add(1);
        metrics.accepted[signal].add(accepted.items.saturating_sub(accepted.rejected));
        Ok(accepted)
    }
}

fn count(metrics: &ReceiverMetrics, fault: &Fault, malformed: bool) {
    let counter = if malformed { &metrics.requests_malformed } else { &metrics.requests_refused };
    counter.add(1);
    tracing::debug!(name: "request.refused", %fault, "request refused");
}

fn grpc_signal<B>(request: &Request<B>) -> Result<Signal, Fault> {
    if request.version() != Version::HTTP_2 {
        return Err(Fault::Version);
    }
    if request.method() != Method::POST {
        return Err(Fault::Method);
    }
    match grpc::method(request.uri().path()) {
        grpc::Method::Export(signal) => Ok(signal),
        grpc::Method::Unknown => Err(Fault::NoSuchMethod),
    }
}

fn http_signal<B>(web: &Web, request: &Request<B>) -> Result<Signal, Fault> {
    let path = request.uri().path();
    let (signal, _) = web.paths.iter().find(|(_, taken)| *taken == path).ok_or(Fault::NotFound)?;
    match request.method() {
        &Method::POST => Ok(signal),
        _ => Err(Fault::Method),
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
