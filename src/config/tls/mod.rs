//! TLS keys of receivers and exporters, with the Collector's names.
//!
//! Only what is written is checked here, PEM texts that stand in the configuration among it; files are
//! read by `crate::tls`.

mod check;
pub(crate) mod pem;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

pub use check::{CIPHER_SUITES, CURVES, Problem};

/// Text that must not be shown: `Debug` and `Serialize` write `***`.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("x-secret" = true))]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Version {
    /// TLS 1.0, which is not offered.
    #[serde(rename = "1.0")]
    Tls10,
    /// TLS 1.1, which is not offered.
    #[serde(rename = "1.1")]
    Tls11,
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// A trusted platform module as the keeper of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tpm {
    /// Whether the key is in a TPM; Tollgate cannot use one. Default: false.
    pub enabled: bool,
    /// Path of the device. Default: empty.
    pub path: String,
    /// Name of the owner's authorisation. Default: empty.
    pub owner_auth: String,
    /// The key's authorisation. Default: empty.
    pub auth: String,
}

/// Which protocol versions and algorithms a side offers.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    /// Lowest version.
    pub min_version: Option<Version>,
    /// Highest version.
    pub max_version: Option<Version>,
    /// Names of TLS 1.2 cipher suites; empty means all.
    pub cipher_suites: &'a [String],
    /// Names of key exchange groups, in order of preference; empty means all.
    pub curve_preferences: &'a [String],
}

/// A side of TLS: its own keys, then those that both sides have.
macro_rules! side {
    ($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$key_doc])* pub $key: $kind,)*
            /// File with this side's certificate chain, PEM, leaf first. Default: none.
            pub cert_file: Option<PathBuf>,
            /// The certificate chain itself, PEM; instead of `cert_file`. Default: none.
            pub cert_pem: Option<String>,
            /// File with the private key, PEM. Default: none.
            pub key_file: Option<PathBuf>,
            /// The private key itself, PEM; instead of `key_file`. Default: none.
            pub key_pem: Option<Secret>,
            /// Lowest TLS version; who speaks only older ones is refused. Default: "1.2". Range: "1.2", "1.3".
            pub min_version: Option<Version>,
            /// Highest TLS version. Default: "1.3". Range: "1.2", "1.3".
            pub max_version: Option<Version>,
            /// TLS 1.2 cipher suites by their IANA names; those of 1.3 cannot be chosen. Default: all that
            /// are safe.
            pub cipher_suites: Vec<String>,
            /// Key exchange groups in order of preference: `X25519`, `P256`, `P384`. Default: all three.
            pub curve_preferences: Vec<String>,
            /// How often the files are read again; changes are also noticed by a directory watch, and what
            /// does not load leaves the old in use. New connections use what was read last. 0: never, not
            /// even by watch. Default: 10s.
            #[serde(with = "crate::units::duration")]
            #[schemars(schema_with = "crate::units::duration::schema")]
            pub reload_interval: Duration,
            /// A trusted platform module; not available. Default: none.
            pub tpm: Option<Tpm>,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($key: Default::default(),)*
                    cert_file: None,
                    cert_pem: None,
                    key_file: None,
                    key_pem: None,
                    min_version: None,
                    max_version: None,
                    cipher_suites: Vec::new(),
                    curve_preferences: Vec::new(),
                    reload_interval: Duration::from_secs(10),
                    tpm: None,
                }
            }
        }

        impl $name {
            /// What is offered to the other side.
            pub fn offer(&self) -> Offer<'_> {
                Offer {
                    min_version: self.min_version,
                    max_version: self.max_version,
                    cipher_suites: &self.cipher_suites,
                    curve_preferences: &self.curve_preferences,
                }
            }

            /// How this side proves who it is.
            fn identity(&self) -> Identity<'_> {
                Identity {
                    cert_file: self.cert_file.is_some(),
                    cert_pem: self.cert_pem.as_deref(),
                    key_file: self.key_file.is_some(),
                    key_pem: self.key_pem.as_ref().map(Secret::reveal),
                }
            }
        }
    };
}

/// Where certificate and private key of a side are.
#[derive(Clone, Copy)]
struct Identity<'a> {
    cert_file: bool,
    cert_pem: Option<&'a str>,
    key_file: bool,
    key_pem: Option<&'a str>,
}

side! {
    /// TLS of a listener.
    TlsServer {
        /// File with the authorities that sign client certificates; with it a client without a valid
        /// certificate is refused (mTLS). Default: none.
        client_ca_file: Option<PathBuf>,
        /// Accepted for the Collector's sake: the client authorities are always re-read with the
        /// certificate. Default: false.
        client_ca_file_reload: bool,
        /// Authorities for outgoing connections; without effect on a listener. Default: none.
        ca_file: Option<PathBuf>,
        /// As `ca_file`, the PEM text itself. Default: none.
        ca_pem: Option<String>,
        /// Adds the system's authorities to `ca_file`; without effect on a listener. Default: false.
        include_system_ca_certs_pool: bool,
    }
}

side! {
    /// TLS of outgoing connections.
    TlsClient {
        /// No TLS at all; anyone on the path can read and change the data. Default: false.
        insecure: bool,
        /// Encrypts, but believes any certificate; anyone on the path can pose as the destination.
        /// Default: false.
        insecure_skip_verify: bool,
        /// The name the destination's certificate must carry, instead of the endpoint's host. Default: the
        /// host.
        server_name_override: String,
        /// File with the authorities that sign the destination's certificate, PEM; instead of the system's.
        /// Default: none.
        ca_file: Option<PathBuf>,
        /// The authorities themselves, PEM; instead of `ca_file`. Default: none.
        ca_pem: Option<String>,
        /// Believes the system's authorities besides `ca_file`. Default: false.
        include_system_ca_certs_pool: bool,
    }
}
