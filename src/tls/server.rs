//! TLS of listeners.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::kept::Kept;
use super::pem::{Pems, Places, believe};
use super::{TlsError, provider, versions};
use crate::config::tls::{Secret, TlsServer};
use crate::tasks::Scope;

/// A listener's certificate, key and client authorities.
#[derive(Clone)]
pub struct ServerTls {
    kept: Arc<Kept<ServerConfig>>,
    reload_interval: Duration,
}

impl ServerTls {
    /// Reads the files; `alpn` names the protocols offered, the best first.
    ///
    /// # Errors
    /// [`TlsError`]: the listener cannot start.
    pub fn load(config: &TlsServer, alpn: &[&[u8]]) -> Result<Self, TlsError> {
        let places = Places::default()
            .cert(config.cert_file.as_ref(), config.cert_pem.as_deref())
            .key(config.key_file.as_ref(), config.key_pem.as_ref().map(Secret::reveal))
            .authorities(config.client_ca_file.as_ref(), None);
        let alpn: Vec<Vec<u8>> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let reload_interval = config.reload_interval;
        let config = config.clone();
        let build = move |pems: &Pems| build(&config, &alpn, pems);
        Ok(Self { kept: Arc::new(Kept::load(places, Box::new(build))?), reload_interval })
    }

    /// What a connection accepted now uses.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.kept.current()
    }

    /// Grows by one with every reload; 1 at first.
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

    /// Reads the files again when they change, in a task of `scope` on the caller's runtime.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn watch(&self, scope: &Scope) {
        self.kept.watch(scope, self.reload_interval);
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

fn build(config: &TlsServer, alpn: &[Vec<u8>], pems: &Pems) -> Result<ServerConfig, TlsError> {
    let provider = provider(&config.offer());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(&config.offer()))?;
    let builder = match &pems.authorities {
        None => builder.with_no_client_auth(),
        Some(text) => {
            let mut roots = RootCertStore::empty();
            believe(&mut roots, text, "client_ca_file")?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::Authorities { key: "client_ca_file", error })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut built = builder.with_single_cert(pems.chain()?, pems.private_key()?)?;
    built.alpn_protocols = alpn.to_vec();
    Ok(built)
}
