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
struct Destination {
    metrics: Kept<ExportMetricsServiceRequest>,
    traces: Kept<ExportTraceServiceRequest>,
}

#[tonic::async_trait]
impl MetricsService for Destination {
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
impl TraceService for Destination {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let kept = (request.metadata().clone(), request.into_inner());
        self.traces.lock().unwrap().push(kept);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Destination {
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
    let (destination, address) = Destination::start(&root.child("destination")).await;
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
    let (destination, address) = Destination::start(&root.child("destination")).await;
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
async fn bad_destinations_are_refused_at_start() {
    let own = OwnResource::automatic();
    let check = |otlp: OtlpPush, expected: &str| {
        let error = connect(&otlp).map(|_| ()).and_then(|()| metadata(&otlp, &own).map(|_| ()));
        assert_eq!(error.unwrap_err().to_string(), format!("service.telemetry: {expected}"));
    };
    let otlp = |endpoint: &str| OtlpPush { endpoint: endpoint.into(), ..OtlpPush::default() };
    check(otlp("http://"), "`http://` is not an endpoint such as http://localhost:4317");
    check(otlp("a b"), "`a b` is not an endpoint such as http://localhost:4317");
    let header = Header { name: "a b".into(), value: String::new() };
    let bad_header = OtlpPush { headers: vec![header], ..OtlpPush::default() };
    check(bad_header, "header `a b` has a name or value that cannot be sent");
    let no_file = OtlpPush { certificate: Some("/nowhere.pem".into()), ..OtlpPush::default() };
    check(no_file, "cannot read certificates or key from /nowhere.pem");
}

fn traces(address: SocketAddr) -> service::Traces {
    let batch = service::BatchSpanProcessor { exporter: exporter(address), ..Default::default() };
    let sampler = service::Sampler { trace_id_ratio_based: service::TraceIdRatio { ratio: 1.0 } };
    service::Traces { processors: vec![service::SpanProcessor { batch }], sampler, ..Default::default() }
}

#[tokio::test]
async fn requests_are_traced_unless_they_carry_a_collectors_telemetry() {
    let root = Scope::root("test");
    let (destination, address) = Destination::start(&root).await;
    let started = Traces::start(&traces(address), &OwnResource::automatic()).unwrap().unwrap();
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
    let own = OwnResource::automatic();
    assert!(Traces::start(&service::Traces::default(), &own).unwrap().is_none());
    let address = "127.0.0.1:1".parse().unwrap();
    let off = service::Traces { level: service::Level::None, ..traces(address) };
    assert!(Traces::start(&off, &own).unwrap().is_none());
}
