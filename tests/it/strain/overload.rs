//! Four times as much as the destination takes, in 256 MiB of memory.

use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use tonic::Code;

use super::figure;
use crate::gate::gate;
use crate::harness::{Answer, Group, Grpc, Item, Sink, Tollgate, scaled, spans};

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 256 * MIB;
const TENANTS: usize = 4;
/// Four requests at a time, each a fifth of a second: 20 a second.
const SLOW: Duration = Duration::from_millis(200);
/// One request has 64 spans of 4 KiB.
const QUEUE: &str = "compression: none, sending_queue: { num_consumers: 4, queue_size: 1000000, batch: { min_size: 64, \
                     max_size: 64, sizer: items, flush_timeout: 20ms } }, retry_on_failure:";
/// Each of the tenants: 24 requests a second in all, or 80.
const ENOUGH: Duration = Duration::from_millis(166);
const FOURFOLD: Duration = Duration::from_millis(50);

/// What became of the requests of one tenant.
#[derive(Default)]
struct Outcome {
    accepted: usize,
    refused: usize,
}

/// Sends every so often, whether or not the answer has come. A refusal must say so and when to come back.
async fn send(
    grpc: Grpc,
    request: ExportTraceServiceRequest,
    (every, lasting): (Duration, Duration),
) -> Outcome {
    let (mut ticks, until) = (tokio::time::interval(every), Instant::now() + lasting);
    let mut calls = tokio::task::JoinSet::new();
    while Instant::now() < until {
        ticks.tick().await;
        let (grpc, request) = (grpc.clone(), request.clone());
        calls.spawn(async move { grpc.spans(request).await });
    }
    let mut outcome = Outcome::default();
    for answer in calls.join_all().await {
        match answer {
            Ok(_) => outcome.accepted += 1,
            Err(status) => {
                assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{status:?}");
                let details = String::from_utf8_lossy(status.details()).into_owned();
                assert!(details.contains("google.rpc.RetryInfo"), "{status:?}");
                outcome.refused += 1;
            }
        }
    }
    outcome
}

/// Items the sink gets a second while every tenant sends, and what became of the requests.
async fn load(tenants: &[Grpc], sink: &Sink, (every, lasting): (Duration, Duration)) -> (f64, Outcome) {
    let items: Vec<_> = (0..64).map(|_| Item::named("x").attribute("text", &"y".repeat(4096))).collect();
    let request = spans(&[], &items);
    let (begun, before) = (Instant::now(), sink.items("traces").len());
    let sending = tenants.iter().map(|grpc| send(grpc.clone(), request.clone(), (every, lasting)));
    let sending: Vec<_> = sending.map(tokio::spawn).collect();
    tokio::time::sleep(lasting).await;
    let rate = (sink.items("traces").len() - before) as f64 / begun.elapsed().as_secs_f64();
    let mut all = Outcome::default();
    for one in sending {
        let one = one.await.unwrap();
        all.accepted += one.accepted;
        all.refused += one.refused;
    }
    (rate, all)
}

/// Scorecard, test 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_four_times_the_load_memory_stays_below_its_limit_and_refusals_are_explicit() {
    let sink = Sink::start().await;
    sink.forget_attributes();
    sink.answer(Answer::Slow(SLOW));
    let (group, root) = (Group::of_memory(MEMORY), tempfile::tempdir().unwrap());
    let start = Tollgate::with(&gate(&sink).replace("retry_on_failure:", QUEUE));
    let tollgate = match &group {
        Some(group) => start.by(&["sh", "-c", &group.enter(), "sh"]),
        None => {
            // What only looks like a control group sizes the pools; resident memory is held against it all the same.
            std::fs::write(root.path().join("cgroup.controllers"), "memory").unwrap();
            std::fs::write(root.path().join("memory.max"), MEMORY.to_string()).unwrap();
            start.argument(&format!("--cgroup-root={}", root.path().display()))
        }
    };
    let tollgate = tollgate.start().await;
    let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await;
    let tenants: Vec<_> = (0..TENANTS).map(|n| grpc.clone().tenant(&format!("tenant-{n}"))).collect();
    let seconds = |short, long| Duration::from_secs(scaled(short, long) as u64);
    let (capacity, _) = load(&tenants, &sink, (ENOUGH, seconds(4, 30))).await;
    let (goodput, outcome) = load(&tenants, &sink, (FOURFOLD, seconds(16, 600))).await;
    let peak = tollgate.peak_resident();
    let metrics = tollgate.metrics().await;
    println!(
        "{}: {capacity:.0} spans a second, {goodput:.0} under four times the load; {} requests taken, {} refused; peak \
         {} MiB, pools {} MiB, queued {} MiB",
        if group.is_some() { "a real control group" } else { "what looks like a control group" },
        outcome.accepted,
        outcome.refused,
        peak / MIB,
        metrics.sum("tollgate_memory_pool_bytes", &[]) as u64 / MIB,
        metrics.sum("tollgate_exporter_queue_bytes", &[]) as u64 / MIB,
    );
    figure("overload.peak_over_limit", peak as f64 / MEMORY as f64, 1.0);
    figure("overload.lost_goodput", 1.0 - goodput / capacity, 0.2);
    assert!(metrics.sum("tollgate_memory_pool_bytes", &[]) <= MEMORY as f64);
    assert!(peak <= MEMORY, "{} MiB", peak / MIB);
    assert!(outcome.accepted > 0 && outcome.refused > 0, "it was too little");
    if let Some(group) = &group {
        assert_eq!(group.killed(), 0);
    }
    sink.answer(Answer::Ok);
    tollgate.settled().await;
    tollgate.stop().await;
}
