//! One HTTP exchange with whoever keeps keys or reviews tokens, on a connection of its own.
//!
//! These are minutes apart or behind a cache, so connections are not kept. Not here: when to ask.
//! Invariant: an exchange ends by its deadline, and an answer is bounded.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::tls::TlsClient;
use crate::tasks::Scope;
use crate::tls::{ClientTls, TlsError};

/// The largest answer.
const MAX_ANSWER: usize = 1 << 20;

/// Whom to ask.
#[derive(Debug)]
pub(super) struct Client {
    url: Uri,
    /// None for plain http.
    tls: Option<ClientTls>,
    timeout: Duration,
}

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchFailure {
    #[error("no answer in time")]
    Late,
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the answer cannot be read: {0}")]
    Answer(Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer was {0}")]
    Status(StatusCode),
}

impl Client {
    /// Reads the authorities; without a URL every exchange fails.
    pub(super) fn load(url: &str, tls: &TlsClient, timeout: Duration) -> Result<Self, TlsError> {
        let url: Uri = url.parse().unwrap_or_default();
        let tls = match url.scheme_str() {
            Some("https") => Some(ClientTls::load(tls)?),
            _ => None,
        };
        Ok(Self { url, tls, timeout })
    }

    /// Follows the files of TLS.
    pub(super) fn watch(&self, scope: &Scope) {
        if let Some(tls) = &self.tls {
            tls.watch(scope);
        }
    }

    /// Sends a request to the URL; the body of a 2xx answer.
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Bytes, FetchFailure> {
        match tokio::time::timeout(self.timeout, self.connect_and_send(request)).await {
            Ok(answered) => answered,
            Err(_late) => Err(FetchFailure::Late),
        }
    }

    async fn connect_and_send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, FetchFailure> {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.url.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await?;
        let Some(tls) = &self.tls else { return self.send(stream, request).await };
        let name = match tls.server_name() {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?,
        };
        let connector = TlsConnector::from(tls.current());
        let stream = connector.with_alpn(vec![b"http/1.1".to_vec()]).connect(name, stream).await?;
        self.send(stream, request).await
    }

    async fn send<S>(&self, stream: S, mut request: Request<Full<Bytes>>) -> Result<Bytes, FetchFailure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        if let Ok(host) = HeaderValue::from_str(authority.rsplit('@').next().unwrap_or(authority)) {
            request.headers_mut().insert(HOST, host);
        }
        if request.uri() == &Uri::default()
            && let Some(path) = self.url.path_and_query()
        {
            *request.uri_mut() = Uri::from(path.clone());
        }
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async move {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            if !status.is_success() {
                return Err(FetchFailure::Status(status));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body.map_err(FetchFailure::Answer)?.to_bytes())
        };
        // The exchange drops its side of the connection, which then ends; how does not matter.
        let (answered, _ended) = tokio::join!(exchange, connection);
        answered
    }
}
