//! `cargo bench --bench life`: how fast work ends when nobody waits for it, how fast capacity follows the control
//! group, how the end of the program keeps to its grace, and what is left of capacity under four times the load
//! in 256 MiB of memory.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends with the reason")]
#![allow(clippy::disallowed_methods, reason = "actors end with the benchmark; their tasks need no owner")]

mod group;
#[path = "../fairness/scene.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod scene;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod support;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use mimalloc::MiMalloc;
use scene::{Outcome, SlowSink, Tenant, collector_yaml, exporter, policies};
use support::figures::{Bound, Figure, median};
use support::tollgate::{self, Tollgate};
use support::{http2, payload};
use tokio::sync::mpsc;
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const RESETS: usize = 50;
/// What a reset may take from the client through the program to the destination.
const RESET_MS: f64 = 50.0;
/// Within which workers follow the quota.
const FOLLOW_S: f64 = 10.0;
const GRACE: Duration = Duration::from_secs(2);
/// What the end may take past the grace.
const PAST_GRACE_S: f64 = 1.0;
/// The memory of the overloaded program.
const MEMORY: u64 = 256 << 20;
/// Four slots of 40 ms each take 100 requests of 100 spans a second.
const SLOW: Duration = Duration::from_millis(40);
const SLOTS: &str =
    "num_consumers: 4, queue_size: 1000000, batch: { min_size: 100, max_size: 100, flush_timeout: 20ms }";
const SPANS: usize = 100;
/// Together four tenants offer 120 or 400 requests a second.
const TENANTS: usize = 4;
const ENOUGH_EVERY: Duration = Duration::from_millis(33);
const FOURFOLD_EVERY: Duration = Duration::from_millis(10);
const CAPACITY_FOR: Duration = Duration::from_secs(6);
const OVERLOAD_FOR: Duration = Duration::from_secs(15);

/// Measures how work, workers and the program end.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<support::Role>,
    /// Said by `cargo bench`; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// The same: this benchmark is always short.
    #[arg(long)]
    quick: bool,
    /// Prints a line for each figure that is owed.
    #[arg(long)]
    figures: bool,
    /// Another build of Tollgate to measure.
    #[arg(long, default_value = tollgate::BINARY)]
    tollgate: PathBuf,
}

fn main() {
    let args = Args::parse();
    match args.role {
        Some(role) => role.play(),
        None if args.bench => measure(&args),
        None => println!("nothing is measured without --bench; see cargo bench"),
    }
}

fn measure(args: &Args) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut figures = vec![runtime.block_on(reset(&args.tollgate))];
    figures.push(follow(&args.tollgate));
    figures.extend(runtime.block_on(drains(&args.tollgate)));
    figures.extend(runtime.block_on(overload(&args.tollgate)));
    if args.figures {
        figures.iter().for_each(|figure| println!("{figure}"));
    }
}

fn figure(name: &str, value: f64, bound: Bound) -> Figure {
    Figure { name: format!("life.{name}"), value, bound }
}

/// From the reset of a client's stream to the reset of the stream that was opened for it at the destination.
async fn reset(binary: &Path) -> Figure {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (address, mut events) = deaf_sink().await;
    let config = collector_yaml(&exporter(address, "enabled: false"), None);
    let tollgate = Tollgate::with_config(binary, &config, &policies(folder.path(), 0));
    let requests = http2::connect(tollgate.otlp).await;
    let body = payload::requests(1, 1, 7).swap_remove(0);
    let mut took = Vec::new();
    for _ in 0..RESETS {
        let mut ready = requests.clone().ready().await.expect("an open connection");
        let head = http2::export_head(tollgate.otlp, "acme", None);
        let (_response, mut stream) = ready.send_request(head, false).expect("an open connection");
        stream.send_data(body.clone(), true).expect("an open stream");
        assert!(!events.recv().await.expect("the sink lives"), "a request arrives first");
        let begun = Instant::now();
        stream.send_reset(h2::Reason::CANCEL);
        assert!(events.recv().await.expect("the sink lives"), "then its stream is reset");
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    println!("a reset reaches the destination after {:.2} ms (median of {RESETS})", median(&took));
    figure("reset_to_dropped_ms", median(&took), Bound::AtMost(RESET_MS))
}

/// A destination that never answers; says false for every request, and true when its stream is reset.
async fn deaf_sink() -> (SocketAddr, mpsc::Receiver<bool>) {
    let (listener, address) = http2::listen().await;
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let Some(mut connection) = http2::accept(tcp).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(wait_for_reset(request.into_body(), respond, tell.clone()));
                }
            });
        }
    });
    (address, told)
}

async fn wait_for_reset(
    mut body: h2::RecvStream,
    mut respond: h2::server::SendResponse<Bytes>,
    tell: mpsc::Sender<bool>,
) {
    while let Some(Ok(data)) = body.data().await {
        // An error means that the stream is gone, which is noticed below.
        drop(body.flow_control().release_capacity(data.len()));
    }
    // Who does not listen has ended; so has a connection that fails.
    let _told = tell.send(false).await;
    let _reset = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
    let _told = tell.send(true).await;
}

