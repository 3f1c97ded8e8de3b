//! The exporter `otlp_grpc`: unary calls over HTTP/2.
//!
//! Not a gRPC library: one request message, one answer message, no streams. Invariant: the bytes of a
//! batch go out as they are, behind five bytes of framing.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};

use crate::batch::SendFailure;
use crate::compression::{self, Codec};
use crate::config::exporter::{Address, Endpoint, OtlpGrpc};
use crate::otlp::status::{ExportResponse, Status};
use crate::otlp::{PerSignal, Signal};
use crate::tasks::Scope;
use crate::tls::{ClientTls, TlsError};

use super::PrepareError;
use super::answer;
use super::body::Body;
use super::connect::{Alpn, Connector};
use super::destination::{Destination, Outgoing, SendError};
use super::pool::{self, Keeping, Place, Pool};

/// C6: answers are a few bytes; whoever sends more is not an OTLP server.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// One flag and four bytes of length before each message.
const PREFIX: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// Also sent by `otlp_http`: receivers that know it stop working on what nobody waits for.
pub(super) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Servers write `-bin` headers with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The configuration, resolved.
#[derive(Debug)]
pub(super) struct Settings {
    endpoint: Endpoint,
    config: OtlpGrpc,
    uris: PerSignal<Uri>,
    headers: HeaderMap,
}

impl Settings {
    pub(super) fn new(config: &OtlpGrpc) -> Result<Self, PrepareError> {
        let endpoint = Endpoint::grpc(&config.endpoint)
            .map_err(|bad| PrepareError::Endpoint { key: "endpoint", bad })?;
        let authority = match config.authority.as_str() {
            "" => authority(&endpoint.address)?,
            text => text.parse().map_err(|_| PrepareError::Header("authority".into()))?,
        };
        let scheme = if is_secure(&endpoint, config) { Scheme::HTTPS } else { Scheme::HTTP };
        let mut headers = super::otlp_http::headers(&config.headers)?;
        if !config.user_agent.is_empty() {
            let agent = HeaderValue::from_str(&config.user_agent);
            headers.insert(USER_AGENT, agent.map_err(|_| PrepareError::Header("user_agent".into()))?);
        }
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(TE, TRAILERS);
        if let Some(codec) = config.compression.codec() {
            headers.insert(GRPC_ENCODING, HeaderValue::from_static(codec.as_str()));
        }
        let uris = PerSignal::from_fn(|signal| uri(scheme.clone(), authority.clone(), method(signal)));
        Ok(Self { endpoint, config: config.clone(), uris, headers })
    }

    /// Reads certificates if the connection is to be secure.
    pub(super) fn load_tls(&self, scope: &Scope) -> Result<Option<ClientTls>, TlsError> {
        if !is_secure(&self.endpoint, &self.config) {
            return Ok(None);
        }
        let tls = ClientTls::load(&self.config.tls)?;
        tls.watch(scope);
        Ok(Some(tls))
    }

    /// The destination as one worker sees it; no connection is opened yet.
    pub(super) fn connect(&self, tls: Option<&ClientTls>, place: &Place) -> Arc<Grpc> {
        let keeping = Keeping {
            http2_only: true,
            idle_timeout: None,
            max_idle: usize::MAX,
            ping: self.config.keepalive.as_ref().map(|k| (k.time, k.timeout, k.permit_without_stream)),
        };
        let address = self.endpoint.address.clone();
        let connector = Connector::new(address, tls.cloned(), Alpn::Http2, self.config.wait_for_ready);
        Arc::new(Grpc {
            pool: Pool::new(connector, tls, keeping, place),
            uris: self.uris.clone(),
            headers: self.headers.clone(),
            codec: self.config.compression.codec(),
        })
    }
}

/// Without a scheme the TLS keys decide.
fn is_secure(endpoint: &Endpoint, config: &OtlpGrpc) -> bool {
    endpoint.tls.unwrap_or(!config.tls.insecure)
}

/// The authority of requests to an address.
pub(super) fn authority(address: &Address) -> Result<Authority, PrepareError> {
    let text = match address {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        Address::Tcp { host, port } => format!("{host}:{port}"),
    };
    text.parse().map_err(|_| PrepareError::Header("host".into()))
}

fn uri(scheme: Scheme, authority: Authority, path: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    (parts.scheme, parts.authority, parts.path_and_query) = (Some(scheme), Some(authority), Some(path));
    // All three parts are there, which is what the conversion asks for.
    Uri::from_parts(parts).unwrap_or_default()
}

fn method(signal: Signal) -> PathAndQuery {
    PathAndQuery::from_static(match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    })
}

