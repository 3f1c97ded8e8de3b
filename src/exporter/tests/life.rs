use super::*;
use crate::batch;

#[tokio::test]
async fn what_waits_is_sent_before_the_drain_ends() {
    let fake = Fake::start(|_| Reply::ok()).await;
    let batch = json!({"min_size": 100, "flush_timeout": "1h"});
    let world = World::grpc(&fake, json!({"sending_queue": {"batch": batch}}));
    world.send(1);
    world.send(2);
    assert_eq!(world.exporter.queue().size(), 2);
    assert_eq!(world.end().await.sent, 3);
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn what_is_left_at_the_drain_deadline_is_dropped_and_counted() {
    let fake = Fake::start(|n| if n == 0 { Reply::Never } else { Reply::grpc(14) }).await;
    let world = World::grpc(&fake, json!({"retry_on_failure": {"initial_interval": "10s"}}));
    world.send(1);
    eventually("the first hangs", || fake.seen().len() == 1).await;
    world.send(2);
    eventually("the second failed", || fake.seen().len() == 2).await;
    let metrics = world.metrics.clone();
    let books = world.end_after(Duration::from_millis(50)).await;
    assert_eq!(books.dropped[DroppedReason::Shutdown as usize], 3);
    assert_eq!(metrics.send_failed[Signal::Traces].get(), 3);
}

#[tokio::test]
async fn a_batch_is_given_up_when_retries_take_too_long() {
    let fake = Fake::start(|_| Reply::grpc(14)).await;
    let retry = json!({"initial_interval": "10ms", "max_interval": "10ms", "max_elapsed_time": "60ms"});
    let world = World::grpc(&fake, json!({"retry_on_failure": retry}));
    world.send(1);
    world.empty().await;
    assert!(fake.seen().len() > 1);
    assert_eq!(world.dropped(DroppedReason::RetriesExhausted), 1);
    world.end().await;
    let world = World::grpc(&fake, json!({"retry_on_failure": {"enabled": false}}));
    let before = fake.seen().len();
    world.send(1);
    world.empty().await;
    assert_eq!(fake.seen().len(), before + 1);
    world.end().await;
}

#[tokio::test]
async fn c7_a_dead_destination_holds_up_no_other() {
    let (dead, alive) = (Fake::start(|_| Reply::Never).await, Fake::start(|_| Reply::ok()).await);
    let (stuck, world) = (World::grpc(&dead, json!({})), World::grpc(&alive, json!({})));
    for _ in 0..100 {
        let batch = world.batch(1, REQUEST);
        stuck.put(vec![batch.copy()]);
        world.put(vec![batch]);
    }
    world.empty().await;
    assert_eq!(world.books().sent, 100);
    assert_eq!(stuck.exporter.queue().size(), 100);
    // Both write the same books, so the stuck one has to end first.
    let left = stuck.exporter.drain(Instant::now()).await;
    assert_eq!((left, stuck.scope.alive()), (100, 0));
    stuck.workers.stop();
    assert_eq!(world.end().await.dropped[DroppedReason::Shutdown as usize], 100);
}

#[tokio::test]
async fn a_sender_who_waits_learns_of_success_and_failure() {
    let fake = Fake::start(|n| if n == 0 { Reply::ok() } else { Reply::grpc(7) }).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"wait_for_result": true}}));
    assert!(world.exporter.awaits_results() && !world.exporter.blocks_on_overflow());
    let send = async || {
        let (receipt, result) = Receipt::until(Instant::now() + Duration::from_secs(60));
        world.put(vec![world.batch(1, REQUEST).with_receipt(receipt)]);
        patiently(result).await.unwrap()
    };
    assert_eq!(send().await, batch::Result::default());
    let failure = send().await.failure.unwrap();
    assert_eq!((failure.code, failure.message.as_str()), (7, "told so"));
    assert_eq!(world.end().await.refused_total(), 1);
}

