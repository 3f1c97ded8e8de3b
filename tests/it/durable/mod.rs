//! Queues on disk: what was answered with OK arrives, whatever happens to the program in between.

mod crash;
mod disk;
mod handover;
mod recovery;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use crate::gate::gate;
use crate::harness::{Grpc, Item, Sink, Tollgate, spans};

/// The gate with its queue in `folder`; `keys` of the storage and of the queue.
pub fn durable(sink: &Sink, folder: &Path, (storage, queue): (&str, &str)) -> String {
    gate(sink)
        .replace(
            "retry_on_failure:",
            &format!("sending_queue: {{ storage: file_storage, {queue} }}, retry_on_failure:"),
        )
        .replace(
            "extensions: { admin: ,",
            &format!(
                "extensions: {{ file_storage: {{ directory: '{}', segment_size: 1MiB, {storage} }}, admin: ,",
                folder.display()
            ),
        )
        .replace("extensions: [admin,", "extensions: [file_storage, admin,")
}

/// A client of one tenant.
async fn client(tollgate: &Tollgate, tenant: &str) -> Grpc {
    Grpc::connect(tollgate.address("otlp/grpc")).await.tenant(tenant)
}

/// Sends one span for each name, in requests of their own, each answered before the next.
async fn send(grpc: &Grpc, names: impl IntoIterator<Item = String>) -> usize {
    let mut sent = 0;
    for name in names {
        grpc.spans(spans(&[], &[Item::named(name)])).await.unwrap();
        sent += 1;
    }
    sent
}

/// `prefix-0`, `prefix-1`, …
fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |n| format!("{prefix}-{n}"))
}

/// How often each span arrived.
pub fn arrivals(sink: &Sink) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for item in sink.items("traces") {
        *counts.entry(item.name).or_default() += 1;
    }
    counts
}

/// Those that were answered with OK and did not arrive.
pub fn lost(acknowledged: &HashSet<String>, arrived: &HashMap<String, usize>) -> Vec<String> {
    acknowledged.iter().filter(|name| !arrived.contains_key(*name)).cloned().collect()
}

/// What arrived more than once, counted without the first time.
fn duplicates(arrived: &HashMap<String, usize>) -> usize {
    arrived.values().map(|times| times - 1).sum()
}

/// Fields of an event that are numbers.
fn number(event: &serde_json::Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("no number {field}: {event}"))
}
