//! `memory_limiter`: refuses new data while this process uses too much memory.
//!
//! What it measures is the anonymous resident memory of the process (`resident - shared` of
//! `/proc/self/statm`): heap, stacks and everything queued. The Collector's measures the Go heap.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cgroup::Capacity;
use crate::config::processor::MemoryLimiter as Config;
use crate::internal_telemetry::metrics::MemoryLimiterMetrics;
use crate::otlp::Signal;

/// What a refused client is told to wait at least.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The state one configured limiter shares over all pipelines that name it.
#[derive(Debug)]
pub struct MemoryLimiter {
    config: Config,
    capacity: Capacity,
    interval: Duration,
    refusing: AtomicBool,
    metrics: MemoryLimiterMetrics,
}

impl MemoryLimiter {
    /// One that refuses nothing yet; percentages are of what `capacity` says, whenever it is measured.
    pub fn new(config: &Config, metrics: MemoryLimiterMetrics, capacity: &Capacity) -> Self {
        Self {
            config: config.clone(),
            capacity: capacity.clone(),
            interval: config.check_interval,
            refusing: AtomicBool::new(false),
            metrics,
        }
    }

    /// The limit less the spike, of MiB or of the memory there is, in bytes.
    fn soft_bytes(&self) -> u64 {
        let Config { limit_mib, limit_percentage, spike_limit_mib, spike_limit_percentage, .. } = self.config;
        let total = self.capacity.memory();
        let limit = limits::bytes((limit_mib, limit_percentage), total).unwrap_or(u64::MAX);
        let spike = limits::bytes((spike_limit_mib, spike_limit_percentage), total);
        limit.saturating_sub(spike.unwrap_or(limit / 5))
    }

    /// Counts items that come by; the time to come back after, if they are refused.
    pub(super) fn refuses(&self, signal: Signal, items: u64) -> Option<Duration> {
        let refuses = self.refusing.load(Ordering::Relaxed);
        let counters = if refuses { &self.metrics.refused } else { &self.metrics.accepted };
        counters[signal].add(items);
        refuses.then_some(RETRY_AFTER.max(self.interval))
    }

    /// Measures every `check_interval` until told to stop.
    pub async fn watch(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(self.interval);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            self.note(limits::used_bytes());
        }
    }

    fn note(&self, used_bytes: u64) {
        let soft_bytes = self.soft_bytes();
        let refuse = used_bytes > soft_bytes;
        let refused = self.refusing.swap(refuse, Ordering::Relaxed);
        if refuse && !refused {
            tracing::warn!(name: "memory_limiter.refusing", used_bytes, soft_bytes,
                "Memory usage is above soft limit. Refusing data.");
        } else if refused && !refuse {
            tracing::info!(name: "memory_limiter.resumed", used_bytes, soft_bytes,
                "Memory usage back within limits. Resuming normal operation.");
        }
    }
}

/// What the process uses and may use.
mod limits {
    /// Pages are 4 KiB on every Linux this runs on but a few ARM kernels, where the figure is too low.
    const PAGE_BYTES: u64 = 4096;

    /// MiB, or a percentage of the total; `None` when neither is set.
    pub(super) fn bytes((mib, percentage): (u32, u32), total: u64) -> Option<u64> {
        match (mib, percentage) {
            (0, 0) => None,
            (0, percentage) => Some(total / 100 * u64::from(percentage)),
            (mib, _) => Some(u64::from(mib) << 20),
        }
    }

    pub(super) fn used_bytes() -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut fields = statm.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
        let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        resident.saturating_sub(shared) * PAGE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_above_the_soft_limit_and_resumes_below() {
        let config = Config { limit_mib: 100, spike_limit_mib: 25, ..Config::default() };
        let limiter = MemoryLimiter::new(&config, MemoryLimiterMetrics::default(), &Capacity::unlimited());
        let check = |used_mib: u64, refuses: bool| {
            limiter.note(used_mib << 20);
            assert_eq!(limiter.refuses(Signal::Logs, 1).is_some(), refuses, "{used_mib} MiB");
        };
        check(10, false);
        check(75, false);
        check(76, true);
        check(101, true);
        check(75, false);
    }

    #[test]
    fn without_a_spike_a_fifth_of_the_limit_is_kept_free() {
        let config = Config { limit_mib: 100, ..Config::default() };
        let limiter = MemoryLimiter::new(&config, MemoryLimiterMetrics::default(), &Capacity::unlimited());
        assert_eq!(limiter.soft_bytes(), 80 << 20);
    }

    #[test]
    fn percentages_follow_the_memory_there_is() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(root.path().join(file), text).unwrap();
        write("cgroup.controllers", "");
        write("memory.max", "104857600");
        let capacity = Capacity::read(root.path());
        let config = Config { limit_percentage: 80, spike_limit_percentage: 20, ..Config::default() };
        let limiter = MemoryLimiter::new(&config, MemoryLimiterMetrics::default(), &capacity);
        assert_eq!(limiter.soft_bytes(), 60 << 20);
        write("memory.max", "209715200");
        assert!(capacity.look());
        assert_eq!(limiter.soft_bytes(), 120 << 20);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(limits::used_bytes() > 0);
    }
}
