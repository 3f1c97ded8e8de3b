//! Keys of the sending queue and of retries, shared by all exporters that send over a network.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::null::{null_is_default, null_is_present};
use crate::units::ByteSize;

/// What a queue is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sizer {
    /// Requests as they came in, however many tenants they have data of.
    Requests,
    /// Spans, data points, log records.
    Items,
    /// Encoded bytes.
    Bytes,
}

/// What waits to be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SendingQueue {
    /// Without a queue the sender waits for the destination's answer and is told of a failure; retries
    /// still apply, until the sender's deadline. Default: true.
    pub enabled: bool,
    /// Requests under way at the same time. Default: 10. Range: 1 to 1000.
    pub num_consumers: usize,
    /// Finds out by itself how many requests the destination takes at a time, up to `num_consumers`: fewer
    /// when answers become slow, half as many when it asks for patience or is away; retries beyond a fifth of
    /// what succeeds wait for `max_interval`. Tollgate's own key. Default: false.
    pub adaptive_consumers: bool,
    /// How much may wait and be under way, in units of `sizer`; more is refused, or waits with
    /// `block_on_overflow`. Default: 1000; with `storage` what the extension's `max_size` and
    /// `max_records` let in. Range: at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<u64>,
    /// The unit of `queue_size`. Default: requests. Range: requests, items, bytes.
    pub sizer: Sizer,
    /// The bound in bytes that holds whatever `sizer` is: the memory this queue can take, or with `storage`
    /// the disk. Tollgate's own key. Default: 128MiB, or less where the memory limit of the control group
    /// leaves less: a quarter of it goes to requests under way, the rest is divided among the queues whose
    /// size is not written; with `storage` the extension's `max_size`, which bounds it in any case.
    /// Range: at least 1KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
    /// Lets senders wait for room until their deadline, instead of refusing them. Default: false.
    pub block_on_overflow: bool,
    /// Answers senders only with the destination's answer. Default: false.
    pub wait_for_result: bool,
    /// The extension `file_storage`, or `file_storage/name`, that keeps the queue on disk: senders are
    /// answered once their data is synced, and what waits outlives the program. Default: none, what waits
    /// is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Merges batches before they are sent, waiting for more. Default: absent; what waits anyway is
    /// merged up to 1 MiB, without waiting.
    #[serde(deserialize_with = "null_is_present", skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batching>,
}

impl Default for SendingQueue {
    fn default() -> Self {
        Self {
            enabled: true,
            num_consumers: 10,
            adaptive_consumers: false,
            queue_size: None,
            sizer: Sizer::Requests,
            max_bytes: None,
            block_on_overflow: false,
            wait_for_result: false,
            storage: None,
            batch: None,
        }
    }
}

impl SendingQueue {
    const QUEUE_SIZE: u64 = 1000;
    const MAX_BYTES: ByteSize = ByteSize(128 * 1024 * 1024);

    /// The id of the extension that keeps the queue on disk, as written.
    pub fn storage(&self) -> Option<&str> {
        self.storage.as_deref().filter(|storage| self.enabled && !storage.is_empty())
    }

    /// The bound in units of the sizer; `most` holds where the file does not say.
    pub fn capacity(&self, most: Option<u64>) -> u64 {
        self.queue_size.or(most).unwrap_or(Self::QUEUE_SIZE)
    }

    /// The bound in bytes of a queue in memory.
    pub fn memory_bytes(&self) -> ByteSize {
        self.max_bytes.unwrap_or(Self::MAX_BYTES)
    }
}

/// How batches are merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batching {
    /// How long the oldest batch waits for `min_size`. Default: 200ms. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub flush_timeout: Duration,
    /// Sent as soon as this much of one signal is there, of all tenants together. Default: 8192.
    pub min_size: u64,
    /// No request is larger than this: a batch above it is cut between its items. 0 means no limit of items. Whatever it is, requests are merged up to 4 MiB, which receivers take by default,
    /// unless a size in bytes asks for more. Default: 0. Range: 0, or at least `min_size`.
    pub max_size: u64,
    /// The unit of `min_size` and `max_size`. Default: items. Range: items, bytes.
    pub sizer: Sizer,
    /// Keeps batches apart; not yet available. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub partition: Partition,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            flush_timeout: Duration::from_millis(200),
            min_size: 8192,
            max_size: 0,
            sizer: Sizer::Items,
            partition: Partition::default(),
        }
    }
}

/// What keeps batches apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Partition {
    /// Request headers whose values are not mixed; not yet available. Default: none.
    pub metadata_keys: Vec<String>,
}

/// What happens after a failure that may pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryOnFailure {
    /// Without retries a failed batch is lost at once. Default: true.
    pub enabled: bool,
    /// The wait after the first failure. Default: 5s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub initial_interval: Duration,
    /// Scatters each wait by up to this share of it, both ways. Default: 0.5. Range: 0 to 1.
    pub randomization_factor: f64,
    /// Each wait is this many times the one before. Default: 1.5. Range: at least 1.
    pub multiplier: f64,
    /// The longest wait, unless the destination asks for a longer one. Default: 30s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub max_interval: Duration,
    /// Past this a batch is given up; 0 means never. Default: 300s; never for a queue with `storage`.
    /// Range: 0, or at least `initial_interval` and `max_interval`.
    #[serde(with = "crate::units::duration::optional", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::units::duration::optional::schema")]
    pub max_elapsed_time: Option<Duration>,
}

impl Default for RetryOnFailure {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: Duration::from_secs(5),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: Duration::from_secs(30),
            max_elapsed_time: None,
        }
    }
}

impl RetryOnFailure {
    const MAX_ELAPSED_TIME: Duration = Duration::from_secs(300);

    /// Past what a batch is given up; 0 means never. What is on disk is given up only if the file says so.
    pub fn gives_up_after(&self, is_durable: bool) -> Duration {
        let default = if is_durable { Duration::ZERO } else { Self::MAX_ELAPSED_TIME };
        self.max_elapsed_time.unwrap_or(default)
    }
}
