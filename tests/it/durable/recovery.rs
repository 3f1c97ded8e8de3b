//! A program that was told to stop, and the next one that finds its queue.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use super::{Bound, arrivals, client, duplicates, durable, figure, ms, names, number, send};
use crate::harness::{Answer, Item, Sink, Tollgate, eventually, logs, scaled, spans};

/// Scorecard, test 5.
#[tokio::test]
async fn sigterm_with_the_destination_down_ends_within_its_grace_and_loses_nothing() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, folder.path(), ("", ""));
    let tollgate = Tollgate::with(&config).argument("--shutdown-grace=10m").start().await;
    let count = scaled(50, 20_000);
    let (acme, globex) = (client(&tollgate, "acme").await, client(&tollgate, "globex").await);
    send(&acme, names("a", count)).await;
    send(&globex, names("g", count)).await;
    acme.logs(logs(&[], &[Item::named("log")])).await.unwrap();
    let all = 2 * count as u64 + 1;
    let metrics = tollgate.metrics().await;
    assert_eq!(metrics.sum("tollgate_queued_items", &[]), all as f64);
    assert_eq!(metrics.sum("otelcol_exporter_queue_size", &[]), all as f64);
    assert_eq!(metrics.sum("tollgate_storage_records", &[]), all as f64);
    // Far within the grace of ten minutes, or this would not end.
    let told = std::time::Instant::now();
    let ended = tollgate.stop().await;
    figure("sigterm.exit_ms", ms(told.elapsed()), Bound::AtMost(30_000.0));
    let stopped = ended.log.iter().rfind(|line| line["event"] == "stopped").unwrap();
    assert_eq!((number(stopped, "stored"), number(stopped, "dropped")), (all, 0));

    sink.answer(Answer::Ok);
    let tollgate = Tollgate::with(&config).start().await;
    let recovered = tollgate.event("queue.recovered").expect("the queue is recovered");
    assert_eq!((number(&recovered, "records"), number(&recovered, "items")), (all, all));
    let metrics = tollgate.metrics().await;
    for (tenant, items) in [("acme", count + 1), ("globex", count)] {
        let recovered = metrics.sum("tollgate_recovered_items_total", &[("tenant", tenant)]);
        assert_eq!(recovered, items as f64, "{tenant}");
    }
    sink.wait_for("traces", 2 * count).await;
    sink.wait_for("logs", 1).await;
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_sent_items_total", &[]), all as f64);
    let arrived = arrivals(&sink);
    figure("sigterm.lost", (2 * count - arrived.len()) as f64, Bound::AtMost(0.0));
    assert_eq!(duplicates(&arrived), 0, "nothing was under way when it stopped");
    for item in sink.items("traces") {
        let tenant = if item.name.starts_with('a') { "acme" } else { "globex" };
        assert_eq!(item.resource["tenant.id"], tenant);
    }
    tollgate.stop().await;
    let tollgate = Tollgate::with(&config).start().await;
    assert_eq!(tollgate.event("queue.recovered"), None, "what was sent is not sent again");
    tollgate.stop().await;
}

#[tokio::test]
async fn what_the_destination_takes_is_delivered_before_the_program_ends() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Silence);
    let tollgate = Tollgate::with(&durable(&sink, folder.path(), ("", ""))).start().await;
    send(&client(&tollgate, "acme").await, names("a", 50)).await;
    tollgate.signal("TERM");
    eventually("draining", || async { tollgate.event("draining") }).await;
    sink.answer(Answer::Ok);
    let ended = tollgate.ended().await;
    assert_eq!(arrivals(&sink).len(), 50);
    let stopped = ended.log.iter().rfind(|line| line["event"] == "stopped").unwrap();
    assert_eq!((number(stopped, "stored"), number(stopped, "sent")), (0, 50));
}

