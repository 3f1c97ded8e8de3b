//! Destinations on loopback that do as they are told.

use std::convert::Infallible;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::tasks::Scope;

/// How long tests wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `what` is true.
pub(super) async fn eventually(text: &str, mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {text}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What a destination answers.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// A gRPC status with its message, details and answer message.
    Grpc { code: i32, message: &'static str, details: Option<Bytes>, body: Bytes },
    /// An HTTP answer.
    Http { status: u16, headers: Vec<(&'static str, String)>, body: Bytes },
    /// Never.
    Never,
    /// The connection breaks off.
    Close,
}

impl Reply {
    pub(super) fn ok() -> Self {
        Self::grpc(0)
    }

    pub(super) fn grpc(code: i32) -> Self {
        Reply::Grpc { code, message: "told%20so", details: None, body: Bytes::new() }
    }

    pub(super) fn http(status: u16) -> Self {
        Reply::Http { status, headers: Vec::new(), body: Bytes::new() }
    }
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) path: String,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

/// A destination.
pub(super) struct Fake {
    pub(super) address: String,
    state: Arc<State>,
    scope: Scope,
}

type Script = Box<dyn Fn(usize) -> Reply + Send + Sync>;
type Judge = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    script: Script,
    judge: std::sync::OnceLock<Judge>,
    go_away: CancellationToken,
}

impl Fake {
    /// Listens on loopback; `script` tells the reply to the request of each number, from 0.
    pub(super) async fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, Box::new(script))
    }

    /// As [`Fake::start`], with a reply that goes by the request.
    pub(super) async fn judging(judge: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let fake = Self::start(|_| Reply::ok()).await;
        assert!(fake.state.judge.set(Box::new(judge)).is_ok());
        fake
    }

    pub(super) fn on(listener: TcpListener, script: Script) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let fake = Self::new(address, script);
        let (state, scope) = (fake.state.clone(), fake.scope.clone());
        fake.scope.spawn("listener", async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(&state, &scope, stream);
            }
        });
        fake
    }

    /// Listens on a unix socket.
    pub(super) fn unix(path: &std::path::Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let fake = Self::new(format!("unix:{}", path.display()), Box::new(|_| Reply::ok()));
        let (state, scope) = (fake.state.clone(), fake.scope.clone());
        fake.scope.spawn("listener", async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(&state, &scope, stream);
            }
        });
        fake
    }

    /// Listens on loopback with TLS.
    pub(super) async fn tls(config: rustls::ServerConfig, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self::new(listener.local_addr().unwrap().to_string(), script);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (state, scope) = (fake.state.clone(), fake.scope.clone());
        fake.scope.spawn("listener", async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(&state, &scope, stream);
                }
            }
        });
        fake
    }

    fn new(address: String, script: Script) -> Self {
        let (connections, go_away) = (AtomicUsize::new(0), CancellationToken::new());
        let state =
            State { seen: Mutex::default(), connections, script, judge: std::sync::OnceLock::new(), go_away };
        Self { address, state: Arc::new(state), scope: Scope::root("fake") }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Ends every HTTP/2 connection there is, or will be, with GOAWAY.
    pub(super) fn go_away(&self) {
        self.state.go_away.cancel();
    }

    /// Breaks every connection off and stops listening.
    pub(super) async fn stop(self) {
        self.scope.close(Instant::now()).await;
    }
}

fn serve(state: &Arc<State>, scope: &Scope, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    state.connections.fetch_add(1, Ordering::Relaxed);
    let state = state.clone();
    scope.spawn("connection", async move {
        let go_away = state.go_away.clone();
        let service = service_fn(|request| answer(state.clone(), request));
        let (stream, is_http2) = sniff(stream).await;
        // How a connection ends is the client's business.
        if is_http2 {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                _ended = connection.as_mut() => return,
                () = go_away.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ended = connection.await;
        } else {
            let builder = hyper::server::conn::http1::Builder::new();
            let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
        }
    });
}

/// Reads the first bytes: HTTP/2 begins with `PRI`.
async fn sniff<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
) -> (tokio::io::Join<impl AsyncRead + Unpin, tokio::io::WriteHalf<S>>, bool) {
    use tokio::io::AsyncReadExt;
    let mut first = [0; 3];
    let read = stream.read_exact(&mut first).await.is_ok();
    let (reader, writer) = tokio::io::split(stream);
    let reader = std::io::Cursor::new(first).chain(reader);
    (tokio::io::join(reader, writer), read && first == *b"PRI")
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let reply = {
        let mut seen = state.seen.lock().unwrap();
        let path = head.uri.path().to_owned();
        seen.push(Seen { at: Instant::now(), path, version: head.version, headers: head.headers, body });
        match state.judge.get() {
            Some(judge) => judge(&seen[seen.len() - 1]),
            None => (state.script)(seen.len() - 1),
        }
    };
    match reply {
        Reply::Never => std::future::pending().await,
        Reply::Close => Err(std::io::ErrorKind::ConnectionAborted.into()),
        Reply::Http { status, headers, body } => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body).boxed()).unwrap())
        }
        Reply::Grpc { code, message, details, body } => Ok(grpc(code, message, details, body)),
    }
}

fn grpc(code: i32, message: &'static str, details: Option<Bytes>, body: Bytes) -> Answer {
    use base64::Engine;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.to_string().parse().unwrap());
    trailers.insert("grpc-message", message.parse().unwrap());
    if let Some(details) = details {
        let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(details);
        trailers.insert("grpc-status-details-bin", text.parse().unwrap());
    }
    let response = Response::builder().header("content-type", "application/grpc");
    if code != 0 {
        let (mut head, body) = response.body(Full::default().boxed()).unwrap().into_parts();
        head.headers.extend(trailers);
        return Response::from_parts(head, body);
    }
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let framed: Bytes = [&[0], &length[..], &body[..]].concat().into();
    let trailers = std::future::ready(Some(Ok(trailers)));
    response.body(Full::new(framed).with_trailers(trailers).boxed()).unwrap()
}

/// Waits for a future, but not for ever.
pub(super) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("not in time")
}
