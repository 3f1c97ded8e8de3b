//! What may take memory, how much at most, and whether all of it fits.
//!
//! ```text
//! limit ─┬─ program        what it needs to run at all
//!        ├─ tenants        those told apart, each with its accounts
//!        ├─ queue …        in memory: as configured, or what is left divided among those that are not;
//!        │                 on disk: the index of what waits there, and what is on its way
//!        └─ requests       bodies that are read and worked on, before a queue owns them
//! ```
//!
//! Invariant: the sum of the bounds is at most the limit, or the program does not start.

use std::fmt::Write;

use crate::config::{ComponentId, Config};
use crate::units::ByteSize;

const MIB: u64 = 1 << 20;
/// Code, threads, connections and what the allocator keeps: twice what an idle program has resident.
const PROGRAM: u64 = 24 * MIB;
/// What a tenant that is told apart costs at most, measured with 5,000 of them.
const TENANT: u64 = 8 << 10;
/// A queue of so many bytes holds up to 1.15 times as much.
const QUEUE_OVERHEAD: f64 = 1.15;
/// What a batch that waits on disk takes in the index of its queue, at most; `queue::tests::packed` measures it.
const INDEXED_BATCH: u64 = 64;
/// What a queue on disk keeps of its batches besides: 16 MiB that were just put down, as much that is leased.
const ON_ITS_WAY: u64 = 32 * MIB;
/// Queues are no larger by default, however much memory there is.
const DEFAULT_QUEUE: u64 = 128 * MIB;
/// More than that under way at a time is not throughput but a stall somewhere.
const MOST_REQUESTS: u64 = 256 * MIB;
/// Below that a program that has not been told sizes cannot do its work.
const LEAST_LEFT: u64 = 12 * MIB;

/// What may take memory in one configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Pools {
    tenants: u64,
    /// Each queue in memory that some pipeline uses, and how large it is configured to be.
    queues: Vec<(ComponentId, Option<u64>)>,
    /// Each on disk, and how many batches may wait there.
    on_disk: Vec<(ComponentId, u64)>,
}

/// How large each pool may become under one limit, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sizes {
    pub(super) limit: u64,
    tenants: u64,
    /// What queues may hold; in memory that is a little more.
    pub(super) queues: Vec<(ComponentId, u64)>,
    /// What queues on disk take of memory.
    on_disk: Vec<(ComponentId, u64)>,
    pub(super) requests: u64,
}

/// The pools do not fit into the limit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct DoesNotFit(String);

impl Pools {
    /// Of a configuration in which `tenants` are told apart.
    pub(super) fn of(config: &Config, tenants: usize) -> Self {
        let size = |id: &ComponentId| {
            let bytes = config.memory_of_queue(id)?;
            Some((id.clone(), bytes.map(|bytes| bytes.0)))
        };
        let records = |id: &ComponentId| Some((id.clone(), config.storage_of(id)?.1.max_records));
        let queues = config.queues().into_iter().filter_map(size).collect();
        let on_disk = config.queues().into_iter().filter_map(records).collect();
        Self { tenants: tenants as u64 * TENANT, queues, on_disk }
    }

    /// How large each may become.
    ///
    /// # Errors
    /// [`DoesNotFit`]: the limit must be raised or the configuration changed.
    pub(super) fn within(&self, limit: u64) -> Result<Sizes, DoesNotFit> {
        let configured =
            self.queues.iter().filter_map(|(_, bytes)| *bytes).map(in_memory).fold(0, u64::saturating_add);
        let on_disk = self.on_disk.iter().map(|(_, records)| indexed(*records)).fold(0, u64::saturating_add);
        let open = self.queues.iter().filter(|(_, bytes)| bytes.is_none()).count() as u64;
        let fixed = PROGRAM.saturating_add(self.tenants).saturating_add(configured).saturating_add(on_disk);
        let left = limit.saturating_sub(fixed);
        if left < LEAST_LEFT {
            return Err(DoesNotFit(self.complaint(limit)));
        }
        let requests = (limit / 4).min(MOST_REQUESTS).min(if open == 0 { left } else { left / 3 });
        let each =
            (left - requests).checked_div(open).map_or(0, |each| (each as f64 / QUEUE_OVERHEAD) as u64);
        let size = |(id, bytes): &(ComponentId, Option<u64>)| {
            (id.clone(), bytes.unwrap_or_else(|| each.min(DEFAULT_QUEUE)))
        };
        let queues = self.queues.iter().map(size).collect();
        let on_disk = self.on_disk.iter().map(|(id, records)| (id.clone(), indexed(*records))).collect();
        Ok(Sizes { limit, tenants: self.tenants, queues, on_disk, requests })
    }

