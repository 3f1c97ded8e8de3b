//! The exporter `otlp_http`: POST of protobuf or JSON, HTTP/1.1 or 2.
//!
//! Redirects are not followed: data goes where the configuration says. Not here: proxies, cookies.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT};
use http::uri::Uri;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};

use crate::batch::SendFailure;
use crate::compression::{self, Codec};
use crate::config::exporter::{Encoding, Endpoint, Headers, OtlpHttp};
use crate::otlp::status::{ExportResponse, Status};
use crate::otlp::{PerSignal, Signal, json};
use crate::tasks::Scope;
use crate::tls::{ClientTls, TlsError};

use super::PrepareError;
use super::answer;
use super::body::Body;
use super::connect::{Alpn, Connector};
use super::destination::{Destination, Outgoing, SendError};
use super::otlp_grpc::{GRPC_TIMEOUT, authority, timeout_value};
use super::pool::{self, Keeping, Place, Pool};

/// C6: a success is a few bytes; beyond this the answer is not one.
const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024;
/// As much of an error page as is looked at.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// What the Collector's HTTP client waits for a ping.
const DEFAULT_PING_TIMEOUT: Duration = Duration::from_secs(15);

const USER_AGENT_TEXT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// The configuration, resolved.
#[derive(Debug)]
pub(super) struct Settings {
    config: OtlpHttp,
    targets: PerSignal<Option<Target>>,
    headers: HeaderMap,
}

#[derive(Debug, Clone)]
struct Target {
    endpoint: Endpoint,
    uri: Uri,
}

impl Settings {
    pub(super) fn new(config: &OtlpHttp) -> Result<Self, PrepareError> {
        let target = |signal| match own_endpoint(config, signal) {
            ("", _) if config.endpoint.is_empty() => Ok(None),
            ("", _) => {
                let base = config.endpoint.trim_end_matches('/');
                target("endpoint", &format!("{base}/v1/{signal}")).map(Some)
            }
            (text, key) => target(key, text).map(Some),
        };
        let [traces, metrics, logs] =
            [target(Signal::Traces)?, target(Signal::Metrics)?, target(Signal::Logs)?];
        let targets = PerSignal::from_fn(|signal| match signal {
            Signal::Traces => traces.clone(),
            Signal::Metrics => metrics.clone(),
            Signal::Logs => logs.clone(),
        });
        let mut headers = headers(&config.headers)?;
        headers.insert(CONTENT_TYPE, content_type(config.encoding));
        if let Some(codec) = config.compression.codec() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(codec.as_str()));
        }
        if config.disable_keep_alives {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(Self { config: config.clone(), targets, headers })
    }

    /// Reads certificates if any endpoint is secure.
    pub(super) fn load_tls(&self, scope: &Scope) -> Result<Option<ClientTls>, TlsError> {
        let is_secure = |target: &Option<Target>| target.as_ref().is_some_and(Target::is_secure);
        if !self.targets.iter().any(|(_, target)| is_secure(target)) {
            return Ok(None);
        }
        let tls = ClientTls::load(&self.config.tls)?;
        tls.watch(scope);
        Ok(Some(tls))
    }

    /// The destination as one worker sees it; no connection is opened yet.
    pub(super) fn connect(&self, tls: Option<&ClientTls>, place: &Place) -> Arc<Http> {
        let mut pools: Vec<(&Endpoint, Arc<Pool>)> = Vec::new();
        let mut destinations = PerSignal::default();
        for (signal, target) in self.targets.iter() {
            let Some(target) = target else { continue };
            let endpoint = &target.endpoint;
            let is_same = |other: &Endpoint| other.address == endpoint.address && other.tls == endpoint.tls;
            let pool = match pools.iter().find(|(other, _)| is_same(other)) {
                Some((_, pool)) => pool.clone(),
                None => {
                    let tls = tls.filter(|_| target.is_secure());
                    let pool = Arc::new(self.pool(endpoint, tls, place));
                    pools.push((endpoint, pool.clone()));
                    pool
                }
            };
            destinations[signal] = Some((pool, target.uri.clone()));
        }
        let level = Some(self.config.compression_params.level).filter(|level| *level != 0);
        let codec = self.config.compression.codec().map(|codec| (codec, level));
        Arc::new(Http { destinations, headers: self.headers.clone(), encoding: self.config.encoding, codec })
    }

    fn pool(&self, endpoint: &Endpoint, tls: Option<&ClientTls>, place: &Place) -> Pool {
        let config = &self.config;
        let alpn = if config.force_attempt_http2 && !config.disable_keep_alives {
            Alpn::Either
        } else {
            Alpn::Http1
        };
        let unlimited = |n: usize| if n == 0 { usize::MAX } else { n };
        let max_idle = unlimited(config.max_idle_conns).min(unlimited(config.max_idle_conns_per_host));
        let ping_timeout = match config.http2_ping_timeout {
            Duration::ZERO => DEFAULT_PING_TIMEOUT,
            timeout => timeout,
        };
        let ping = Some(config.http2_read_idle_timeout).filter(|time| !time.is_zero());
        let keeping = Keeping {
            http2_only: false,
            idle_timeout: Some(config.idle_conn_timeout).filter(|timeout| !timeout.is_zero()),
            max_idle: if config.disable_keep_alives { 0 } else { max_idle },
            ping: ping.map(|time| (time, ping_timeout, true)),
        };
        let connector = Connector::new(endpoint.address.clone(), tls.cloned(), alpn, false);
        Pool::new(connector, tls, keeping, place)
    }
}

