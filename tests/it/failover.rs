//! A failover sends to the first level that works, and loses nothing on the way there and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, spans};

const FAILOVER: &str = "
{otlp}
processors: { tenant: }
exporters:
  otlp_grpc/first: { endpoint: '{first}', tls: { insecure: true }, timeout: 2s }
  otlp_http/second: { endpoint: 'http://{second}', timeout: 2s }
connectors:
  failover:
    priority_levels: [[traces/first], [traces/second]]
    retry_interval: 200ms
    retry_on_failure: { initial_interval: 20ms, max_interval: 100ms, max_elapsed_time: 0s }
extensions: { admin: }
service:
  extensions: [admin]
  pipelines:
    traces: { receivers: [otlp], processors: [tenant], exporters: [failover] }
    traces/first: { receivers: [failover], exporters: [otlp_grpc/first] }
    traces/second: { receivers: [failover], exporters: [otlp_http/second] }
";

struct World {
    tollgate: Tollgate,
    first: Sink,
    second: Sink,
}

impl World {
    async fn start() -> Self {
        let (first, second) = (Sink::start().await, Sink::start().await);
        let config = FAILOVER
            .replace("{first}", &first.address().to_string())
            .replace("{second}", &second.address().to_string());
        Self { tollgate: Tollgate::with(&config).start().await, first, second }
    }

    async fn level(&self) -> f64 {
        self.tollgate.metrics().await.sum("tollgate_failover_level", &[("connector", "failover")])
    }
}

/// Sends items with distinct names until told to stop; how many were acknowledged.
fn keep_sending(grpc: Grpc, stop: &Arc<AtomicBool>, sent: &Arc<AtomicUsize>) -> tokio::task::JoinHandle<()> {
    let (stop, sent) = (stop.clone(), sent.clone());
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let name = format!("n{}", sent.load(Ordering::Relaxed));
            grpc.spans(spans(&[], &[Item::named(name)])).await.unwrap();
            sent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_first_level_dies_and_comes_back() {
    let world = World::start().await;
    let grpc = Grpc::connect(world.tollgate.address("otlp/grpc")).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let sending = keep_sending(grpc, &stop, &sent);
    for _ in 0..2 {
        let (first, second) = (world.first.items("traces").len(), world.second.items("traces").len());
        world.first.wait_for("traces", first + 20).await;
        world.first.kill().await;
        let killed = std::time::Instant::now();
        world.second.wait_for("traces", second + 1).await;
        eprintln!("first data at the second level {:?} after the first was killed", killed.elapsed());
        world.second.wait_for("traces", second + 50).await;
        assert_eq!(world.level().await, 2.0);
        let before = world.first.items("traces").len();
        world.first.revive().await;
        let revived = std::time::Instant::now();
        world.first.wait_for("traces", before + 1).await;
        eprintln!("first data back at the first level {:?} after it was there again", revived.elapsed());
        eventually("level 1 in use", || async { (world.level().await == 1.0).then_some(()) }).await;
    }
    stop.store(true, Ordering::Relaxed);
    sending.await.unwrap();
    let metrics = world.tollgate.settled().await;
    let sent = sent.load(Ordering::Relaxed);
    let arrived = [world.first.items("traces"), world.second.items("traces")].concat();
    let mut names: Vec<_> = arrived.into_iter().map(|item| item.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), sent, "every acknowledged item arrived");
    assert_eq!(metrics.sum("tollgate_dropped_items_total", &[]), 0.0);
    let by = |exporter| metrics.sum("tollgate_failover_sent_items_total", &[("exporter", exporter)]);
    assert_eq!(by("otlp_grpc/first") + by("otlp_http/second"), sent as f64);
    assert!(metrics.sum("tollgate_failover_switches_total", &[]) >= 4.0);
    assert!(world.tollgate.event("failover.level_failed").is_some_and(|event| event["in_use"] == 2));
    assert!(world.tollgate.event("failover.level_works").is_some_and(|event| event["priority"] == 1));
    world.tollgate.stop().await;
}

#[tokio::test]
async fn while_no_level_works_data_waits_and_goes_to_the_first_that_comes_back() {
    let world = World::start().await;
    world.first.kill().await;
    world.second.answer(Answer::Unavailable);
    let grpc = Grpc::connect(world.tollgate.address("otlp/grpc")).await;
    for n in 0..20 {
        grpc.spans(spans(&[], &[Item::named(format!("{n}"))])).await.unwrap();
    }
    eventually("no level in use", || async { (world.level().await == 0.0).then_some(()) }).await;
    world.second.answer(Answer::Ok);
    world.second.wait_for("traces", 20).await;
    assert_eq!(world.level().await, 2.0);
    world.first.revive().await;
    world.tollgate.settled().await;
    assert!(world.first.items("traces").is_empty());
    world.tollgate.stop().await;
}

#[tokio::test]
async fn what_a_level_refuses_for_good_or_throttles_does_not_go_elsewhere() {
    let world = World::start().await;
    world.first.answer(Answer::Invalid);
    let grpc = Grpc::connect(world.tollgate.address("otlp/grpc")).await;
    grpc.spans(spans(&[], &[Item::named("refused")])).await.unwrap();
    eventually("the drop", || async {
        let metrics = world.tollgate.metrics().await;
        (metrics.sum("tollgate_dropped_items_total", &[("reason", "permanent")]) == 1.0).then_some(())
    })
    .await;
    assert_eq!((world.level().await, world.second.items("traces").len()), (1.0, 0));
    world.tollgate.stop().await;
}