/// What waits at the start was written in order, and is served in turns all the same.
#[tokio::test]
async fn after_a_restart_a_quiet_tenant_does_not_wait_for_a_noisy_one() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let one_at_a_time = "num_consumers: 1, batch: { min_size: 0, max_size: 1, flush_timeout: 1ms }";
    let config = durable(&sink, folder.path(), ("", one_at_a_time));
    let tollgate = Tollgate::with(&config).start().await;
    let (noisy, quiet) = (client(&tollgate, "noisy").await, client(&tollgate, "quiet").await);
    let large = "x".repeat(64 * 1024);
    for (grpc, prefix, count) in [(&noisy, "noisy", 200), (&quiet, "quiet", 5)] {
        for name in names(prefix, count) {
            grpc.spans(spans(&[], &[Item::named(name).attribute("filler", &large)])).await.unwrap();
        }
    }
    tollgate.stop().await;
    sink.answer(Answer::Ok);
    let tollgate = Tollgate::with(&config).start().await;
    let arrived = sink.wait_for("traces", 205).await;
    let of = |prefix: &str| -> Vec<_> {
        arrived.iter().map(|item| item.name.clone()).filter(|name| name.starts_with(prefix)).collect()
    };
    assert_eq!(of("noisy"), names("noisy", 200).collect::<Vec<_>>(), "in order");
    assert_eq!(of("quiet"), names("quiet", 5).collect::<Vec<_>>(), "in order");
    let last_quiet = arrived.iter().rposition(|item| item.name.starts_with("quiet")).unwrap();
    // Two rounds of the quiet tenant against two or three of the noisy one, at 256 KiB each.
    assert!(last_quiet < 40, "{last_quiet} items came before the last of the quiet tenant");
    tollgate.settled().await;
    tollgate.stop().await;
}

/// Scorecard, test 4. The long form takes half an hour at 10 MB/s, the short one comes as fast as it can.
#[tokio::test]
async fn a_backlog_costs_no_memory_and_arrives_in_order_when_the_destination_is_back() {
    const SIZE: usize = 64 * 1024;
    const INGEST: f64 = 10e6;
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, folder.path(), ("max_size: 100GiB", "num_consumers: 1, max_bytes: 90GiB"))
        .replace("segment_size: 1MiB", "segment_size: 64MiB");
    let tollgate = Tollgate::with(&config).start().await;
    let tenants = [client(&tollgate, "acme").await, client(&tollgate, "globex").await];
    // More than the queue keeps in memory of what is on disk, before memory is looked at.
    let (warm, more) = (scaled(512, 1024), scaled(1024, (1800.0 * INGEST) as usize / SIZE));
    let filler: String = std::iter::repeat_with(fastrand::alphanumeric).take(SIZE).collect();
    let between = std::time::Duration::from_secs_f64(SIZE as f64 / INGEST * scaled(0, 1) as f64);
    let begun = tokio::time::Instant::now();
    let mut before = 0;
    for n in 0..warm + more {
        if n == warm {
            before = tollgate.resident();
        }
        tokio::time::sleep_until(begun + between * n as u32).await;
        let item = Item::named(n.to_string()).attribute("filler", &filler);
        let request = spans(&[], &[item]);
        // Connections are renewed every ten minutes; what a client had not sent yet it sends again.
        while let Err(status) = tenants[n % 2].spans(request.clone()).await {
            assert_eq!(status.code(), tonic::Code::Cancelled, "{status:?}");
        }
    }
    let after = tollgate.resident();
    let backlog = ((warm + more) * SIZE) as f64;
    println!(
        "backlog of {:.0} MB in {:.1?}; resident {before} bytes, then {after}",
        backlog / 1e6,
        begun.elapsed()
    );
    figure("backlog.rss_over_before", after as f64 / before as f64, Bound::AtMost(1.1));
    assert!(after < before + before / 10 + (8 << 20), "resident: {before} bytes, then {after}");
    sink.forget_attributes();
    sink.answer(Answer::Ok);
    let drained = std::time::Instant::now();
    sink.keeps_coming("traces", warm + more).await;
    let rate = backlog / drained.elapsed().as_secs_f64();
    figure("backlog.drain_over_10_mb_per_s", rate / INGEST, Bound::AtLeast(3.0));
    let items = sink.items("traces");
    figure("backlog.lost", (warm + more).saturating_sub(items.len()) as f64, Bound::AtMost(0.0));
    for (n, tenant) in ["acme", "globex"].iter().enumerate() {
        let of = items.iter().filter(|item| item.resource["tenant.id"] == *tenant);
        let order: Vec<usize> = of.map(|item| item.name.parse().unwrap()).collect();
        assert_eq!(order, (n..warm + more).step_by(2).collect::<Vec<_>>(), "{tenant}");
    }
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_dropped_items_total", &[]), 0.0);
    eventually("the disk is free again", || async {
        let bytes = tollgate.metrics().await.sum("tollgate_storage_live_bytes", &[]);
        (bytes == 0.0).then_some(())
    })
    .await;
    tollgate.stop().await;
}

