//! kill -9 at any moment.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{arrivals, client, duplicates, durable, lost};
use crate::harness::{Item, Sink, Tollgate, scaled, spans};

const SENDERS: usize = 4;
const SPANS: usize = 100;
/// What had ended so long before the end is not sent again; under load ends take longer to be written down.
const WINDOW: Duration = Duration::from_millis(500);

/// Scorecard, test 1.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_program_is_killed_again_and_again() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let config = durable(&sink, folder.path(), ("", "sizer: items, queue_size: 10000000"));
    let seed = std::env::var("TOLLGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("TOLLGATE_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (cycles, mut window, mut slowest) = (scaled(6, 100), 0, Duration::ZERO);
    let begun = Instant::now();
    for cycle in 0..cycles {
        let starting = Instant::now();
        let tollgate = Tollgate::with(&config).start().await;
        slowest = slowest.max(starting.elapsed());
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = Vec::new();
        for sender in 0..SENDERS {
            let grpc = client(&tollgate, &format!("tenant-{sender}")).await;
            let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
            senders.push(tokio::spawn(async move {
                for request in 0.. {
                    let names: Vec<_> =
                        (0..SPANS).map(|n| format!("{cycle}-{sender}-{request}-{n}")).collect();
                    let items: Vec<_> = names.iter().map(Item::named).collect();
                    match grpc.spans(spans(&[], &items)).await {
                        Ok(_) => acknowledged.lock().unwrap().extend(names),
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            }));
        }
        let lived = Duration::from_millis(random.u64(50..1500));
        tokio::time::sleep(lived.saturating_sub(WINDOW)).await;
        let before = sink.items("traces").len();
        tokio::time::sleep(lived.min(WINDOW)).await;
        stop.store(true, Ordering::Relaxed);
        tollgate.kill();
        for sender in senders {
            sender.await.unwrap();
        }
        window += sink.items("traces").len() - before;
    }
    let tollgate = Tollgate::with(&config).start().await;
    tollgate.settled().await;
    let (acknowledged, arrived) = (acknowledged.lock().unwrap().clone(), arrivals(&sink));
    let (lost, duplicates) = (lost(&acknowledged, &arrived), duplicates(&arrived));
    println!(
        "{cycles} kills in {:.1?}: {} spans acknowledged, {} lost, {duplicates} duplicates where {window} \
         spans were sent within {WINDOW:?} of a kill; slowest start {slowest:.2?}",
        begun.elapsed(),
        acknowledged.len(),
        lost.len(),
    );
    assert!(acknowledged.len() > cycles * SPANS, "{} spans are no load", acknowledged.len());
    assert_eq!(lost, Vec::<String>::new(), "seed {seed}");
    assert!(duplicates <= window, "{duplicates} duplicates, {window} sent shortly before the kills");
    tollgate.stop().await;
}
