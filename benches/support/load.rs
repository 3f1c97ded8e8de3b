//! The load: a closed loop of OTLP/gRPC trace exports, uncompressed, from requests encoded beforehand.
//!
//! It keeps `connections × streams` calls on their way at all times, so a slower relay gets less, never a
//! longer queue in here.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::program::{self, Program};
use super::{PATIENCE, http2, payload};

/// Requests of all connections together: more than the caches hold, so that the relay meets them cold.
const POOL: usize = 16 << 20;
/// Wait after a refusal, so that a relay that refuses is asked again but not flooded.
const AFTER_REFUSAL: Duration = Duration::from_millis(5);

/// How a load is set up.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Where to send to.
    #[arg(long)]
    pub(crate) target: SocketAddr,
    /// Spans a request.
    #[arg(long)]
    pub(crate) spans: usize,
    /// Connections.
    #[arg(long)]
    pub(crate) connections: usize,
    /// Tenants whose requests take turns on every connection; 0: each connection has one of its own.
    #[arg(long)]
    pub(crate) tenants: usize,
    /// The API key that every request carries.
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// Calls on their way at a time, on each connection.
    #[arg(long)]
    pub(crate) streams: usize,
    /// The largest DATA frame in bytes; the relay's own limit holds too. Some clients send 16384 whatever
    /// they are offered.
    #[arg(long)]
    pub(crate) frame: usize,
}

/// The largest frame there can be: the relay's limit decides.
pub(crate) const ANY_FRAME: usize = 1 << 24;

/// How long a phase of load lasts: until one of both is used up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) time: Duration,
    pub(crate) requests: u64,
}

impl Phase {
    /// As many requests as can be sent in `time`.
    pub(crate) fn lasting(time: Duration) -> Self {
        Self { time, requests: u64::MAX }
    }

    /// Exactly so many requests.
    pub(crate) fn sending(requests: u64) -> Self {
        Self { time: PATIENCE, requests }
    }
}

/// What became of the requests of one phase.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Requests answered with OK.
    pub(crate) accepted: u64,
    /// Requests answered with another status.
    pub(crate) refused: u64,
    /// Requests without an answer.
    pub(crate) failed: u64,
    /// Bytes of the accepted requests, without gRPC's prefix.
    pub(crate) bytes: u64,
    /// Until the last answer.
    pub(crate) elapsed: Duration,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// A running load.
pub(crate) struct Load {
    program: Program,
    args: Args,
}

impl Load {
    /// Starts one and connects it.
    pub(crate) fn start(args: Args) -> Self {
        let arguments = [
            format!("--target={}", args.target),
            format!("--spans={}", args.spans),
            format!("--connections={}", args.connections),
            format!("--streams={}", args.streams),
            format!("--frame={}", args.frame),
            format!("--tenants={}", args.tenants),
        ];
        let key = args.key.iter().map(|key| format!("--key={key}"));
        let arguments: Vec<_> = arguments.into_iter().chain(key).collect();
        let (program, _) = Program::role("load", &arguments);
        Self { program, args }
    }

    /// Starts a phase; [`Load::report`] waits for its end.
    pub(crate) fn begin(&mut self, phase: Phase) {
        self.program.tell(&serde_json::to_string(&phase).expect("a phase is plain"));
    }

    /// Waits for the end of the phase that runs. Calls on their way are answered before it ends.
    pub(crate) fn report(&mut self, phase: Phase) -> Report {
        let line = self.program.next_line_within(phase.time + PATIENCE);
        serde_json::from_str(&line).unwrap_or_else(|_| self.program.fail("did not report"))
    }

    /// Ends the phase that runs before its time.
    pub(crate) fn stop(&mut self) {
        self.program.tell("stop");
    }

    /// Runs one phase.
    pub(crate) fn run(&mut self, phase: Phase) -> Report {
        self.begin(phase);
        self.report(phase)
    }

    /// Spans in `requests` requests.
    pub(crate) fn spans_in(&self, requests: u64) -> u64 {
        requests * self.args.spans as u64
    }
}

/// One connection and the requests that go over it.
struct Lane {
    requests: SendRequest<Bytes>,
    /// In turns, as the requests of the pool are.
    heads: Vec<Request<()>>,
    pool: Vec<Bytes>,
    frame: usize,
    /// The next of the pool; shared by the streams, so that each request is sent in turn.
    next: AtomicU64,
}

