//! `cargo bench --bench reload`: how long a change of the policies file takes to be in force, from the step
//! that puts it on disk to the revision the admin API names, under a load at full speed; and that no request
//! is refused or lost meanwhile.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measured")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot go on ends with the reason")]
#![allow(clippy::disallowed_methods, reason = "actors end by being killed; their tasks need no owner")]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod support;

use std::time::Duration;

use clap::Parser;
use mimalloc::MiMalloc;
use support::PATIENCE;
use support::arguments::Usual;
use support::figures::{Bound, Figure, median, quantile};
use support::load::{ANY_FRAME, Args as LoadArgs, Load, Phase};
use support::sink::Sink;
use support::tollgate::{ConfigMap, Destination, Setup, Tollgate};
use tokio::time::Instant;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const CHANGES: usize = 50;
/// What the median change may take.
const MEDIAN_MS: f64 = 250.0;
/// Between two changes, so that each starts from rest.
const PAUSE: Duration = Duration::from_millis(50);
/// Longer than all changes take together; the load is stopped after the last.
const LOAD: Duration = Duration::from_secs(600);

/// Measures how long a change of the policies file takes to be in force.
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
    let map = ConfigMap::mount("change-0");
    let mut sink = Sink::start();
    let policies = map.file();
    let destination = Destination::Sink(sink.address);
    let tollgate = Tollgate::start(Setup { binary: &args.usual.tollgate, destination, policies: &policies });
    let mut load = Load::start(LoadArgs {
        target: tollgate.otlp,
        spans: 100,
        connections: 4,
        streams: 8,
        frame: ANY_FRAME,
        tenants: 0,
        key: None,
    });
    let phase = Phase::lasting(LOAD);
    load.begin(phase);
    let mut times: Vec<f64> = (1..=CHANGES).map(|number| change(&map, &tollgate, number)).collect();
    load.stop();
    let report = load.report(phase);
    let accepted = load.spans_in(report.accepted);
    let arrived = sink.wait_for(accepted).spans;
    let rate = accepted as f64 / report.elapsed.as_secs_f64();
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (median(&times), quantile(&times, 0.99));
    println!("{CHANGES} changes in force after {p50:.1} ms (median), {p99:.1} ms (p99)");
    println!("meanwhile {accepted} spans accepted ({rate:.0} a second), {arrived} at the sink");
    println!("{} requests refused, {} without an answer", report.refused, report.failed);
    let lost = accepted.abs_diff(arrived) as f64;
    let refused = (report.refused + report.failed) as f64;
    let named = |name: &str, value, bound| Figure { name: format!("reload.{name}"), value, bound };
    args.usual.print(&[
        named("median_ms", p50, Bound::AtMost(MEDIAN_MS)),
        named("lost", lost, Bound::AtMost(0.0)),
        named("refused", refused, Bound::AtMost(0.0)),
    ]);
    assert!(report.accepted > 0, "nothing was accepted: {report:?}");
    assert!(lost + refused == 0.0, "a reload refuses and loses nothing");
}

/// Swaps in one change; returns the milliseconds until it is in force.
fn change(map: &ConfigMap, tollgate: &Tollgate, number: usize) -> f64 {
    std::thread::sleep(PAUSE);
    let revision = format!("change-{number}");
    let mut admin = tollgate.admin();
    map.prepare(&revision);
    let start = Instant::now();
    map.swap();
    if !admin.wait_for_revision(&revision, PATIENCE) {
        tollgate.program.fail(&format!("did not take {revision}"));
    }
    start.elapsed().as_secs_f64() * 1000.0
}
