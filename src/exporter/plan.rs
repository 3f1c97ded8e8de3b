//! What the keys of an exporter come to: how its consumers work, what its queue holds, what is leased at a
//! time.

use std::time::Duration;

use super::stores::Storage;
use crate::config::exporter::{self as config, Batching, RetryOnFailure, SendingQueue};
use crate::queue::{Bounds, Wanted};

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

/// How consumers work, what the queue holds, and what is leased at a time.
pub(super) fn plan(config: &config::Exporter, storage: Option<&Storage>) -> (Plan, Bounds, Wanted) {
    let defaults = SendingQueue::default();
    let default_retry = RetryOnFailure::default();
    let no_retry = RetryOnFailure { enabled: false, ..RetryOnFailure::default() };
    let no_limit = config::OtlpGrpc::default().max_request_size;
    let (queue, retry, timeout, max_request_size) = match config {
        config::Exporter::OtlpGrpc(c) => {
            (&c.sending_queue, &c.retry_on_failure, c.timeout, c.max_request_size)
        }
        config::Exporter::OtlpHttp(c) => {
            (&c.sending_queue, &c.retry_on_failure, c.timeout, c.max_request_size)
        }
        config::Exporter::Debug(_) | config::Exporter::Nop(_) => {
            (&defaults, &no_retry, Duration::ZERO, no_limit)
        }
        config::Exporter::File(_) => (&defaults, &default_retry, Duration::ZERO, no_limit),
    };
    let most = match config {
        config::Exporter::OtlpHttp(c) if c.max_conns_per_host > 0 => c.max_conns_per_host,
        _ => usize::MAX,
    };
    let consumers = if queue.enabled { queue.num_consumers } else { CONSUMERS_WITHOUT_QUEUE };
    let plan = Plan {
        consumers: consumers.clamp(1, most),
        timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
        max_request_bytes: max_request_size.0,
        retry: retry.clone(),
        gives_up_after: retry.gives_up_after(storage.is_some()),
        awaits_results: !queue.enabled || queue.wait_for_result,
        is_direct: !queue.enabled,
        blocks_on_overflow: queue.enabled && queue.block_on_overflow,
    };
    (plan, bounds(queue, storage), wanted(queue, max_request_size.0))
}

fn bounds(queue: &SendingQueue, storage: Option<&Storage>) -> Bounds {
    let sizer = queue.sizer;
    let Some(storage) = storage else {
        let capacity = if queue.enabled { queue.capacity(None) } else { u64::MAX };
        return Bounds { sizer, capacity, max_bytes: queue.memory_bytes().0, max_requests: u64::MAX };
    };
    let max_bytes = queue.max_bytes.map_or(u64::MAX, |most| most.0).min(storage.live_bytes());
    let max_requests = storage.keys.max_records;
    let most = match sizer {
        config::Sizer::Requests => max_requests,
        config::Sizer::Bytes => max_bytes,
        config::Sizer::Items => u64::MAX,
    };
    Bounds { sizer, capacity: queue.capacity(Some(most)), max_bytes, max_requests }
}

fn wanted(queue: &SendingQueue, max_bytes: u64) -> Wanted {
    match &queue.batch {
        // Whose request failed could not be told otherwise.
        _ if !queue.enabled => Wanted { sizer: config::Sizer::Requests, max: 1, ..Wanted::up_to(max_bytes) },
        None => Wanted::up_to(OPPORTUNISTIC_BYTES.min(max_bytes)),
        Some(batch) => Wanted {
            sizer: batch.sizer,
            min: batch.min_size,
            max: if batch.max_size == 0 { u64::MAX } else { batch.max_size },
            max_bytes: merged_bytes(batch).min(max_bytes),
            flush_timeout: batch.flush_timeout,
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
