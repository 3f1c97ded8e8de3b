//! A small HTTP/1.1 server for people and probes.
//!
//! Not for data: no bodies are read, nothing is changed. Limits: [`MAX_CONNECTIONS`] at a time (further
//! ones wait in the kernel's queue), [`HEADER_TIMEOUT`] for the head of a request, the handler answers
//! from memory. All tasks belong to the scope given.

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tasks::Scope;

/// Connections served at a time: a handful of probes and scrapers, with room.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send a request's head; also how long an idle connection stays.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take to finish what it began when the scope is cancelled.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long the accept loop rests when the system has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {endpoint}")]
pub struct BindError {
    /// The address as configured.
    pub endpoint: String,
    /// What the system says.
    pub source: std::io::Error,
}

/// A request as a handler sees it: a path, a query, a host.
#[derive(Debug)]
pub struct Question {
    uri: http::Uri,
    host: Option<String>,
}

impl Question {
    /// The path.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The value of a query parameter, percent-decoded; `None` if it is absent or not UTF-8.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
        percent_decoded(value)
    }

    /// The `Host` header, or what stands in the request line.
    pub fn host(&self) -> Option<&str> {
        self.uri.host().or(self.host.as_deref())
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// What a handler answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Answer {
    /// Any text with its type.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type, body: body.into() }
    }

    /// Plain text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body)
    }

    /// JSON on one line.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    fn into_response(self, head_only: bool) -> Response<Full<Bytes>> {
        let length = self.body.len();
        let body = if head_only { Bytes::new() } else { Bytes::from(self.body) };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if self.status == 405 {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// Answers questions from memory.
pub type Handler = Arc<dyn Fn(&Question) -> Answer + Send + Sync>;

/// A listener that is bound and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the address, `host:port`, an IPv6 address with or without brackets; port 0 takes a free one.
    ///
    /// # Errors
    /// [`BindError`]: the address is taken, not ours, or not one.
    pub async fn bind(endpoint: &str) -> Result<Self, BindError> {
        let address = bracketed(endpoint);
        let failed = |source| BindError { endpoint: endpoint.to_owned(), source };
        let listener = TcpListener::bind(&address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers from now on, until `scope` is cancelled.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start(self, scope: &Scope, handler: Handler) {
        let own = scope.clone();
        scope.spawn("admin listener", async move {
            let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            let accepting = accept(self.listener, &own, handler, permits);
            // Cancelled is how it ends.
            let _ended = own.token().run_until_cancelled(accepting).await;
        });
    }
}

/// The Collector's `:8888` means all interfaces; `${env:MY_POD_IP}:8888` gives IPv6 addresses without brackets.
fn bracketed(endpoint: &str) -> String {
    match endpoint.rsplit_once(':') {
        Some(("", port)) => format!("[::]:{port}"),
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
        _ => endpoint.to_owned(),
    }
}

async fn accept(listener: TcpListener, scope: &Scope, handler: Handler, permits: Arc<Semaphore>) {
    while let Ok(permit) = permits.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => serve(scope, stream, handler.clone(), permit),
            Err(error) => {
                tracing::warn!(name: "admin.accept_failed", %error, "no connection was accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn serve(scope: &Scope, stream: TcpStream, handler: Handler, permit: OwnedSemaphorePermit) {
    let token = scope.token().clone();
    scope.spawn("admin connection", async move {
        let _permit = permit;
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let response = respond(&handler, &request);
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        if token.run_until_cancelled(connection.as_mut()).await.is_none() {
            connection.as_mut().graceful_shutdown();
            // A client that breaks off, or is too slow to finish its question, is no news.
            let _ended = tokio::time::timeout(GOODBYE, connection).await;
        }
    });
}

fn respond(handler: &Handler, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Answer::text(405, "only GET and HEAD\n").into_response(false);
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let question = Question { uri: request.uri().clone(), host: host.map(str::to_owned) };
    handler(&question).into_response(request.method() == Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_understood() {
        let check = |endpoint: &str, expected: &str| assert_eq!(bracketed(endpoint), expected);
        check("10.0.0.7:8888", "10.0.0.7:8888");
        check("localhost:8888", "localhost:8888");
        check(":8888", "[::]:8888");
        check("fd00::7:8888", "[fd00::7]:8888");
        check("[fd00::7]:8888", "[fd00::7]:8888");
        check("::1:0", "[::1]:0");
    }
}
