//! The main job: OTLP in, tags on, OTLP out, everything accounted for.

use crate::harness::{Grpc, Http, Item, Sink, Tollgate, logs, metrics, spans};

/// `{otlp}`, tenant and sampling, one gRPC exporter to `{sink}`.
pub const GATE: &str = "
{otlp}
processors: { tenant: , sampling: }
exporters:
  otlp_grpc: { endpoint: '{sink}', tls: { insecure: true }, retry_on_failure: { initial_interval: 50ms, max_interval: 200ms } }
extensions: { admin: , health_check: { endpoint: '127.0.0.1:0' } }
service:
  extensions: [admin, health_check]
  pipelines:
    traces: { receivers: [otlp], processors: [tenant, sampling], exporters: [otlp_grpc] }
    metrics: { receivers: [otlp], processors: [tenant, sampling], exporters: [otlp_grpc] }
    logs: { receivers: [otlp], processors: [tenant, sampling], exporters: [otlp_grpc] }
";

/// The [`GATE`] in front of a sink.
pub fn gate(sink: &Sink) -> String {
    GATE.replace("{sink}", &sink.address().to_string())
}

const RESOURCE: &[(&str, &str)] =
    &[("service.name", "inference"), ("gen_ai.request.model", "ranker"), ("service.version", "7.1.0")];

#[tokio::test]
async fn every_signal_passes_over_grpc_and_http_with_its_tags() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let http = Http::new(tollgate.address("otlp/http")).tenant("globex");

    let two = [Item::named("one"), Item::named("two")];
    let answer = grpc.spans(spans(RESOURCE, &two)).await.unwrap().into_inner();
    assert_eq!(answer.partial_success, None);
    grpc.metrics(metrics(RESOURCE, &two)).await.unwrap();
    grpc.logs(logs(RESOURCE, &two)).await.unwrap();
    for (path, answer) in [
        ("/v1/traces", http.protobuf("/v1/traces", &spans(RESOURCE, &two)).await),
        ("/v1/metrics", http.protobuf("/v1/metrics", &metrics(RESOURCE, &two)).await),
        ("/v1/logs", http.protobuf("/v1/logs", &logs(RESOURCE, &two)).await),
    ] {
        assert_eq!(answer.status(), 200, "{path}");
    }

    for signal in ["traces", "metrics", "logs"] {
        let items = sink.wait_for(signal, 4).await;
        for tenant in ["acme", "globex"] {
            let of = items.iter().filter(|item| item.resource["tenant.id"] == tenant);
            let mut names: Vec<_> = of.clone().map(|item| item.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names, ["one", "two"], "{signal} of {tenant}");
            for item in of {
                assert_eq!(item.resource["model.name"], "ranker");
                assert_eq!(item.resource["model.version"], "7.1.0");
                assert_eq!(item.resource["service.name"], "inference");
            }
        }
    }
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("otelcol_receiver_accepted_spans", &[("transport", "grpc")]), 2.0);
    assert_eq!(metrics.sum("otelcol_receiver_accepted_log_records", &[("transport", "http")]), 2.0);
    assert_eq!(metrics.sum("otelcol_exporter_sent_metric_points", &[("exporter", "otlp_grpc")]), 4.0);
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[("tenant", "acme")]), 6.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn otlp_json_takes_the_same_road() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let http = Http::new(tollgate.address("otlp/http")).tenant("acme");
    let body = include_str!("../../examples/quickstart/span.json");
    let answer = http.post("/v1/traces", "application/json", body).await;
    assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"{}"[..]));
    let items = sink.wait_for("traces", 1).await;
    assert_eq!(items[0].name, "POST /v1/infer");
    assert_eq!(items[0].resource["model.version"], "7.1.0");
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_request_of_several_tenants_is_split() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let mut request = spans(&[("tenant.id", "a")], &[Item::named("of-a")]);
    request.resource_spans.extend(spans(&[("tenant.id", "b")], &[Item::named("of-b")]).resource_spans);
    request.resource_spans.extend(spans(&[], &[Item::named("of-nobody")]).resource_spans);
    grpc.spans(request).await.unwrap();
    let items = sink.wait_for("traces", 3).await;
    let tenant = |name: &str| items.iter().find(|i| i.name == name).unwrap().resource["tenant.id"].clone();
    assert_eq!(tenant("of-a"), "a");
    assert_eq!(tenant("of-b"), "b");
    assert_eq!(tenant("of-nobody"), "unattributed");
    let metrics = tollgate.settled().await;
    for tenant in ["a", "b", "unattributed"] {
        assert_eq!(metrics.sum("tollgate_sent_items_total", &[("tenant", tenant)]), 1.0, "{tenant}");
    }
    tollgate.stop().await;
}