impl Target {
    fn is_secure(&self) -> bool {
        self.endpoint.tls == Some(true)
    }
}

/// A signal's own endpoint and its key.
fn own_endpoint(config: &OtlpHttp, signal: Signal) -> (&str, &'static str) {
    match signal {
        Signal::Traces => (&config.traces_endpoint, "traces_endpoint"),
        Signal::Metrics => (&config.metrics_endpoint, "metrics_endpoint"),
        Signal::Logs => (&config.logs_endpoint, "logs_endpoint"),
    }
}

fn target(key: &'static str, text: &str) -> Result<Target, PrepareError> {
    let endpoint = Endpoint::http(text).map_err(|bad| PrepareError::Endpoint { key, bad })?;
    let scheme = if endpoint.tls == Some(true) { "https" } else { "http" };
    let path = match endpoint.path.as_str() {
        path if path.starts_with('?') => format!("/{path}"),
        "" => "/".into(),
        path => path.into(),
    };
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority(&endpoint.address)?)
        .path_and_query(path)
        .build()
        .map_err(|_| PrepareError::Header(key.into()))?;
    Ok(Target { endpoint, uri })
}

/// The configured headers, and the User-Agent unless it is one of them.
pub(super) fn headers(config: &Headers) -> Result<HeaderMap, PrepareError> {
    let mut headers = HeaderMap::new();
    for (name, value) in config.iter() {
        let bad = || PrepareError::Header(name.to_owned());
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.append(key, value);
    }
    if !headers.contains_key(USER_AGENT) {
        let agent = format!("{USER_AGENT_TEXT} ({}/{})", std::env::consts::OS, std::env::consts::ARCH);
        let agent = HeaderValue::from_str(&agent);
        headers.insert(USER_AGENT, agent.map_err(|_| PrepareError::Header("user_agent".into()))?);
    }
    Ok(headers)
}

fn content_type(encoding: Encoding) -> HeaderValue {
    HeaderValue::from_static(match encoding {
        Encoding::Proto => "application/x-protobuf",
        Encoding::Json => "application/json",
    })
}

/// An HTTP server, as one worker sees it.
#[derive(Debug)]
pub(super) struct Http {
    destinations: PerSignal<Option<(Arc<Pool>, Uri)>>,
    headers: HeaderMap,
    encoding: Encoding,
    codec: Option<(Codec, Option<i32>)>,
}

