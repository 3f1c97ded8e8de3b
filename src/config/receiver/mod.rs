//! Keys of the receiver `otlp`: the Collector's, and Tollgate's own limits of connections.
//!
//! Own keys are `http2` and `limits` in both sections, and `keepalive` and `max_concurrent_streams` of
//! `http`, which mean what they mean in `grpc`.

mod check;
mod endpoint;

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::{Found, Problem};
pub use endpoint::{BadEndpoint, Endpoint};

use super::null::{null_is_default, null_is_present};
use super::tls::TlsServer;
use crate::units::ByteSize;

/// The receiver `otlp`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Otlp {
    /// Where to listen; at least one of `grpc` and `http` must be there.
    #[serde(deserialize_with = "null_is_default")]
    pub protocols: Protocols,
}

/// The listeners of the receiver `otlp`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Protocols {
    /// OTLP/gRPC; `grpc:` alone listens with all defaults. Default: absent, not listening.
    #[serde(deserialize_with = "null_is_present", skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
    /// OTLP/HTTP, and OTLP/gRPC over HTTP/2 on the same port; `http:` alone listens with all defaults.
    /// Default: absent, not listening.
    #[serde(deserialize_with = "null_is_present", skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
}

/// OTLP/gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grpc {
    /// Where to listen, `host:port` or the path of a unix socket; an empty host means every address.
    /// Default: "localhost:4317".
    pub endpoint: String,
    /// The kind of `endpoint`. Default: "tcp".
    pub transport: Network,
    /// TLS; without it the data crosses the network readable. Default: none.
    pub tls: Option<TlsServer>,
    /// Largest message in MiB, before and after decompression; larger ones are refused for good.
    /// 0 means 4. Default: 0. Range: 0 to 1024.
    pub max_recv_msg_size_mib: u32,
    /// Calls at the same time on one connection; a client waits with more. 0 means 128. Default: 0.
    pub max_concurrent_streams: u32,
    /// Without effect: reads are as large as frames are (`http2.max_frame_size`). Default: 524288.
    pub read_buffer_size: ByteSize,
    /// Without effect: answers are written at once. Default: 0.
    pub write_buffer_size: ByteSize,
    /// How long connections live and how dead ones are found.
    #[serde(deserialize_with = "null_is_default")]
    pub keepalive: Keepalive,
    /// An authenticator; not yet available. Default: none.
    pub auth: Option<Auth>,
    /// Middlewares; not available. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub middlewares: Vec<Middleware>,
    /// Hands `:authority` on as header `host`; all other headers are always seen by tenant resolution.
    /// Default: false.
    pub include_metadata: bool,
    /// HTTP/2 windows and frames.
    #[serde(deserialize_with = "null_is_default")]
    pub http2: Http2,
    /// Limits that keep slow or hostile clients from costing much.
    #[serde(deserialize_with = "null_is_default")]
    pub limits: Limits,
}

impl Grpc {
    /// The largest message in bytes, after decompression.
    pub fn max_message_bytes(&self) -> usize {
        let mib = if self.max_recv_msg_size_mib == 0 { 4 } else { self.max_recv_msg_size_mib };
        (mib as usize) << 20
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            endpoint: "localhost:4317".into(),
            transport: Network::default(),
            tls: None,
            max_recv_msg_size_mib: 0,
            max_concurrent_streams: 0,
            read_buffer_size: ByteSize(524_288),
            write_buffer_size: ByteSize(0),
            keepalive: Keepalive::default(),
            auth: None,
            middlewares: Vec::new(),
            include_metadata: false,
            http2: Http2::default(),
            limits: Limits::default(),
        }
    }
}

