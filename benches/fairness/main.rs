//! `cargo bench --bench fairness`: whether tenants are left alone by a noisy neighbour and by a dead exporter,
//! and what it costs to tell many of them apart.
//!
//! Latency is that of the answer, from the instant a request was due. Each comparison is made within one run,
//! and the parts compared take turns, so that a busy machine slows both.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends with the reason")]
#![allow(clippy::disallowed_methods, reason = "actors end with the benchmark; their tasks need no owner")]

mod scene;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod support;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use mimalloc::MiMalloc;
use scene::{Outcome, SlowSink, Tenant, collector_yaml, exporter, policies};
use support::arguments::Usual;
use support::figures::{Bound, Figure, median, quantile};
use support::tollgate::Tollgate;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const QUIET: usize = 20;
/// A quiet tenant's requests, of one span each; the noisy one sends a hundred times as many.
const QUIET_EVERY: Duration = Duration::from_millis(50);
const NOISY_EVERY: Duration = Duration::from_micros(500);
/// 2,400 spans a second are offered; 30 spans a request on 2 slots, 100 ms each, make 600 a second.
const SLOW: Duration = Duration::from_millis(100);
const SLOW_QUEUE: &str = "num_consumers: 2, max_bytes: 4MiB, queue_size: 100000, \
    batch: { min_size: 30, max_size: 30, flush_timeout: 20ms }";
const FAST_QUEUE: &str = "num_consumers: 2, max_bytes: 64MiB, queue_size: 100000";
/// How often baseline and load take turns.
const TURNS: usize = 3;
const TURN: Duration = Duration::from_secs(5);
/// Requests of 100 spans for each number of tenants, in each turn.
const COST_REQUESTS: usize = 10_000;
const TENANTS: [usize; 3] = [1, 100, 5_000];

/// Measures fairness between tenants.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<support::Role>,
    #[command(flatten)]
    usual: Usual,
}

fn main() {
    let args = Args::parse();
    match args.role {
        Some(role) => role.play(),
        None => args.usual.measure(|| measure(&args)),
    }
}

fn measure(args: &Args) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut figures = runtime.block_on(noisy_neighbour(&args.usual.tollgate));
    figures.extend(runtime.block_on(dead_exporter(&args.usual.tollgate)));
    figures.extend(runtime.block_on(many_tenants(&args.usual.tollgate)));
    args.usual.print(&figures);
}

fn figure(name: &str, value: f64, bound: Bound) -> Figure {
    Figure { name: format!("fairness.{name}"), value, bound }
}

/// The p99 of all answers, and the outcomes added up.
fn sum(outcomes: Vec<Outcome>) -> Outcome {
    outcomes.into_iter().fold(Outcome::default(), |mut sum, one| {
        sum.accepted += one.accepted;
        sum.over_share += one.over_share;
        sum.otherwise_refused += one.otherwise_refused;
        sum.latencies_ms.extend(one.latencies_ms);
        sum
    })
}

async fn send_all(tenants: &[Tenant], every: Duration) -> Outcome {
    let sending = tenants.iter().map(|tenant| tokio::spawn(tenant.clone().keep_sending(every, TURN)));
    let mut outcomes = Vec::new();
    for sending in sending.collect::<Vec<_>>() {
        outcomes.push(sending.await.expect("a tenant does not panic"));
    }
    sum(outcomes)
}

async fn quiet_tenants(target: SocketAddr) -> Vec<Tenant> {
    let mut tenants = Vec::new();
    for n in 0..QUIET {
        tenants.push(Tenant::connect(target, &format!("tenant-{n}"), 1).await);
    }
    tenants
}

/// Twenty quiet tenants alone and beside one at a hundred times their load, the backend at a quarter of it.
async fn noisy_neighbour(binary: &Path) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = SlowSink::start(SLOW);
    let config = collector_yaml(&exporter(sink.address, SLOW_QUEUE), None);
    let tollgate = Tollgate::with_config(binary, &config, &policies(folder.path(), 0));
    let quiet = quiet_tenants(tollgate.otlp).await;
    let noisy = [Tenant::connect(tollgate.otlp, "noisy", 1).await];
    let before = tollgate.program.resident();
    let (mut alone, mut beside, mut of_noisy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        alone.push(send_all(&quiet, QUIET_EVERY).await);
        let (quiet, noisy) = tokio::join!(send_all(&quiet, QUIET_EVERY), send_all(&noisy, NOISY_EVERY));
        beside.push(quiet);
        of_noisy.push(noisy);
    }
    let peak = tollgate.program.peak_resident().saturating_sub(before);
    let (alone, beside, noisy) = (sum(alone), sum(beside), sum(of_noisy));
    let p99 = |outcome: &Outcome| quantile(&outcome.latencies_ms, 0.99);
    let offered = beside.latencies_ms.len() as f64;
    println!("quiet tenants: p99 {:.2} ms alone, {:.2} ms beside a noisy one", p99(&alone), p99(&beside));
    println!("quiet: {} of {offered} accepted; {} went out", beside.accepted, sink.requests());
    println!(
        "noisy: {} accepted, {} over its share, {} refused otherwise; {} KiB more memory at most",
        noisy.accepted,
        noisy.over_share,
        noisy.otherwise_refused,
        peak >> 10
    );
    vec![
        figure("quiet_p99_ratio", p99(&beside) / p99(&alone), Bound::AtMost(1.5)),
        figure("quiet_kept", beside.accepted as f64 / offered, Bound::AtLeast(1.0)),
        figure("noisy_over_share", noisy.over_share as f64, Bound::AtLeast(1.0)),
        figure("noisy_refused_otherwise", noisy.otherwise_refused as f64, Bound::AtMost(0.0)),
    ]
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    listener.local_addr().expect("a bound socket has an address")
}

