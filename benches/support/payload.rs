//! The requests the load sends: encoded once, framed for gRPC, sent as they are.
//!
//! A span is about 590 bytes with ten attributes; resource and scope add about as much again to every
//! request. No trace id occurs twice in a pool. The resource names a tenant and a model that a relay which
//! tags has to work on: `tenant.id` is there and wrong, `model.name` and `model.version` are missing.

use bytes::{BufMut, Bytes, BytesMut};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;

/// Compression flag and length in front of every gRPC message.
pub(crate) const GRPC_PREFIX: usize = 5;

/// What the tenant of every load connection begins with; occurs in no request before it is tagged.
pub(crate) const TENANT: &str = "tenant-";

/// 2026-01-01T00:00:00Z; the spans lie in the hour after it.
const EPOCH: u64 = 1_767_225_600_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// Distinct requests of `spans` spans for one tenant, at least two, `bytes` in all or a little more.
pub(crate) fn requests(spans: usize, bytes: usize, seed: u64) -> Vec<Bytes> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pool = Vec::new();
    let mut size = 0;
    while pool.len() < 2 || size < bytes {
        let request = framed(&request(spans, &mut random));
        size += request.len();
        pool.push(request);
    }
    pool
}

fn framed(request: &ExportTraceServiceRequest) -> Bytes {
    let length = request.encoded_len();
    let mut buffer = BytesMut::with_capacity(GRPC_PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).expect("a request is below 4 GiB"));
    request.encode_raw(&mut buffer);
    buffer.freeze()
}

fn request(spans: usize, random: &mut fastrand::Rng) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "opentelemetry.instrumentation.inference".into(),
        version: "0.54b1".into(),
        ..Default::default()
    };
    let scope_spans = ScopeSpans {
        scope: Some(scope),
        spans: (0..spans).map(|_| span(random)).collect(),
        schema_url: "https://opentelemetry.io/schemas/1.30.0".into(),
    };
    let resource_spans = ResourceSpans {
        resource: Some(resource()),
        scope_spans: vec![scope_spans],
        schema_url: String::new(),
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn resource() -> Resource {
    let attributes = [
        ("service.name", "inference-gateway"),
        ("service.namespace", "ranking"),
        ("service.version", "7.1.0-rc.2"),
        ("service.instance.id", "627cc493-f310-47de-96bd-71410b7dec09"),
        ("tenant.id", "unverified"),
        ("gen_ai.request.model", "ranker"),
        ("deployment.environment.name", "production"),
        ("k8s.namespace.name", "ranking-production"),
        ("k8s.pod.name", "inference-gateway-6d4cf56db6-7vj8x"),
        ("k8s.node.name", "gke-europe-west4-pool-2"),
        ("telemetry.sdk.language", "python"),
        ("telemetry.sdk.version", "1.33.1"),
    ];
    Resource { attributes: attributes.map(|(key, value)| text(key, value)).into(), ..Default::default() }
}

/// One in a hundred failed, one in a hundred took longer than two seconds.
fn span(random: &mut fastrand::Rng) -> Span {
    let start = EPOCH + random.u64(..3_600_000) * MILLISECOND;
    let milliseconds = if random.u8(..100) == 0 { random.u64(2_001..5_000) } else { random.u64(1..500) };
    let failed = random.u8(..100) == 0;
    Span {
        trace_id: random.u128(1..).to_be_bytes().into(),
        span_id: random.u64(1..).to_be_bytes().into(),
        parent_span_id: random.u64(1..).to_be_bytes().into(),
        flags: 0x103,
        name: "POST /v1/models/{model}:predict".into(),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + milliseconds * MILLISECOND,
        attributes: span_attributes(random),
        status: Some(Status { message: String::new(), code: if failed { 2 } else { 0 } }),
        ..Default::default()
    }
}

fn span_attributes(random: &mut fastrand::Rng) -> Vec<KeyValue> {
    vec![
        text("http.request.method", "POST"),
        text("http.route", "/v1/models/{model}:predict"),
        text("url.path", &format!("/v1/models/ranker-{:08x}:predict", random.u32(..))),
        text("server.address", "inference.ranking.internal.example"),
        number("server.port", 8443),
        number("http.response.status_code", 200),
        text(
            "user_agent.original",
            "ranking-client/4.12.0 (linux; x86_64) CPython/3.13.2 grpc-python/1.71.0 (chttp2)",
        ),
        text("gen_ai.conversation.id", &format!("{:032x}", random.u128(..))),
        number("gen_ai.usage.output_tokens", random.i64(1..4_096)),
        text("enduser.pseudo.id", &format!("user-{:016x}", random.u64(..))),
    ]
}

/// A text attribute.
pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}
