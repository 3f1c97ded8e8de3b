//! What is still held when everything has ended: it should be nothing.

use std::time::Duration;

use crate::internal_telemetry::Telemetry;

/// Gauges that are 0 when nothing is under way.
const HELD: [&str; 7] = [
    "tollgate_requests_held_bytes",
    "tollgate_receiver_connections",
    "tollgate_receiver_in_flight_requests",
    "otelcol_exporter_in_flight_requests",
    "tollgate_exporter_queue_bytes",
    "tollgate_tenant_queue_bytes",
    "tollgate_queued_items",
];

/// What watchers of files, which have threads of their own, get to close theirs.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often to look again meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// File descriptors that are open now; none where the system does not tell.
pub(super) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// What is left over, as `name=amount` with blanks between; `before` is how many descriptors there were at
/// the start.
pub(super) async fn left(telemetry: &Telemetry, before: usize) -> String {
    let more = async {
        while descriptors() > before {
            tokio::time::sleep(LOOK).await;
        }
    };
    let mut left = Vec::new();
    if tokio::time::timeout(PATIENCE, more).await.is_err() {
        left.push(format!("descriptors={}", descriptors().saturating_sub(before)));
    }
    let families = telemetry.read();
    let amounts = HELD.iter().map(|name| (name, families.sum(name, &[])));
    left.extend(
        amounts.filter(|(_, amount)| *amount != 0.0).map(|(name, amount)| format!("{name}={amount}")),
    );
    left.join(" ")
}
