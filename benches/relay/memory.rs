//! Memory of Tollgate: at rest, and with a queue that cannot drain.

use std::time::Duration;

use crate::measure::Shape;
use crate::support::load::Phase;
use crate::support::tollgate::{Destination, Setup, Tollgate};

/// Spans that fill the queue: about 120 MB in requests of 100.
const SPANS: usize = 200_000;
/// What the allocator needs to give back what was only passing through.
const SETTLING: Duration = Duration::from_secs(1);

/// What Tollgate holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident after start.
    pub(crate) idle_mib: f64,
    /// Resident bytes more for each byte that was accepted and waits.
    pub(crate) per_queued_byte: f64,
}

/// Starts a Tollgate whose destination is away, and fills its queue with requests of `spans` spans.
pub(crate) fn measure(setup: Setup<'_>, shape: Shape, spans: usize) -> Memory {
    let tollgate = Tollgate::start(Setup { destination: Destination::Nowhere, ..setup });
    std::thread::sleep(SETTLING);
    let idle = tollgate.program.resident();
    let requests = (SPANS / spans) as u64;
    let mut load = shape.start(tollgate.otlp, spans, None);
    let report = load.run(Phase::sending(requests));
    assert_eq!(report.accepted, requests, "the queue has room for all: {report:?}");
    std::thread::sleep(SETTLING);
    let more = tollgate.program.resident().saturating_sub(idle);
    Memory { idle_mib: idle as f64 / f64::from(1 << 20), per_queued_byte: more as f64 / report.bytes as f64 }
}