/// A gRPC server, as one worker sees it.
#[derive(Debug)]
pub(super) struct Grpc {
    pool: Pool,
    uris: PerSignal<Uri>,
    headers: HeaderMap,
    codec: Option<Codec>,
}

impl Destination for Grpc {
    async fn send(&self, outgoing: Outgoing) -> Result<ExportResponse, SendError> {
        let response = self.pool.request(self.request(outgoing)?).await?;
        let (head, body) = response.into_parts();
        if head.status != http::StatusCode::OK && !head.headers.contains_key(GRPC_STATUS) {
            let message = format!("answered with HTTP status {}", head.status.as_u16());
            let code = answer::code_of_foreign(head.status);
            return Err(answer::grpc(SendFailure { code, message, retry_after: None }));
        }
        let read = pool::read(body, MAX_RESPONSE_BYTES + PREFIX).await?;
        if read.is_cut {
            return Err(pool::too_large(MAX_RESPONSE_BYTES));
        }
        let trailers = read.trailers.as_ref().filter(|trailers| trailers.contains_key(GRPC_STATUS));
        check_status(trailers.unwrap_or(&head.headers))?;
        let encoding = head.headers.get(GRPC_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
        let message = message(read.data, encoding)?;
        ExportResponse::from_protobuf(&message)
            .map_err(|bad| answer::unusable(answer::INTERNAL, format!("the answer is malformed: {bad}")))
    }
}

impl Grpc {
    fn request(&self, outgoing: Outgoing) -> Result<Request<Body>, SendError> {
        let (signal, timeout) = (outgoing.signal, outgoing.timeout);
        let parts = match self.codec {
            None => outgoing.parts,
            Some(codec) => {
                let small = compression::compress(codec, None, &outgoing.parts);
                vec![small.map_err(|e| answer::unreachable(format!("compression failed: {e}"), None))?]
            }
        };
        let length: usize = parts.iter().map(Bytes::len).sum();
        let length = u32::try_from(length)
            .map_err(|_| answer::unusable(answer::RESOURCE_EXHAUSTED, "larger than a gRPC message can be"))?;
        let [a, b, c, d] = length.to_be_bytes();
        let prefix = [u8::from(self.codec.is_some()), a, b, c, d];
        let mut request = Request::new(Body::with_prefix(&prefix, parts));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uris[signal].clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(timeout) = timeout {
            request.headers_mut().insert(GRPC_TIMEOUT, timeout_value(timeout)?);
        }
        Ok(request)
    }
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout").
pub(super) fn timeout_value(timeout: Duration) -> Result<HeaderValue, SendError> {
    let millis = timeout.as_millis().max(1);
    let text = match millis {
        0..=99_999_999 => format!("{millis}m"),
        _ => format!("{}S", timeout.as_secs().min(99_999_999)),
    };
    HeaderValue::from_str(&text).map_err(|_| answer::unusable(answer::INTERNAL, "timeout"))
}

/// Reads the status from trailers, or from headers where there is nothing else.
fn check_status(headers: &HeaderMap) -> Result<(), SendError> {
    let text = |name: HeaderName| headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
    let code = std::str::from_utf8(text(GRPC_STATUS)).ok().and_then(|code| code.parse().ok());
    let message = answer::percent_decode(text(GRPC_MESSAGE));
    match code {
        Some(0) => Ok(()),
        Some(code) => {
            let details = BASE64.decode(text(GRPC_DETAILS)).unwrap_or_default();
            let retry_after = Status::from_protobuf(&details).retry_after;
            Err(answer::grpc(SendFailure { code, message, retry_after }))
        }
        None => Err(answer::unusable(answer::INTERNAL, "the answer has no grpc-status")),
    }
}

/// Takes the one message out of its frame.
fn message(data: Bytes, encoding: &[u8]) -> Result<Bytes, SendError> {
    let malformed = || answer::unusable(answer::INTERNAL, "the answer is not one gRPC message");
    let Some((prefix, _)) = data.split_at_checked(PREFIX) else {
        return Err(malformed());
    };
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    let message = data.slice(PREFIX..);
    match prefix[0] {
        _ if length != message.len() => Err(malformed()),
        0 => Ok(message),
        1 if !encoding.is_empty() => pool::decompress(encoding, message, MAX_RESPONSE_BYTES),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_fit_eight_digits() {
        let check = |millis: u64, expected: &str| {
            assert_eq!(timeout_value(Duration::from_millis(millis)).unwrap(), expected);
        };
        check(0, "1m");
        check(5000, "5000m");
        check(99_999_999, "99999999m");
        check(100_000_000, "100000S");
        check(u64::MAX, "99999999S");
    }
}
