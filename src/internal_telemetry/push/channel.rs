//! The connection to an OTLP destination of own telemetry.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};

use crate::config::service::{BadPush, OtlpPush};
use crate::internal_telemetry::OwnResource;

/// Marks requests that carry the telemetry of a collector.
pub const OWN_HEADER: &str = "tollgate-internal-telemetry";

/// Whether a request carries the telemetry of a collector: it must not be traced.
pub fn is_own(headers: &http::HeaderMap) -> bool {
    headers.contains_key(OWN_HEADER)
}

/// Why own telemetry cannot be pushed: the configuration must change.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Not a destination.
    #[error("service.telemetry: {0}")]
    Destination(#[from] BadPush),
    /// Not something a header can be.
    #[error("service.telemetry: header `{0}` has a name or value that cannot be sent")]
    Header(String),
    /// A file of certificates or a key that cannot be used.
    #[error("service.telemetry: cannot read certificates or key from {path}")]
    Pem {
        /// The path as configured.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Certificate and key do not work together.
    #[error("service.telemetry: TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// A connection that is made when first used, and again when it broke.
///
/// # Panics
/// Outside a runtime.
pub(in crate::internal_telemetry) fn connect(otlp: &OtlpPush) -> Result<Channel, PushError> {
    let endpoint = Endpoint::from(otlp.url()?).timeout(Duration::from_millis(otlp.timeout));
    let https = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls(otlp)?);
    Ok(endpoint.connect_with_connector_lazy(https.https_or_http().enable_http2().build()))
}

/// The authorities to trust and the client's certificate.
pub(super) fn tls(otlp: &OtlpPush) -> Result<ClientConfig, PushError> {
    let mut roots = RootCertStore::empty();
    match &otlp.certificate {
        Some(path) => {
            roots.add_parsable_certificates(certificates(path)?);
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    match (&otlp.client_certificate, &otlp.client_key) {
        (Some(certificate), Some(key)) => {
            let read = PrivateKeyDer::from_pem_file(key);
            let key = read.map_err(|source| PushError::Pem { path: key.clone(), source })?;
            Ok(builder.with_client_auth_cert(certificates(certificate)?, key)?)
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PushError> {
    let read = CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    read.map_err(|source| PushError::Pem { path: path.to_owned(), source })
}

/// The configured headers and [`OWN_HEADER`].
pub(in crate::internal_telemetry) fn metadata(
    otlp: &OtlpPush,
    own: &OwnResource,
) -> Result<MetadataMap, PushError> {
    let mut metadata = MetadataMap::new();
    for header in &otlp.headers {
        let bad = || PushError::Header(header.name.clone());
        let key: AsciiMetadataKey = header.name.parse().map_err(|_| bad())?;
        let value: AsciiMetadataValue = header.value.parse().map_err(|_| bad())?;
        metadata.append(key, value);
    }
    let instance = own.attributes().iter().find(|(key, _)| key == "service.instance.id");
    let instance = instance.and_then(|(_, id)| id.parse().ok());
    metadata.insert(OWN_HEADER, instance.unwrap_or_else(|| AsciiMetadataValue::from_static("unnamed")));
    Ok(metadata)
}