    /// Every pool, the limit, and the way out.
    fn complaint(&self, limit: u64) -> String {
        let mut text = format!("the memory limit of {} is too small for what is configured:", mib(limit));
        // Writing to a String cannot fail.
        let mut line = |what: &str, bytes: u64| _ = write!(text, "\n  {what}: {}", mib(bytes));
        line("program", PROGRAM);
        line("tenants (policies.max_dynamic_tenants)", self.tenants);
        for (id, bytes) in self.queues.iter().filter_map(|(id, bytes)| Some((id, (*bytes)?))) {
            line(&format!("queue of {id} (sending_queue.max_bytes, and 15 %)"), in_memory(bytes));
        }
        for (id, records) in &self.on_disk {
            let what =
                format!("queue of {id} on disk (64 bytes each of file_storage.max_records, and 32MiB)");
            line(&what, indexed(*records));
        }
        line("requests under way and queues without max_bytes, at least", LEAST_LEFT);
        text += "\nraise the limit, or lower sending_queue.max_bytes of an exporter";
        if !self.on_disk.is_empty() {
            text += " or max_records of a file_storage";
        }
        text
    }
}

impl Sizes {
    /// Every pool by name with its bytes of memory.
    pub(super) fn list(&self) -> Vec<(String, u64)> {
        let mut list = vec![("program".to_owned(), PROGRAM), ("tenants".to_owned(), self.tenants)];
        list.extend(self.queues.iter().map(|(id, bytes)| (format!("queue/{id}"), in_memory(*bytes))));
        list.extend(self.on_disk.iter().map(|(id, bytes)| (format!("queue/{id}"), *bytes)));
        list.push(("requests".to_owned(), self.requests));
        list
    }

    /// How much the queue of an exporter in memory may hold.
    pub(super) fn queue(&self, id: &str) -> Option<u64> {
        self.queues.iter().find(|(known, _)| known.as_str() == id).map(|(_, bytes)| *bytes)
    }
}

/// What a queue of so many bytes takes.
fn in_memory(bytes: u64) -> u64 {
    (bytes as f64 * QUEUE_OVERHEAD) as u64
}

/// What a queue on disk of so many batches takes.
fn indexed(records: u64) -> u64 {
    records.saturating_mul(INDEXED_BATCH).saturating_add(ON_ITS_WAY)
}

