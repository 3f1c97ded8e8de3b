//! How the consumers of an exporter work, from its configuration.

use std::time::Duration;

use crate::config::connector::Failover;
use crate::config::exporter::{self as config, Batching, RetryOnFailure, SendingQueue};
use crate::queue::{Bounds, Merging, Wanted};

use super::stores::Storage;

/// Merged without waiting: at 600 B a span, requests of about 1,700 spans; larger ones cost more per span.
const OPPORTUNISTIC_BYTES: u64 = 1024 * 1024;
/// What batches are merged to at most where nothing else is said: larger requests are refused for good by
/// receivers of OTLP/gRPC with default limits.
const MERGED_BYTES: u64 = 4 * 1024 * 1024;
/// Without a queue every sender waits for its own request, as many as these at a time.
const CONSUMERS_WITHOUT_QUEUE: usize = 64;

/// How consumers work.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) consumers: usize,
    /// Whether fewer work where the destination takes less.
    pub(super) is_adaptive: bool,
    pub(super) timeout: Option<Duration>,
    pub(super) max_request_bytes: u64,
    pub(super) retry: RetryOnFailure,
    /// Past what a batch is given up; 0: never.
    pub(super) gives_up_after: Duration,
    pub(super) awaits_results: bool,
    /// There is no queue: what is leased belongs to its sender still, and is given up with him.
    pub(super) is_direct: bool,
    pub(super) blocks_on_overflow: bool,
}

/// What an exporter says of its own requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    /// How long one attempt may take.
    pub(super) timeout: Option<Duration>,
    max_request_bytes: u64,
    most_at_a_time: usize,
    merging: Merging,
}

impl Sending {
    pub(super) fn of(config: &config::Exporter) -> Self {
        let no_limit = config::OtlpGrpc::default().max_request_size;
        let (timeout, max_request_size) = match config {
            config::Exporter::OtlpGrpc(c) => (c.timeout, c.max_request_size),
            config::Exporter::OtlpHttp(c) => (c.timeout, c.max_request_size),
            config::Exporter::Debug(_) | config::Exporter::Nop(_) | config::Exporter::File(_) => {
                (Duration::ZERO, no_limit)
            }
        };
        let most_at_a_time = match config {
            config::Exporter::OtlpHttp(c) if c.max_conns_per_host > 0 => c.max_conns_per_host,
            _ => usize::MAX,
        };
        Self {
            timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
            max_request_bytes: max_request_size.0,
            most_at_a_time,
            merging: if config.tenant_headers().is_empty() { Merging::Signal } else { Merging::Tenant },
        }
    }

    /// What suits every level of a group, whose attempts have timeouts of their own.
    fn of_all(levels: &[Self]) -> Self {
        let least = |of: fn(&Self) -> u64| levels.iter().map(of).min().unwrap_or(u64::MAX);
        let tells_tenants = levels.iter().any(|level| level.merging == Merging::Tenant);
        Self {
            timeout: None,
            max_request_bytes: least(|level| level.max_request_bytes),
            most_at_a_time: levels.iter().map(|level| level.most_at_a_time).min().unwrap_or(usize::MAX),
            merging: if tells_tenants { Merging::Tenant } else { Merging::Signal },
        }
    }
}

/// How consumers work, what the queue holds, and what is leased at a time.
pub(super) fn of_exporter(config: &config::Exporter, storage: Option<&Storage>) -> (Plan, Bounds, Wanted) {
    let defaults = SendingQueue::default();
    let default_retry = RetryOnFailure::default();
    let no_retry = RetryOnFailure { enabled: false, ..RetryOnFailure::default() };
    let (queue, retry) = match config {
        config::Exporter::OtlpGrpc(c) => (&c.sending_queue, &c.retry_on_failure),
        config::Exporter::OtlpHttp(c) => (&c.sending_queue, &c.retry_on_failure),
        config::Exporter::Debug(_) | config::Exporter::Nop(_) => (&defaults, &no_retry),
        config::Exporter::File(_) => (&defaults, &default_retry),
    };
    plan((queue, storage), retry, &Sending::of(config))
}

/// As [`of_exporter`], of a group.
pub(super) fn of_failover(
    config: &Failover,
    levels: &[Sending],
    storage: Option<&Storage>,
) -> (Plan, Bounds, Wanted) {
    plan((&config.sending_queue, storage), &config.retry_on_failure, &Sending::of_all(levels))
}

fn plan(
    (queue, storage): (&SendingQueue, Option<&Storage>),
    retry: &RetryOnFailure,
    sending: &Sending,
) -> (Plan, Bounds, Wanted) {
    let consumers = if queue.enabled { queue.num_consumers } else { CONSUMERS_WITHOUT_QUEUE };
    let plan = Plan {
        consumers: consumers.clamp(1, sending.most_at_a_time),
        is_adaptive: queue.enabled && queue.adaptive_consumers,
        timeout: sending.timeout,
        max_request_bytes: sending.max_request_bytes,
        retry: retry.clone(),
        gives_up_after: retry.gives_up_after(storage.is_some()),
        awaits_results: !queue.enabled || queue.wait_for_result,
        is_direct: !queue.enabled,
        blocks_on_overflow: queue.enabled && queue.block_on_overflow,
    };
    (plan, bounds(queue, storage), wanted(queue, sending.max_request_bytes, sending.merging))
}

fn bounds(queue: &SendingQueue, storage: Option<&Storage>) -> Bounds {
    let sizer = queue.sizer;
    let Some(storage) = storage else {
        let capacity = if queue.enabled { queue.capacity(None) } else { u64::MAX };
        return Bounds { sizer, capacity, max_bytes: queue.memory_bytes().0, max_batches: u64::MAX };
    };
    let max_bytes = queue.max_bytes.map_or(u64::MAX, |most| most.0).min(storage.live_bytes());
    let max_batches = storage.keys.max_records;
    let most = match sizer {
        config::Sizer::Requests => max_batches,
        config::Sizer::Bytes => max_bytes,
        config::Sizer::Items => u64::MAX,
    };
    Bounds { sizer, capacity: queue.capacity(Some(most)), max_bytes, max_batches }
}

fn wanted(queue: &SendingQueue, max_bytes: u64, merging: Merging) -> Wanted {
    match &queue.batch {
        // Whose request failed could not be told otherwise.
        _ if !queue.enabled => Wanted { merging: Merging::Nothing, ..Wanted::up_to(max_bytes) },
        None => Wanted { merging, ..Wanted::up_to(OPPORTUNISTIC_BYTES.min(max_bytes)) },
        Some(batch) => Wanted {
            sizer: batch.sizer,
            min: batch.min_size,
            max: if batch.max_size == 0 { u64::MAX } else { batch.max_size },
            max_bytes: merged_bytes(batch).min(max_bytes),
            flush_timeout: batch.flush_timeout,
            merging,
        },
    }
}

/// How large merged requests may become: as large as is asked for in bytes, else what receivers take by
/// default.
fn merged_bytes(batch: &Batching) -> u64 {
    match batch.sizer {
        config::Sizer::Bytes => MERGED_BYTES.max(batch.min_size).max(batch.max_size),
        config::Sizer::Items | config::Sizer::Requests => MERGED_BYTES,
    }
}
