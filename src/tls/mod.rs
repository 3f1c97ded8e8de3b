//! Certificates and keys from files, in the form that connections use, read again when they change.
//!
//! Not here: which keys the configuration has (`config::tls`), sockets. Invariant: what is in use was
//! whole when it was read; a pair that does not load never replaces one that did.

mod client;
#[cfg(test)]
pub(crate) mod fixtures;
mod kept;
mod peer;
mod pem;
mod server;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

pub use client::ClientTls;
pub(crate) use kept::{SETTLE, watch_directories};
pub use peer::PeerCertificate;
pub use server::ServerTls;

use crate::config::tls::{Offer, Version};

/// Why certificates cannot be used; at start the program does not go on, later the old ones stay.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A key of the configuration is missing.
    #[error("`{0}` is needed")]
    Missing(&'static str),
    /// Not PEM, or not what belongs there.
    #[error("{key}: not a PEM file with what belongs there")]
    Pem {
        /// The key of the configuration that names it.
        key: &'static str,
    },
    /// The authorities cannot be used to check anybody.
    #[error("{key}: {error}")]
    Authorities {
        /// The key of the configuration that names them.
        key: &'static str,
        /// What is wrong.
        error: rustls::server::VerifierBuilderError,
    },
    /// `server_name_override` is neither a host name nor an address.
    #[error("server_name_override: {name:?} is neither a host name nor an address")]
    ServerName {
        /// As configured.
        name: String,
    },
    /// The system has no authorities.
    #[error("the system has no certificate authorities that can be read")]
    NoSystemAuthorities,
    /// Certificate and key do not belong together, or an algorithm is not offered.
    #[error(transparent)]
    Unusable(#[from] rustls::Error),
}

/// The algorithms of an offer, in the order it asks for.
fn provider(offer: &Offer<'_>) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if !offer.cipher_suites.is_empty() {
        let wanted = |suite: &SupportedCipherSuite| {
            let name = format!("{:?}", suite.suite());
            // The suites of TLS 1.3 are not chosen by name, as in Go.
            name.starts_with("TLS13_") || offer.cipher_suites.contains(&name)
        };
        provider.cipher_suites.retain(wanted);
    }
    if !offer.curve_preferences.is_empty() {
        provider.kx_groups = offer.curve_preferences.iter().filter_map(|name| curve(name)).collect();
    }
    Arc::new(provider)
}

fn curve(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    match name {
        "X25519" => Some(ring::kx_group::X25519),
        "P256" => Some(ring::kx_group::SECP256R1),
        "P384" => Some(ring::kx_group::SECP384R1),
        _ => None,
    }
}

/// The versions of an offer.
fn versions(offer: &Offer<'_>) -> &'static [&'static SupportedProtocolVersion] {
    static ONLY_12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    static ONLY_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    if offer.max_version.is_some_and(|max| max <= Version::Tls12) {
        &ONLY_12
    } else if offer.min_version == Some(Version::Tls13) {
        &ONLY_13
    } else {
        rustls::ALL_VERSIONS
    }
}
