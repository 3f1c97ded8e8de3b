//! The world around the program under test: a process, its clients, its destinations.

pub mod api_server;
mod certificates;
mod client;
mod group;
mod metrics;
mod payload;
mod process;
mod proof;
mod sink;

pub use certificates::{Authority, Pair};
pub use client::{Grpc, Http};
pub use group::Group;
pub use metrics::Metrics;
pub use payload::{Item, logs, metrics, spans};
pub use process::{EPHEMERAL, Start, Tollgate, get};
pub use proof::{Keeper, Signer, post_with, secured};
pub use sink::{Answer, Arrived, Sink};

use std::time::Duration;

/// How long anything expected may take before the test fails: generous, because machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How much of something a test does: `short`, or `long` under `./test --long`.
pub fn scaled(short: usize, long: usize) -> usize {
    if std::env::var_os("TOLLGATE_LONG").is_some() { long } else { short }
}

/// Prints a figure that is good up to its bound; it fails nothing.
pub fn figure(name: &str, value: f64, bound: f64) {
    let value = (value * 100.0).round() / 100.0;
    let verdict = if value <= bound { "ok" } else { "short" };
    println!("figure {name} {value} bound {bound} {verdict}");
}

/// Asks `ready` again and again until it gives a value.
pub async fn eventually<T, F>(what: &str, mut ready: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "still waiting for {what} after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
