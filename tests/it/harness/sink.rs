//! A destination: takes OTLP/gRPC and OTLP/HTTP, keeps what it got, answers as told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message;

/// How the sink answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    /// Takes the data.
    Ok,
    /// gRPC UNAVAILABLE / HTTP 503: try again.
    Unavailable,
    /// gRPC INVALID_ARGUMENT / HTTP 400: never try again.
    Invalid,
    /// Takes the data, after this long.
    Slow(Duration),
    /// No answer at all while this is set.
    Silence,
    /// As Mimir and Tempo: takes data with an `X-Scope-OrgID`, says 401 without.
    PerTenant,
}

/// One item as it arrived.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arrived {
    /// Span name, metric name, log body.
    pub name: String,
    pub resource: HashMap<String, String>,
    pub attributes: HashMap<String, String>,
    pub trace_state: String,
    /// The `X-Scope-OrgID` of its request; empty if there was none.
    pub scope_org_id: String,
}

#[derive(Default)]
struct State {
    answer: Mutex<Option<Answer>>,
    items: Mutex<Vec<(&'static str, Arrived)>>,
    forgets_attributes: std::sync::atomic::AtomicBool,
    timeouts: Mutex<Vec<String>>,
}

/// A listening destination; it ends with the test.
#[derive(Clone)]
pub struct Sink {
    address: SocketAddr,
    state: Arc<State>,
    life: Arc<Mutex<tokio::task::JoinHandle<()>>>,
}

impl Sink {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::default());
        let life = Arc::new(Mutex::new(live(listener, &state)));
        Self { address, state, life }
    }

    /// Breaks all connections off and listens no more.
    pub async fn kill(&self) {
        self.life.lock().unwrap().abort();
        super::eventually("the listener to be gone", || async {
            tokio::net::TcpStream::connect(self.address).await.is_err().then_some(())
        })
        .await;
    }

    /// Listens again where it did.
    pub async fn revive(&self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        *self.life.lock().unwrap() = live(listener, &self.state);
    }

    /// Ends every connection, and with it what a sender that is gone had sent and the answer set next
    /// would otherwise take: it would arrive here and, never acknowledged there, once more.
    pub async fn refuse_what_is_under_way(&self) {
        self.kill().await;
        self.revive().await;
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Keeps no attributes of items from now on: for tests that send a lot.
    pub fn forget_attributes(&self) {
        self.state.forgets_attributes.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub fn answer(&self, answer: Answer) {
        *self.state.answer.lock().unwrap() = Some(answer);
    }

    /// What the requests that came said of how long they may take (`grpc-timeout`).
    pub fn timeouts(&self) -> Vec<String> {
        self.state.timeouts.lock().unwrap().clone()
    }

    /// The items of one signal (`traces`, `metrics`, `logs`) so far.
    pub fn items(&self, signal: &str) -> Vec<Arrived> {
        let items = self.state.items.lock().unwrap();
        items.iter().filter(|(s, _)| *s == signal).map(|(_, item)| item.clone()).collect()
    }

    /// How many items of a signal there are so far.
    pub fn count(&self, signal: &str) -> usize {
        self.state.items.lock().unwrap().iter().filter(|(s, _)| *s == signal).count()
    }

    /// Waits for this many items of a signal, as long as more of them come.
    pub async fn keeps_coming(&self, signal: &str, count: usize) {
        while self.count(signal) < count {
            let had = self.count(signal);
            super::eventually(&format!("more than {had} items of {signal}, {count} in the end"), || async {
                (self.count(signal) > had).then_some(())
            })
            .await;
        }
    }

    /// Waits for this many items of a signal.
    pub async fn wait_for(&self, signal: &str, count: usize) -> Vec<Arrived> {
        super::eventually(&format!("{count} items of {signal}"), || async {
            let items = self.items(signal);
            (items.len() >= count).then_some(items)
        })
        .await
    }
}

fn live(listener: tokio::net::TcpListener, state: &Arc<State>) -> tokio::task::JoinHandle<()> {
    let state = state.clone();
    tokio::spawn(async move {
        // Ends with the listener, and the connections with it.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let state = state.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| serve(state.clone(), request));
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

type Body = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

async fn serve(
    state: Arc<State>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Body>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    if let Some(timeout) = head.headers.get("grpc-timeout") {
        state.timeouts.lock().unwrap().push(timeout.to_str().unwrap().to_owned());
    }
    // A sender that gave up gets no answer, and what it began does not count.
    let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
        return Ok(respond(false, 0, 400));
    };
    let grpc =
        head.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let tenants: Vec<_> = head.headers.get_all("x-scope-orgid").iter().collect();
    assert!(tenants.len() <= 1, "{tenants:?}");
    let scope_org_id = tenants.first().map_or(String::new(), |value| value.to_str().unwrap().to_owned());
    loop {
        let answer = state.answer.lock().unwrap().unwrap_or(Answer::Ok);
        match answer {
            Answer::Silence => tokio::time::sleep(Duration::from_millis(10)).await,
            Answer::Ok => break,
            Answer::Slow(delay) => {
                tokio::time::sleep(delay).await;
                break;
            }
            Answer::Unavailable => return Ok(respond(grpc, 14, 503)),
            Answer::Invalid => return Ok(respond(grpc, 3, 400)),
            Answer::PerTenant if scope_org_id.is_empty() => return Ok(respond(grpc, 16, 401)),
            Answer::PerTenant => break,
        }
    }
    let encoding = if grpc { "grpc-encoding" } else { "content-encoding" };
    let body = if grpc { body.slice(5..) } else { body };
    let body = decompress(head.headers.get(encoding), body);
    let (signal, mut arrived) = decode(head.uri.path(), &body);
    if state.forgets_attributes.load(std::sync::atomic::Ordering::Relaxed) {
        arrived.iter_mut().for_each(|item| item.attributes = HashMap::new());
    }
    let arrived = arrived.into_iter().map(|item| Arrived { scope_org_id: scope_org_id.clone(), ..item });
    state.items.lock().unwrap().extend(arrived.map(|item| (signal, item)));
    Ok(respond(grpc, 0, 200))
}

fn respond(grpc: bool, code: u8, status: u16) -> http::Response<Body> {
    if !grpc {
        let builder =
            http::Response::builder().status(status).header("content-type", "application/x-protobuf");
        return builder.body(Full::new(Bytes::new()).boxed()).unwrap();
    }
    let builder = http::Response::builder().header("content-type", "application/grpc");
    if code != 0 {
        return builder
            .header("grpc-status", code.to_string())
            .body(Full::new(Bytes::new()).boxed())
            .unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let message = Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]));
    builder.body(message.with_trailers(async { Some(Ok(trailers)) }).boxed()).unwrap()
}

fn decompress(encoding: Option<&http::HeaderValue>, body: Bytes) -> Bytes {
    use std::io::Read;
    let mut out = Vec::new();
    match encoding.map(|value| value.as_bytes()) {
        Some(b"gzip") => flate2::read::MultiGzDecoder::new(&body[..]).read_to_end(&mut out).unwrap(),
        Some(b"zstd") => zstd::stream::read::Decoder::new(&body[..]).unwrap().read_to_end(&mut out).unwrap(),
        _ => return body,
    };
    BytesMut::from(&out[..]).freeze()
}

fn decode(path: &str, body: &[u8]) -> (&'static str, Vec<Arrived>) {
    if path.contains("race") {
        ("traces", spans(ExportTraceServiceRequest::decode(body).unwrap()))
    } else if path.contains("etrics") {
        ("metrics", points(ExportMetricsServiceRequest::decode(body).unwrap()))
    } else {
        ("logs", records(ExportLogsServiceRequest::decode(body).unwrap()))
    }
}

fn texts(attributes: &[KeyValue]) -> HashMap<String, String> {
    let text = |kv: &KeyValue| match kv.value.as_ref().and_then(|v| v.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::BoolValue(b)) => b.to_string(),
        Some(Value::DoubleValue(d)) => d.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|kv| (kv.key.clone(), text(kv))).collect()
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Arrived> {
    let mut all = Vec::new();
    for of in request.resource_spans {
        let resource = texts(&of.resource.unwrap_or_default().attributes);
        for span in of.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let attributes = texts(&span.attributes);
            all.push(Arrived {
                name: span.name,
                resource: resource.clone(),
                attributes,
                trace_state: span.trace_state,
                scope_org_id: String::new(),
            });
        }
    }
    all
}

