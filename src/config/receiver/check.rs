//! What a schema cannot say about the receiver `otlp`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{Auth, BadEndpoint, Endpoint, Grpc, Http, Http2, Keepalive, Limits, Middleware, Network, Otlp};
use crate::config::tls::{self, TlsServer};
use crate::units::ByteSize;

/// A problem of the keys of a receiver and where it is.
pub type Found = crate::config::found::Found<Problem>;

/// What is wrong with the keys of the receiver `otlp`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing to listen on.
    #[error("at least one of `grpc` and `http` is needed")]
    NoProtocol,
    /// Both listeners at one place.
    #[error("`grpc` and `http` cannot both listen at `{0}`; gRPC is also taken on the port of `http`")]
    SameEndpoint(String),
    /// Not a place to listen at.
    #[error(transparent)]
    Endpoint(#[from] BadEndpoint),
    /// Authentication of receivers.
    #[error("authentication is not yet available in Tollgate")]
    Auth,
    /// Middlewares of receivers.
    #[error("middlewares are not available in Tollgate")]
    Middlewares,
    /// A key that changes nothing.
    #[error("has no effect in Tollgate: {0}")]
    NoEffect(&'static str),
    /// A number outside what works.
    #[error("{value} is outside {min} to {max}")]
    Range {
        /// What is written.
        value: u64,
        /// The least that works.
        min: u64,
        /// The most that works.
        max: u64,
    },
    /// The windows of HTTP/2 contradict each other.
    #[error("the connection window must not be smaller than the stream window")]
    WindowOrder,
    /// A duration that must not be 0.
    #[error("must be longer than 0")]
    Zero,
    /// A path that is no path.
    #[error("a path starts with `/` and has neither `?` nor `#`: {0:?}")]
    Path(String),
    /// Two signals on one path.
    #[error("path {0:?} is taken by another signal")]
    SamePath(String),
    /// A content encoding Tollgate does not read.
    #[error("compression `{0}` is not available in Tollgate; such requests are refused")]
    CompressionNotAvailable(String),
    /// Not a content encoding.
    #[error("compression `{0}` is not known")]
    CompressionUnknown(String),
    /// Not a header.
    #[error("`{0}` cannot be a header")]
    Header(String),
    /// TLS keys.
    #[error(transparent)]
    Tls(#[from] tls::Problem),
}

impl Problem {
    /// Whether the program cannot start with it; otherwise it is a warning.
    pub fn is_error(&self) -> bool {
        match self {
            Problem::NoEffect(_) | Problem::CompressionNotAvailable(_) => false,
            Problem::Tls(problem) => problem.is_error(),
            _ => true,
        }
    }
}

/// Collects problems below one path.
struct Findings<'a> {
    below: &'static str,
    found: &'a mut Vec<Found>,
}

impl Findings<'_> {
    fn add(&mut self, key: &str, problem: impl Into<Problem>) {
        let dot = if key.is_empty() { "" } else { "." };
        self.found.push(Found { at: format!("{}{dot}{key}", self.below), problem: problem.into() });
    }

    fn endpoint(&mut self, text: &str, network: Network) {
        if let Err(bad) = Endpoint::parse(text, network) {
            self.add("endpoint", bad);
        }
    }

    fn range(&mut self, key: &str, ByteSize(value): ByteSize, (min, max): (u64, u64)) {
        if value < min || value > max {
            self.add(key, Problem::Range { value, min, max });
        }
    }

    fn tls(&mut self, tls: Option<&TlsServer>) {
        for (key, problem) in tls.map(TlsServer::check).unwrap_or_default() {
            let dot = if key.is_empty() { "" } else { "." };
            self.add(&format!("tls{dot}{key}"), problem);
        }
    }

    fn not_available(&mut self, auth: Option<&Auth>, middlewares: &[Middleware]) {
        if auth.is_some() {
            self.add("auth", Problem::Auth);
        }
        if !middlewares.is_empty() {
            self.add("middlewares", Problem::Middlewares);
        }
    }

    fn keepalive(&mut self, keepalive: &Keepalive) {
        if keepalive.enforcement_policy.is_some() {
            let why = "no connection is closed for its pings";
            self.add("keepalive.enforcement_policy", Problem::NoEffect(why));
        }
        let server = &keepalive.server_parameters;
        if !server.time.is_zero() && server.timeout.is_zero() {
            self.add("keepalive.server_parameters.timeout", Problem::Zero);
        }
    }

    fn http2(&mut self, http2: &Http2) {
        let window = (65_535, (1 << 31) - 1);
        self.range("http2.initial_stream_window_size", http2.initial_stream_window_size, window);
        self.range("http2.initial_connection_window_size", http2.initial_connection_window_size, window);
        self.range("http2.max_frame_size", http2.max_frame_size, (1 << 14, (1 << 24) - 1));
        self.range("http2.max_header_list_size", http2.max_header_list_size, (1 << 10, 1 << 20));
        if http2.initial_connection_window_size < http2.initial_stream_window_size {
            self.add("http2.initial_connection_window_size", Problem::WindowOrder);
        }
    }

    fn limits(&mut self, limits: &Limits) {
        self.positive("limits.handshake_timeout", limits.handshake_timeout);
        self.positive("limits.first_request_timeout", limits.first_request_timeout);
        self.positive("limits.body_progress_timeout", limits.body_progress_timeout);
        self.positive("limits.request_timeout", limits.request_timeout);
        self.range("limits.max_response_size", limits.max_response_size, (1 << 10, 1 << 30));
    }

    fn positive(&mut self, key: &str, value: Duration) {
        if value.is_zero() {
            self.add(key, Problem::Zero);
        }
    }

    fn compression(&mut self, algorithms: &[String]) {
        for name in algorithms {
            match name.as_str() {
                "" | "gzip" | "zstd" | "zlib" | "deflate" => {}
                "snappy" | "lz4" | "x-snappy-framed" => {
                    self.add("compression_algorithms", Problem::CompressionNotAvailable(name.clone()));
                }
                _ => self.add("compression_algorithms", Problem::CompressionUnknown(name.clone())),
            }
        }
    }

    fn paths(&mut self, http: &Http) {
        let paths = [
            ("traces_url_path", &http.traces_url_path),
            ("metrics_url_path", &http.metrics_url_path),
            ("logs_url_path", &http.logs_url_path),
        ];
        for (i, (key, path)) in paths.iter().enumerate() {
            if !path.starts_with('/') || path.contains(['?', '#']) {
                self.add(key, Problem::Path(path.to_string()));
            } else if paths[..i].iter().any(|(_, other)| other == path) {
                self.add(key, Problem::SamePath(path.to_string()));
            }
        }
    }
}

