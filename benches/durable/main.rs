//! `cargo bench --bench durable`: what the log of the durable queue costs against a plain file that is written
//! and synced: throughput and CPU with 64 producers of 256 KiB records, alternating in the same run, and the
//! latency of a commit at a paced 40 MB/s.

#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(clippy::disallowed_methods, reason = "tasks end with the runtime; they need no owner")]

#[path = "../support/figures.rs"]
#[allow(dead_code, reason = "shared; each benchmark uses a part")]
mod figures;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use figures::{Bound, Figure, median, quantile};
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior};
use tollgate::identity::TenantId;
use tollgate::journal::{Head, Journal, Options, Record};
use tollgate::otlp::Signal;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PRODUCERS: usize = 64;
const RECORD: usize = 256 << 10;
const ROUNDS: usize = 5;
/// Throughput against the plain file.
const THROUGHPUT: f64 = 0.8;
/// CPU against the plain file.
const CPU: f64 = 1.5;

/// Measures the log of the durable queue.
#[derive(Debug, Parser)]
struct Args {
    /// Said by `cargo bench`; without it (`cargo test --benches`) nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
    /// A quarter of the bytes and of the time.
    #[arg(long)]
    quick: bool,
    /// Prints a line for each figure that is owed.
    #[arg(long)]
    figures: bool,
}

fn main() {
    let args = Args::parse();
    match args.bench {
        true => measure(&args),
        false => println!("nothing is measured without --bench; see cargo bench"),
    }
}

/// One round of one side.
#[derive(Debug, Clone, Copy)]
struct Round {
    mb_per_s: f64,
    cpu_ms_per_mb: f64,
}

fn measure(args: &Args) {
    let records = if args.quick { 512 } else { 2048 };
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let dir = TempDir::new_in(target).unwrap();
    let payloads = payloads();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut plain, mut journal) = (Vec::new(), Vec::new());
    let mut amplification = Vec::new();
    for number in 0..=ROUNDS {
        let floor = timed(records, || write_plain(&dir.path().join("plain"), &payloads, records));
        let folder = dir.path().join(format!("journal-{number}"));
        let ours = timed(records, || {
            amplification.push(runtime.block_on(write_journal(&folder, &payloads, records)))
        });
        std::fs::remove_dir_all(&folder).unwrap();
        // The first round warms up.
        if number > 0 {
            println!("plain {floor:.2?}, journal {ours:.2?}");
            plain.push(floor);
            journal.push(ours);
        }
    }
    let over = |side: fn(&Round) -> f64| {
        let ratios: Vec<f64> =
            journal.iter().zip(&plain).map(|(ours, floor)| side(ours) / side(floor)).collect();
        median(&ratios)
    };
    let (throughput, cpu) = (over(|round| round.mb_per_s), over(|round| round.cpu_ms_per_mb));
    let latencies = runtime.block_on(paced(&dir.path().join("paced"), &payloads, args.quick));
    let (p50, p99) = (median(&latencies), quantile(&latencies, 0.99));
    println!("throughput {throughput:.2} and CPU {cpu:.2} of a plain file's, medians of {ROUNDS} rounds");
    println!("commit at 40 MB/s: {p50:.2} ms (median), {p99:.2} ms (p99), {} commits", latencies.len());
    println!("bytes written for each byte stored: {:.3}", median(&amplification));
    if args.figures {
        let named = |name: &str, value, bound| Figure { name: format!("durable.{name}"), value, bound };
        println!("{}", named("throughput_over_plain", throughput, Bound::AtLeast(THROUGHPUT)));
        println!("{}", named("cpu_over_plain", cpu, Bound::AtMost(CPU)));
        println!("{}", named("write_amplification", median(&amplification), Bound::AtMost(1.05)));
    }
}

/// Incompressible, a different one for each producer.
fn payloads() -> Vec<Bytes> {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut payload = || {
        let mut bytes = vec![0; RECORD];
        rng.fill(&mut bytes);
        bytes.into()
    };
    (0..PRODUCERS).map(|_| payload()).collect()
}

fn timed(records: usize, write: impl FnOnce()) -> Round {
    let (start, cpu) = (Instant::now(), cpu_ms());
    write();
    let mb = (records * RECORD) as f64 / 1e6;
    Round { mb_per_s: mb / start.elapsed().as_secs_f64(), cpu_ms_per_mb: (cpu_ms() - cpu) / mb }
}

/// CPU time of this process so far, in milliseconds; the kernel counts in steps of 10.
fn cpu_ms() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum();
    ticks * 10.0
}

/// The floor: each time all producers have a record, all are written and synced.
fn write_plain(path: &Path, payloads: &[Bytes], records: usize) {
    let mut file = File::create(path).unwrap();
    for _ in 0..records / PRODUCERS {
        payloads.iter().for_each(|payload| file.write_all(payload).unwrap());
        file.sync_data().unwrap();
    }
    std::fs::remove_file(path).unwrap();
}

fn record(payload: &Bytes) -> Record {
    let head = Head {
        tenant: TenantId::new("acme").unwrap(),
        principal: "spiffe://example.org/ns/shop/sa/checkout".into(),
        revision: "2026-11-21".into(),
        signal: Signal::Traces,
        items: 400,
        flags: 0,
        received_unix_nanos: 1_790_000_000_000_000_000,
    };
    Record { head, payload: payload.clone() }
}

fn open(dir: &Path) -> Journal {
    Journal::open(dir, Options::for_size(8 << 30, 4 << 20)).unwrap().0
}

/// Every producer waits for its commit, then ends its record, as if it had been sent; how many bytes were
/// written for each one stored.
async fn write_journal(dir: &Path, payloads: &[Bytes], records: usize) -> f64 {
    let journal = open(dir);
    let producers = payloads.iter().map(|payload| {
        let (journal, payload) = (journal.clone(), payload.clone());
        tokio::spawn(async move {
            for _ in 0..records / PRODUCERS {
                let places = journal.append(vec![record(&payload)]).await.unwrap();
                journal.end(&places);
            }
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        producer.await.unwrap();
    }
    assert!(journal.close(Instant::now() + Duration::from_secs(60)).await);
    journal.usage().written_bytes as f64 / (records * RECORD) as f64
}

/// Milliseconds from append to acknowledgement, 160 records a second.
async fn paced(dir: &Path, payloads: &[Bytes], is_quick: bool) -> Vec<f64> {
    let journal = open(dir);
    let mut ticks = tokio::time::interval(Duration::from_micros(6250));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut commits = Vec::new();
    for number in 0..if is_quick { 400 } else { 1600 } {
        ticks.tick().await;
        let (journal, payload) = (journal.clone(), payloads[number % PRODUCERS].clone());
        commits.push(tokio::spawn(async move {
            let start = Instant::now();
            let places = journal.append(vec![record(&payload)]).await.unwrap();
            journal.end(&places);
            start.elapsed().as_secs_f64() * 1000.0
        }));
    }
    let mut latencies = Vec::new();
    for commit in commits {
        latencies.push(commit.await.unwrap());
    }
    assert!(journal.close(Instant::now() + Duration::from_secs(60)).await);
    latencies
}
