//! kill -9 at any moment.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Bound, Load, arrivals, duplicates, durable, figure, lost, ms, seed};
use crate::harness::{Sink, Tollgate, scaled};

/// What had ended so long before the end is not sent again; under load ends take longer to be written down.
const WINDOW: Duration = Duration::from_millis(500);

/// Scorecard, test 1.
#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_program_is_killed_again_and_again() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    let config = durable(&sink, folder.path(), ("", "sizer: items, queue_size: 10000000"));
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let (cycles, mut window, mut slowest) = (scaled(6, 100), 0, Duration::ZERO);
    let mut under_load = Duration::ZERO;
    for cycle in 0..cycles {
        let starting = Instant::now();
        let tollgate = Tollgate::with(&config).start().await;
        slowest = slowest.max(starting.elapsed());
        let load = Load::start(&tollgate, &cycle.to_string(), &acknowledged).await;
        let begun = Instant::now();
        let lived = Duration::from_millis(random.u64(50..1500));
        tokio::time::sleep(lived.saturating_sub(WINDOW)).await;
        let before = sink.count("traces");
        tokio::time::sleep(lived.min(WINDOW)).await;
        load.tell_to_stop();
        under_load += begun.elapsed();
        tollgate.kill();
        load.stopped().await;
        window += sink.count("traces") - before;
    }
    let tollgate = Tollgate::with(&config).start().await;
    tollgate.settled().await;
    let (acknowledged, arrived) = (acknowledged.lock().unwrap().clone(), arrivals(&sink));
    let (lost, duplicates) = (lost(&acknowledged, &arrived), duplicates(&arrived));
    println!(
        "{cycles} kills: {} spans acknowledged, {duplicates} duplicates where {window} spans were sent within \
         {WINDOW:?} of a kill",
        acknowledged.len(),
    );
    figure("kill.lost", lost.len() as f64, Bound::AtMost(0.0));
    figure("kill.duplicates_over_window", duplicates as f64 / window.max(1) as f64, Bound::AtMost(1.0));
    figure("kill.slowest_start_ms", ms(slowest), Bound::AtMost(2000.0));
    let rate = acknowledged.len() as f64 / under_load.as_secs_f64();
    figure("kill.spans_per_s", rate, Bound::AtLeast(20_000.0));
    assert!(acknowledged.len() > cycles * Load::SPANS, "{} spans are no load", acknowledged.len());
    assert_eq!(lost, Vec::<String>::new(), "seed {seed}");
    assert!(duplicates <= window, "{duplicates} duplicates, {window} sent shortly before the kills");
    tollgate.stop().await;
}