/// OTLP/HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Where to listen, `host:port` or the path of a unix socket; an empty host means every address.
    /// Default: "localhost:4318".
    pub endpoint: String,
    /// The kind of `endpoint`. Default: "tcp".
    pub transport: Network,
    /// TLS; without it the data crosses the network readable. Default: none.
    pub tls: Option<TlsServer>,
    /// Path that takes traces. Default: "/v1/traces".
    pub traces_url_path: String,
    /// Path that takes metrics. Default: "/v1/metrics".
    pub metrics_url_path: String,
    /// Path that takes logs. Default: "/v1/logs".
    pub logs_url_path: String,
    /// Largest body, before and after decompression; larger ones are refused for good. 0 means 20 MiB.
    /// Default: 20971520.
    pub max_request_body_size: ByteSize,
    /// Content encodings taken: "" (none), gzip, zstd, zlib, deflate. Default: empty, all of these.
    #[serde(deserialize_with = "null_is_default")]
    pub compression_algorithms: Vec<String>,
    /// Longest time to read one request's body. 0: as long as `limits.request_timeout`. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub read_timeout: Duration,
    /// Longest wait for the headers of an HTTP/1 request, from the end of the one before. 0 means 30s.
    /// Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub read_header_timeout: Duration,
    /// Longest time a client may leave an answer unread. 0 means 30s. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub write_timeout: Duration,
    /// Closes connections without a request for so long. 0: never. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub idle_timeout: Duration,
    /// Whether an HTTP/1 connection serves more than one request. Default: true.
    pub keep_alives_enabled: bool,
    /// Which web pages may send; off without `allowed_origins`. Default: none.
    pub cors: Option<Cors>,
    /// Headers added to every answer. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub response_headers: BTreeMap<String, String>,
    /// An authenticator; not yet available. Default: none.
    pub auth: Option<Auth>,
    /// Middlewares; not available. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub middlewares: Vec<Middleware>,
    /// As in `grpc`. Default: false.
    pub include_metadata: bool,
    /// As in `grpc`. 0 means 128. Default: 0.
    pub max_concurrent_streams: u32,
    /// As in `grpc`.
    #[serde(deserialize_with = "null_is_default")]
    pub keepalive: Keepalive,
    /// HTTP/2 windows and frames.
    #[serde(deserialize_with = "null_is_default")]
    pub http2: Http2,
    /// Limits that keep slow or hostile clients from costing much.
    #[serde(deserialize_with = "null_is_default")]
    pub limits: Limits,
}

impl Http {
    /// The largest body in bytes, after decompression.
    pub fn max_body_bytes(&self) -> usize {
        let bytes = match self.max_request_body_size.0 {
            0 => Self::default().max_request_body_size.0,
            bytes => bytes,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            endpoint: "localhost:4318".into(),
            transport: Network::default(),
            tls: None,
            traces_url_path: "/v1/traces".into(),
            metrics_url_path: "/v1/metrics".into(),
            logs_url_path: "/v1/logs".into(),
            max_request_body_size: ByteSize(20 << 20),
            compression_algorithms: Vec::new(),
            read_timeout: Duration::ZERO,
            read_header_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            keep_alives_enabled: true,
            cors: None,
            response_headers: BTreeMap::new(),
            auth: None,
            middlewares: Vec::new(),
            include_metadata: false,
            max_concurrent_streams: 0,
            keepalive: Keepalive::default(),
            http2: Http2::default(),
            limits: Limits::default(),
        }
    }
}

/// The kind of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// TCP over IPv4 or IPv6.
    #[default]
    Tcp,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// A unix socket; `endpoint` is its path.
    Unix,
}

/// How long connections live and how dead ones are found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    /// Ages and pings of the server.
    #[serde(deserialize_with = "null_is_default")]
    pub server_parameters: ServerParameters,
    /// Accepted for the Collector's sake; Tollgate closes no connection for its pings. Default: none.
    pub enforcement_policy: Option<EnforcementPolicy>,
}

/// Ages and pings of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerParameters {
    /// Closes connections without a call for so long. 0: never. Default: 0s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub max_connection_idle: Duration,
    /// Asks clients to connect anew after about this time (10 % to either side, so that they do not come
    /// together), which spreads load after a scale-up and ends revoked certificates. 0: never.
    /// Default: 10m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub max_connection_age: Duration,
    /// How long calls may go on on a connection past its age before it is cut. 0: for ever. Default: 30s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub max_connection_age_grace: Duration,
    /// Pings an HTTP/2 client that was silent for so long. 0: never. Default: 20s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub time: Duration,
    /// Cuts the connection if a ping is not answered for so long. Default: 10s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub timeout: Duration,
}

