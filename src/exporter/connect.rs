//! Opening connections: TCP, TLS over TCP, unix sockets, one address after the other.
//!
//! Not here: keeping connections. Invariant: after a failure no new attempt starts before its backoff is
//! over, whoever asks.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;

use crate::config::exporter::Address;
use crate::tls::ClientTls;

/// How long a connection may take to open, TLS included, whatever the attempt's own timeout is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one of several addresses may take before the next is tried.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait after the first failure to connect; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest wait between attempts to connect.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

/// Which versions of HTTP are offered when TLS is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alpn {
    Http2,
    Http1,
    Either,
}

/// Opens connections to one address.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    tls: Option<ClientTls>,
    alpn: Alpn,
    waits_for_ready: bool,
    next_address: AtomicUsize,
    backoff: Mutex<ConnectBackoff>,
}

#[derive(Debug)]
struct ConnectBackoff {
    not_before: Option<Instant>,
    next: Duration,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("connecting failed a moment ago")]
    BackingOff,
    #[error("{0}")]
    Failed(#[from] io::Error),
}

impl Connector {
    pub(super) fn new(address: Address, tls: Option<ClientTls>, alpn: Alpn, waits_for_ready: bool) -> Self {
        Self(Arc::new(Shared {
            address,
            tls,
            alpn,
            waits_for_ready,
            next_address: AtomicUsize::new(0),
            backoff: Mutex::new(ConnectBackoff { not_before: None, next: FIRST_BACKOFF }),
        }))
    }

    /// How long until connecting may be tried again, after a failure.
    pub(super) fn backoff(&self) -> Option<Duration> {
        let left = self.lock().not_before?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    async fn connect(self) -> Result<TokioIo<Stream>, ConnectError> {
        while let Some(wait) = self.backoff() {
            if !self.0.waits_for_ready {
                return Err(ConnectError::BackingOff);
            }
            tokio::time::sleep(wait).await;
        }
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.open()).await;
        let opened = opened.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
        let mut backoff = self.lock();
        match opened {
            Ok(stream) => {
                *backoff = ConnectBackoff { not_before: None, next: FIRST_BACKOFF };
                Ok(TokioIo::new(stream))
            }
            Err(error) => {
                let scattered = backoff.next.mul_f64(0.5 + fastrand::f64());
                backoff.not_before = Some(Instant::now() + scattered);
                backoff.next = (backoff.next * 2).min(LONGEST_BACKOFF);
                Err(error.into())
            }
        }
    }

    async fn open(&self) -> io::Result<Stream> {
        let (host, port) = match &self.0.address {
            Address::Unix(path) => return UnixStream::connect(path).await.map(Stream::Unix),
            Address::Tcp { host, port } => (host.as_str(), *port),
        };
        let tcp = self.open_tcp(host, port).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.0.tls else { return Ok(Stream::Tcp(tcp)) };
        let name = match tls.server_name() {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(io::Error::other)?,
        };
        let alpn: &[&[u8]] = match self.0.alpn {
            Alpn::Http2 => &[b"h2"],
            Alpn::Http1 => &[b"http/1.1"],
            Alpn::Either => &[b"h2", b"http/1.1"],
        };
        let alpn = alpn.iter().map(|name| name.to_vec()).collect();
        let stream = TlsConnector::from(tls.current()).with_alpn(alpn).connect(name, tcp).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Each call begins with the next address of the name, so that connections spread over all of them.
    async fn open_tcp(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
        let first = self.0.next_address.fetch_add(1, Ordering::Relaxed);
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for i in 0..addresses.len() {
            let address = addresses[first.wrapping_add(i) % addresses.len()];
            match tokio::time::timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_late) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(failed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ConnectBackoff> {
        self.0.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<Stream>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Stream::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
            Stream::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