fn records(request: ExportLogsServiceRequest) -> Vec<Arrived> {
    let mut all = Vec::new();
    for of in request.resource_logs {
        let resource = texts(&of.resource.unwrap_or_default().attributes);
        for record in of.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let name = match record.body.and_then(|body| body.value) {
                Some(Value::StringValue(text)) => text,
                other => format!("{other:?}"),
            };
            let attributes = texts(&record.attributes);
            all.push(Arrived { name, resource: resource.clone(), attributes, ..Arrived::default() });
        }
    }
    all
}

fn points(request: ExportMetricsServiceRequest) -> Vec<Arrived> {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let mut all = Vec::new();
    for of in request.resource_metrics {
        let resource = texts(&of.resource.unwrap_or_default().attributes);
        for metric in of.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
            let attributes: Vec<HashMap<_, _>> = match metric.data {
                Some(Data::Gauge(d)) => d.data_points.iter().map(|p| texts(&p.attributes)).collect(),
                Some(Data::Sum(d)) => d.data_points.iter().map(|p| texts(&p.attributes)).collect(),
                Some(Data::Histogram(d)) => d.data_points.iter().map(|p| texts(&p.attributes)).collect(),
                other => panic!("no test sends {other:?}"),
            };
            for attributes in attributes {
                let (name, resource) = (metric.name.clone(), resource.clone());
                all.push(Arrived { name, resource, attributes, ..Arrived::default() });
            }
        }
    }
    all
}