impl Destination for Http {
    async fn send(&self, outgoing: Outgoing) -> Result<ExportResponse, SendError> {
        let signal = outgoing.signal;
        let Some((pool, uri)) = &self.destinations[signal] else {
            return Err(answer::unusable(answer::UNIMPLEMENTED, format!("no endpoint for {signal}")));
        };
        let timeout = outgoing.timeout;
        let mut request = Request::new(self.body(outgoing)?);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(timeout) = timeout {
            request.headers_mut().insert(GRPC_TIMEOUT, timeout_value(timeout)?);
        }
        let (head, body) = pool.request(request).await?.into_parts();
        let limit = if head.status.is_success() { MAX_RESPONSE_BYTES } else { MAX_ERROR_BYTES };
        let read = pool::read(body, limit).await;
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let encoding = text(CONTENT_ENCODING).unwrap_or_default().as_bytes();
        let is_json = text(CONTENT_TYPE).map_or(self.encoding == Encoding::Json, is_json);
        if head.status.is_success() {
            let read = read?;
            if read.is_cut {
                return Err(pool::too_large(MAX_RESPONSE_BYTES));
            }
            return accepted(signal, &pool::decompress(encoding, read.data, MAX_RESPONSE_BYTES)?, is_json);
        }
        // The status says enough; a page that cannot be read changes nothing.
        let page = read.and_then(|read| pool::decompress(encoding, read.data, MAX_ERROR_BYTES));
        let asked = asked(&head.headers, SystemTime::now());
        Err(refused(head.status, &page.unwrap_or_default(), is_json, asked))
    }
}

impl Http {
    fn body(&self, outgoing: Outgoing) -> Result<Body, SendError> {
        let parts = match self.encoding {
            Encoding::Proto => outgoing.parts,
            Encoding::Json => {
                let mut text = Vec::new();
                json::from_protobuf(outgoing.signal, &outgoing.whole(), &mut text);
                vec![Bytes::from(text)]
            }
        };
        let Some((codec, level)) = self.codec else { return Ok(Body::new(parts)) };
        let small = compression::compress(codec, level, &parts)
            .map_err(|error| answer::unreachable(format!("compression failed: {error}"), None))?;
        Ok(Body::new(vec![small]))
    }
}

fn is_json(content_type: &str) -> bool {
    content_type.trim_start().starts_with("application/json")
}

fn accepted(signal: Signal, data: &[u8], is_json: bool) -> Result<ExportResponse, SendError> {
    let unreadable = |error: String| {
        answer::unusable(
            answer::INTERNAL,
            format!("the answer to a request that succeeded is malformed: {error}"),
        )
    };
    match is_json {
        true => ExportResponse::from_json(signal, data).map_err(|error| unreadable(error.to_string())),
        false => ExportResponse::from_protobuf(data).map_err(|error| unreadable(error.to_string())),
    }
}

/// What `Retry-After` asks for. A date is compared with the destination's own `Date`, for its clock and ours
/// may differ by hours and jump; without one with `now`.
fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let told = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    answer::retry_after(text(RETRY_AFTER)?, told.unwrap_or(now))
}

fn refused(status: StatusCode, page: &[u8], is_json: bool, asked: Option<Duration>) -> SendError {
    let told = if is_json { Status::from_json(page) } else { Status::from_protobuf(page) };
    let may_ask = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let asked = asked.filter(|_| may_ask).or(told.retry_after);
    let message = format!("answered with HTTP status {}: {}", status.as_u16(), told.message);
    answer::http(status, SendFailure { code: 0, message, retry_after: asked })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_to_come_back_at_means_the_same_however_wrong_our_clock_is() {
        let date = |text: &'static str| HeaderValue::from_static(text);
        let now = httpdate::parse_http_date("Sun, 06 Nov 2022 08:49:37 GMT").unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, date("Sun, 06 Nov 2022 08:49:40 GMT"));
        assert_eq!(asked(&headers, now), Some(Duration::from_secs(3)));
        headers.insert(DATE, date("Sun, 06 Nov 2022 08:49:38 GMT"));
        for jump in [0, 3600, 86_400] {
            let jump = Duration::from_secs(jump);
            assert_eq!(asked(&headers, now + jump), Some(Duration::from_secs(2)));
            assert_eq!(asked(&headers, now - jump), Some(Duration::from_secs(2)));
        }
        headers.insert(RETRY_AFTER, date("7"));
        assert_eq!(asked(&headers, now), Some(Duration::from_secs(7)));
    }
}
