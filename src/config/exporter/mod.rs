//! Keys of the exporters: the Collector's, and a few of Tollgate's own that say so.
//!
//! Own keys are `tenant_headers`, `sending_queue.max_bytes` and `max_request_size`. Only what is written is checked here;
//! names are resolved and files opened by `crate::exporter`.

mod check;
mod endpoint;
mod file;
mod http;
mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use check::check_queue;
pub use check::{Found, Problem};
pub use endpoint::{Address, BadEndpoint, Endpoint};
pub use file::{File, FileFormat, Rotation};
pub use http::{CompressionParams, Cookies, Encoding, OtlpHttp};
pub use queue::{Batching, Partition, RetryOnFailure, SendingQueue, Sizer};

use super::null::{null_is_default, null_is_present};
use super::tls::{Secret, TlsClient};
use crate::compression::Codec;
use crate::units::ByteSize;

/// One exporter of the configuration, by its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Exporter {
    /// `otlp_grpc`, formerly `otlp`.
    OtlpGrpc(Box<OtlpGrpc>),
    /// `otlp_http`, formerly `otlphttp`.
    OtlpHttp(Box<OtlpHttp>),
    /// `debug`.
    Debug(Debug),
    /// `nop`.
    Nop(Nop),
    /// `file`.
    File(File),
}

impl Exporter {
    /// Says how to merge batches where the file does not.
    pub fn batch_by_default(&mut self, batching: Batching) {
        let queue = match self {
            Exporter::OtlpGrpc(config) => &mut config.sending_queue,
            Exporter::OtlpHttp(config) => &mut config.sending_queue,
            Exporter::Debug(_) | Exporter::Nop(_) | Exporter::File(_) => return,
        };
        queue.batch.get_or_insert(batching);
    }

    /// The headers that name the tenant.
    pub fn tenant_headers(&self) -> &[String] {
        match self {
            Exporter::OtlpGrpc(config) => &config.tenant_headers,
            Exporter::OtlpHttp(config) => &config.tenant_headers,
            Exporter::Debug(_) | Exporter::Nop(_) | Exporter::File(_) => &[],
        }
    }

    /// What waits to be sent, of an exporter that has such keys.
    pub fn sending_queue(&self) -> Option<&SendingQueue> {
        match self {
            Exporter::OtlpGrpc(config) => Some(&config.sending_queue),
            Exporter::OtlpHttp(config) => Some(&config.sending_queue),
            Exporter::Debug(_) | Exporter::Nop(_) | Exporter::File(_) => None,
        }
    }

    /// Every problem of this exporter, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        match self {
            Exporter::OtlpGrpc(config) => config.check(),
            Exporter::OtlpHttp(config) => config.check(),
            Exporter::Debug(_) | Exporter::Nop(_) => Vec::new(),
            Exporter::File(config) => config.check(),
        }
    }
}

/// The exporter `otlp_grpc`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpGrpc {
    /// Where to send: `host:port` or `https://host:port` with TLS, `http://host:port` without,
    /// `dns:///host:port`, `unix:path`. Without a port 443 is meant. Default: none, it is required.
    pub endpoint: String,
    /// TLS; `insecure: true` sends readable data to an endpoint without scheme. Default: TLS with the
    /// system's authorities.
    #[serde(deserialize_with = "null_is_default")]
    pub tls: TlsClient,
    /// How long one attempt may take; past it the attempt counts as failed and may be retried.
    /// 0 means no limit. Default: 5s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// How requests are compressed. Default: gzip. Range: gzip, zstd, none.
    pub compression: Compression,
    /// Headers sent with every request; their values are never shown. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub headers: Headers,
    /// Headers whose value is the id of the tenant whose data is sent, `X-Scope-OrgID` for one. Requests
    /// of an exporter that has any never carry data of two tenants. Every pipeline that leads here needs
    /// the processor `tenant`. Tollgate's own key. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub tenant_headers: Vec<String>,
    /// The `:authority` of requests, for destinations that route by it. Default: empty, the endpoint's.
    pub authority: String,
    /// The User-Agent of requests. Default: empty, `tollgate/<version> (<os>/<arch>)`.
    pub user_agent: String,
    /// Pings that find dead connections. Default: none sent.
    #[serde(deserialize_with = "null_is_present", skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// Accepted as `round_robin` and `pick_first`: each new connection takes the next address of the
    /// name, requests are not spread further. Default: round_robin.
    pub balancer_name: String,
    /// While no connection can be opened, attempts wait for one until `timeout`, instead of failing and
    /// being retried. Default: false.
    pub wait_for_ready: bool,
    /// Without effect: requests are written as frames of the size the destination takes. Default: 524288.
    pub write_buffer_size: ByteSize,
    /// Without effect: answers are small and read as they come. Default: 0.
    pub read_buffer_size: ByteSize,
    /// The largest request, before compression; a larger batch is dropped and counted. Tollgate's own
    /// key. Default: 64MiB. Range: 1KiB to 2GiB.
    pub max_request_size: ByteSize,
    /// What waits to be sent.
    #[serde(deserialize_with = "null_is_default")]
    pub sending_queue: SendingQueue,
    /// What happens after a failure that may pass.
    #[serde(deserialize_with = "null_is_default")]
    pub retry_on_failure: RetryOnFailure,
    /// Authenticators; not yet available. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<serde_json::Value>,
    /// Middlewares; not available. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub middlewares: Option<serde_json::Value>,
}

