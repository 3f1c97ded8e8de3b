//! What a tenant over a limit is told, and that its neighbours do not notice.

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tonic::Code;

use crate::gate::gate;
use crate::harness::{Answer, Grpc, Http, Item, Sink, Tollgate, eventually, logs, metrics, spans};

const CLAIMS: &str = "identity: { claims: [{ header: x-tenant-id }, { resource: tenant.id }], anonymous: 'tenant:unattributed' }";

/// Policies under which the tenant `small` has these limits.
fn limited(limits: &str) -> String {
    format!("version: 1\n{CLAIMS}\ntenants: {{ small: {{ limits: {limits} }} }}\nrules: []\n")
}

fn many(count: usize) -> Vec<Item> {
    (0..count).map(|i| Item::named(format!("{i}"))).collect()
}

fn request(count: usize) -> ExportTraceServiceRequest {
    spans(&[], &many(count))
}

fn says_when_to_retry(status: &tonic::Status) -> bool {
    String::from_utf8_lossy(status.details()).contains("google.rpc.RetryInfo")
}

/// A running gate and the clients of the tenant `small`.
struct Setup {
    sink: Sink,
    tollgate: Tollgate,
    grpc: Grpc,
    http: Http,
}

async fn start(policies: &str) -> Setup {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).policies(policies).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("small");
    let http = Http::new(tollgate.address("otlp/http")).tenant("small");
    Setup { sink, tollgate, grpc, http }
}

