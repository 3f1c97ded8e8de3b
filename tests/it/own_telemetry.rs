//! What the program says of itself, pushed by OTLP.

use crate::gate::gate;
use crate::harness::{Grpc, Item, Sink, Tollgate, eventually, get, spans};

/// Pushes metrics by gRPC and traces by HTTP, often, and a span for every request.
fn pushing(own: &Sink) -> String {
    let url = own.url();
    format!(
        "
  telemetry:
    metrics:
      readers:
        - pull: {{ exporter: {{ prometheus: {{ host: 127.0.0.1, port: 0 }} }} }}
        - periodic: {{ interval: 200, exporter: {{ otlp: {{ protocol: grpc, endpoint: '{url}', headers: [{{ name: x-own, value: CANARY }}] }} }} }}
    traces:
      sampler: {{ trace_id_ratio_based: {{ ratio: 1.0 }} }}
      processors: [{{ batch: {{ schedule_delay: 200, exporter: {{ otlp: {{ protocol: http/protobuf, endpoint: '{url}' }} }} }} }}]
    resource: {{ service.name: gate-under-test }}
"
    )
}

#[tokio::test]
async fn own_metrics_and_a_span_for_each_request_are_pushed() {
    let (sink, own) = (Sink::start().await, Sink::start().await);
    let config = format!("{}{}", gate(&sink), pushing(&own));
    let tollgate = Tollgate::with(&config).keep_readers().start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("acme");
    for _ in 0..3 {
        grpc.spans(spans(&[], &[Item::named("a"), Item::named("b")])).await.unwrap();
    }
    sink.wait_for("traces", 6).await;

    let requests = own.wait_for("traces", 3).await;
    assert_eq!(requests.len(), 3);
    for request in requests {
        assert_eq!(
            (request.name.as_str(), request.resource["service.name"].as_str()),
            ("request", "gate-under-test")
        );
        let told = ["signal", "transport", "items", "outcome"].map(|key| request.attributes[key].as_str());
        assert_eq!(told, ["traces", "grpc", "2", "accepted"]);
    }
    eventually("the pushed metrics to tell of the spans", || async {
        let points = own.items("metrics");
        let names = ["otelcol_exporter_sent_spans", "tollgate_received_items_total"];
        names
            .iter()
            .all(|name| {
                points.iter().any(|point| {
                    point.name.contains(name.trim_start_matches("otelcol_")) || point.name == *name
                })
            })
            .then_some(())
    })
    .await;
    assert!(!format!("{:?}", tollgate.log()).contains("CANARY"));
    tollgate.settled().await;
    tollgate.stop().await;
}

#[tokio::test]
async fn a_collector_that_gets_its_own_telemetry_makes_no_circle() {
    let (sink, own) = (Sink::start().await, Sink::start().await);
    let config = format!("{}{}", gate(&sink), pushing(&own));
    let tollgate = Tollgate::with(&config).keep_readers().start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.header("tollgate-internal-telemetry", "x");
    grpc.spans(spans(&[], &[Item::named("own")])).await.unwrap();
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("foreign")])).await.unwrap();
    sink.wait_for("traces", 2).await;
    tollgate.settled().await;
    tollgate.stop().await;
    // All spans are sent when the program has ended.
    assert_eq!(own.items("traces").len(), 1);
}

#[tokio::test]
async fn a_dead_destination_of_own_telemetry_holds_up_nothing() {
    let (sink, own) = (Sink::start().await, Sink::start().await);
    own.answer(crate::harness::Answer::Silence);
    let config = format!("{}{}", gate(&sink), pushing(&own));
    let tollgate = Tollgate::with(&config).keep_readers().argument("--shutdown-grace=1s").start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("x")])).await.unwrap();
    sink.wait_for("traces", 1).await;
    assert_eq!(get(tollgate.address("health_check"), "/").await.0, 200);
    tollgate.settled().await;
    tollgate.stop().await;
}