/// The largest request by default: what OTLP recommends receivers to take.
const MAX_REQUEST_SIZE: ByteSize = ByteSize(64 * 1024 * 1024);

impl Default for OtlpGrpc {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            tls: TlsClient::default(),
            timeout: Duration::from_secs(5),
            compression: Compression::Gzip,
            headers: Headers::default(),
            tenant_headers: Vec::new(),
            authority: String::new(),
            user_agent: String::new(),
            keepalive: None,
            balancer_name: "round_robin".into(),
            wait_for_ready: false,
            write_buffer_size: ByteSize(524_288),
            read_buffer_size: ByteSize(0),
            max_request_size: MAX_REQUEST_SIZE,
            sending_queue: SendingQueue::default(),
            retry_on_failure: RetryOnFailure::default(),
            auth: None,
            middlewares: None,
        }
    }
}

/// Pings on connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    /// How long nothing may arrive before a ping is sent. Default: 10s. Range: at least 1s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub time: Duration,
    /// How long the answer to a ping may take before the connection is given up. Default: 10s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// Whether pings are also sent while no request is under way. Default: false.
    pub permit_without_stream: bool,
}

impl Default for Keepalive {
    fn default() -> Self {
        let ten = Duration::from_secs(10);
        Self { time: ten, timeout: ten, permit_without_stream: false }
    }
}

/// How requests are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip.
    Gzip,
    /// zstd: smaller and cheaper than gzip, where the destination takes it.
    Zstd,
    /// Not at all.
    None,
    /// As `none`.
    #[serde(rename = "")]
    Empty,
}

impl Compression {
    /// The codec, if any.
    pub fn codec(self) -> Option<Codec> {
        match self {
            Compression::Gzip => Some(Codec::Gzip),
            Compression::Zstd => Some(Codec::Zstd),
            Compression::None | Compression::Empty => None,
        }
    }
}

/// Headers, as a map or as a list of `name` and `value`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Headers {
    /// `name: value`.
    Map(BTreeMap<String, Secret>),
    /// `- name: …` and `value: …`.
    List(Vec<Header>),
}

/// One header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The name.
    pub name: String,
    /// The value; never shown.
    pub value: Secret,
}

impl Default for Headers {
    fn default() -> Self {
        Headers::Map(BTreeMap::new())
    }
}

impl Headers {
    /// Names and values, in order.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&str, &Secret)> + '_> {
        match self {
            Headers::Map(map) => Box::new(map.iter().map(|(name, value)| (name.as_str(), value))),
            Headers::List(list) => Box::new(list.iter().map(|h| (h.name.as_str(), &h.value))),
        }
    }
}

/// The exporter `debug`: tells of batches in Tollgate's own log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Debug {
    /// How much is told: `basic` one event per batch with its counts, `normal` also one per item as
    /// OTLP/JSON, `detailed` also the whole batch, indented. The last two show attribute values: not for
    /// production. Default: basic. Range: basic, normal, detailed.
    pub verbosity: Verbosity,
    /// How many batches a second are told before sampling starts. Default: 2.
    pub sampling_initial: u64,
    /// After that, one of so many is told; 0 tells no more in that second. Default: 1.
    pub sampling_thereafter: u64,
    /// Accepted for the Collector's sake: the log is always Tollgate's own. Default: true.
    pub use_internal_logger: bool,
}

impl Default for Debug {
    fn default() -> Self {
        Self {
            verbosity: Verbosity::Basic,
            sampling_initial: 2,
            sampling_thereafter: 1,
            use_internal_logger: true,
        }
    }
}

/// How much the exporter `debug` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verbosity {
    /// Counts.
    Basic,
    /// One line for each item.
    Normal,
    /// The whole batch, indented.
    Detailed,
}

/// The exporter `nop`: takes everything and sends nothing; for tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Nop {}