/// From a change of `cpu.max` to as many workers, in a folder that looks like mounted control groups.
fn follow(binary: &Path) -> Figure {
    let root = tempfile::tempdir().expect("a temporary folder");
    let write =
        |file: &str, text: &str| std::fs::write(root.path().join(file), text).expect("a writable folder");
    write("cgroup.controllers", "cpu");
    write("cpu.max", "100000 100000");
    let sink = SlowSink::start(Duration::ZERO);
    let config = collector_yaml(&exporter(sink.address, ""), None);
    let more = [OsString::from("--cgroup-root"), root.path().into()];
    let tollgate = Tollgate::by((&[binary.into()], &[]), &config, &more);
    let mut admin = tollgate.admin();
    let most = std::thread::available_parallelism().map_or(1, usize::from).min(2) as u64;
    let mut took = Vec::new();
    for (text, workers) in [("200000 100000", most), ("100000 100000", 1)] {
        let begun = Instant::now();
        write("cpu.max", text);
        while admin.workers() != Some(workers) && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        took.push(begun.elapsed().as_secs_f64());
    }
    println!("workers follow cpu.max after {:.2} s up, {:.2} s down", took[0], took[1]);
    figure("cpu_change_to_workers_s", took[0].max(took[1]), Bound::AtMost(FOLLOW_S))
}

/// The end at full load, with a backend that takes the data and with one that is stuck.
async fn drains(binary: &Path) -> Vec<Figure> {
    let well = drain(binary, Duration::ZERO).await;
    let stuck = drain(binary, Duration::from_secs(3600)).await;
    println!(
        "SIGTERM at full load: ended after {well:.2} s; with a stuck backend {stuck:.2} s, grace {GRACE:?}"
    );
    vec![
        figure("drain_s", well, Bound::AtMost(GRACE.as_secs_f64())),
        figure("stuck_drain_past_grace_s", stuck - GRACE.as_secs_f64(), Bound::AtMost(PAST_GRACE_S)),
    ]
}

/// Seconds from SIGTERM to the end.
async fn drain(binary: &Path, delay: Duration) -> f64 {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = SlowSink::start(delay);
    let config = collector_yaml(
        &exporter(sink.address, "max_bytes: 32MiB, queue_size: 100000, wait_for_result: true"),
        None,
    );
    let policies = policies(folder.path(), 0);
    let grace = OsString::from(format!("--shutdown-grace={}s", GRACE.as_secs()));
    let more = ["--policies".into(), policies.into(), grace];
    let tollgate = Tollgate::by((&[binary.into()], &[]), &config, &more);
    let tenant = Tenant::connect(tollgate.otlp, "acme", 10).await;
    let lanes: Vec<_> = (0..64)
        .map(|_| {
            let tenant = tenant.clone();
            // Ends with the connection, by a panic nobody looks at, or when it is dropped.
            tokio::spawn(async move { while tenant.try_send().await.is_ok() {} })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let id = tollgate.program.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill is there").success());
    while is_alive(&id) && begun.elapsed() < Duration::from_secs(60) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    lanes.iter().for_each(tokio::task::JoinHandle::abort);
    begun.elapsed().as_secs_f64()
}

fn is_alive(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    !matches!(stat.rsplit(") ").next().and_then(|rest| rest.chars().next()), None | Some('Z'))
}

/// What a backend of fixed speed gets when four times as much is offered as it can take, in 256 MiB.
async fn overload(binary: &Path) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = SlowSink::start(SLOW);
    let config = collector_yaml(&exporter(sink.address, SLOTS), None);
    let group = group::Group::with_memory(MEMORY);
    let policies = policies(folder.path(), 0);
    let mut more = vec!["--workers=1".into(), "--policies".into(), policies.into()];
    more.extend(group.arguments());
    let tollgate = Tollgate::by((&group.command(binary), &[]), &config, &more);
    let mut tenants = Vec::new();
    for n in 0..TENANTS {
        tenants.push(Tenant::connect(tollgate.otlp, &format!("tenant-{n}"), SPANS).await);
    }
    let (capacity, _) = rate(&tenants, &sink, (ENOUGH_EVERY, CAPACITY_FOR)).await;
    let (goodput, outcome) = rate(&tenants, &sink, (FOURFOLD_EVERY, OVERLOAD_FOR)).await;
    let peak = tollgate.program.peak_resident();
    let alive = is_alive(&tollgate.program.id().to_string());
    let answered = outcome.accepted + outcome.over_share + outcome.otherwise_refused;
    println!(
        "{} of {} MiB: capacity {capacity:.0} requests a second, {goodput:.0} under fourfold load; {} accepted, {} \
         over a share, {} refused otherwise, alive: {alive}; peak {} MiB resident",
        group.kind(),
        MEMORY >> 20,
        outcome.accepted,
        outcome.over_share,
        outcome.otherwise_refused,
        peak >> 20
    );
    let refused = (outcome.over_share + outcome.otherwise_refused) as f64;
    vec![
        figure("overload_goodput", goodput / capacity, Bound::AtLeast(0.8)),
        figure("overload_peak_over_limit", peak as f64 / MEMORY as f64, Bound::AtMost(1.0)),
        figure("overload_answered", answered as f64 / outcome.latencies_ms.len() as f64, Bound::AtLeast(1.0)),
        figure("overload_refused", refused, Bound::AtLeast(1.0)),
    ]
}

/// Requests the sink gets a second while all tenants send, and what they were answered.
async fn rate(tenants: &[Tenant], sink: &SlowSink, (every, lasting): (Duration, Duration)) -> (f64, Outcome) {
    let (begun, before) = (Instant::now(), sink.requests());
    let sending = tenants.iter().map(|tenant| tokio::spawn(tenant.clone().keep_sending(every, lasting)));
    let sending: Vec<_> = sending.collect();
    tokio::time::sleep(lasting).await;
    let rate = (sink.requests() - before) as f64 / begun.elapsed().as_secs_f64();
    let mut outcome = Outcome::default();
    for one in sending {
        let one = one.await.expect("a tenant does not panic");
        outcome.accepted += one.accepted;
        outcome.over_share += one.over_share;
        outcome.otherwise_refused += one.otherwise_refused;
        outcome.latencies_ms.extend(one.latencies_ms);
    }
    (rate, outcome)
}
