//! One measurement: a fresh relay, warmed up, loaded for a while and drained; from rest to rest, so that
//! whatever it does later than it answers is counted too.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::load::{ANY_FRAME, Args, Load, Phase, Report};
use crate::support::sink::{Count, Sink};
use crate::support::tollgate::{KEY, Setup};
use crate::variants::Variant;

/// How the load sends, whatever the size of its requests.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Shape {
    /// Connections of the load; each has a tenant of its own.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Calls on their way on each connection [default: 64, 32, 8, 2 with 1, 10, 100, 1000 spans].
    #[arg(long)]
    streams: Option<usize>,
    /// The largest DATA frame of the load in bytes.
    #[arg(long, default_value_t = ANY_FRAME)]
    frame: usize,
}

impl Shape {
    /// A load of requests of `spans` spans, of so many tenants that a key vouches for, if any.
    pub(crate) fn start(self, target: SocketAddr, spans: usize, tenants: Option<usize>) -> Load {
        let Self { connections, frame, .. } = self;
        let streams = self.streams.unwrap_or(streams(spans));
        let key = tenants.map(|_| KEY.to_owned());
        Load::start(Args { target, spans, connections, streams, frame, tenants: tenants.unwrap_or(0), key })
    }
}

/// Calls on their way on each connection: enough that the relay is never without work, few enough that
/// large requests do not pile up (4 × 2 × 590 KB at 1000 spans).
fn streams(spans: usize) -> usize {
    match spans {
        0..=1 => 64,
        2..=10 => 32,
        11..=100 => 8,
        _ => 2,
    }
}

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial<'a> {
    pub(crate) variant: Variant,
    pub(crate) spans: usize,
    pub(crate) time: Duration,
    pub(crate) shape: Shape,
    pub(crate) tollgate: Setup<'a>,
}

/// What one trial gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    /// CPU time of the relay for each span: microseconds, or seconds a million.
    pub(crate) cpu_per_span: f64,
    pub(crate) spans_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) peak_mib: f64,
    /// Share of one core that the relay had.
    pub(crate) busy: f64,
}

impl Trial<'_> {
    /// Runs it; the benchmark ends if the sink has not got exactly what was accepted.
    pub(crate) fn run(self, sink: &mut Sink) -> Outcome {
        let relay = self.variant.start(sink.address, self.tollgate);
        let mut load = self.shape.start(relay.address(), self.spans, self.variant.tenants());
        let before = sink.count();
        pass(&mut load, sink, Phase::lasting(self.time / 5));
        self.check_tags(before, sink.count());
        let (start, cpu) = (Instant::now(), relay.program().cpu());
        let report = pass(&mut load, sink, Phase::lasting(self.time));
        let elapsed = start.elapsed().as_secs_f64();
        let cpu = (relay.program().cpu() - cpu).as_secs_f64();
        let spans = load.spans_in(report.accepted) as f64;
        Outcome {
            cpu_per_span: cpu / spans * 1e6,
            spans_per_second: spans / elapsed,
            p50_ms: report.p50_ms,
            p99_ms: report.p99_ms,
            peak_mib: relay.program().peak_resident() as f64 / f64::from(1 << 20),
            busy: cpu / elapsed,
        }
    }

    /// That tagging is on where it should be: everywhere but in the raw relay.
    fn check_tags(self, before: Count, after: Count) {
        let (checked, tagged) = (after.checked - before.checked, after.tagged - before.tagged);
        let expected = if self.variant == Variant::Raw { 0 } else { checked };
        assert_eq!(tagged, expected, "tagged requests of {checked} from {:?}", self.variant);
    }
}

/// Runs a phase and waits until the sink has all of it.
fn pass(load: &mut Load, sink: &mut Sink, phase: Phase) -> Report {
    let before = sink.count();
    let report = load.run(phase);
    let accepted = load.spans_in(report.accepted);
    let arrived = sink.wait_for(before.spans + accepted).spans - before.spans;
    assert!(report.accepted > 0, "nothing was accepted: {report:?}");
    assert_eq!(report.refused + report.failed, 0, "a closed loop was refused: {report:?}");
    assert_eq!(arrived, accepted, "spans at the sink against spans accepted");
    report
}
