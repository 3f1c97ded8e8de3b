//! What OTLP/HTTP adds: content types, content encodings, and CORS for web pages.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_ENCODING, CONTENT_TYPE, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::answer::Fault;
use super::reply::{Format, HTTP_ENCODINGS, Reply, http_empty};
use crate::compression::Codec;
use crate::config::receiver as config;

/// The format a content type names; parameters are ignored.
pub(super) fn format(headers: &HeaderMap) -> Option<Format> {
    let value = headers.get(CONTENT_TYPE)?.as_bytes();
    let media = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if media.eq_ignore_ascii_case(b"application/x-protobuf") {
        Some(Format::Protobuf)
    } else if media.eq_ignore_ascii_case(b"application/json") {
        Some(Format::Json)
    } else {
        None
    }
}

/// The content encodings a listener takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encodings {
    none: bool,
    gzip: bool,
    zstd: bool,
    zlib: bool,
    deflate: bool,
}

impl Encodings {
    /// Those named, and all if none is named.
    pub(super) fn new(names: &[String]) -> Self {
        let taken = |name: &str| names.is_empty() || names.iter().any(|taken| taken == name);
        Self {
            none: taken(""),
            gzip: taken("gzip"),
            zstd: taken("zstd"),
            zlib: taken("zlib"),
            deflate: taken("deflate"),
        }
    }

    /// How the body is compressed and what that is called.
    ///
    /// # Errors
    /// Another encoding, or more than one.
    pub(super) fn find(self, headers: &HeaderMap) -> Result<Option<(Codec, &'static str)>, Fault> {
        let unsupported = Fault::Encoding { supported: HTTP_ENCODINGS };
        let mut values = headers.get_all(CONTENT_ENCODING).iter();
        let value = match (values.next(), values.next()) {
            (None, _) => b"",
            (Some(value), None) => value.as_bytes().trim_ascii(),
            (Some(_), Some(_)) => return Err(unsupported),
        };
        let named = |name: &[u8]| value.eq_ignore_ascii_case(name);
        match () {
            () if self.none && (value.is_empty() || named(b"identity")) => Ok(None),
            () if self.gzip && (named(b"gzip") || named(b"x-gzip")) => Ok(Some((Codec::Gzip, "gzip"))),
            () if self.zstd && named(b"zstd") => Ok(Some((Codec::Zstd, "zstd"))),
            () if self.zlib && named(b"zlib") => Ok(Some((Codec::Zlib, "zlib"))),
            () if self.deflate && named(b"deflate") => Ok(Some((Codec::Deflate, "deflate"))),
            () => Err(unsupported),
        }
    }
}

/// Headers for every answer.
///
/// What cannot be a header was refused by the configuration's check.
pub(super) fn response_headers(configured: &BTreeMap<String, String>) -> Vec<(HeaderName, HeaderValue)> {
    let parse = |(name, value): (&String, &String)| {
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    configured.iter().filter_map(parse).collect()
}

/// Which web pages may send what (Fetch standard, CORS protocol).
#[derive(Debug)]
pub(super) struct Cors {
    origins: Vec<String>,
    any_header: bool,
    allowed_headers: HeaderValue,
    exposed_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

impl Cors {
    /// None if no origin is allowed.
    pub(super) fn new(config: Option<&config::Cors>) -> Option<Self> {
        let config = config.filter(|config| !config.allowed_origins.is_empty())?;
        let safe = ["accept", "content-type", "x-requested-with"].map(str::to_owned);
        let allowed: Vec<_> = safe.iter().chain(&config.allowed_headers).map(String::as_str).collect();
        let exposed = config.exposed_headers.join(", ");
        Some(Self {
            origins: config.allowed_origins.iter().map(|origin| origin.to_ascii_lowercase()).collect(),
            any_header: config.allowed_headers.iter().any(|name| name == "*"),
            allowed_headers: HeaderValue::try_from(allowed.join(", ")).ok()?,
            exposed_headers: HeaderValue::try_from(exposed).ok().filter(|value| !value.is_empty()),
            max_age: (config.max_age > 0).then(|| HeaderValue::from(config.max_age)),
        })
    }

    /// The answer to a browser that asks first; none if the request is not such a question.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response<Reply>> {
        if method != Method::OPTIONS || !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return None;
        }
        let mut response = http_empty(StatusCode::NO_CONTENT);
        let answer = response.headers_mut();
        if self.allow(headers.get(ORIGIN), answer) {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
            let asked = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).filter(|_| self.any_header);
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(&self.allowed_headers).clone());
            if let Some(max_age) = &self.max_age {
                answer.insert(ACCESS_CONTROL_MAX_AGE, max_age.clone());
            }
        }
        Some(response)
    }

    /// Lets the page of `origin` read an answer.
    pub(super) fn expose(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        if self.allow(origin, answer)
            && let Some(exposed) = &self.exposed_headers
        {
            answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    fn allow(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) -> bool {
        answer.append(VARY, HeaderValue::from_static("origin"));
        let Some(origin) = origin else { return false };
        let Ok(text) = origin.to_str() else { return false };
        let text = text.to_ascii_lowercase();
        if !self.origins.iter().any(|pattern| matches(pattern, &text)) {
            return false;
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        true
    }
}

/// Reads a number of milliseconds, at most ten digits; none if it is malformed.
pub(super) fn timeout(value: &HeaderValue) -> Option<Duration> {
    let digits = value.as_bytes();
    if digits.is_empty() || digits.len() > 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().map(Duration::from_millis)
}

/// Whether a text is what a pattern says; one `*` in it stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, end)) => {
            text.len() >= start.len() + end.len() && text.starts_with(start) && text.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_with_one_wildcard() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        };
        check("*", "https://a.example", true);
        check("https://a.example", "https://a.example", true);
        check("https://*.example", "https://a.example", true);
        check("https://*.example", "https://a.example.net", false);
        check("https://a*a.example", "https://a.example", false);
        check("https://a.example", "http://a.example", false);
    }

    #[test]
    fn timeouts_are_whole_milliseconds() {
        let check = |text: &'static str, expected: Option<u64>| {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(timeout(&HeaderValue::from_static(text)), expected, "{text:?}");
        };
        check("0", Some(0));
        check("1500", Some(1500));
        check("9999999999", Some(9_999_999_999));
        for malformed in ["", "-1", "+1", "1.5", "1s", " 1", "12345678901"] {
            check(malformed, None);
        }
    }

    #[test]
    fn content_types_are_read_without_parameters() {
        let check = |text: Option<&'static str>, expected: Option<Format>| {
            let headers = text.map(|text| (CONTENT_TYPE, HeaderValue::from_static(text)));
            assert_eq!(format(&headers.into_iter().collect()), expected, "{text:?}");
        };
        check(Some("application/x-protobuf"), Some(Format::Protobuf));
        check(Some("application/json; charset=utf-8"), Some(Format::Json));
        check(Some("Application/JSON"), Some(Format::Json));
        check(Some("text/plain"), None);
        check(None, None);
    }
}
