//! `attributes`, `resource`, `probabilistic_sampler` and `memory_limiter` from end to end.

use std::collections::HashMap;

use crate::harness::{Arrived, Grpc, Http, Item, Sink, Tollgate, logs, metrics, spans};

const PIPELINE: &str = "
{otlp}
processors:
{processors}
exporters:
  otlp_grpc: { endpoint: '{sink}', tls: { insecure: true } }
service:
  pipelines:
    traces: { receivers: [otlp], processors: [{traces}], exporters: [otlp_grpc] }
    metrics: { receivers: [otlp], processors: [{metrics}], exporters: [otlp_grpc] }
    logs: { receivers: [otlp], processors: [{traces}], exporters: [otlp_grpc] }
";

/// All signals go through `names`; metrics through those of them that take metrics.
async fn start(sink: &Sink, processors: &str, names: &str) -> Tollgate {
    let of_metrics = names.split(", ").filter(|name| !name.starts_with("probabilistic"));
    let config = PIPELINE
        .replace("{processors}", processors)
        .replace("{sink}", &sink.address().to_string())
        .replace("{metrics}", &of_metrics.collect::<Vec<_>>().join(", "))
        .replace("{traces}", names);
    Tollgate::with(&config).start().await
}

fn has(found: &HashMap<String, String>, expected: &[(&str, &str)]) {
    let expected: HashMap<String, String> =
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert_eq!(*found, expected);
}

/// One item of each signal with the same attributes; what arrives, by signal.
async fn one_of_each(sink: &Sink, grpc: &Grpc, of: &[(&str, &str)], item: Item) -> [Arrived; 3] {
    let before = ["traces", "metrics", "logs"].map(|signal| sink.items(signal).len());
    let items = [item];
    grpc.spans(spans(of, &items)).await.unwrap();
    grpc.metrics(metrics(of, &items)).await.unwrap();
    grpc.logs(logs(of, &items)).await.unwrap();
    let [spans, points, records] = before;
    [
        sink.wait_for("traces", spans + 1).await.remove(spans),
        sink.wait_for("metrics", points + 1).await.remove(points),
        sink.wait_for("logs", records + 1).await.remove(records),
    ]
}

const EDITS: &str = "
  attributes:
    actions:
      - { key: inserted, action: insert, value: 1 }
      - { key: there, action: insert, value: not-this }
      - { key: there.too, action: update, value: true }
      - { key: absent, action: update, value: not-this }
      - { key: upserted, action: upsert, value: 0.5 }
      - { key: copied, action: upsert, from_attribute: there }
      - { key: copied.nothing, action: upsert, from_attribute: nothing }
      - { key: header, action: upsert, from_context: metadata.X-Region }
      - { key: header.nothing, action: upsert, from_context: metadata.nothing }
      - { key: client, action: upsert, from_context: client.address }
      - { key: secret, action: delete }
  resource:
    attributes:
      - { key: environment, action: upsert, value: test }
      - { key: service.name, action: update, value: renamed }
      - { key: pod, action: delete }
      - { key: region, action: insert, from_context: metadata.x-region }
";

#[tokio::test]
async fn attributes_and_resources_of_every_signal_are_edited() {
    let sink = Sink::start().await;
    let tollgate = start(&sink, EDITS, "attributes, resource").await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let grpc = grpc.header("x-region", "eu").header("x-region", "us");
    let item = Item::named("x").attribute("there", "a").attribute("there.too", "b").attribute("secret", "c");
    for arrived in one_of_each(&sink, &grpc, &[("service.name", "s"), ("pod", "p")], item).await {
        has(
            &arrived.attributes,
            &[
                ("inserted", "1"),
                ("there", "a"),
                ("there.too", "true"),
                ("upserted", "0.5"),
                ("copied", "a"),
                ("header", "eu;us"),
                ("client", "127.0.0.1"),
            ],
        );
        has(&arrived.resource, &[("service.name", "renamed"), ("environment", "test"), ("region", "eu;us")]);
    }
    tollgate.settled().await;
    tollgate.stop().await;
}

