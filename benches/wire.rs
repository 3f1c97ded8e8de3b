//! What checking, tagging and sampling a request costs on the wire and decoded, in one process.
//!
//! `cargo bench --bench wire` prints ns per span for requests of 1, 10, 100 and 1000 spans of about
//! 590 bytes with ten attributes. Both sides run alternately, so that a busy machine slows both; the
//! lowest of many rounds counts. Only the ratios mean something elsewhere.

#![allow(clippy::print_stdout, reason = "the figures are the output")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as ProstValue;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use tokio::time::Instant;
use tollgate::otlp::{Draft, Edits, Index, Limits, Signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Every round of a step lasts about this many spans.
const SPANS_PER_ROUND: usize = 20_000;
const ROUNDS: usize = 60;

fn main() {
    println!("ns per span");
    println!(
        "memcpy: the request copied; index: checked and located; tag: and three resource attributes set;"
    );
    println!(
        "rule: and half left out by status, duration and trace id; lookup: and one attribute read by key"
    );
    println!("{:>6} memcpy   index     tag    rule  lookup   prost  prost/rule", "spans");
    for spans in [1, 10, 100, 1000] {
        let request = Bytes::from(request(spans).encode_to_vec());
        let mut worker = Worker { index: Index::new(), edits: Edits::new() };
        let mut best = [f64::MAX; 6];
        for _ in 0..ROUNDS {
            let round = [
                measure(spans, || drop(black_box(request.to_vec()))),
                measure(spans, || drop(black_box(worker.check(&request)))),
                measure(spans, || drop(black_box(worker.tag(&request)))),
                measure(spans, || drop(black_box(worker.rule(&request, None)))),
                measure(spans, || drop(black_box(worker.rule(&request, Some("db.statement"))))),
                measure(spans, || drop(black_box(decoded(&request)))),
            ];
            best = std::array::from_fn(|step| best[step].min(round[step]));
        }
        let [memcpy, index, tag, rule, lookup, prost] = best;
        let ratio = prost / rule;
        println!(
            "{spans:>6} {memcpy:>6.1} {index:>7.1} {tag:>7.1} {rule:>7.1} {lookup:>7.1} {prost:>7.1} {ratio:>11.1}"
        );
    }
}

/// Nanoseconds per span of one round.
fn measure(spans: usize, mut step: impl FnMut()) -> f64 {
    let times = (SPANS_PER_ROUND / spans).max(1);
    let start = Instant::now();
    for _ in 0..times {
        step();
    }
    start.elapsed().as_nanos() as f64 / (times * spans) as f64
}

/// What a thread reuses between requests.
struct Worker {
    index: Index,
    edits: Edits,
}

const TENANT: [(&str, &str); 3] =
    [("tenant.id", "acme"), ("model.name", "gpt"), ("model.version", "2026-01")];

/// The rule of both sides: errors and slow spans stay, of the others half of the traces.
fn stays(trace_id: &[u8], status: i32, duration: u64) -> bool {
    status == 2 || duration > 1_000_000_000 || trace_id.last().is_some_and(|byte| byte & 1 == 0)
}

impl Worker {
    fn check(&mut self, request: &Bytes) -> Bytes {
        let limits = Limits::for_message_size(64 << 20);
        self.index.read(Signal::Traces, request, &limits).unwrap()
    }

    fn tag(&mut self, request: &Bytes) -> Option<Bytes> {
        let request = self.check(request);
        let mut draft = Draft::new(&self.index, &request, &mut self.edits);
        for part in draft.parts() {
            TENANT.iter().for_each(|(key, value)| draft.set_resource_attribute(part, key, *value));
        }
        draft.emit(0)
    }

    fn rule(&mut self, request: &Bytes, lookup: Option<&str>) -> Option<Bytes> {
        let request = self.check(request);
        let mut draft = Draft::new(&self.index, &request, &mut self.edits);
        for part in draft.parts() {
            TENANT.iter().for_each(|(key, value)| draft.set_resource_attribute(part, key, *value));
            draft.for_each_item(part, |draft, item| {
                let stays = draft.span(item).is_some_and(|span| {
                    stays(&span.trace_id().unwrap_or_default(), span.status(), span.duration_nano())
                });
                let is_named = lookup.is_none_or(|key| draft.item_attribute(item, key).is_some());
                if !(stays && is_named) {
                    draft.leave_out(item);
                }
            });
        }
        draft.emit(0)
    }
}

/// The same with structs.
fn decoded(request: &Bytes) -> Option<Vec<u8>> {
    let mut request = ExportTraceServiceRequest::decode(request.clone()).unwrap();
    for container in &mut request.resource_spans {
        let resource = container.resource.get_or_insert_default();
        for (key, value) in TENANT {
            resource.attributes.retain(|attribute| attribute.key != key);
            resource.attributes.push(attribute(key, ProstValue::StringValue(value.into())));
        }
        for scope in &mut container.scope_spans {
            scope.spans.retain(|span| {
                let status = span.status.as_ref().map_or(0, |status| status.code);
                stays(
                    &span.trace_id,
                    status,
                    span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
                )
            });
        }
        container.scope_spans.retain(|scope| !scope.spans.is_empty());
    }
    request.resource_spans.retain(|container| !container.scope_spans.is_empty());
    (!request.resource_spans.is_empty()).then(|| request.encode_to_vec())
}

fn attribute(key: &str, value: ProstValue) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: String) -> KeyValue {
    attribute(key, ProstValue::StringValue(value))
}

fn request(spans: usize) -> ExportTraceServiceRequest {
    let resource = Resource {
        attributes: (0..8)
            .map(|n| text(&format!("resource.key.{n}"), format!("some resource value {n}")))
            .collect(),
        ..Resource::default()
    };
    let scope = InstrumentationScope { name: "io.example.instrumentation".into(), ..Default::default() };
    let spans = (0..spans as u64).map(span).collect();
    let scope = ScopeSpans { scope: Some(scope), spans, schema_url: String::new() };
    let resource_spans =
        ResourceSpans { resource: Some(resource), scope_spans: vec![scope], ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

fn span(n: u64) -> Span {
    // Spread as random ids are, the same in every run.
    let random = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let random = random ^ random >> 29;
    let start = 1_700_000_000_000_000_000 + n * 1_000;
    Span {
        trace_id: [random.to_be_bytes(), random.rotate_left(17).to_be_bytes()].concat(),
        span_id: random.to_le_bytes().to_vec(),
        parent_span_id: (!random).to_le_bytes().to_vec(),
        name: format!("GET /api/v1/items/{}", n % 10),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + random % 900_000_000,
        status: Some(Status { code: i32::from(random.is_multiple_of(50)) * 2, message: String::new() }),
        flags: 0x101,
        attributes: vec![
            text("http.request.method", "GET".into()),
            text("url.full", format!("https://shop.example.com/api/v1/items/{n}?page=3")),
            text("server.address", "shop.example.com".into()),
            attribute("server.port", ProstValue::IntValue(8443)),
            attribute("http.response.status_code", ProstValue::IntValue(200)),
            text("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101".into()),
            text("network.protocol.version", "1.1".into()),
            text("client.address", format!("10.1.{}.{}", n % 200, n % 250)),
            text("db.statement", "SELECT id, name, price FROM items WHERE id = ? LIMIT 10".into()),
            attribute("app.cache.hit", ProstValue::BoolValue(n.is_multiple_of(2))),
        ],
        ..Span::default()
    }
}