impl Otlp {
    /// Every problem of this receiver, errors and warnings.
    pub fn check(&self) -> Vec<Found> {
        let mut found = Vec::new();
        let protocols = &self.protocols;
        if let Some(grpc) = &protocols.grpc {
            check_grpc(grpc, &mut Findings { below: "protocols.grpc", found: &mut found });
        }
        if let Some(http) = &protocols.http {
            check_http(http, &mut Findings { below: "protocols.http", found: &mut found });
        }
        let mut both = Findings { below: "protocols", found: &mut found };
        match (&protocols.grpc, &protocols.http) {
            (None, None) => both.add("", Problem::NoProtocol),
            (Some(grpc), Some(http)) if collide(grpc, http) => {
                both.add("http.endpoint", Problem::SameEndpoint(http.endpoint.clone()));
            }
            _ => {}
        }
        found
    }
}

fn check_grpc(grpc: &Grpc, findings: &mut Findings<'_>) {
    findings.endpoint(&grpc.endpoint, grpc.transport);
    findings.tls(grpc.tls.as_ref());
    let mib = ByteSize(u64::from(grpc.max_recv_msg_size_mib));
    findings.range("max_recv_msg_size_mib", mib, (0, 1024));
    if grpc.read_buffer_size != Grpc::default().read_buffer_size {
        let why = "reads are as large as frames are, see http2.max_frame_size";
        findings.add("read_buffer_size", Problem::NoEffect(why));
    }
    if grpc.write_buffer_size != Grpc::default().write_buffer_size {
        findings.add("write_buffer_size", Problem::NoEffect("answers are written at once"));
    }
    findings.not_available(grpc.auth.as_ref(), &grpc.middlewares);
    findings.keepalive(&grpc.keepalive);
    findings.http2(&grpc.http2);
    findings.limits(&grpc.limits);
}

