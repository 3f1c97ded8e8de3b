//! SIGTERM while everybody sends: what was answered with OK arrives, and the end comes in its time.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::figure;
use crate::durable::{arrivals, durable, lost};
use crate::gate::gate;
use crate::harness::{Answer, Grpc, Item, Sink, Tollgate, eventually, scaled, spans};

const SENDERS: usize = 16;
const SPANS: usize = 20;

/// Sends until it is told that the program goes away, or the connection ends; some of the calls it gives up itself.
async fn keep_sending(grpc: Grpc, sender: usize, acknowledged: Arc<Mutex<HashSet<String>>>) {
    for request in 0.. {
        let names: Vec<_> = (0..SPANS).map(|n| format!("{sender}-{request}-{n}")).collect();
        let items: Vec<_> = names.iter().map(Item::named).collect();
        let call = grpc.spans(spans(&[], &items));
        if request % 4 == 3 {
            // Whether it was taken nobody knows then.
            let _given_up = tokio::time::timeout(Duration::from_millis(1), call).await;
            continue;
        }
        match call.await {
            Ok(_) => acknowledged.lock().unwrap().extend(names),
            // Only once it is told to end may it refuse, but for a queue that is full.
            Err(status) if status.message().contains("queue") => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(_) => return,
        }
    }
}

/// Lets everybody send for a while, ends the program under their hands, and waits for its end. What was acknowledged,
/// and the seconds the end took.
async fn end_at_full_load(tollgate: Tollgate) -> (HashSet<String>, f64) {
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let grpc =
            Grpc::connect(tollgate.address("otlp/grpc")).await.tenant(&format!("tenant-{}", sender % 4));
        senders.push(tokio::spawn(keep_sending(grpc, sender, acknowledged.clone())));
    }
    let enough = SENDERS * SPANS * scaled(4, 200);
    eventually("load", || async { (acknowledged.lock().unwrap().len() >= enough).then_some(()) }).await;
    tollgate.signal("TERM");
    let begun = Instant::now();
    tollgate.ended().await;
    let took = begun.elapsed().as_secs_f64();
    for sender in senders {
        sender.await.unwrap();
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    (acknowledged, took)
}

/// Scorecard, test 17. That tasks, descriptors and what requests hold are back at none is checked at every end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_full_load_everything_acknowledged_is_delivered_before_the_end() {
    let sink = Sink::start().await;
    let tollgate = Tollgate::with(&gate(&sink)).argument("--shutdown-grace=30s").start().await;
    let (acknowledged, took) = end_at_full_load(tollgate).await;
    println!("{} spans acknowledged when SIGTERM came; ended after {took:.2} s", acknowledged.len());
    figure("drain.full_load_s", took, 31.0);
    assert_eq!(lost(&acknowledged, &arrivals(&sink)), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_stuck_destination_the_end_comes_after_the_grace_and_the_disk_keeps_the_rest() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Silence);
    let config = durable(&sink, folder.path(), ("", "sizer: items, queue_size: 10000000"));
    let tollgate = Tollgate::with(&config).argument("--shutdown-grace=2s").start().await;
    let (acknowledged, took) = end_at_full_load(tollgate).await;
    println!("{} spans acknowledged when SIGTERM came; ended after {took:.2} s", acknowledged.len());
    figure("drain.past_grace_s", took - 2.0, 1.0);
    sink.answer(Answer::Ok);
    let again = Tollgate::with(&config).start().await;
    again.settled().await;
    assert_eq!(lost(&acknowledged, &arrivals(&sink)), Vec::<String>::new());
    again.stop().await;
}
