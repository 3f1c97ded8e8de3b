//! Keys of the exporter `otlp_http`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Compression, Headers, MAX_REQUEST_SIZE, RetryOnFailure, SendingQueue};
use crate::config::null::null_is_default;
use crate::config::tls::{Secret, TlsClient};
use crate::units::ByteSize;

/// The exporter `otlp_http`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpHttp {
    /// Where to send, `https://host:port/path` or `http://…`; `/v1/traces` and so on is appended.
    /// Default: none; required unless every signal in use has its own.
    pub endpoint: String,
    /// The full URL for traces, used as it is. Default: made from `endpoint`.
    pub traces_endpoint: String,
    /// The full URL for metrics, used as it is. Default: made from `endpoint`.
    pub metrics_endpoint: String,
    /// The full URL for logs, used as it is. Default: made from `endpoint`.
    pub logs_endpoint: String,
    /// Accepted for the Collector's sake: there is no pipeline for profiles. Default: empty.
    pub profiles_endpoint: String,
    /// How requests are encoded; JSON costs several times as much. Default: proto. Range: proto, json.
    pub encoding: Encoding,
    /// How long one attempt may take; past it the attempt counts as failed and may be retried.
    /// 0 means no limit. Default: 30s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
    /// How requests are compressed. Default: gzip. Range: gzip, zstd, none.
    pub compression: Compression,
    /// How hard compression tries.
    #[serde(deserialize_with = "null_is_default")]
    pub compression_params: CompressionParams,
    /// Headers sent with every request; their values are never shown. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub headers: Headers,
    /// Headers whose value is the id of the tenant whose data is sent, `X-Scope-OrgID` for one. Requests
    /// of an exporter that has any never carry data of two tenants. Every pipeline that leads here needs
    /// the processor `tenant`. Tollgate's own key. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub tenant_headers: Vec<String>,
    /// TLS for `https` endpoints. Default: the system's authorities.
    #[serde(deserialize_with = "null_is_default")]
    pub tls: TlsClient,
    /// Idle connections kept open, by each worker thread. 0 means no limit. Default: 100.
    pub max_idle_conns: usize,
    /// Idle connections kept open to one host, by each worker thread. 0 means no limit. Default: 0.
    pub max_idle_conns_per_host: usize,
    /// Most connections to one host: no more requests are under way at a time. 0 means
    /// `sending_queue.num_consumers`. Default: 0.
    pub max_conns_per_host: usize,
    /// How long an idle connection is kept. 0 means for ever. Default: 90s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub idle_conn_timeout: Duration,
    /// A new connection for every request: slow, for destinations that cannot keep any. Default: false.
    pub disable_keep_alives: bool,
    /// How long nothing may arrive on an HTTP/2 connection before a ping is sent. 0 sends none. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub http2_read_idle_timeout: Duration,
    /// How long the answer to a ping may take before the connection is given up. 0 means 15s. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub http2_ping_timeout: Duration,
    /// Offers HTTP/2 to destinations with TLS; false speaks HTTP/1.1 only. Default: true.
    pub force_attempt_http2: bool,
    /// Without effect: bodies are written as they are. Default: 524288.
    pub write_buffer_size: ByteSize,
    /// Without effect: answers are small and read as they come. Default: 0.
    pub read_buffer_size: ByteSize,
    /// A proxy; not available, and the proxy variables of the environment are not read. Default: none.
    pub proxy_url: Secret,
    /// Cookies; not available. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookies: Option<Cookies>,
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

impl Default for OtlpHttp {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            traces_endpoint: String::new(),
            metrics_endpoint: String::new(),
            logs_endpoint: String::new(),
            profiles_endpoint: String::new(),
            encoding: Encoding::Proto,
            timeout: Duration::from_secs(30),
            compression: Compression::Gzip,
            compression_params: CompressionParams::default(),
            headers: Headers::default(),
            tenant_headers: Vec::new(),
            tls: TlsClient::default(),
            max_idle_conns: 100,
            max_idle_conns_per_host: 0,
            max_conns_per_host: 0,
            idle_conn_timeout: Duration::from_secs(90),
            disable_keep_alives: false,
            http2_read_idle_timeout: Duration::ZERO,
            http2_ping_timeout: Duration::ZERO,
            force_attempt_http2: true,
            write_buffer_size: ByteSize(524_288),
            read_buffer_size: ByteSize(0),
            proxy_url: Secret::new(""),
            cookies: None,
            max_request_size: MAX_REQUEST_SIZE,
            sending_queue: SendingQueue::default(),
            retry_on_failure: RetryOnFailure::default(),
            auth: None,
            middlewares: None,
        }
    }
}

/// How requests are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Protobuf.
    Proto,
    /// OTLP/JSON.
    Json,
}

/// How hard compression tries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionParams {
    /// The level of the chosen compression; higher is smaller and dearer. 0 means 1, the cheapest.
    /// Default: 0. Range: gzip -1 to 9, zstd -7 to 22.
    pub level: i32,
}

/// Cookies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cookies {
    /// Whether cookies are stored and sent; not available. Default: false.
    pub enabled: bool,
}
