//! What the exporter makes of batches.

use crate::harness::{Grpc, Item, Sink, Tollgate, spans};

const PLAIN: &str = "
{otlp}
processors: { batch: }
exporters: { otlp_grpc: { endpoint: '{next}', compression: none, tls: { insecure: true } } }
service:
  pipelines:
    traces: { receivers: [otlp], processors: [{processors}], exporters: [otlp_grpc] }
";

#[tokio::test]
async fn what_the_batch_processor_merges_is_taken_by_a_receiver_with_default_limits() {
    let sink = Sink::start().await;
    let gateway = PLAIN.replace("{next}", &sink.address().to_string()).replace("{processors}", "");
    let gateway = Tollgate::with(&gateway).start().await;
    let agent = PLAIN.replace("{next}", gateway.address("otlp/grpc")).replace("{processors}", "batch");
    let agent = Tollgate::with(&agent).start().await;
    let grpc = Grpc::connect(agent.address("otlp/grpc")).await;
    let large = "x".repeat(900 << 10);
    let sends = (0..24).map(|i| {
        let item = Item::named(format!("{i}")).attribute("large", &large);
        let grpc = grpc.clone();
        tokio::spawn(async move { grpc.spans(spans(&[], &[item])).await })
    });
    for sent in sends.collect::<Vec<_>>() {
        sent.await.unwrap().unwrap();
    }
    sink.wait_for("traces", 24).await;
    agent.settled().await;
    agent.stop().await;
    gateway.settled().await;
    gateway.stop().await;
}