const CHOSEN: &str = "
  attributes/strict:
    include: { match_type: strict, services: [a, b], attributes: [{ key: n, value: one }] }
    actions: [{ key: strict, action: insert, value: yes }]
  attributes/regexp:
    include: { match_type: regexp, services: ['^a'] }
    exclude: { match_type: regexp, attributes: [{ key: n, value: '^t' }] }
    actions: [{ key: regexp, action: insert, value: yes }]
  attributes/spans:
    include: { match_type: regexp, span_names: ['^GET '], span_kinds: [SPAN_KIND_SERVER] }
    actions: [{ key: span, action: insert, value: yes }]
  attributes/points:
    include: { match_type: strict, metric_names: ['GET /'] }
    actions: [{ key: point, action: insert, value: yes }]
  attributes/records:
    include: { match_type: regexp, log_bodies: ['GET'], log_severity_number: { min: 9 } }
    actions: [{ key: record, action: insert, value: yes }]
";

#[tokio::test]
async fn only_what_is_included_and_not_excluded_is_edited() {
    let sink = Sink::start().await;
    let names = ["strict", "regexp", "spans", "points", "records"].map(|name| format!("attributes/{name}"));
    let tollgate = start(&sink, CHOSEN, &names.join(", ")).await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let check = async |service: &str, (name, n): (&str, &str), expected: &[&[&str]; 3]| {
        let item = Item::named(name).attribute("n", n);
        let arrived = one_of_each(&sink, &grpc, &[("service.name", service)], item).await;
        for (arrived, expected) in arrived.iter().zip(expected) {
            let mut all = vec![("n", n)];
            all.extend(expected.iter().map(|key| (*key, "yes")));
            has(&arrived.attributes, &all);
        }
    };
    check(
        "a",
        ("GET /", "one"),
        &[&["strict", "regexp", "span"], &["strict", "regexp", "point"], &["strict", "regexp", "record"]],
    )
    .await;
    check("a", ("POST /", "two"), &[&[], &[], &[]]).await;
    check("b", ("POST /", "one"), &[&["strict"], &["strict"], &["strict"]]).await;
    check("ab", ("GET /x", "one"), &[&["regexp", "span"], &["regexp"], &["regexp", "record"]]).await;
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_fixed_share_of_spans_and_log_records_is_kept_and_counted() {
    let sink = Sink::start().await;
    let sampler = "
  probabilistic_sampler: { mode: equalizing, sampling_percentage: 25 }
  probabilistic_sampler/none: { sampling_percentage: 0 }
";
    let tollgate = start(&sink, sampler, "probabilistic_sampler").await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let items: Vec<Item> = (0..2000).map(|i| Item::named(format!("{i}"))).collect();
    grpc.spans(spans(&[], &items)).await.unwrap();
    grpc.metrics(metrics(&[], &items)).await.unwrap();
    grpc.logs(logs(&[], &items)).await.unwrap();
    let count = async |metric: &str, sampled: &str| {
        let name = format!("otelcol_processor_probabilistic_sampler_count_{metric}_sampled");
        tollgate.settled().await.sum(&name, &[("sampled", sampled)])
    };
    assert_eq!(sink.wait_for("metrics", 2000).await.len(), 2000);
    let kept = count("traces", "true").await;
    // Four standard deviations to either side.
    assert!((422.0..578.0).contains(&kept), "{kept}");
    assert_eq!(count("traces", "false").await, 2000.0 - kept);
    let arrived = sink.wait_for("traces", kept as usize).await;
    assert!(arrived.iter().all(|span| span.trace_state == "ot=th:c"), "{:?}", arrived[0]);
    // These records have no trace id, and nothing else to decide by.
    assert_eq!(count("logs", "false").await, 2000.0);
    assert!(sink.items("logs").is_empty());
    tollgate.stop().await;
}

#[tokio::test]
async fn above_its_soft_limit_the_memory_limiter_refuses_with_a_time_to_come_back() {
    let sink = Sink::start().await;
    // Less than any process needs.
    let limiter = "  memory_limiter: { check_interval: 100ms, limit_mib: 2, spike_limit_mib: 1 }";
    let tollgate = start(&sink, limiter, "memory_limiter").await;
    crate::harness::eventually("the first measurement", || async {
        tollgate.event("memory_limiter.refusing")
    })
    .await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let refusal = grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap_err();
    assert_eq!(refusal.code(), tonic::Code::Unavailable);
    assert_eq!(refusal.message(), "data refused due to high memory usage");
    let http = Http::new(tollgate.address("otlp/http"));
    let answer = http.protobuf("/v1/logs", &logs(&[], &[Item::named("x")])).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].as_bytes()), (503, &b"1"[..]));
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("otelcol_processor_memory_limiter_refused_spans", &[]), 1.0);
    assert_eq!(metrics.sum("tollgate_refused_items_total", &[("reason", "memory")]), 2.0);
    tollgate.stop().await;
}