#[tokio::test]
async fn retries_end_when_the_sender_stops_waiting() {
    let fake = Fake::start(|_| Reply::grpc(14)).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"enabled": false}}));
    let (receipt, result) = Receipt::until(Instant::now() + Duration::from_millis(200));
    world.put(vec![world.batch(1, REQUEST).with_receipt(receipt)]);
    let start = Instant::now();
    let code = patiently(result).await.unwrap().failure.unwrap().code;
    // The last attempt is refused, or cut off by the deadline.
    assert!([4, 14].contains(&code), "{code}");
    assert!(start.elapsed() < Duration::from_secs(5) && fake.seen().len() > 1);
    assert_eq!(world.end().await.refused_total(), 1);
}

#[tokio::test]
async fn the_deadline_of_the_sender_reaches_the_destination() {
    let fake = Fake::start(|_| Reply::ok()).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"enabled": false}, "timeout": "0s"}));
    let (receipt, result) = Receipt::until(Instant::now() + Duration::from_secs(60));
    world.put(vec![world.batch(1, REQUEST).with_receipt(receipt)]);
    patiently(result).await.unwrap();
    let timeout = fake.seen()[0].headers["grpc-timeout"].to_str().unwrap().to_owned();
    let millis: u64 = timeout.strip_suffix('m').unwrap().parse().unwrap();
    assert!((40_000..=60_000).contains(&millis), "{timeout}");
    world.end().await;
}

#[tokio::test]
async fn a_destination_that_asks_for_patience_gets_fewer_requests_at_a_time() {
    let fake = Fake::start(|n| if n < 40 { Reply::grpc(14) } else { Reply::ok() }).await;
    let batch = json!({"min_size": 1, "max_size": 1});
    let queue = json!({"num_consumers": 32, "adaptive_consumers": true, "batch": batch});
    let world = World::grpc(&fake, json!({"sending_queue": queue}));
    assert_eq!(world.metrics.in_flight_limit.get(), 32);
    (0..200).for_each(|_| world.send(1));
    eventually("fewer at a time", || world.metrics.in_flight_limit.get() < 32).await;
    world.empty().await;
    assert!(world.metrics.in_flight_limit.get() >= 1);
    assert_eq!(world.end().await.sent, 200);
}

#[tokio::test]
async fn without_a_queue_requests_are_not_merged() {
    let fake = Fake::start(|_| Reply::ok()).await;
    let world = World::grpc(&fake, json!({"sending_queue": {"enabled": false}}));
    world.put((0..20).map(|_| world.batch(1, REQUEST)).collect());
    world.empty().await;
    assert_eq!((fake.seen().len(), world.end().await.sent), (20, 20));
}

#[tokio::test]
async fn debug_and_nop_take_everything() {
    let verbosities = ["basic", "normal", "detailed"];
    let debug = |text| serde_json::from_value(json!({"verbosity": text})).unwrap();
    let mut configs: Vec<_> = verbosities.into_iter().map(debug).map(config::Exporter::Debug).collect();
    configs.push(config::Exporter::Nop(config::Nop::default()));
    for config in configs {
        let world = World::start(&config);
        (0..5).for_each(|_| world.send(2));
        world.empty().await;
        assert_eq!(world.end().await.sent, 10);
    }
}

#[tokio::test]
async fn a_file_has_one_line_for_each_batch_when_the_drain_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.json");
    let config = json!({"path": path, "flush_interval": "1h"});
    let world = World::start(&config::Exporter::File(serde_json::from_value(config).unwrap()));
    world.put((0..50).map(|_| world.batch(1, REQUEST)).collect());
    world.empty().await;
    assert_eq!(world.end().await.sent, 50);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 50);
    assert_eq!(lines[7]["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "ab");
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_stops_the_start() {
    let config = config::File { path: "/nonexistent/folder/out.json".into(), ..config::File::default() };
    let config = config::Exporter::File(config);
    let exporter = Exporter::prepare("file", &config, None, ExporterMetrics::default()).unwrap();
    let workers = Workers::start(1).unwrap();
    let error = exporter.start(&Scope::root("test"), &workers).unwrap_err();
    assert!(error.to_string().starts_with("exporter `file`: path: No such file"), "{error}");
    workers.stop();
}
