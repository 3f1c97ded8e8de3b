//! TLS keys of receivers and exporters, with the Collector's names.
//!
//! Only what is written is checked here; certificates are read by `crate::tls`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

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

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsServer {
    /// File with the certificate chain, PEM, leaf first. Default: none.
    pub cert_file: Option<PathBuf>,
    /// The certificate chain itself, PEM; instead of `cert_file`. Default: none.
    pub cert_pem: Option<String>,
    /// File with the private key, PEM. Default: none.
    pub key_file: Option<PathBuf>,
    /// The private key itself, PEM; instead of `key_file`. Default: none.
    pub key_pem: Option<Secret>,
    /// File with the authorities that sign client certificates; with it a client without a valid
    /// certificate is refused (mTLS). Default: none.
    pub client_ca_file: Option<PathBuf>,
    /// Accepted for the Collector's sake: the client authorities are always re-read with the
    /// certificate. Default: false.
    pub client_ca_file_reload: bool,
    /// Authorities for outgoing connections; without effect on a listener. Default: none.
    pub ca_file: Option<PathBuf>,
    /// As `ca_file`, the PEM text itself. Default: none.
    pub ca_pem: Option<String>,
    /// Adds the system's authorities to `ca_file`; without effect on a listener. Default: false.
    pub include_system_ca_certs_pool: bool,
    /// Lowest TLS version; older clients are refused. Default: "1.2". Range: "1.2", "1.3".
    pub min_version: Option<Version>,
    /// Highest TLS version. Default: "1.3". Range: "1.2", "1.3".
    pub max_version: Option<Version>,
    /// TLS 1.2 cipher suites by their IANA names; those of 1.3 cannot be chosen. Default: all that are safe.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups in order of preference: `X25519`, `P256`, `P384`. Default: all three.
    pub curve_preferences: Vec<String>,
    /// How often the files are read again; changes are also noticed by a directory watch, and a
    /// pair that does not load leaves the old one in use. 0: never, not even by watch. Default: 10s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub reload_interval: Duration,
    /// A trusted platform module; not available. Default: none.
    pub tpm: Option<Tpm>,
}

impl Default for TlsServer {
    fn default() -> Self {
        Self {
            cert_file: None,
            cert_pem: None,
            key_file: None,
            key_pem: None,
            client_ca_file: None,
            client_ca_file_reload: false,
            ca_file: None,
            ca_pem: None,
            include_system_ca_certs_pool: false,
            min_version: None,
            max_version: None,
            cipher_suites: Vec::new(),
            curve_preferences: Vec::new(),
            reload_interval: Duration::from_secs(10),
            tpm: None,
        }
    }
}

/// TLS of outgoing connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsClient {
    /// No TLS at all; anyone on the path can read and change the data. Default: false.
    pub insecure: bool,
    /// Encrypts, but believes any certificate; anyone on the path can pose as the destination.
    /// Default: false.
    pub insecure_skip_verify: bool,
    /// The name the destination's certificate must carry, instead of the endpoint's host. Default: the host.
    pub server_name_override: String,
    /// File with the authorities that sign the destination's certificate, PEM; instead of the system's.
    /// Default: none.
    pub ca_file: Option<PathBuf>,
    /// The authorities themselves, PEM; instead of `ca_file`. Default: none.
    pub ca_pem: Option<String>,
    /// Believes the system's authorities besides `ca_file`. Default: false.
    pub include_system_ca_certs_pool: bool,
    /// File with the client's certificate chain, PEM, leaf first. Default: none.
    pub cert_file: Option<PathBuf>,
    /// The client's certificate chain itself, PEM. Default: none.
    pub cert_pem: Option<String>,
    /// File with the client's private key, PEM. Default: none.
    pub key_file: Option<PathBuf>,
    /// The client's private key itself, PEM. Default: none.
    pub key_pem: Option<Secret>,
    /// Lowest TLS version. Default: "1.2". Range: "1.2", "1.3".
    pub min_version: Option<Version>,
    /// Highest TLS version. Default: "1.3". Range: "1.2", "1.3".
    pub max_version: Option<Version>,
    /// TLS 1.2 cipher suites by their IANA names; those of 1.3 cannot be chosen. Default: all that are safe.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups in order of preference: `X25519`, `P256`, `P384`. Default: all three.
    pub curve_preferences: Vec<String>,
    /// How often the files are read again; new connections use what was read last. 0: never. Default: 10s.
    #[serde(with = "crate::units::duration")]
    #[schemars(schema_with = "crate::units::duration::schema")]
    pub reload_interval: Duration,
    /// A trusted platform module; not available. Default: none.
    pub tpm: Option<Tpm>,
}

