//! The receiver from outside: real sockets, a pipeline that is a closure.

mod conformance;
mod edge;
mod life;
mod secure;
mod windows;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::otlp::Signal;

/// How long anything may take before a test gives up; reached only by failures.
const PATIENCE: Duration = Duration::from_secs(20);

type Answering = std::pin::Pin<Box<dyn Future<Output = Result<Accepted, Refusal>> + Send>>;
type Accept = Arc<dyn Fn(Request) -> Answering + Send + Sync>;
type Admit = Arc<dyn Fn(&Arrival<'_>) -> Result<(), Refusal> + Send + Sync>;

/// A receiver under test; the pipeline notes what it gets.
struct Server {
    receiver: Receiver,
    scope: Scope,
    /// Tasks of the clients.
    clients: Scope,
    workers: Workers,
    metrics: Metrics,
    seen: Arc<Mutex<Vec<Request>>>,
}

/// What the pipeline of a test answers.
fn answers(answer: Result<Accepted, Refusal>) -> Accept {
    Arc::new(move |_request| {
        let answer = answer.clone();
        Box::pin(async move { answer })
    })
}

fn accepts() -> Accept {
    answers(Ok(Accepted { items: 1, ..Accepted::default() }))
}

/// A pipeline that never answers, and counts the requests that wait in it.
fn hangs(waiting: &Arc<std::sync::atomic::AtomicUsize>) -> Accept {
    let waiting = waiting.clone();
    Arc::new(move |_request| {
        let waiting = Waiting::new(&waiting);
        Box::pin(async move {
            let _waiting = waiting;
            std::future::pending().await
        })
    })
}

struct Waiting(Arc<std::sync::atomic::AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<std::sync::atomic::AtomicUsize>) -> Self {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Both listeners with all defaults, but on free ports.
fn defaults() -> Value {
    json!({})
}

/// Starts a receiver; `config` has the keys of `grpc`, of `http`, or of both under their names.
async fn start(config: Value, accept: Accept) -> Server {
    start_with(config, Arc::new(|_| Ok(())), accept).await
}

async fn start_with(config: Value, admit: Admit, accept: Accept) -> Server {
    start_asking(config, None, admit, accept).await
}

/// As above; `authenticate` is asked who sends.
async fn start_asking(
    config: Value,
    authenticate: Option<Authenticate>,
    admit: Admit,
    accept: Accept,
) -> Server {
    let mut protocols = json!({"grpc": {"endpoint": "127.0.0.1:0"}, "http": {"endpoint": "127.0.0.1:0"}});
    for (protocol, keys) in config.as_object().unwrap() {
        for (key, value) in keys.as_object().unwrap() {
            protocols[protocol][key] = value.clone();
        }
    }
    let config: Otlp = serde_json::from_value(json!({"protocols": protocols})).unwrap();
    assert_eq!(config.check(), [], "the configuration of the test is sound");
    let bound = Receiver::bind(&config, &mut crate::receiver::Sockets::default()).await.unwrap();
    let scope = Scope::root("test");
    let workers = Workers::start(2).unwrap();
    let metrics = Metrics::default();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noting = seen.clone();
    let hooks = Hooks {
        memory: Budget::default(),
        authenticate,
        admit: move |arrival: &Arrival<'_>| admit(arrival).map(|()| crate::pipeline::Pass::default()),
        accept: move |request: Request| {
            noting.lock().unwrap().push(request.clone());
            accept(request)
        },
    };
    let receiver = bound.serve(hooks, &scope, &workers, metrics.clone());
    Server { receiver, scope, clients: Scope::root("clients"), workers, metrics, seen }
}

impl Server {
    fn address(&self, transport: Transport) -> SocketAddr {
        let mut addresses = self.receiver.local_addrs().iter();
        addresses.find(|(of, _)| *of == transport).unwrap().1.tcp().unwrap()
    }

    fn grpc(&self) -> SocketAddr {
        self.address(Transport::Grpc)
    }

    fn http(&self) -> SocketAddr {
        self.address(Transport::Http)
    }

    /// How many requests were stopped, by reason.
    fn cancelled(&self) -> Vec<(CancelReason, u64)> {
        let counted = CancelReason::ALL.iter().map(|r| (*r, self.metrics.cancellations.get(*r)));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// The one request the pipeline got, which is taken.
    fn request(&self) -> Request {
        let mut seen = self.seen.lock().unwrap();
        assert_eq!(seen.len(), 1, "requests in the pipeline");
        seen.remove(0)
    }

    async fn h2(&self, address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        h2_over(&self.clients, socket).await
    }

    /// A gRPC call on a connection of its own.
    async fn grpc_call(&self, signal: Signal, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.h2(self.grpc()).await.grpc(signal, headers, body).await
    }

    /// A POST over HTTP/1.1 on a connection of its own.
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        http1(self.http(), "POST", path, headers, body).await
    }

    /// Ends everything and sees that nothing is left.
    async fn stop(self) {
        self.clients.close(Instant::now()).await;
        drained(&self.receiver, Instant::now() + PATIENCE).await;
        assert_eq!((self.scope.alive(), self.scope.aborted()), (0, 0), "tasks alive and aborted");
        assert_eq!(self.metrics.grpc.connections.get() + self.metrics.http.connections.get(), 0);
        self.workers.stop();
    }
}

/// The receiver ends because the collector does.
async fn drained(receiver: &Receiver, deadline: Instant) {
    receiver.leave(deadline, CancelReason::Drain).await;
    receiver.close().await;
}

/// Waits until something is true.
async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let polling = async {
        while !is_true() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// An answer, read whole.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The gRPC code, wherever it stands.
    fn code(&self) -> i32 {
        let value = self.trailers.get("grpc-status").or(self.headers.get("grpc-status"));
        value.unwrap_or_else(|| panic!("{self:?}")).to_str().unwrap().parse().unwrap()
    }

    /// The message of a gRPC answer.
    fn message(&self) -> Bytes {
        let (compressed, message) = grpc::unframe(self.body.clone()).unwrap();
        assert!(!compressed);
        message
    }

    /// `grpc-status-details-bin`.
    fn details(&self) -> crate::otlp::status::Status {
        use base64::Engine;
        let text = self.header("grpc-status-details-bin");
        let bytes = base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).unwrap();
        crate::otlp::status::Status::from_protobuf(&bytes)
    }

    /// The `google.rpc.Status` of an HTTP answer, in the encoding its content type names.
    fn status_body(&self) -> crate::otlp::status::Status {
        match self.header("content-type") {
            "application/x-protobuf" => crate::otlp::status::Status::from_protobuf(&self.body),
            "application/json" => crate::otlp::status::Status::from_json(&self.body),
            other => panic!("{other}: {self:?}"),
        }
    }
}

/// An HTTP/2 client without any policy of its own.
#[derive(Clone)]
struct Client {
    send: h2::client::SendRequest<Bytes>,
}

async fn h2_over<S>(clients: &Scope, socket: S) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (send, connection) = builder.handshake(socket).await.unwrap();
    clients.spawn("h2", async move {
        // How it ends is seen by the calls.
        let _ended = connection.await;
    });
    Client { send }
}

