//! Destinations at a hundredth of their speed, and dead ones: the others do not notice, and memory has its bound.

use std::time::{Duration, Instant};

use super::figure;
use crate::durable::arrivals;
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, scaled, spans};

const MAX_BYTES: f64 = 262_144.0;
/// Two receivers, each with a pipeline and an exporter of its own, and one that sends to both.
const CONFIG: &str = "
receivers:
  otlp/well: { protocols: { grpc: { endpoint: '127.0.0.1:0' } } }
  otlp/ill: { protocols: { grpc: { endpoint: '127.0.0.1:0' } } }
  otlp/both: { protocols: { grpc: { endpoint: '127.0.0.1:0' } } }
processors: { tenant: }
exporters:
  otlp_grpc/well: { endpoint: '{well}', tls: { insecure: true } }
  otlp_grpc/ill: { endpoint: '{ill}', tls: { insecure: true }, retry_on_failure: { initial_interval: 50ms, max_interval: 200ms }, sending_queue: { max_bytes: 256KiB, queue_size: 100000, num_consumers: 1 } }
extensions: { admin: }
service:
  extensions: [admin]
  pipelines:
    traces/well: { receivers: [otlp/well], processors: [tenant], exporters: [otlp_grpc/well] }
    traces/ill: { receivers: [otlp/ill], processors: [tenant], exporters: [otlp_grpc/ill] }
    traces/both: { receivers: [otlp/both], processors: [tenant], exporters: [otlp_grpc/well, otlp_grpc/ill] }
";

async fn start(well: &Sink, ill: &Sink) -> Tollgate {
    let config = CONFIG.replace("{well}", &well.address().to_string());
    Tollgate::with(&config.replace("{ill}", &ill.address().to_string())).start().await
}

/// Sends one request after the other, which all have to be taken; their p99 in ms.
async fn p99(grpc: &Grpc, prefix: &str) -> f64 {
    let mut times = Vec::new();
    for n in 0..scaled(1000, 20_000) {
        let begun = Instant::now();
        grpc.spans(spans(&[], &[Item::named(format!("{prefix}-{n}"))])).await.expect("the well one takes it");
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    times[(times.len() - 1) * 99 / 100]
}

/// Scorecard, test 6.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_and_then_a_dead_destination_leave_the_other_as_it_was() {
    let (well, ill) = (Sink::start().await, Sink::start().await);
    let tollgate = start(&well, &ill).await;
    let client = async |name| Grpc::connect(tollgate.address(name)).await.tenant("acme");
    let (to_well, to_ill) = (client("otlp/well/grpc").await, client("otlp/ill/grpc").await);
    // The other is sent the same all the time.
    let filling = tokio::spawn(async move {
        let items: Vec<_> = (0..50).map(|n| Item::named(format!("ill-{n}"))).collect();
        let request = spans(&[], &items);
        loop {
            let _refused = to_ill.spans(request.clone()).await.is_err();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    // The first connection, the first batch.
    p99(&to_well, "warm").await;
    let before = p99(&to_well, "before").await;
    for trouble in ["slow", "dead"] {
        match trouble {
            "slow" => ill.answer(Answer::Slow(Duration::from_millis(300))),
            _ => ill.kill().await,
        }
        let refused = tollgate.metrics().await.sum("tollgate_refused_items_total", &[]);
        crate::harness::eventually("a full queue", || async {
            let metrics = tollgate.metrics().await;
            assert!(
                metrics.sum("tollgate_exporter_queue_bytes", &[("exporter", "otlp_grpc/ill")]) <= MAX_BYTES
            );
            (metrics.sum("tollgate_refused_items_total", &[]) > refused).then_some(())
        })
        .await;
        let beside = p99(&to_well, trouble).await;
        println!(
            "p99 of the well destination's senders {before:.2} ms beside a well one, {beside:.2} ms beside a {trouble} one"
        );
        figure(&format!("{trouble}_destination.p99_ratio"), beside / before, 1.2);
        let metrics = tollgate.metrics().await;
        let queued = metrics.sum("tollgate_exporter_queue_bytes", &[("exporter", "otlp_grpc/ill")]);
        assert!(queued <= MAX_BYTES, "{queued} bytes");
    }
    filling.abort();
    ill.revive().await;
    ill.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
}

/// What one of two destinations cannot take is refused whole, so trying again sends the other nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_one_of_two_destinations_refuses_is_sent_to_the_other_once() {
    let (well, ill) = (Sink::start().await, Sink::start().await);
    let tollgate = start(&well, &ill).await;
    ill.answer(Answer::Slow(Duration::from_millis(50)));
    let both = Grpc::connect(tollgate.address("otlp/both/grpc")).await.tenant("acme");
    let (mut refused, mut sent) = (0, 0);
    while refused < scaled(20, 500) {
        let name = format!("{sent}");
        let request = spans(&[], &[Item::named(&name).attribute("text", &"x".repeat(30_000))]);
        while both.spans(request.clone()).await.is_err() {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sent += 1;
    }
    for sink in [&well, &ill] {
        sink.wait_for("traces", sent).await;
    }
    tollgate.settled().await;
    for sink in [&well, &ill] {
        let arrived = arrivals(sink);
        assert!(arrived.len() == sent && arrived.values().all(|times| *times == 1), "{arrived:?}");
    }
    tollgate.stop().await;
}
