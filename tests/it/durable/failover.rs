//! A failover with its queue on disk: switch, kill -9, restart and return lose nothing.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Bound, Load, arrivals, figure, lost, ms};
use crate::harness::{Answer, Sink, Tollgate, eventually, scaled};

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
    sending_queue: { storage: file_storage, sizer: items, queue_size: 10000000 }
    retry_on_failure: { initial_interval: 20ms, max_interval: 100ms }
extensions: { admin: , file_storage: { directory: '{folder}', segment_size: 1MiB } }
service:
  extensions: [admin, file_storage]
  pipelines:
    traces: { receivers: [otlp], processors: [tenant], exporters: [failover] }
    traces/first: { receivers: [failover], exporters: [otlp_grpc/first] }
    traces/second: { receivers: [failover], exporters: [otlp_http/second] }
";

fn config(first: &Sink, second: &Sink, folder: &Path) -> String {
    FAILOVER
        .replace("{first}", &first.address().to_string())
        .replace("{second}", &second.address().to_string())
        .replace("{folder}", folder.to_str().unwrap())
}

async fn more(sink: &Sink, before: usize) -> usize {
    eventually("more data", || async { (sink.count("traces") > before).then_some(()) }).await;
    sink.count("traces")
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_across_switch_kill_restart_and_return() {
    let (first, second, folder) = (Sink::start().await, Sink::start().await, tempfile::tempdir().unwrap());
    let config = config(&first, &second, folder.path());
    let acknowledged: Arc<Mutex<HashSet<String>>> = Arc::default();
    let mut tollgate = Tollgate::with(&config).start().await;
    let (mut switch, mut back) = (0.0, 0.0);
    for round in 0..scaled(2, 20) {
        let load = Load::start(&tollgate, &format!("{round}-a"), &acknowledged).await;
        more(&first, first.count("traces")).await;
        let before = second.count("traces");
        first.kill().await;
        let killed = Instant::now();
        more(&second, before).await;
        switch = f64::max(switch, ms(killed.elapsed()));
        // Neither level takes anything: all of it waits on disk when the program is killed.
        second.answer(Answer::Unavailable);
        let had = acknowledged.lock().unwrap().len();
        eventually("data on disk", || async {
            (acknowledged.lock().unwrap().len() > had + 5 * Load::SPANS).then_some(())
        })
        .await;
        load.tell_to_stop();
        tollgate.kill();
        load.stopped().await;
        tollgate = Tollgate::with(&config).start().await;
        assert!(tollgate.event("queue.recovered").is_some());
        let load = Load::start(&tollgate, &format!("{round}-b"), &acknowledged).await;
        let before = second.count("traces");
        second.answer(Answer::Ok);
        more(&second, before).await;
        let before = first.count("traces");
        first.revive().await;
        let revived = Instant::now();
        more(&first, before).await;
        back = f64::max(back, ms(revived.elapsed()));
        load.stopped().await;
    }
    tollgate.settled().await;
    let mut arrived = arrivals(&first);
    arrivals(&second).into_iter().for_each(|(name, times)| *arrived.entry(name).or_default() += times);
    let acknowledged = acknowledged.lock().unwrap().clone();
    let lost = lost(&acknowledged, &arrived);
    println!("failover: {} spans acknowledged", acknowledged.len());
    figure("failover.lost", lost.len() as f64, Bound::AtMost(0.0));
    figure("failover.slowest_switch_ms", switch, Bound::AtMost(1000.0));
    // One request in each retry_interval (200 ms) tries the better level.
    figure("failover.slowest_return_ms", back, Bound::AtMost(1000.0));
    assert_eq!(lost, Vec::<String>::new());
    tollgate.stop().await;
}