fn path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

impl Client {
    async fn grpc(&mut self, signal: Signal, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        self.grpc_at(path(signal), headers, body).await
    }

    async fn grpc_at(&mut self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut all = vec![("content-type", "application/grpc"), ("te", "trailers")];
        all.extend_from_slice(headers);
        self.call("POST", path, &all, body).await
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.try_call(method, path, headers, body).await.unwrap()
    }

    async fn try_call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, h2::Error> {
        let body = body.into();
        let (response, mut stream) = self.open(method, path, headers).await?;
        // The answer may come before the body was taken; then the rest of it is not wanted.
        let _unwanted = send(&mut stream, body, true).await;
        read_answer(response).await
    }

    /// Sends only the headers.
    async fn open(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut request = http::Request::builder().method(method).uri(format!("http://test.example{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        self.send.send_request(request.body(()).unwrap(), false)
    }
}

/// Sends as much as the windows allow, and waits for them.
async fn send(stream: &mut h2::SendStream<Bytes>, mut body: Bytes, end: bool) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let granted = match poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(granted) => granted?,
            None => return Ok(()),
        };
        stream.send_data(body.split_to(granted.min(body.len())), false)?;
    }
    if end { stream.send_data(Bytes::new(), true) } else { Ok(()) }
}

async fn read_answer(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let reading = async {
        let (head, mut incoming) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(piece) = incoming.data().await {
            let piece = piece?;
            incoming.flow_control().release_capacity(piece.len())?;
            body.extend_from_slice(&piece);
        }
        let trailers = incoming.trailers().await?.unwrap_or_default();
        Ok(Answer { status: head.status, headers: head.headers, body: body.into(), trailers })
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time")
}

/// One HTTP/1.1 request on a connection of its own.
async fn http1(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test.example\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length" || *name == "transfer-encoding") {
        text += &format!("content-length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = socket.split();
    let sending = async {
        // The server may refuse before it has read everything.
        let _refused = write.write_all(format!("{text}\r\n").as_bytes()).await;
        let _refused = write.write_all(body).await;
    };
    let mut answer = Vec::new();
    let reading = async {
        let _reset = read.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(PATIENCE, async { tokio::join!(sending, reading) })
        .await
        .expect("an answer in time");
    parse_http1(&answer)
}

fn parse_http1(answer: &[u8]) -> Answer {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("not an answer: {:?}", String::from_utf8_lossy(answer)));
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: HashMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer {
        status,
        headers: (&headers).try_into().unwrap(),
        body: Bytes::copy_from_slice(&answer[end + 4..]),
        trailers: HeaderMap::new(),
    }
}

/// A message in a gRPC frame, compressed or not.
fn framed(compressed: bool, message: &[u8]) -> Bytes {
    let mut frame = grpc::frame(message).to_vec();
    if frame.is_empty() {
        frame = vec![0; grpc::PREFIX];
    }
    frame[0] = u8::from(compressed);
    frame.into()
}

/// A small traces request, encoded by prost.
fn traces() -> Bytes {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
    use prost::Message;
    let span = Span { name: "gate".into(), trace_id: vec![7; 16], span_id: vec![9; 8], ..Span::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");
