//! Pushes of metrics and traces to a gRPC server that keeps what it gets.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::config::service::{self, Header, OtlpPush, PushExporter};
use crate::internal_telemetry::OwnResource;
use crate::internal_telemetry::tests::busy;
use crate::internal_telemetry::traces::{Traces, request_span};
use crate::otlp::Signal;

/// A request and the headers it came with.
type Kept<T> = Arc<Mutex<Vec<(MetadataMap, T)>>>;

#[derive(Debug, Clone, Default)]
struct Sink {
    metrics: Kept<ExportMetricsServiceRequest>,
    traces: Kept<ExportTraceServiceRequest>,
}

#[tonic::async_trait]
impl MetricsService for Sink {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let kept = (request.metadata().clone(), request.into_inner());
        self.metrics.lock().unwrap().push(kept);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let kept = (request.metadata().clone(), request.into_inner());
        self.traces.lock().unwrap().push(kept);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Sink {
    async fn start(scope: &Scope) -> (Self, SocketAddr) {
        let destination = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(MetricsServiceServer::new(destination.clone()))
            .add_service(TraceServiceServer::new(destination.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let token = scope.token().clone();
        scope.spawn("destination", async move {
            token.run_until_cancelled(serving).await;
        });
        (destination, address)
    }
}

fn exporter(address: SocketAddr) -> PushExporter {
    let header = Header { name: "x-key".into(), value: "v".into() };
    let endpoint = format!("http://{address}");
    PushExporter { otlp: OtlpPush { endpoint, headers: vec![header], ..OtlpPush::default() } }
}

#[tokio::test]
async fn metrics_are_pushed_marked_and_once_more_at_the_end() {
    let root = Scope::root("test");
    let (destination, address) = Sink::start(&root.child("destination")).await;
    let telemetry = busy("r");
    let pushing = root.child("push");
    let hour = Periodic { interval: 3_600_000, exporter: exporter(address), ..Periodic::default() };
    start(&pushing, &telemetry, &hour).unwrap();
    pushing.close(Instant::now() + Duration::from_secs(20)).await;

    let kept = destination.metrics.lock().unwrap().clone();
    let [(headers, request)] = kept.as_slice() else { panic!("{} pushes", kept.len()) };
    assert_eq!(headers.get("x-key").unwrap(), "v");
    assert!(is_own(&headers.clone().into_headers()));
    let resource = &request.resource_metrics[0];
    let keys: Vec<_> =
        resource.resource.as_ref().unwrap().attributes.iter().map(|a| a.key.as_str()).collect();
    assert_eq!(keys, ["service.name", "service.version", "service.instance.id"]);
    let metrics = &resource.scope_metrics[0].metrics;
    let metric = |name: &str| metrics.iter().find(|metric| metric.name == name).unwrap();
    let Some(Data::Sum(sum)) = &metric("otelcol_processor_incoming_items").data else { panic!() };
    assert!(sum.is_monotonic);
    assert_eq!(sum.data_points[0].attributes[1].key, "otel.signal");
    assert!(matches!(metric("otelcol_process_memory_rss").data, Some(Data::Gauge(_))));
    assert!(metrics.iter().all(|metric| metric.name != "target_info"));
    assert_eq!(telemetry.read().sum("tollgate_telemetry_pushes_total", &[("outcome", "success")]), 1.0);
}

#[tokio::test]
async fn metrics_are_pushed_at_the_interval() {
    let root = Scope::root("test");
    let (destination, address) = Sink::start(&root.child("destination")).await;
    let often = Periodic { interval: 1, exporter: exporter(address), ..Periodic::default() };
    start(&root.child("push"), &busy("r"), &often).unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while destination.metrics.lock().unwrap().len() < 3 {
        assert!(Instant::now() < patience);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_destination_that_is_away_is_counted_and_does_not_hold_up_the_end() {
    let root = Scope::root("test");
    let telemetry = busy("r");
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let config = Periodic { interval: 3_600_000, exporter: exporter(unused), ..Periodic::default() };
    start(&root, &telemetry, &config).unwrap();
    root.close(Instant::now() + Duration::from_secs(20)).await;
    assert_eq!(root.aborted(), 0);
    assert_eq!(telemetry.read().sum("tollgate_telemetry_pushes_total", &[("outcome", "failure")]), 1.0);
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_refused_at_start() {
    let no_file = OtlpPush { certificate: Some("/nowhere.pem".into()), ..OtlpPush::default() };
    let refused = connect(&no_file).unwrap_err().to_string();
    assert_eq!(refused, "service.telemetry: cannot read certificates or key from /nowhere.pem");
}

fn traces(exporter: PushExporter) -> service::Traces {
    let batch = service::BatchSpanProcessor { exporter, ..Default::default() };
    let sampler = service::Sampler { trace_id_ratio_based: service::TraceIdRatio { ratio: 1.0 } };
    service::Traces { processors: vec![service::SpanProcessor { batch }], sampler, ..Default::default() }
}

#[tokio::test]
async fn requests_are_traced_unless_they_carry_a_collectors_telemetry() {
    let root = Scope::root("test");
    let (destination, address) = Sink::start(&root).await;
    let started =
        Traces::start(&root, &traces(exporter(address)), &OwnResource::automatic()).unwrap().unwrap();
    let mut own = http::HeaderMap::new();
    own.insert(OWN_HEADER, http::HeaderValue::from_static("x"));
    let subscriber = Registry::default().with(started.layer());
    tracing::subscriber::with_default(subscriber, || {
        request_span(Signal::Traces, "grpc", &http::HeaderMap::new()).in_scope(|| ());
        request_span(Signal::Metrics, "grpc", &own).in_scope(|| ());
        tracing::info_span!("not a request").in_scope(|| ());
    });
    started.close(Instant::now() + Duration::from_secs(20)).await;

    let kept = destination.traces.lock().unwrap().clone();
    let [(headers, request)] = kept.as_slice() else { panic!("{} pushes", kept.len()) };
    assert!(is_own(&headers.clone().into_headers()));
    let spans = &request.resource_spans[0].scope_spans[0].spans;
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["request"]);
    let signal = spans[0].attributes.iter().find(|attribute| attribute.key == "signal").unwrap();
    assert!(format!("{:?}", signal.value).contains("traces"), "{signal:?}");
}

#[tokio::test]
async fn traces_are_off_unless_a_processor_is_configured() {
    let (own, root) = (OwnResource::automatic(), Scope::root("test"));
    assert!(Traces::start(&root, &service::Traces::default(), &own).unwrap().is_none());
    let off = service::Traces { level: service::Level::None, ..traces(PushExporter::default()) };
    assert!(Traces::start(&root, &off, &own).unwrap().is_none());
}

/// Answers one HTTP request with `status` and returns its head and body.
async fn answer_one(listener: TcpListener, status: &str) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut read = Vec::new();
    let (head, length) = loop {
        let mut chunk = [0; 4096];
        let n = stream.read(&mut chunk).await.unwrap();
        read.extend_from_slice(&chunk[..n]);
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            break (head.clone(), length.parse::<usize>().unwrap());
        }
    };
    while read.len() < length {
        assert!(stream.read_buf(&mut read).await.unwrap() > 0);
    }
    let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(response.as_bytes()).await.unwrap();
    (head, read)
}

fn by_http(address: SocketAddr, path: &str) -> PushExporter {
    let mut exporter = exporter(address);
    exporter.otlp.protocol = OtlpProtocol::Http;
    exporter.otlp.endpoint += path;
    exporter
}

#[tokio::test]
async fn metrics_are_pushed_by_http() {
    for (path, asked, status, outcome) in [
        ("", "POST /v1/metrics HTTP/1.1", "200 OK", "success"),
        ("/own?x=1", "POST /own?x=1 HTTP/1.1", "503 Service Unavailable", "failure"),
    ] {
        let root = Scope::root("test");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let telemetry = busy("r");
        let exporter = by_http(address, path);
        start(&root, &telemetry, &Periodic { interval: 3_600_000, exporter, ..Default::default() }).unwrap();
        let closing = root.close(Instant::now() + Duration::from_secs(20));
        let ((head, body), ()) = tokio::join!(answer_one(listener, status), closing);
        assert!(head.starts_with(asked), "{head}");
        for header in ["content-type: application/x-protobuf", "x-key: v", OWN_HEADER] {
            assert!(head.contains(header), "{header}: {head}");
        }
        let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
        assert_eq!(request.resource_metrics.len(), 1);
        assert_eq!(telemetry.read().sum("tollgate_telemetry_pushes_total", &[("outcome", outcome)]), 1.0);
    }
}

#[tokio::test]
async fn traces_are_pushed_by_http() {
    let root = Scope::root("test");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = traces(by_http(listener.local_addr().unwrap(), ""));
    let started = Traces::start(&root, &config, &OwnResource::automatic()).unwrap().unwrap();
    let subscriber = Registry::default().with(started.layer());
    tracing::subscriber::with_default(subscriber, || {
        request_span(Signal::Traces, "http", &http::HeaderMap::new()).in_scope(|| ());
    });
    let closing = started.close(Instant::now() + Duration::from_secs(20));
    let ((head, body), ()) = tokio::join!(answer_one(listener, "200 OK"), closing);
    assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
    let request = ExportTraceServiceRequest::decode(body.as_slice()).unwrap();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes.len(), 3);
    assert_eq!(request.resource_spans[0].scope_spans[0].spans[0].name, "request");
    root.close(Instant::now() + Duration::from_secs(20)).await;
    assert_eq!((root.alive(), root.aborted()), (0, 0));
}

#[tokio::test]
async fn https_is_checked_against_the_configured_authority() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&authority, certified.cert.pem()).unwrap();
    let key = certified.signing_key.serialize_der().try_into().unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("localhost:{}", listener.local_addr().unwrap().port());
    let otlp = OtlpPush { endpoint, certificate: Some(authority), ..OtlpPush::default() };
    let mut client = MetricsServiceClient::new(connect(&otlp).unwrap());

    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let mut preface = [0; 14];
        stream.read_exact(&mut preface).await.unwrap();
        preface
    };
    tokio::select! {
        preface = accepting => assert_eq!(&preface, b"PRI * HTTP/2.0"),
        answer = client.export(ExportMetricsServiceRequest::default()) => panic!("{answer:?}"),
    }
}