impl Default for TlsClient {
    fn default() -> Self {
        Self {
            insecure: false,
            insecure_skip_verify: false,
            server_name_override: String::new(),
            ca_file: None,
            ca_pem: None,
            include_system_ca_certs_pool: false,
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

/// What is wrong with TLS keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A key is needed that is not there.
    #[error("`{0}` is needed")]
    Missing(&'static str),
    /// Two keys say the same thing.
    #[error("give either `{0}` or `{1}`, not both")]
    Both(&'static str, &'static str),
    /// The lowest version is above the highest.
    #[error("min_version is above max_version")]
    VersionOrder,
    /// A version that nobody should use any more.
    #[error("TLS 1.0 and 1.1 are not offered; 1.2 is used instead")]
    OldVersion,
    /// The only versions allowed are not offered.
    #[error("TLS 1.0 and 1.1 are not offered: nothing is left to speak")]
    NoVersion,
    /// Not a cipher suite that is offered.
    #[error("cipher suite `{0}` is not offered")]
    CipherSuite(String),
    /// Not a key exchange group that is offered.
    #[error("curve `{0}` is not offered; offered are X25519, P256 and P384")]
    Curve(String),
    /// Keys in hardware.
    #[error("keys in a TPM are not available in Tollgate")]
    Tpm,
    /// A key that means nothing here.
    #[error("has no effect on a listener; the authorities of clients are `client_ca_file`")]
    NoEffect,
}

impl Problem {
    /// Whether the program cannot start with it; otherwise it is a warning.
    pub fn is_error(&self) -> bool {
        !matches!(self, Problem::OldVersion | Problem::NoEffect)
    }
}

/// The TLS 1.2 cipher suites that are offered, by their IANA names.
pub const CIPHER_SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// The key exchange groups that are offered.
pub const CURVES: [&str; 3] = ["X25519", "P256", "P384"];

type Findings = Vec<(&'static str, Problem)>;

impl TlsServer {
    /// Every problem, with the key it is at.
    pub fn check(&self) -> Findings {
        let mut found = Findings::new();
        let cert = (self.cert_file.is_some(), self.cert_pem.is_some());
        let key = (self.key_file.is_some(), self.key_pem.is_some());
        check_pair(cert, key, &mut found);
        if cert == (false, false) && key == (false, false) {
            found.push(("", Problem::Missing("cert_file")));
        }
        let idle = [
            ("ca_file", self.ca_file.is_some()),
            ("ca_pem", self.ca_pem.is_some()),
            ("include_system_ca_certs_pool", self.include_system_ca_certs_pool),
        ];
        found.extend(idle.into_iter().filter(|(_, set)| *set).map(|(key, _)| (key, Problem::NoEffect)));
        check_offer(&self.offer(), &mut found);
        check_tpm(self.tpm.as_ref(), &mut found);
        found
    }

    /// What is offered to clients.
    pub fn offer(&self) -> Offer<'_> {
        Offer {
            min_version: self.min_version,
            max_version: self.max_version,
            cipher_suites: &self.cipher_suites,
            curve_preferences: &self.curve_preferences,
        }
    }
}

impl TlsClient {
    /// Every problem, with the key it is at.
    pub fn check(&self) -> Findings {
        let mut found = Findings::new();
        let cert = (self.cert_file.is_some(), self.cert_pem.is_some());
        let key = (self.key_file.is_some(), self.key_pem.is_some());
        check_pair(cert, key, &mut found);
        if self.ca_file.is_some() && self.ca_pem.is_some() {
            found.push(("ca_pem", Problem::Both("ca_file", "ca_pem")));
        }
        check_offer(&self.offer(), &mut found);
        check_tpm(self.tpm.as_ref(), &mut found);
        found
    }

    /// What is offered to servers.
    pub fn offer(&self) -> Offer<'_> {
        Offer {
            min_version: self.min_version,
            max_version: self.max_version,
            cipher_suites: &self.cipher_suites,
            curve_preferences: &self.curve_preferences,
        }
    }
}

/// Checks that a certificate and a key come together, each written once; the flags say (file, pem).
fn check_pair(cert: (bool, bool), key: (bool, bool), found: &mut Findings) {
    if cert == (true, true) {
        found.push(("cert_pem", Problem::Both("cert_file", "cert_pem")));
    }
    if key == (true, true) {
        found.push(("key_pem", Problem::Both("key_file", "key_pem")));
    }
    match (cert.0 || cert.1, key.0 || key.1) {
        (true, false) => found.push(("", Problem::Missing("key_file"))),
        (false, true) => found.push(("", Problem::Missing("cert_file"))),
        _ => {}
    }
}

fn check_offer(offer: &Offer<'_>, found: &mut Findings) {
    let (min, max) = (offer.min_version, offer.max_version);
    if max.is_some_and(|max| max < Version::Tls12) {
        found.push(("max_version", Problem::NoVersion));
    } else if min.zip(max).is_some_and(|(min, max)| min > max) {
        found.push(("min_version", Problem::VersionOrder));
    } else if min.is_some_and(|min| min < Version::Tls12) {
        found.push(("min_version", Problem::OldVersion));
    }
    for name in offer.cipher_suites.iter().filter(|name| !CIPHER_SUITES.contains(&name.as_str())) {
        found.push(("cipher_suites", Problem::CipherSuite(name.clone())));
    }
    for name in offer.curve_preferences.iter().filter(|name| !CURVES.contains(&name.as_str())) {
        found.push(("curve_preferences", Problem::Curve(name.clone())));
    }
}

fn check_tpm(tpm: Option<&Tpm>, found: &mut Findings) {
    if tpm.is_some_and(|tpm| tpm.enabled) {
        found.push(("tpm", Problem::Tpm));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(json: serde_json::Value) -> TlsServer {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn every_problem_of_a_listener_is_found() {
        let check = |json: serde_json::Value, expected: &[(&str, Problem)]| {
            assert_eq!(server(json.clone()).check(), expected, "{json}");
        };
        let pair = |mut json: serde_json::Value| {
            json["cert_file"] = "c.pem".into();
            json["key_file"] = "k.pem".into();
            json
        };
        check(pair(serde_json::json!({})), &[]);
        check(serde_json::json!({}), &[("", Problem::Missing("cert_file"))]);
        check(serde_json::json!({"cert_file": "c"}), &[("", Problem::Missing("key_file"))]);
        check(
            pair(serde_json::json!({"key_pem": "k"})),
            &[("key_pem", Problem::Both("key_file", "key_pem"))],
        );
        check(pair(serde_json::json!({"min_version": "1.0"})), &[("min_version", Problem::OldVersion)]);
        check(pair(serde_json::json!({"max_version": "1.1"})), &[("max_version", Problem::NoVersion)]);
        check(
            pair(serde_json::json!({"min_version": "1.3", "max_version": "1.2"})),
            &[("min_version", Problem::VersionOrder)],
        );
        check(
            pair(serde_json::json!({"cipher_suites": ["RC4"], "curve_preferences": ["P521"]})),
            &[
                ("cipher_suites", Problem::CipherSuite("RC4".into())),
                ("curve_preferences", Problem::Curve("P521".into())),
            ],
        );
        check(pair(serde_json::json!({"tpm": {"enabled": true}})), &[("tpm", Problem::Tpm)]);
        check(pair(serde_json::json!({"ca_file": "ca"})), &[("ca_file", Problem::NoEffect)]);
    }

    #[test]
    fn a_key_is_never_shown() {
        let config = server(serde_json::json!({"key_pem": "canary"}));
        let shown = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
