//! Where own telemetry is pushed to: which destinations can be meant. No network, no files.

use http::{HeaderName, HeaderValue, Uri};

use super::{OtlpPush, Telemetry};

/// What is wrong with a destination of own telemetry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPush {
    /// Not a URL with a host.
    #[error("not an endpoint such as http://localhost:4317")]
    Endpoint,
    /// A name or password before the host: it would stand in logs.
    #[error("`user@` has no place in an endpoint; write credentials as `headers`")]
    Credentials,
    /// Not something a header can be.
    #[error("header `{name}` has a name or value that cannot be sent")]
    Header {
        /// Which of the headers, from 0.
        position: usize,
        /// Its name.
        name: String,
    },
    /// One of `client_certificate` and `client_key` without the other.
    #[error("`client_certificate` and `client_key` need each other")]
    HalfAPair {
        /// The one that is there.
        key: &'static str,
    },
}

impl BadPush {
    /// The key of the destination that must change.
    pub(super) fn key(&self) -> String {
        match self {
            BadPush::Endpoint | BadPush::Credentials => "endpoint".to_owned(),
            BadPush::Header { position, .. } => format!("headers[{position}]"),
            BadPush::HalfAPair { key } => (*key).to_owned(),
        }
    }
}

impl Telemetry {
    /// Every destination, and where it stands below `service.telemetry`.
    pub(super) fn pushes(&self) -> impl Iterator<Item = (String, &OtlpPush)> {
        let readers = self.metrics.readers.iter().enumerate().filter_map(|(i, reader)| {
            let periodic = reader.periodic.as_ref()?;
            Some((format!("metrics.readers[{i}].periodic.exporter.otlp"), &periodic.exporter.otlp))
        });
        let processors = self.traces.processors.iter().enumerate().map(|(i, processor)| {
            (format!("traces.processors[{i}].batch.exporter.otlp"), &processor.batch.exporter.otlp)
        });
        readers.chain(processors)
    }
}

impl OtlpPush {
    /// The endpoint with its scheme.
    ///
    /// # Errors
    /// [`BadPush::Endpoint`], [`BadPush::Credentials`]: the configuration is refused.
    pub fn url(&self) -> Result<Uri, BadPush> {
        let text = match (self.endpoint.contains("://"), self.insecure) {
            (true, _) => self.endpoint.clone(),
            (false, true) => format!("http://{}", self.endpoint),
            (false, false) => format!("https://{}", self.endpoint),
        };
        let is_http = |url: &Uri| matches!(url.scheme_str(), Some("http" | "https"));
        match text.parse::<Uri>() {
            Ok(url) if url.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                Err(BadPush::Credentials)
            }
            Ok(url) if is_http(&url) && url.host().is_some_and(|host| !host.is_empty()) => Ok(url),
            _ => Err(BadPush::Endpoint),
        }
    }

    /// All that is wrong.
    pub(super) fn check(&self) -> Vec<BadPush> {
        let mut bad: Vec<BadPush> = self.url().err().into_iter().collect();
        for (position, header) in self.headers.iter().enumerate() {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            // A name that ends so is for bytes, which are written in another way.
            let named = name.is_ok_and(|name| !name.as_str().ends_with("-bin"));
            if !named || HeaderValue::from_str(&header.value).is_err() {
                bad.push(BadPush::Header { position, name: header.name.clone() });
            }
        }
        match (&self.client_certificate, &self.client_key) {
            (Some(_), None) => bad.push(BadPush::HalfAPair { key: "client_certificate" }),
            (None, Some(_)) => bad.push(BadPush::HalfAPair { key: "client_key" }),
            _ => {}
        }
        bad
    }
}