/// What the streams of one phase share.
struct Budget {
    until: Instant,
    requests: AtomicU64,
}

/// The role.
pub(crate) async fn serve(args: Args) {
    let mut lanes = Vec::new();
    for number in 0..args.connections {
        let pool = payload::requests(args.spans, POOL / args.connections, number as u64);
        let tenants = if args.tenants == 0 { number..number + 1 } else { 0..args.tenants };
        let head =
            |n| http2::export_head(args.target, &format!("{}{n}", payload::TENANT), args.key.as_deref());
        lanes.push(Arc::new(Lane {
            requests: http2::connect(args.target).await,
            heads: tenants.map(head).collect(),
            pool,
            frame: args.frame,
            next: AtomicU64::new(0),
        }));
    }
    let mut told = program::told();
    program::ready(args.target);
    while let Some(line) = told.recv().await {
        let phase: Phase = serde_json::from_str(&line).expect("the benchmark tells a phase");
        let until = Instant::now() + phase.time;
        let budget = Arc::new(Budget { until, requests: AtomicU64::new(phase.requests) });
        let mut running = pin!(run(&lanes, args.streams, budget.clone()));
        let report = loop {
            tokio::select! {
                report = &mut running => break report,
                // Whatever is said while a phase runs means that it shall end.
                Some(_) = told.recv() => budget.requests.store(0, Ordering::Relaxed),
            }
        };
        program::say(serde_json::to_string(&report).expect("a report is plain"));
    }
}

async fn run(lanes: &[Arc<Lane>], streams: usize, budget: Arc<Budget>) -> Report {
    let start = Instant::now();
    let tasks: Vec<_> = lanes
        .iter()
        .flat_map(|lane| (0..streams).map(|_| tokio::spawn(stream(lane.clone(), budget.clone()))))
        .collect();
    let mut report = Report::default();
    let mut latencies = Vec::new();
    for task in tasks {
        let (part, of_part) = task.await.expect("a stream does not panic");
        report.accepted += part.accepted;
        report.refused += part.refused;
        report.failed += part.failed;
        report.bytes += part.bytes;
        latencies.extend(of_part);
    }
    report.elapsed = start.elapsed();
    latencies.sort_unstable();
    report.p50_ms = at_share(&latencies, 0.50);
    report.p99_ms = at_share(&latencies, 0.99);
    report
}

fn at_share(sorted: &[u32], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).map_or(0.0, |&microseconds| f64::from(microseconds) / 1000.0)
}

async fn stream(lane: Arc<Lane>, budget: Arc<Budget>) -> (Report, Vec<u32>) {
    let mut report = Report::default();
    let mut latencies = Vec::with_capacity(4096);
    loop {
        let start = Instant::now();
        let one_less = |left: u64| left.checked_sub(1);
        if start >= budget.until
            || budget.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err()
        {
            return (report, latencies);
        }
        let turn = lane.next.fetch_add(1, Ordering::Relaxed) as usize;
        let request = lane.pool[turn % lane.pool.len()].clone();
        let length = request.len() - payload::GRPC_PREFIX;
        match export(&lane, lane.heads[turn % lane.heads.len()].clone(), request).await {
            Ok(0) => {
                report.accepted += 1;
                report.bytes += length as u64;
                latencies.push(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            Ok(status) => {
                if report.refused == 0 {
                    eprintln!("refused with status {status}");
                }
                report.refused += 1;
                tokio::time::sleep(AFTER_REFUSAL).await;
            }
            Err(error) => {
                eprintln!("failed: {error}");
                report.failed += 1;
                // The connection is of no more use; neither is the phase, which shows in the report.
                return (report, latencies);
            }
        }
    }
}

async fn export(lane: &Lane, head: Request<()>, mut request: Bytes) -> Result<u16, h2::Error> {
    let mut requests = lane.requests.clone().ready().await?;
    let (response, mut body) = requests.send_request(head, false)?;
    // The window is wider than all calls of the loop together, so nothing piles up here.
    while request.len() > lane.frame {
        body.send_data(request.split_to(lane.frame), false)?;
    }
    body.send_data(request, true)?;
    http2::grpc_status(response).await
}
