//! What is wrong with TLS keys as they are written.

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::{Identity, Offer, TlsClient, TlsServer, Tpm, Version, pem};

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
    /// A PEM text without what belongs there.
    #[error("holds no {0} that can be read; it is a text that begins with -----BEGIN")]
    Pem(&'static str),
    /// A certificate that nobody can use.
    #[error("a certificate cannot be used: {0}")]
    Certificate(String),
    /// Certificate and key are of two pairs.
    #[error("is not the key of the certificate in `cert_pem`")]
    OtherKey,
    /// A private key of a kind that is not offered.
    #[error("the private key is of a kind that is not offered; offered are RSA, ECDSA and Ed25519")]
    KeyKind,
    /// Not a name that a certificate could carry.
    #[error("{0:?} is neither a host name nor an address")]
    ServerName(String),
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
        let identity = self.identity();
        check_identity(&identity, &mut found);
        if !identity.has_cert() && !identity.has_key() {
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
}

impl TlsClient {
    /// Every problem, with the key it is at.
    pub fn check(&self) -> Findings {
        let mut found = Findings::new();
        check_identity(&self.identity(), &mut found);
        match &self.ca_pem {
            Some(_) if self.ca_file.is_some() => {
                found.push(("ca_pem", Problem::Both("ca_file", "ca_pem")));
            }
            Some(text) => check_authorities(text, &mut found),
            None => {}
        }
        let name = self.server_name_override.as_str();
        if !name.is_empty() && ServerName::try_from(name).is_err() {
            found.push(("server_name_override", Problem::ServerName(name.to_owned())));
        }
        check_offer(&self.offer(), &mut found);
        check_tpm(self.tpm.as_ref(), &mut found);
        found
    }
}

impl Identity<'_> {
    fn has_cert(&self) -> bool {
        self.cert_file || self.cert_pem.is_some()
    }

    fn has_key(&self) -> bool {
        self.key_file || self.key_pem.is_some()
    }
}

/// Checks that certificate and key come together, each written once, and that PEM texts hold them.
fn check_identity(identity: &Identity<'_>, found: &mut Findings) {
    if identity.cert_file && identity.cert_pem.is_some() {
        found.push(("cert_pem", Problem::Both("cert_file", "cert_pem")));
    }
    if identity.key_file && identity.key_pem.is_some() {
        found.push(("key_pem", Problem::Both("key_file", "key_pem")));
    }
    match (identity.has_cert(), identity.has_key()) {
        (true, false) => found.push(("", Problem::Missing("key_file"))),
        (false, true) => found.push(("", Problem::Missing("cert_file"))),
        _ => {}
    }
    let chain =
        identity.cert_pem.filter(|_| !identity.cert_file).map(|text| pem::certificates(text.as_bytes()));
    let key = identity.key_pem.filter(|_| !identity.key_file).map(|text| pem::private_key(text.as_bytes()));
    if chain == Some(None) {
        found.push(("cert_pem", Problem::Pem("certificate")));
    }
    if key == Some(None) {
        found.push(("key_pem", Problem::Pem("private key")));
    }
    let Some(Some(chain)) = chain else {
        return;
    };
    if let Err(rustls::Error::InvalidCertificate(why)) = ParsedCertificate::try_from(&chain[0]) {
        found.push(("cert_pem", Problem::Certificate(why.to_string())));
    } else if let Some(Some(key)) = key {
        match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => found.push(("key_pem", Problem::OtherKey)),
            Err(_unusable) => found.push(("key_pem", Problem::KeyKind)),
        }
    }
}

fn check_authorities(text: &str, found: &mut Findings) {
    let Some(certificates) = pem::certificates(text.as_bytes()) else {
        found.push(("ca_pem", Problem::Pem("certificate")));
        return;
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        if let Err(rustls::Error::InvalidCertificate(why)) = roots.add(certificate) {
            found.push(("ca_pem", Problem::Certificate(why.to_string())));
        }
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
