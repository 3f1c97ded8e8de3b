//! The edge under attack: what hostile senders cost, and that the others notice nothing.
//!
//! Short counts by default, long ones with TOLLGATE_LONG=1 (`./test --long`). Each test prints its figures, one
//! line each (`./test --figures edge`); times are figures only, they fail nothing.

mod bombs;
mod certificates;
mod floods;
mod parsers;
mod raw;
mod slow;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use crate::harness::scaled as count;
use crate::harness::{Grpc, Item, Tollgate, spans};

/// Prints a figure that is good up to its bound.
pub fn figure(name: &str, value: f64, bound: f64) {
    crate::harness::figure(&format!("edge.{name}"), value, bound);
}

const MIB: f64 = 1024.0 * 1024.0;

/// Resident memory and CPU time of a process, from a moment on.
pub struct Usage {
    pid: u32,
    rss: f64,
    cpu: f64,
    since: Instant,
}

impl Usage {
    /// Starts to measure; the peak of memory is forgotten.
    pub fn from_now(tollgate: &Tollgate) -> Self {
        let pid = tollgate.pid();
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Self { pid, rss: status(pid, "VmRSS"), cpu: cpu_seconds(pid), since: Instant::now() }
    }

    /// MiB that resident memory rose to its peak since then.
    pub fn rise_mib(&self) -> f64 {
        (status(self.pid, "VmHWM") - self.rss) / MIB
    }

    /// Cores that were busy since then, on average.
    pub fn cores(&self) -> f64 {
        (cpu_seconds(self.pid) - self.cpu) / self.since.elapsed().as_secs_f64()
    }
}

/// A size from `/proc/PID/status`, in bytes.
fn status(pid: u32, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

/// User and system time; the kernel counts in hundredths.
fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

/// A sender that means well, on a connection of its own, for as long as an attack lasts.
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    grpc: Grpc,
    /// Its p99 before the attack, in milliseconds.
    alone: f64,
    sending: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Neighbour {
    /// Sends one span after the other, first alone, then until it is stopped; a refusal fails the test.
    pub async fn start(tollgate: &Tollgate) -> Self {
        let grpc = Grpc::connect(tollgate.address("otlp/grpc")).await.tenant("quiet");
        let alone = p99(send_while(&grpc, |sent| sent < 100).await);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, sender) = (stop.clone(), grpc.clone());
        let sending = tokio::spawn(async move {
            send_while(&sender, |sent| sent < 20 || !stopped.load(Ordering::Relaxed)).await
        });
        Self { stop, grpc, alone, sending }
    }

    /// Prints its p99 while `attack` lasted; how many times as long as alone.
    pub async fn stop(self, attack: &str) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.sending.await.unwrap();
        let (sent, beside) = (times.len(), p99(times));
        drop(self.grpc);
        println!(
            "{attack}: a neighbour's p99 is {:.1} ms alone and {beside:.1} ms beside it; all of {sent} taken",
            self.alone
        );
        beside / self.alone
    }
}

/// The time each request took.
async fn send_while(grpc: &Grpc, go_on: impl Fn(usize) -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    while go_on(times.len()) {
        let begin = Instant::now();
        grpc.spans(spans(&[], &[Item::named("x")])).await.expect("neighbours are served");
        times.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}

/// In milliseconds.
fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1000.0
}
