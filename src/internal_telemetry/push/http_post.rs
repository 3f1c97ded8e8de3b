//! One POST to an OTLP/HTTP destination, on a connection of its own.
//!
//! Pushes are seconds apart, so connections are not kept, and nothing runs beside the request.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::metadata::MetadataMap;

use super::PushError;
use super::channel::tls;
use crate::config::service::{BadPush, OtlpPush};

/// Why a POST came to nothing.
#[derive(Debug, thiserror::Error)]
pub(in crate::internal_telemetry) enum PostFailure {
    /// No connection, or no TLS on it.
    #[error("cannot connect: {0}")]
    Connect(Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// The destination did not take it.
    #[error("the destination answered {0}")]
    Refused(StatusCode),
}

/// A destination and what every request to it carries.
#[derive(Debug, Clone)]
pub(in crate::internal_telemetry) struct HttpPost {
    connector: HttpsConnector<HttpConnector>,
    url: Uri,
    headers: HeaderMap,
}

impl HttpPost {
    /// Prepares requests; a URL without path gets `default_path`.
    pub(in crate::internal_telemetry) fn new(
        otlp: &OtlpPush,
        default_path: &'static str,
        metadata: MetadataMap,
    ) -> Result<Self, PushError> {
        let mut url = otlp.url()?;
        if url.path() == "/" {
            let mut parts = url.into_parts();
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static(default_path));
            url = Uri::from_parts(parts).map_err(|_| BadPush::Endpoint)?;
        }
        let authority = url.authority().map_or("", |authority| authority.as_str());
        // Without the user name a URL may have.
        let host = HeaderValue::from_str(authority.rsplit('@').next().unwrap_or(authority))
            .map_err(|_| BadPush::Endpoint)?;
        let mut headers = metadata.into_headers();
        headers.insert(header::HOST, host);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let https = HttpsConnectorBuilder::new().with_tls_config(tls(otlp)?);
        Ok(Self { connector: https.https_or_http().enable_http1().build(), url, headers })
    }

    /// Sends one body; the answer's own body is not read.
    pub(in crate::internal_telemetry) async fn send(&self, body: Vec<u8>) -> Result<(), PostFailure> {
        let mut connector = self.connector.clone();
        let connecting = tonic::codegen::Service::call(&mut connector, self.url.clone());
        let stream = connecting.await.map_err(PostFailure::Connect)?;
        let (mut sender, connection) = http1::handshake(stream).await?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.headers_mut() = self.headers.clone();
        if let Some(path) = self.url.path_and_query() {
            *request.uri_mut() = Uri::from(path.clone());
        }
        let exchange = async move {
            let status = sender.send_request(request).await?.status();
            if status.is_success() { Ok(()) } else { Err(PostFailure::Refused(status)) }
        };
        // The exchange drops its side of the connection, which then ends; how does not matter.
        let (sent, _ended) = tokio::join!(exchange, connection);
        sent
    }
}
