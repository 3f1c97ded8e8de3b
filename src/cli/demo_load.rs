//! The demo's senders: three tenants with two model versions each, real OTLP/HTTP over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use tokio_util::sync::CancellationToken;

/// A tenant of the demo: its id, its model, and spans per second of each model version.
pub(super) struct Sender {
    pub(super) tenant: &'static str,
    pub(super) model: &'static str,
    pub(super) spans_per_second: u64,
}

/// The demo's tenants.
pub(super) const SENDERS: [Sender; 3] = [
    Sender { tenant: "acme", model: "ranker", spans_per_second: 2_000 },
    Sender { tenant: "globex", model: "embedder", spans_per_second: 1_000 },
    Sender { tenant: "initech", model: "chat", spans_per_second: 500 },
];

/// The two versions every model of the demo runs in.
pub(super) const VERSIONS: [&str; 2] = ["1.8.0", "2.0.0-rc.1"];

/// Ten requests a second and version.
const PERIOD: Duration = Duration::from_millis(100);

/// Sends until told to stop. A refused request is not sent again: the table shows it.
pub(super) async fn send(sender: &'static Sender, to: SocketAddr, stop: CancellationToken) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut tick = tokio::time::interval(PERIOD);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for version in VERSIONS {
            let body = request(sender, version).encode_to_vec();
            let request = http::Request::post(format!("http://{to}/v1/traces"))
                .header("content-type", "application/x-protobuf")
                .header("x-tenant-id", sender.tenant)
                .body(Full::new(Bytes::from(body)));
            let Ok(request) = request else { return };
            match client.request(request).await {
                Ok(answer) if answer.status().is_success() => {}
                Ok(answer) => tracing::debug!(name: "demo.refused", status = %answer.status(), "refused"),
                Err(error) => tracing::debug!(name: "demo.failed", %error, "not sent"),
            }
        }
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

fn request(sender: &Sender, version: &str) -> ExportTraceServiceRequest {
    let count = sender.spans_per_second * PERIOD.as_millis() as u64 / 1000;
    let attributes = vec![
        text("service.name", "inference"),
        text("model.name", sender.model),
        text("model.version", version),
    ];
    let spans = (0..count).map(|_| span()).collect();
    let resource_spans = ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// A request to a model: 1 % fail, the time it takes is spread over 5 ms to 0.5 s.
fn span() -> Span {
    let end = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let end = end.as_nanos() as u64;
    let milliseconds = 5.0 * 100_f64.powf(fastrand::f64());
    let failed = fastrand::u32(0..100) == 0;
    Span {
        trace_id: fastrand::u128(..).to_be_bytes().to_vec(),
        span_id: fastrand::u64(1..).to_be_bytes().to_vec(),
        name: "POST /v1/infer".to_owned(),
        kind: 2,
        start_time_unix_nano: end - (milliseconds * 1e6) as u64,
        end_time_unix_nano: end,
        attributes: vec![text("http.request.method", "POST"), text("gen_ai.operation.name", "chat")],
        status: failed.then(|| Status { code: 2, message: "model overloaded".to_owned() }),
        ..Span::default()
    }
}