/// What a start takes of memory is what `memory.pools` counts for the queue: 64 bytes a batch, and what it may
/// have on its way.
#[tokio::test]
async fn a_start_with_a_long_backlog_takes_no_more_memory_than_is_counted() {
    const TENANTS: usize = 200;
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let tenants: String = (0..TENANTS).map(|n| format!("tenant-{n}: {{}}, ")).collect();
    let policies = format!(
        "version: 1\nrules: []\nidentity: {{ claims: [{{ resource: tenant.id }}] }}\ntiers: {{ standard: {{}} }}\n\
         defaults: {{ tier: standard }}\ntenants: {{ {tenants} }}\n"
    );
    let config = durable(&sink, folder.path(), ("", "num_consumers: 1, queue_size: 1000000, sizer: items"));
    let start = || Tollgate::with(&config).policies(&policies).start();
    let of_all = |request: usize| {
        let of = |n: usize| {
            let tenant = format!("tenant-{n}");
            spans(&[("tenant.id", &tenant)], &[Item::named(request.to_string())]).resource_spans
        };
        ExportTraceServiceRequest { resource_spans: (0..TENANTS).flat_map(of).collect() }
    };
    let requests = scaled(250, 2_400);
    let batches = requests * TENANTS;
    let send = async |tollgate: &Tollgate, requests: std::ops::Range<usize>| {
        let grpc = client(tollgate, "all").await;
        for request in requests {
            grpc.spans(of_all(request)).await.unwrap();
        }
    };
    let tollgate = start().await;
    send(&tollgate, 0..requests / 5).await;
    tollgate.kill();
    // A start with a fifth has whatever any start has.
    let tollgate = start().await;
    let fifth = tollgate.peak_resident();
    send(&tollgate, requests / 5..requests).await;
    tollgate.kill();
    let tollgate = start().await;
    let recovered = tollgate.event("queue.recovered").unwrap();
    assert_eq!(number(&recovered, "records"), batches as u64);
    let (peak, now) = (tollgate.peak_resident(), tollgate.resident());
    println!("{batches} batches; resident: {fifth} bytes at most with a fifth, {peak} with all, then {now}");
    let (beyond, more) = (peak.saturating_sub(fifth), (batches - batches / 5) as u64);
    if scaled(0, 1) == 1 {
        // Of few batches it would be the megabytes by which two starts differ.
        figure("restart.bytes_a_batch", beyond as f64 / more as f64, Bound::AtMost(64.0));
    }
    assert!(beyond < 64 * more + (16 << 20), "{beyond} bytes for {more} batches");
    sink.refuse_what_is_under_way().await;
    sink.answer(Answer::Ok);
    sink.keeps_coming("traces", batches).await;
    tollgate.settled().await;
    let mut order: HashMap<String, Vec<usize>> = HashMap::new();
    for item in sink.items("traces") {
        order.entry(item.resource["tenant.id"].clone()).or_default().push(item.name.parse().unwrap());
    }
    assert_eq!(order.len(), TENANTS);
    assert!(order.values().all(|names| names.iter().copied().eq(0..requests)), "each once, in order");
    tollgate.stop().await;
}

#[tokio::test]
async fn what_is_given_up_is_kept_for_inspection_and_counted() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Invalid);
    let tollgate = Tollgate::with(&durable(&sink, folder.path(), ("", "num_consumers: 1"))).start().await;
    send(&client(&tollgate, "acme").await, names("a", 3)).await;
    let metrics = eventually("the drops", || async {
        let metrics = tollgate.settled().await;
        (metrics.sum("tollgate_storage_dead_letters", &[]) == 3.0).then_some(metrics)
    })
    .await;
    assert_eq!(metrics.sum("tollgate_dropped_items_total", &[("reason", "permanent")]), 3.0);
    assert_eq!(metrics.sum("otelcol_exporter_send_failed_spans", &[]), 3.0);
    tollgate.stop().await;
}

#[tokio::test]
async fn what_is_on_disk_is_given_up_only_if_the_file_says_when() {
    let (sink, folder) = (Sink::start().await, tempfile::tempdir().unwrap());
    sink.answer(Answer::Unavailable);
    let config = durable(&sink, folder.path(), ("", ""))
        .replace("max_interval: 200ms", "max_interval: 200ms, max_elapsed_time: 400ms");
    let tollgate = Tollgate::with(&config).start().await;
    send(&client(&tollgate, "acme").await, names("a", 1)).await;
    eventually("the drop", || async {
        let metrics = tollgate.metrics().await;
        let labels = [("reason", "retries_exhausted")];
        (metrics.sum("tollgate_dropped_items_total", &labels) == 1.0).then_some(())
    })
    .await;
    let metrics = tollgate.settled().await;
    assert_eq!(metrics.sum("tollgate_exporter_queue_storage", &[("storage", "file_storage")]), 1.0);
    assert_eq!(metrics.sum("tollgate_exporter_queue_storage", &[("storage", "memory")]), 0.0);
    tollgate.stop().await;
}
