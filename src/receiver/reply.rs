//! Answers as HTTP responses: gRPC with its trailers, OTLP/HTTP with its two encodings.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{Buf, Bytes};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::answer::{Fault, Verdict, retry_after_seconds};
use super::grpc;
use crate::internal_telemetry::WindowStalls;
use crate::otlp::Signal;
use crate::otlp::json::JsonError;
use crate::otlp::status::{ExportResponse, FieldViolation, MAX_MESSAGE_BYTES, Status, shorten};
use crate::pipeline::Accepted;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const APPLICATION_GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// What `grpc-accept-encoding` says.
pub(super) const GRPC_ENCODINGS: &str = "gzip,zstd";
/// What `Accept-Encoding` says.
pub(super) const HTTP_ENCODINGS: &str = "gzip, zstd, zlib, deflate";

/// The encoding of a request, and of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Protobuf,
    Json,
}

impl Format {
    fn content_type(self) -> HeaderValue {
        match self {
            Format::Protobuf => HeaderValue::from_static("application/x-protobuf"),
            Format::Json => HeaderValue::from_static("application/json"),
        }
    }
}

/// The body of an answer: at most one piece and, in gRPC, trailers that say OK.
#[derive(Debug, Default)]
pub(super) struct Reply {
    content: Option<Bytes>,
    ok_trailers: bool,
    stalls: Option<WindowStalls>,
}

/// The piece, on its way; counts if the client lets it wait.
#[derive(Debug)]
pub(super) struct Piece {
    content: Bytes,
    since: Instant,
    stalls: Option<WindowStalls>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.content.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.content.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.content.advance(count);
        let now = Instant::now();
        if let Some(stalls) = &self.stalls {
            stalls.note(now - self.since);
        }
        self.since = now;
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // A stall may end with the connection.
        if let Some(stalls) = self.stalls.take().filter(|_| self.content.has_remaining()) {
            stalls.note(self.since.elapsed());
        }
    }
}

impl Reply {
    fn of(content: Bytes) -> Self {
        Self { content: Some(content).filter(|content| !content.is_empty()), ..Self::default() }
    }

    /// Where it is counted that the client lets it wait.
    pub(super) fn watch(&mut self, stalls: &WindowStalls) {
        self.stalls = Some(stalls.clone());
    }
}

impl Body for Reply {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        if let Some(content) = self.content.take() {
            let piece = Piece { content, since: Instant::now(), stalls: self.stalls.take() };
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if !std::mem::take(&mut self.ok_trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_none() && !self.ok_trailers
    }

    fn size_hint(&self) -> SizeHint {
        // With trailers the length is left unsaid, as gRPC does.
        match &self.content {
            _ if self.ok_trailers => SizeHint::default(),
            Some(content) => SizeHint::with_exact(content.len() as u64),
            None => SizeHint::with_exact(0),
        }
    }
}

/// gRPC: OK.
pub(super) fn grpc_accepted(accepted: Accepted, most: usize) -> Response<Reply> {
    let content = match export_response(accepted, most) {
        None => grpc::frame(&[]),
        Some(response) => grpc::frame(&response.to_protobuf()),
    };
    let mut response = Response::new(Reply { content: Some(content), ok_trailers: true, ..Reply::default() });
    response.headers_mut().insert(CONTENT_TYPE, APPLICATION_GRPC);
    response
}

/// gRPC: anything else, as headers only.
pub(super) fn grpc_refused(fault: &Fault, verdict: &Verdict) -> Response<Reply> {
    let status = status(fault, &verdict.in_grpc(), MAX_MESSAGE_BYTES);
    let mut response = Response::new(Reply::default());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, APPLICATION_GRPC);
    headers.insert(GRPC_STATUS, HeaderValue::from(status.code));
    headers.insert(GRPC_MESSAGE, grpc::percent_encode(&status.message));
    if status.retry_after.is_some() || !status.violations.is_empty() {
        // Base64 is always a header value.
        if let Ok(details) = HeaderValue::try_from(STANDARD_NO_PAD.encode(status.to_protobuf())) {
            headers.insert(GRPC_STATUS_DETAILS, details);
        }
    }
    if matches!(fault, Fault::Encoding { .. }) {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(GRPC_ENCODINGS));
    }
    response
}

/// HTTP: 200.
pub(super) fn http_accepted(
    accepted: Accepted,
    signal: Signal,
    format: Format,
    most: usize,
) -> Response<Reply> {
    let response = export_response(accepted, most);
    let content = match (format, response) {
        (Format::Protobuf, None) => Bytes::new(),
        (Format::Protobuf, Some(response)) => response.to_protobuf(),
        (Format::Json, response) => response.unwrap_or_default().to_json(signal),
    };
    http(StatusCode::OK, format, content)
}

/// HTTP: anything else.
pub(super) fn http_refused(fault: &Fault, verdict: &Verdict, format: Format, most: usize) -> Response<Reply> {
    // The message occurs twice if it is also a violation.
    let status = status(fault, verdict, (most / 4).min(MAX_MESSAGE_BYTES));
    let content = match format {
        Format::Protobuf => status.to_protobuf(),
        Format::Json => status.to_json(),
    };
    let mut response = http(verdict.http, format, content);
    let headers = response.headers_mut();
    let retried = matches!(verdict.http, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    if let Some(retry_after) = verdict.retry_after.filter(|_| retried) {
        headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(retry_after)));
    }
    match fault {
        Fault::Method => {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        Fault::Encoding { supported } => {
            headers.insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static(supported));
        }
        _ => {}
    }
    response
}

/// HTTP: an answer without content.
pub(super) fn http_empty(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::default());
    *response.status_mut() = status;
    response
}

fn http(status: StatusCode, format: Format, content: Bytes) -> Response<Reply> {
    let mut response = Response::new(Reply::of(content));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, format.content_type());
    response
}

/// The partial success to tell, if there is any, in at most `most` bytes as JSON.
fn export_response(accepted: Accepted, most: usize) -> Option<ExportResponse> {
    let mut message = accepted.message.unwrap_or_default();
    if accepted.rejected == 0 && message.is_empty() {
        return None;
    }
    // In JSON one byte may take six (`\u0000`), and the frame around it takes less than 100.
    shorten(&mut message, most.saturating_sub(100) / 6);
    Some(ExportResponse { rejected: accepted.rejected, message })
}

fn status(fault: &Fault, verdict: &Verdict, most: usize) -> Status {
    let mut message = fault.to_string();
    shorten(&mut message, most);
    let violations = match verdict.code {
        tonic::Code::InvalidArgument if verdict.malformed => {
            let field = match fault {
                Fault::Json(JsonError::Malformed { path, .. }) => path.clone(),
                _ => String::new(),
            };
            vec![FieldViolation { field, description: message.clone() }]
        }
        _ => Vec::new(),
    };
    Status { code: verdict.code as i32, message, retry_after: verdict.retry_after, violations }
}
