//! Keys of the processors: the Collector's, as far as Tollgate has the component.
//!
//! Only keys, defaults and what can be checked without data; `crate::processor` does the work.

mod attributes;
mod check;
pub mod kubernetes;
mod sampler;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use attributes::{
    Action, ActionKind, AttributeMatch, AttributeValue, Attributes, LibraryMatch, Match, MatchType,
    RegexpCache, Resource, SeverityMatch,
};
pub use check::{Found, Problem, SPAN_KINDS};
pub use kubernetes::K8sAttributes;
pub use sampler::{AttributeSource, ProbabilisticSampler, SamplerMode};

use crate::units::ByteSize;

/// One processor: its type and its keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Processor {
    /// `tenant`: finds out whose data it is.
    Tenant(Tenant),
    /// `sampling`: applies the rules of the policies file.
    Sampling(Sampling),
    /// `probabilistic_sampler`: keeps a fixed share.
    ProbabilisticSampler(ProbabilisticSampler),
    /// `resource`: edits resource attributes.
    Resource(Resource),
    /// `attributes`: edits attributes of spans, data points and log records.
    Attributes(Box<Attributes>),
    /// `k8s_attributes`: writes which pod a resource comes from.
    K8sAttributes(Box<K8sAttributes>),
    /// `memory_limiter`: refuses data while memory is short.
    MemoryLimiter(MemoryLimiter),
    /// `batch`: the wanted size of batches.
    Batch(Batch),
}

/// The processor `tenant`: finds the tenant, model and version of all data and writes them as resource
/// attributes. It has no keys: what it does is written in the policies file (`identity`, `enrichment`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {}

/// The processor `sampling`: keeps or leaves out by the rules of the policies file (`rules`, `tenants`),
/// reloadable. It has no keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sampling {}

/// The processor `memory_limiter`: refuses data, so that clients send it again later, while the memory
/// in use is near its limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryLimiter {
    /// How often memory is measured; with a longer interval a peak is noticed later. It must be written.
    /// Default: none. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub check_interval: Duration,
    /// The hard limit in MiB; it wins over `limit_percentage`. 0 means not set. Default: 0.
    pub limit_mib: u32,
    /// How far below the hard limit data is refused, in MiB. 0 means 20 % of the limit.
    /// Default: 0. Range: below `limit_mib`.
    pub spike_limit_mib: u32,
    /// The hard limit in percent of the memory this program may use. 0 means not set.
    /// Default: 0. Range: 0 to 100.
    #[schemars(range(min = 0, max = 100))]
    pub limit_percentage: u32,
    /// How far below the hard limit data is refused, in percent of the memory this program may use.
    /// 0 means 20 % of the limit. Default: 0. Range: 0 to 100, below `limit_percentage`.
    #[schemars(range(min = 0, max = 100))]
    pub spike_limit_percentage: u32,
    /// Without effect: there is no garbage collector. Default: 10s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub min_gc_interval_when_soft_limited: Duration,
    /// Without effect: there is no garbage collector. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub min_gc_interval_when_hard_limited: Duration,
    /// Without effect: there is no garbage collector. Default: 30s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub max_gc_interval_when_soft_limited: Duration,
    /// Without effect: there is no garbage collector. Default: 30s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub max_gc_interval_when_hard_limited: Duration,
}

impl Default for MemoryLimiter {
    fn default() -> Self {
        Self {
            check_interval: Duration::ZERO,
            limit_mib: 0,
            spike_limit_mib: 0,
            limit_percentage: 0,
            spike_limit_percentage: 0,
            min_gc_interval_when_soft_limited: Duration::from_secs(10),
            min_gc_interval_when_hard_limited: Duration::ZERO,
            max_gc_interval_when_soft_limited: Duration::from_secs(30),
            max_gc_interval_when_hard_limited: Duration::from_secs(30),
        }
    }
}

impl MemoryLimiter {
    /// The hard and the soft limit, of a program that may use `total` bytes.
    pub fn limits(&self, total: ByteSize) -> (ByteSize, ByteSize) {
        let percent = |part: u32| total.0 / 100 * u64::from(part);
        let (hard, spike) = match self.limit_mib {
            0 => (percent(self.limit_percentage), percent(self.spike_limit_percentage)),
            mib => (u64::from(mib) << 20, u64::from(self.spike_limit_mib) << 20),
        };
        // The Collector's default for a spike that is not set: 20 % of the limit.
        let spike = if spike == 0 { hard / 5 } else { spike };
        (ByteSize(hard), ByteSize(hard.saturating_sub(spike)))
    }
}

/// The processor `batch`: how large the batches of this pipeline's exporters become. Nothing waits in
/// the processor itself: batches are made in the exporters' queues, so that a client is still told when
/// its data cannot be taken, and the client's metadata is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// The longest time a batch waits for more items; longer means larger batches and later data.
    /// 0: none waits. Default: 200ms.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// The number of items after which a batch waits no longer; 0 means no batch waits.
    /// Default: 8192.
    pub send_batch_size: u32,
    /// The most items in one batch; 0 means no limit of items. Whatever it is, batches are merged up to
    /// 4 MiB, which receivers take by default. Default: 0. Range: 0, or at least `send_batch_size`.
    pub send_batch_max_size: u32,
    /// Keys of client metadata; batches hold data of equal values only. Default: none.
    pub metadata_keys: Vec<String>,
    /// The most combinations of metadata values; beyond it, data is refused. 0 means no limit.
    /// Default: 1000.
    pub metadata_cardinality_limit: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(200),
            send_batch_size: 8192,
            send_batch_max_size: 0,
            metadata_keys: Vec::new(),
            metadata_cardinality_limit: 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_lies_below_the_hard_one() {
        let check = |limiter: MemoryLimiter, expected: (u64, u64)| {
            let (hard, soft) = limiter.limits(ByteSize(1000 << 20));
            assert_eq!((hard.0 >> 20, soft.0 >> 20), expected);
        };
        let none = MemoryLimiter::default;
        check(MemoryLimiter { limit_mib: 300, spike_limit_mib: 150, ..none() }, (300, 150));
        check(MemoryLimiter { limit_mib: 500, ..none() }, (500, 400));
        check(MemoryLimiter { limit_percentage: 80, spike_limit_percentage: 25, ..none() }, (800, 550));
        check(MemoryLimiter { limit_mib: 100, limit_percentage: 80, ..none() }, (100, 80));
    }
}