fn check_http(http: &Http, findings: &mut Findings<'_>) {
    findings.endpoint(&http.endpoint, http.transport);
    findings.tls(http.tls.as_ref());
    findings.paths(http);
    findings.range("max_request_body_size", http.max_request_body_size, (0, 1 << 30));
    findings.compression(&http.compression_algorithms);
    for (name, value) in &http.response_headers {
        if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
            findings.add("response_headers", Problem::Header(name.clone()));
        }
    }
    let cors = http.cors.iter().flat_map(|cors| cors.allowed_headers.iter().chain(&cors.exposed_headers));
    for name in cors.filter(|name| *name != "*" && HeaderName::try_from(name.as_str()).is_err()) {
        findings.add("cors", Problem::Header(name.clone()));
    }
    findings.not_available(http.auth.as_ref(), &http.middlewares);
    findings.keepalive(&http.keepalive);
    findings.http2(&http.http2);
    findings.limits(&http.limits);
}

fn collide(grpc: &Grpc, http: &Http) -> bool {
    let free = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Tcp { port: 0, .. });
    let grpc = Endpoint::parse(&grpc.endpoint, grpc.transport);
    let http = Endpoint::parse(&http.endpoint, http.transport);
    grpc == http && grpc.is_ok_and(|endpoint| !free(&endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: serde_json::Value) -> Otlp {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_null_section_listens_with_all_defaults() {
        let otlp = read(serde_json::json!({"protocols": {"grpc": null, "http": {"cors": null}}}));
        assert_eq!(otlp.protocols.grpc, Some(Grpc::default()));
        assert_eq!(otlp.protocols.http, Some(Http::default()));
        assert_eq!(otlp.check(), []);
        assert_eq!(read(serde_json::json!({"protocols": {"grpc": {}}})).protocols.http, None);
    }

    #[test]
    fn every_problem_is_found_with_its_path() {
        let check = |protocols: serde_json::Value, expected: &[(&str, &str, bool)]| {
            let found = read(serde_json::json!({"protocols": protocols})).check();
            let found: Vec<_> =
                found.iter().map(|f| (f.at.as_str(), f.problem.to_string(), f.problem.is_error())).collect();
            let found: Vec<_> = found.iter().map(|(at, text, error)| (*at, text.as_str(), *error)).collect();
            assert_eq!(found, expected, "{protocols}");
        };
        check(serde_json::json!(null), &[("protocols", "at least one of `grpc` and `http` is needed", true)]);
        check(
            serde_json::json!({"grpc": {"endpoint": "x", "auth": {"authenticator": "oidc"}, "middlewares": [{"id": "a"}]}}),
            &[
                ("protocols.grpc.endpoint", "a port is needed, such as localhost:4317", true),
                ("protocols.grpc.auth", "authentication is not yet available in Tollgate", true),
                ("protocols.grpc.middlewares", "middlewares are not available in Tollgate", true),
            ],
        );
        check(
            serde_json::json!({"grpc": {"tls": {"cert_file": "c"}, "http2": {"max_frame_size": 1}}}),
            &[
                ("protocols.grpc.tls", "`key_file` is needed", true),
                ("protocols.grpc.http2.max_frame_size", "1 is outside 16384 to 16777215", true),
            ],
        );
        check(
            serde_json::json!({"http": {"compression_algorithms": ["", "gzip", "lz4", "br"]}}),
            &[
                (
                    "protocols.http.compression_algorithms",
                    "compression `lz4` is not available in Tollgate; such requests are refused",
                    false,
                ),
                ("protocols.http.compression_algorithms", "compression `br` is not known", true),
            ],
        );
        check(
            serde_json::json!({"http": {"traces_url_path": "x", "logs_url_path": "/v1/metrics"}}),
            &[
                (
                    "protocols.http.traces_url_path",
                    "a path starts with `/` and has neither `?` nor `#`: \"x\"",
                    true,
                ),
                ("protocols.http.logs_url_path", "path \"/v1/metrics\" is taken by another signal", true),
            ],
        );
        check(
            serde_json::json!({"grpc": {"keepalive": {"enforcement_policy": {"min_time": "10s"}}, "read_buffer_size": 1}}),
            &[
                (
                    "protocols.grpc.read_buffer_size",
                    "has no effect in Tollgate: reads are as large as frames are, see http2.max_frame_size",
                    false,
                ),
                (
                    "protocols.grpc.keepalive.enforcement_policy",
                    "has no effect in Tollgate: no connection is closed for its pings",
                    false,
                ),
            ],
        );
        check(
            serde_json::json!({"grpc": {"endpoint": ":4317"}, "http": {"endpoint": ":4317"}}),
            &[(
                "protocols.http.endpoint",
                "`grpc` and `http` cannot both listen at `:4317`; gRPC is also taken on the port of `http`",
                true,
            )],
        );
    }
}
