//! Queues on disk: what was answered with OK arrives, whatever happens to the program in between.
//!
//! Short counts by default, long ones with TOLLGATE_LONG=1 (`./test --long durable`). Each test prints its figures,
//! one line each (`./test --figures durable`); times are figures only, they fail nothing.

mod crash;
mod disk;
mod eio;
mod failover;
mod handover;
mod keys;
mod power;
mod recovery;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

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

/// Which side of its bound a figure is good on, the bound included.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// Prints a figure and its bound.
fn figure(name: &str, value: f64, bound: Bound) {
    let value = (value * 100.0).round() / 100.0;
    let (limit, is_good) = match bound {
        Bound::AtMost(limit) => (limit, value <= limit),
        Bound::AtLeast(limit) => (limit, value >= limit),
    };
    println!("figure durable.{name} {value} bound {limit} {}", if is_good { "ok" } else { "short" });
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The seed of what is random in a test; a failure can be repeated with `TOLLGATE_TEST_SEED`.
fn seed() -> u64 {
    let seed = std::env::var("TOLLGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("TOLLGATE_TEST_SEED={seed}");
    seed
}

/// Four tenants that send spans of distinct names as fast as they are answered, and note what was acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    const SENDERS: usize = 4;
    const SPANS: usize = 100;

    async fn start(tollgate: &Tollgate, life: &str, acknowledged: &Arc<Mutex<HashSet<String>>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = Vec::new();
        for sender in 0..Self::SENDERS {
            let grpc = client(tollgate, &format!("tenant-{sender}")).await;
            let (stop, acknowledged, life) = (stop.clone(), acknowledged.clone(), life.to_owned());
            senders.push(tokio::spawn(async move {
                for request in 0.. {
                    let names: Vec<_> =
                        (0..Self::SPANS).map(|n| format!("{life}-{sender}-{request}-{n}")).collect();
                    let items: Vec<_> = names.iter().map(Item::named).collect();
                    match grpc.spans(spans(&[], &items)).await {
                        Ok(_) => acknowledged.lock().unwrap().extend(names),
                        Err(_) if stop.load(Ordering::Relaxed) => return,
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }));
        }
        Self { stop, senders }
    }

    /// No new requests; those under way go on.
    fn tell_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    async fn stopped(self) {
        self.tell_to_stop();
        for sender in self.senders {
            sender.await.unwrap();
        }
    }
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