#[tokio::test]
async fn over_its_rate_a_tenant_is_told_when_to_come_back_and_its_neighbours_are_served() {
    let setup = start(&limited("{ spans_per_second: 0.1, burst: 1m, log_records_per_second: 1000 }")).await;
    setup.grpc.spans(request(6)).await.unwrap();
    let status = setup.grpc.spans(request(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("tenant `small` is over its limit spans_per_second"), "{status:?}");
    assert!(says_when_to_retry(&status), "{status:?}");
    let answer = setup.http.protobuf("/v1/traces", &request(1)).await;
    assert_eq!(answer.status(), 429);
    let retry_after: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=90).contains(&retry_after), "{retry_after}");

    setup.grpc.logs(logs(&[], &many(10))).await.unwrap();
    let neighbour = Grpc::connect(setup.tollgate.address("otlp/grpc")).await.tenant("other");
    neighbour.spans(request(1000)).await.unwrap();
    let metrics = setup.tollgate.settled().await;
    let refused = [("tenant", "small"), ("reason", "rate_limit")];
    assert_eq!(metrics.sum("tollgate_refused_items_total", &refused), 2.0);
    assert_eq!(metrics.sum("tollgate_refused_requests_total", &refused), 2.0);
    let (_, tenants) = setup.tollgate.get("admin", "/v1/tenants").await;
    let tenants: serde_json::Value = serde_json::from_str(&tenants).unwrap();
    let small = &tenants["tenants"]["small"];
    assert_eq!(small["policies"]["limits"]["spans_per_second"], 0.1, "{small}");
    assert_eq!(small["policies"]["left"]["spans_per_second"], 0.0, "{small}");
    assert_eq!(small["signals"]["traces"]["refused"]["rate_limit"], 2, "{small}");
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn requests_per_second_and_announced_bytes_are_refused_before_the_body_is_read() {
    let policies = "version: 1
identity: { claims: [{ header: x-tenant-id }] }
tenants:
  small: { limits: { requests_per_second: 0.02, burst: 1m } }
  large: { limits: { max_in_flight_bytes: 1KiB } }
rules: []
";
    let setup = start(policies).await;
    setup.grpc.spans(request(1)).await.unwrap();
    let status = setup.grpc.spans(request(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(says_when_to_retry(&status), "{status:?}");
    let large = Http::new(setup.tollgate.address("otlp/http")).tenant("large");
    assert_eq!(large.protobuf("/v1/traces", &request(1)).await.status(), 200);
    // Not a request at all: nobody looked.
    let answer = large.post("/v1/traces", "application/x-protobuf", vec![255; 2000]).await;
    assert_eq!(answer.status(), 413);
    let metrics = setup.tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[]), 0.0, "no item was seen");
    let refused = |reason| metrics.sum("tollgate_refused_requests_total", &[("reason", reason)]);
    assert_eq!((refused("rate_limit"), refused("too_large")), (1.0, 1.0));
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn bytes_in_flight_are_held_until_somebody_owns_the_data() {
    let sink = Sink::start().await;
    sink.answer(Answer::Silence);
    let config = gate(&sink)
        .replace("retry_on_failure:", "sending_queue: { wait_for_result: true }, retry_on_failure:");
    let tollgate = Tollgate::with(&config).policies(&limited("{ max_in_flight_bytes: 1KiB }")).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("small");
    let waiting = tokio::spawn({
        let grpc = grpc.clone();
        async move { grpc.spans(request(10)).await }
    });
    let status = eventually("a refusal", || async {
        let (_, tenants) = tollgate.get("admin", "/v1/policies/effective?tenant=small").await;
        let effective: serde_json::Value = serde_json::from_str(&tenants).unwrap();
        let held = effective["left"]["bytes_in_flight"].as_u64().unwrap_or(0) > 0;
        if held { grpc.spans(request(15)).await.err() } else { None }
    })
    .await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(says_when_to_retry(&status) && status.message().contains("max_in_flight_bytes"), "{status:?}");
    sink.answer(Answer::Ok);
    waiting.await.unwrap().unwrap();
    grpc.spans(request(15)).await.unwrap();
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn what_can_never_fit_is_refused_for_good() {
    let setup = start(&limited("{ spans_per_second: 10, burst: 1s, max_request_bytes: 4KiB }")).await;
    let check = async |request: ExportTraceServiceRequest, limit: &str| {
        let status = setup.grpc.spans(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(!says_when_to_retry(&status) && status.message().contains(limit), "{status:?}");
        assert_eq!(setup.http.protobuf("/v1/traces", &request).await.status(), 413);
    };
    check(request(11), "spans_per_second").await;
    let long = Item::named("x").attribute("text", &"x".repeat(5000));
    check(spans(&[], std::slice::from_ref(&long)), "larger than 4096 bytes").await;
    let metrics = setup.tollgate.settled().await;
    // Each twice: whether the items told or the body was not read to its end.
    assert_eq!(metrics.sum("tollgate_refused_requests_total", &[("reason", "too_large")]), 4.0);
    setup.tollgate.stop().await;

    let by_resource = "version: 1\nidentity: { claims: [{ resource: tenant.id }] }\nrules: []\n\
                       tenants: { small: { limits: { max_request_bytes: 4KiB } } }\n";
    let setup = start(by_resource).await;
    let status = setup.grpc.spans(spans(&[("tenant.id", "small")], &[long])).await.unwrap_err();
    assert!(status.message().contains("max_request_bytes"), "{status:?}");
    assert_eq!((status.code(), says_when_to_retry(&status)), (Code::ResourceExhausted, false));
    setup.tollgate.settled().await;
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn who_stays_over_its_rate_is_refused_for_good() {
    let setup = start(&limited("{ spans_per_second: 1, burst: 1s, sustained: 10s }")).await;
    let status = eventually("a final refusal", || async {
        let refused = setup.grpc.spans(request(1)).await.err()?;
        (!says_when_to_retry(&refused)).then_some(refused)
    })
    .await;
    assert_eq!(status.code(), Code::ResourceExhausted);
    let answer = eventually("a final answer", || async {
        let answer = setup.http.protobuf("/v1/traces", &request(1)).await;
        (answer.status() == 200 && !answer.body().is_empty()).then_some(answer)
    })
    .await;
    let response = opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse::decode(
        answer.into_body(),
    );
    assert_eq!(response.unwrap().partial_success.unwrap().rejected_spans, 1);
    let metrics = setup.tollgate.settled().await;
    assert!(metrics.sum("tollgate_refused_items_total", &[("reason", "sustained_limit")]) >= 2.0);
    setup.tollgate.stop().await;
}

/// One request of `small`, which may send ten spans, and of `other`.
fn mixed(small: usize) -> ExportTraceServiceRequest {
    let mut of_both = spans(&[("tenant.id", "small")], &many(small));
    of_both.resource_spans.extend(spans(&[("tenant.id", "other")], &many(5)).resource_spans);
    of_both
}

#[tokio::test]
async fn a_mixed_request_is_refused_whole_and_costs_nobody_anything() {
    let policies = limited("{ spans_per_second: 0.2, burst: 50s }").replace("{ header: x-tenant-id }, ", "");
    let policies = policies
        .replace("tenants: {", "tenants: { other: { limits: { spans_per_second: 0.1, burst: 50s } }, ");
    let setup = start(&policies).await;
    setup.grpc.spans(spans(&[("tenant.id", "small")], &many(6))).await.unwrap();
    for _ in 0..3 {
        let status = setup.grpc.spans(mixed(5)).await.unwrap_err();
        assert_eq!((status.code(), says_when_to_retry(&status)), (Code::ResourceExhausted, true));
    }
    assert_eq!(setup.sink.wait_for("traces", 6).await.len(), 6);
    setup.grpc.spans(mixed(4)).await.unwrap();
    setup.tollgate.settled().await;
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn a_mixed_request_can_be_taken_in_part() {
    let policies = limited("{ spans_per_second: 0.2, burst: 50s }").replace("{ header: x-tenant-id }, ", "");
    let policies = policies.replace("anonymous:", "mixed_requests: partial, anonymous:");
    let setup = start(&policies).await;
    setup.grpc.spans(mixed(10)).await.unwrap();
    let partial = setup.grpc.spans(mixed(2)).await.unwrap().into_inner().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    assert!(partial.error_message.contains("`small` is over its limit"), "{partial:?}");
    let alone = setup.grpc.spans(spans(&[("tenant.id", "small")], &many(2))).await.unwrap_err();
    assert!(says_when_to_retry(&alone), "alone it is a refusal: nothing is lost");
    let metrics = setup.tollgate.settled().await;
    assert_eq!(setup.sink.items("traces").len(), 20);
    let refused = [("tenant", "small"), ("reason", "rate_limit")];
    assert_eq!(metrics.sum("tollgate_refused_items_total", &refused), 4.0);
    assert_eq!(metrics.sum("otelcol_receiver_accepted_spans", &[]), 20.0);
    assert_eq!(metrics.sum("otelcol_receiver_refused_spans", &[]), 4.0);
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn near_its_limit_a_tenant_is_warned_once() {
    let setup = start(&limited("{ spans_per_second: 0.4, burst: 50s }")).await;
    let answer = setup.grpc.spans(request(19)).await.unwrap().into_inner();
    let warning = answer.partial_success.unwrap();
    assert_eq!(warning.rejected_spans, 0);
    assert!(warning.error_message.contains("near its limit spans_per_second"), "{warning:?}");
    assert_eq!(setup.grpc.spans(request(1)).await.unwrap().into_inner().partial_success, None);
    setup.tollgate.settled().await;
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn what_was_used_stays_used_when_the_policies_change() {
    let policies = limited("{ spans_per_second: 0.2, burst: 50s }");
    let setup = start(&policies).await;
    setup.grpc.spans(request(10)).await.unwrap();
    let changed = format!("revision: changed\n{}", policies.replace("0.2", "0.3"));
    std::fs::write(setup.tollgate.policies_path(), changed).unwrap();
    eventually("the new revision", || async {
        let metrics = setup.tollgate.metrics().await;
        (metrics.sum("tollgate_policies_info", &[("revision", "changed")]) == 1.0).then_some(())
    })
    .await;
    let status = setup.grpc.spans(request(15)).await.unwrap_err();
    assert!(says_when_to_retry(&status), "{status:?}");
    setup.tollgate.settled().await;
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn kept_spans_are_cut_by_a_threshold_that_keeps_counts_right() {
    let policies = format!(
        "version: 1\n{CLAIMS}\ntenants: {{ small: {{ limits: {{ kept_spans_per_second: 100, burst: 1s }} }} }}
rules:
  - {{ name: errors, scope: span, match: {{ status: error }}, keep: true, limit: {{ spans_per_second: 50, burst: 1s }} }}
"
    );
    let setup = start(&policies).await;
    for _ in 0..20 {
        setup.grpc.spans(request(500)).await.unwrap();
    }
    let metrics = setup.tollgate.settled().await;
    let kept = setup.sink.items("traces").len();
    assert!((200..3000).contains(&kept), "{kept} of 10000");
    let estimate = metrics.sum("tollgate_sampling_adjusted_items_total", &[("tenant", "small")]);
    // Some 500 kept with weights up to 100 or so: the standard deviation is about 8 %.
    assert!((6_000.0..14_000.0).contains(&estimate), "{estimate}");
    assert!(setup.sink.items("traces").iter().any(|item| item.trace_state.starts_with("ot=th:")));
    let probability =
        metrics.sum("tollgate_sampling_probability", &[("tenant", "small"), ("rule", "_default")]);
    assert!((0.001..1.0).contains(&probability), "{probability}");

    let errors: Vec<Item> = (0..5000).map(|_| Item::named("failed").error()).collect();
    let other = Grpc::connect(setup.tollgate.address("otlp/grpc")).await.tenant("other");
    other.spans(spans(&[], &errors)).await.unwrap();
    setup.tollgate.settled().await;
    let failed = setup.sink.items("traces").iter().filter(|item| item.name == "failed").count();
    // b * (1 + ln(n / b)) = 280
    assert!((150..450).contains(&failed), "not even `keep` escapes: {failed} of 5000");
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn items_are_cut_down_to_what_their_tenant_may_send() {
    let setup = start(&limited("{ max_attribute_value_bytes: 5, max_attributes_per_item: 2 }")).await;
    let item = || Item::named("x").attribute("a", "héllo wörld").attribute("b", "1").attribute("c", "2");
    setup.grpc.spans(spans(&[("service.name", "a long name")], &[item(), Item::named("y")])).await.unwrap();
    setup.grpc.logs(logs(&[], &[item()])).await.unwrap();
    setup.grpc.metrics(metrics(&[], &[item()])).await.unwrap();
    let metrics = setup.tollgate.settled().await;
    for signal in ["traces", "logs", "metrics"] {
        let cut = setup.sink.items(signal).into_iter().find(|cut| cut.name == "x").unwrap();
        assert_eq!(cut.attributes.len(), 2, "{signal}");
        assert_eq!((cut.attributes["a"].as_str(), cut.attributes["b"].as_str()), ("héll", "1"), "{signal}");
    }
    let trimmed = |what| metrics.sum("tollgate_trimmed_total", &[("tenant", "small"), ("what", what)]);
    assert_eq!((trimmed("attribute"), trimmed("attribute_value")), (3.0, 3.0));
    setup.tollgate.stop().await;
}

#[tokio::test]
async fn versions_past_the_bound_share_a_label_and_keep_their_name_in_the_data() {
    let setup = start(&limited("{ max_model_versions: 2 }")).await;
    for version in ["1", "2", "3", "4"] {
        let resource = [("model.name", "ranker"), ("model.version", version)];
        setup.grpc.spans(spans(&resource, &many(1))).await.unwrap();
    }
    let metrics = setup.tollgate.settled().await;
    let of = |version| {
        metrics.sum("tollgate_model_items_total", &[("tenant", "small"), ("model_version", version)])
    };
    assert_eq!((of("1"), of("2"), of("3"), of("_other")), (1.0, 1.0, 0.0, 2.0));
    let items = setup.sink.items("traces");
    let mut versions: Vec<_> = items.iter().map(|item| item.resource["model.version"].as_str()).collect();
    versions.sort_unstable();
    assert_eq!(versions, ["1", "2", "3", "4"]);
    setup.tollgate.stop().await;
}

/// A field of this number with this content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    out.extend_from_slice(content);
    out
}

/// A compressed request of this many empty spans, of two bytes each.
fn bomb(spans: usize) -> Vec<u8> {
    use std::io::Write;
    let request = field(1, &field(2, &[0x12, 0x00].repeat(spans)));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&request).unwrap();
    gzip.finish().unwrap()
}

#[tokio::test]
async fn a_bomb_is_refused_and_takes_no_memory() {
    let setup = start(&limited("{ bytes_per_second: 1MiB, max_request_bytes: 1MiB }")).await;
    let http = setup.http.clone().header("content-encoding", "gzip");
    let send = async |bytes: Vec<u8>| http.post("/v1/traces", "application/x-protobuf", bytes).await.status();
    assert_eq!(send(bomb(1)).await, 200);
    let resident = async || setup.tollgate.metrics().await.sum("otelcol_process_memory_rss", &[]);
    let before = resident().await;
    // Decompressed too large; decoded too large for anybody; decoded too large for this tenant.
    let bombs = [bomb(2_000_000), bomb(500_000), bomb(50_000)];
    assert!(bombs.iter().all(|bomb| bomb.len() < 5_000));
    for bomb in bombs {
        for _ in 0..20 {
            assert_eq!(send(bomb.clone()).await, 413);
        }
    }
    let grown = resident().await - before;
    assert!(grown < f64::from(24 << 20), "{grown} bytes more");
    setup.tollgate.settled().await;
    setup.tollgate.stop().await;
}