/// Twenty tenants whose exporter works, alone and beside one whose exporter is dead and whose queue is full.
async fn dead_exporter(binary: &Path) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = SlowSink::start(Duration::ZERO);
    let (nowhere, entrance) = (free_port(), free_port());
    let dead = exporter(nowhere, "max_bytes: 1MiB, queue_size: 100000");
    let config = collector_yaml(&exporter(sink.address, FAST_QUEUE), Some((&dead, entrance)));
    let tollgate = Tollgate::with_config(binary, &config, &policies(folder.path(), 0));
    let living = quiet_tenants(tollgate.otlp).await;
    let unlucky = [Tenant::connect(entrance, "unlucky", 1).await];
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        alone.push(send_all(&living, QUIET_EVERY).await);
        let (living, _) = tokio::join!(send_all(&living, QUIET_EVERY), send_all(&unlucky, QUIET_EVERY));
        beside.push(living);
    }
    let p99 = |outcomes: Vec<Outcome>| quantile(&sum(outcomes).latencies_ms, 0.99);
    let (alone, beside) = (p99(alone), p99(beside));
    println!("a living exporter: p99 {alone:.2} ms alone, {beside:.2} ms beside a dead one");
    vec![figure("dead_exporter_p99_ratio", beside / alone, Bound::AtMost(1.2))]
}

/// CPU time of Tollgate per request of 100 spans, in turns with 1, 100 and 5,000 tenants; and what a tenant
/// that was met and sends nothing any more holds in memory.
async fn many_tenants(binary: &Path) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sink = SlowSink::start(Duration::ZERO);
    let config = collector_yaml(&exporter(sink.address, FAST_QUEUE), None);
    let policies = policies(folder.path(), TENANTS[2]);
    let tollgate = Tollgate::with_config(binary, &config, &policies);
    let target = tollgate.otlp;
    let small = Tenant::connect(target, "tenant-0", 1).await;
    // What the first requests need is not the tenants'.
    in_turns(&small, target, (1, 2_000)).await;
    let before = tollgate.program.resident();
    in_turns(&small, target, (TENANTS[2], TENANTS[2])).await;
    let per_tenant = tollgate.program.resident().saturating_sub(before) as f64 / TENANTS[2] as f64;
    println!("{per_tenant:.0} bytes of memory for each of {} tenants that are idle", TENANTS[2]);
    let large = Tenant::connect(target, "tenant-0", 100).await;
    let mut costs = [const { Vec::new() }; 3];
    for _ in 0..TURNS {
        for (count, costs) in TENANTS.into_iter().zip(&mut costs) {
            let before = tollgate.program.cpu();
            in_turns(&large, target, (count, COST_REQUESTS)).await;
            costs.push((tollgate.program.cpu() - before).as_secs_f64() * 1e6 / COST_REQUESTS as f64);
        }
    }
    let costs = costs.map(|costs| median(&costs));
    for (count, cost) in TENANTS.into_iter().zip(costs) {
        println!("{count} tenants: {cost:.1} µs of CPU a request of 100 spans");
    }
    vec![
        figure("bytes_per_idle_tenant", per_tenant, Bound::AtMost(16_384.0)),
        figure("cost_100_tenants_over_1", costs[1] / costs[0], Bound::AtMost(1.2)),
        figure("cost_5000_tenants_over_1", costs[2] / costs[0], Bound::AtMost(1.2)),
    ]
}

/// Sends so many requests, each of the next of so many tenants, 16 at a time.
async fn in_turns(template: &Tenant, target: SocketAddr, (tenants, requests): (usize, usize)) {
    let lanes = (0..16).map(|lane| {
        let template = template.clone();
        tokio::spawn(async move {
            for n in (lane..requests).step_by(16) {
                let tenant = template.named(target, &format!("tenant-{}", n % tenants));
                // A full queue is waited for; every request is paid for once it is taken.
                while tenant.send().await != 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("a lane does not panic");
    }
}