impl Default for ServerParameters {
    fn default() -> Self {
        Self {
            max_connection_idle: Duration::ZERO,
            max_connection_age: Duration::from_secs(600),
            max_connection_age_grace: Duration::from_secs(30),
            time: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
        }
    }
}

/// Which pings of clients the Go Collector tolerates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnforcementPolicy {
    /// Shortest time between two pings of a client. Default: 5m.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub min_time: Duration,
    /// Whether clients may ping without a call. Default: false.
    pub permit_without_stream: bool,
}

impl Default for EnforcementPolicy {
    fn default() -> Self {
        Self { min_time: Duration::from_secs(300), permit_without_stream: false }
    }
}

/// An authenticator's place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Id of the authenticator extension.
    pub authenticator: String,
    /// Query parameters handed to it.
    #[serde(deserialize_with = "null_is_default")]
    pub request_params: Vec<String>,
}

/// A middleware's place.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Middleware {
    /// Id of the middleware extension.
    pub id: String,
}

/// Which web pages may send.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Origins that may send; `*` in one stands for any text. Default: none, CORS is off.
    #[serde(deserialize_with = "null_is_default")]
    pub allowed_origins: Vec<String>,
    /// Request headers allowed besides the safe ones and `x-requested-with`; `*` allows all. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub allowed_headers: Vec<String>,
    /// Answer headers shown to the page. Default: none.
    #[serde(deserialize_with = "null_is_default")]
    pub exposed_headers: Vec<String>,
    /// How many seconds a browser may remember the permission. Default: 0, not said.
    pub max_age: u32,
}

/// HTTP/2 windows and frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2 {
    /// How much of one call may be on its way unread. Default: 1MiB. Range: 64 KiB less one to 2 GiB less one.
    pub initial_stream_window_size: ByteSize,
    /// How much of all calls of one connection may be on its way unread; a multiple of the above, or one
    /// call that is not read stalls the others. Default: 16MiB. Range: as above, not below it.
    pub initial_connection_window_size: ByteSize,
    /// Largest frame a client may send, and what one connection may buffer before it is seen. Requests
    /// in one frame are never copied; above the usual request nothing is gained. Default: 256KiB.
    /// Range: 16 KiB to 16 MiB less one.
    pub max_frame_size: ByteSize,
    /// Largest list of headers of one call. Default: 16KiB. Range: 1 KiB to 1 MiB.
    pub max_header_list_size: ByteSize,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            initial_stream_window_size: ByteSize(1 << 20),
            initial_connection_window_size: ByteSize(16 << 20),
            max_frame_size: ByteSize(256 << 10),
            max_header_list_size: ByteSize(16 << 10),
        }
    }
}

/// Limits that keep slow or hostile clients from costing much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections open at the same time on this listener; more are closed at once. 0: no limit.
    /// Default: 8192.
    pub max_connections: u32,
    /// As above, of one IP address. 0: no limit. Default: 1024.
    pub max_connections_per_ip: u32,
    /// New connections of one IP address a second; more are closed at once, before any handshake. Raise it
    /// where one address stands for many clients. 0: no limit. Default: 1000.
    pub max_connections_per_ip_per_second: u32,
    /// Longest TLS handshake. Default: 5s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub handshake_timeout: Duration,
    /// Longest wait for the first whole request headers of a connection; then it is closed in order, and
    /// its client connects again when it has something to send. Default: 10s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub first_request_timeout: Duration,
    /// Longest silence in the middle of a body. Default: 10s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub body_progress_timeout: Duration,
    /// Longest time for one request: reading it, waiting for room and, where the destination's answer is
    /// waited for, sending it. A client's own deadline counts if it is shorter: `grpc-timeout`, over HTTP
    /// also `x-envoy-expected-rq-timeout-ms`. Default: 30s. Range: above 0.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub request_timeout: Duration,
    /// Largest answer; a longer error message is cut. Default: 4MiB. Range: 1 KiB and more.
    pub max_response_size: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 8192,
            max_connections_per_ip: 1024,
            max_connections_per_ip_per_second: 1000,
            handshake_timeout: Duration::from_secs(5),
            first_request_timeout: Duration::from_secs(10),
            body_progress_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            max_response_size: ByteSize(4 << 20),
        }
    }
}