#[tokio::test]
async fn a_resource_whose_items_name_different_models_is_split() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let of = |name: &str, model: &str| Item::named(name).attribute("gen_ai.request.model", model);
    grpc.spans(spans(&[], &[of("a", "m1"), of("b", "m2"), of("c", "m1"), Item::named("d")])).await.unwrap();
    let items = sink.wait_for("traces", 4).await;
    let model =
        |name: &str| items.iter().find(|i| i.name == name).unwrap().resource.get("model.name").cloned();
    assert_eq!(model("a").as_deref(), Some("m1"));
    assert_eq!(model("b").as_deref(), Some("m2"));
    assert_eq!(model("c").as_deref(), Some("m1"));
    assert_eq!(model("d"), None);
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_and_nothing_of_them_is_kept() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).start().await;
    let http = Http::new(tollgate.address("otlp/http"));
    let answer = http.post("/v1/traces", "application/x-protobuf", &b"\x0a\xff"[..]).await;
    assert_eq!(answer.status(), 400);
    let answer = http.post("/v1/traces", "application/json", &b"{\"resourceSpans\": 7}"[..]).await;
    assert_eq!(answer.status(), 400);
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_receiver_requests_total", &[("outcome", "malformed")]), 2.0);
    assert_eq!(metrics.sum("tollgate_received_items_total", &[]), 0.0);
    tollgate.stop().await;
    assert_eq!(sink.items("traces"), []);
}

#[tokio::test]
async fn two_exporters_each_get_everything_and_the_copies_are_counted() {
    let (left, right) = (Sink::start().await, Sink::start().await);
    let config = format!(
        "
{{otlp}}
processors: {{ tenant: }}
exporters:
  otlp_grpc: {{ endpoint: {}, tls: {{ insecure: true }} }}
  otlp_http: {{ endpoint: '{}', compression: zstd }}
service:
  pipelines:
    traces: {{ receivers: [otlp], processors: [tenant], exporters: [otlp_grpc, otlp_http] }}
",
        left.address(),
        right.url()
    );
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    grpc.spans(spans(&[], &[Item::named("x"), Item::named("y")])).await.unwrap();
    left.wait_for("traces", 2).await;
    right.wait_for("traces", 2).await;
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_received_items_total", &[]), 2.0);
    assert_eq!(metrics.sum("tollgate_copied_items_total", &[]), 2.0);
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[]), 4.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn a_request_of_seventy_thousand_spans_passes_whole() {
    let sink = Sink::start().await;
    let config = gate(&sink).replace(
        "{otlp}",
        "
receivers: { otlp: { protocols: { grpc: { endpoint: '127.0.0.1:0', max_recv_msg_size_mib: 64 } } } }",
    );
    let tollgate = Tollgate::with(&config).start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    let items: Vec<_> = (0..70_000).map(|i| Item::named(format!("span-{i}")).attribute("k", "v")).collect();
    grpc.spans(spans(&[], &items)).await.unwrap();
    let arrived = sink.wait_for("traces", 70_000).await;
    assert_eq!(arrived.len(), 70_000);
    tollgate.settled().await;
    tollgate.stop().await;
}