fn mib(bytes: u64) -> String {
    match bytes.is_multiple_of(MIB) {
        true => ByteSize(bytes).to_string(),
        false => format!("{:.1}MiB", bytes as f64 / MIB as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(queues: &[Option<u64>]) -> Pools {
        let id = |n: usize| ComponentId::parse(&format!("otlp_grpc/{n}")).unwrap();
        let queues = queues.iter().enumerate().map(|(n, mib)| (id(n), mib.map(|mib| mib * MIB)));
        Pools { tenants: 1000 * TENANT, queues: queues.collect(), on_disk: Vec::new() }
    }

    fn parsed(yaml: &str) -> Config {
        let source = crate::yaml::Source::new("collector.yaml", yaml);
        Config::parse(&[source], &[], &|_| None).unwrap_or_else(|problems| panic!("{problems}")).0
    }

    /// Every exporter of its own kind of use; `{queue}` is the one of `otlp_grpc/own`.
    const CONFIG: &str = "
receivers: { otlp: { protocols: { grpc: { endpoint: '127.0.0.1:0' } } } }
exporters:
  otlp_grpc/own: { endpoint: 'http://a:1', sending_queue: { max_bytes: 10MiB } }
  otlp_grpc/open: { endpoint: 'http://b:1' }
  otlp_grpc/first: { endpoint: 'http://c:1', sending_queue: { max_bytes: 20MiB } }
  otlp_grpc/second: { endpoint: 'http://d:1', sending_queue: { max_bytes: 20MiB } }
  otlp_grpc/disk: { endpoint: 'http://e:1', sending_queue: { storage: file_storage } }
  otlp_grpc/unused: { endpoint: 'http://f:1', sending_queue: { max_bytes: 40MiB } }
connectors:
  failover: { priority_levels: [[traces/first], [traces/second]], sending_queue: { max_bytes: 30MiB } }
extensions: { file_storage: { directory: /tmp, max_records: 10000 } }
service:
  extensions: [file_storage]
  pipelines:
    traces: { receivers: [otlp], exporters: [otlp_grpc/own, otlp_grpc/open, otlp_grpc/disk, failover] }
    traces/first: { receivers: [failover], exporters: [otlp_grpc/first] }
    traces/second: { receivers: [failover], exporters: [otlp_grpc/second] }
";

    #[test]
    fn queues_that_hold_something_count_and_no_others() {
        let pools = Pools::of(&parsed(CONFIG), 0);
        let told: Vec<_> = pools.queues.iter().map(|(id, mib)| (id.as_str(), mib.map(|b| b / MIB))).collect();
        // Levels of a failover hand on what its own queue holds; `unused` is in no pipeline.
        assert_eq!(told, [("failover", Some(30)), ("otlp_grpc/open", None), ("otlp_grpc/own", Some(10))]);
        let on_disk: Vec<_> = pools.on_disk.iter().map(|(id, records)| (id.as_str(), *records)).collect();
        assert_eq!(on_disk, [("otlp_grpc/disk", 10_000)]);
        let sizes = pools.within(256 * MIB).unwrap();
        let list = sizes.list();
        let disk = list.iter().find(|(name, _)| name == "queue/otlp_grpc/disk").unwrap().1;
        assert_eq!(disk, 10_000 * INDEXED_BATCH + ON_ITS_WAY);
        assert_eq!(sizes.queue("otlp_grpc/disk"), None, "its bytes are bounded on disk");
        assert_eq!(sizes.queue("failover"), Some(30 * MIB));
        assert!(list.iter().map(|(_, bytes)| bytes).sum::<u64>() <= 256 * MIB, "{list:?}");
    }

    #[test]
    fn a_level_of_a_failover_that_a_pipeline_uses_too_counts() {
        let config =
            CONFIG.replace("exporters: [otlp_grpc/own,", "exporters: [otlp_grpc/first, otlp_grpc/own,");
        let pools = Pools::of(&parsed(&config), 0);
        assert!(
            pools
                .queues
                .iter()
                .any(|(id, bytes)| id.as_str() == "otlp_grpc/first" && *bytes == Some(20 * MIB))
        );
    }

    #[test]
    fn what_waits_on_disk_needs_memory_too() {
        let config = CONFIG.replace("max_records: 10000", "max_records: 3000000");
        let told = Pools::of(&parsed(&config), 0).within(256 * MIB).unwrap_err().to_string();
        for part in [
            "queue of otlp_grpc/disk on disk (64 bytes each of file_storage.max_records, and 32MiB): 215.1MiB",
            "or max_records of a file_storage",
        ] {
            assert!(told.contains(part), "no {part:?} in:\n{told}");
        }
    }

    #[test]
    fn what_is_not_configured_shares_what_is_left() {
        let check = |queues: &[Option<u64>], limit: u64, expected: (&[u64], u64)| {
            let sizes = pools(queues).within(limit * MIB).unwrap();
            let found: Vec<_> = sizes.queues.iter().map(|(_, bytes)| bytes / MIB).collect();
            assert_eq!((&found[..], sizes.requests / MIB), expected, "{queues:?} in {limit} MiB");
            let sum: u64 = sizes.list().iter().map(|(_, bytes)| bytes).sum();
            assert!(sum <= limit * MIB, "{sizes:?}");
        };
        check(&[None], 16 << 10, (&[128], 256));
        check(&[None], 512, (&[128], 128));
        check(&[None], 256, (&[128], 64));
        check(&[None], 64, (&[18], 10));
        check(&[None, None], 256, (&[69, 69], 64));
        check(&[Some(64)], 256, (&[64], 64));
        check(&[Some(256)], 1024, (&[256], 256));
        check(&[Some(100), None], 256, (&[100, 63], 36));
        check(&[], 256, (&[], 64));
    }

    #[test]
    fn what_does_not_fit_is_told_with_every_pool_and_the_way_out() {
        let told = pools(&[Some(256), None]).within(256 * MIB).unwrap_err().to_string();
        let expected = "the memory limit of 256MiB is too small for what is configured:
  program: 24MiB
  tenants (policies.max_dynamic_tenants): 7.8MiB
  queue of otlp_grpc/0 (sending_queue.max_bytes, and 15 %): 294.4MiB
  requests under way and queues without max_bytes, at least: 12MiB
raise the limit, or lower sending_queue.max_bytes of an exporter";
        assert_eq!(told, expected);
        assert!(pools(&[None]).within(40 * MIB).is_err());
        assert!(pools(&[Some(1 << 43), Some(1 << 43)]).within(256 * MIB).is_err(), "sums do not wrap");
    }
}
