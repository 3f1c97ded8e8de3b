//! TLS of outgoing connections.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::kept::Kept;
use super::pem::{Pems, Places, believe};
use super::{TlsError, provider, versions};
use crate::config::tls::{Secret, TlsClient};
use crate::tasks::Scope;

/// Whom an exporter believes, and how it proves itself.
#[derive(Clone)]
pub struct ClientTls {
    kept: Arc<Kept<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
    reload_interval: Duration,
}

impl ClientTls {
    /// Reads the files and, where asked for or nothing else is given, the system's authorities. No ALPN is
    /// set: that is the connector's.
    ///
    /// # Errors
    /// [`TlsError`]: the exporter cannot start.
    pub fn load(config: &TlsClient) -> Result<Self, TlsError> {
        let places = Places::default()
            .cert(config.cert_file.as_ref(), config.cert_pem.as_deref())
            .key(config.key_file.as_ref(), config.key_pem.as_ref().map(Secret::reveal))
            .authorities(config.ca_file.as_ref(), config.ca_pem.as_deref());
        let server_name = match config.server_name_override.as_str() {
            "" => None,
            name => Some(
                ServerName::try_from(name.to_owned())
                    .map_err(|_invalid| TlsError::ServerName { name: name.to_owned() })?,
            ),
        };
        let reload_interval = config.reload_interval;
        let config = config.clone();
        let build = move |pems: &Pems| build(&config, pems);
        Ok(Self { kept: Arc::new(Kept::load(places, Box::new(build))?), server_name, reload_interval })
    }

    /// What a connection opened now uses.
    pub fn current(&self) -> Arc<ClientConfig> {
        self.kept.current()
    }

    /// Grows by one with every reload; connections of an older one should be replaced.
    pub fn generation(&self) -> u64 {
        self.kept.generation()
    }

    /// When the certificate in use, or one of its chain, ends, in seconds since 1970; none without one.
    pub fn not_after(&self) -> Option<i64> {
        self.kept.not_after()
    }

    /// How many changes of the files could not be used.
    pub fn failed_reloads(&self) -> u64 {
        self.kept.failures()
    }

    /// The name the destination must prove, if it is not the endpoint's host.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }

    /// Reads the files again when they change, in a task of `scope` on the caller's runtime.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn watch(&self, scope: &Scope) {
        self.kept.watch(scope, self.reload_interval);
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

fn build(config: &TlsClient, pems: &Pems) -> Result<ClientConfig, TlsError> {
    let provider = provider(&config.offer());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(&config.offer()))?;
    let builder = if config.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(BelieveAnyone(provider)))
    } else {
        builder.with_root_certificates(roots(config, pems)?)
    };
    match &pems.cert {
        None => Ok(builder.with_no_client_auth()),
        Some(_) => Ok(builder.with_client_auth_cert(pems.chain()?, pems.private_key()?)?),
    }
}

fn roots(config: &TlsClient, pems: &Pems) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(text) = &pems.authorities {
        believe(&mut roots, text, "ca_file")?;
    }
    if pems.authorities.is_none() || config.include_system_ca_certs_pool {
        let (added, _ignored) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 && !config.insecure {
            return Err(TlsError::NoSystemAuthorities);
        }
    }
    Ok(roots)
}

/// `insecure_skip_verify`: the handshake must be sound, but anyone may be at the other end.
#[derive(Debug)]
struct BelieveAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for BelieveAnyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
