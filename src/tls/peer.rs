//! Who is at the other end of a connection, as the certificate it proved says.
//!
//! Parsed once per connection. Not here: whether the certificate is good (the handshake saw to that), or
//! which tenant a name means (`authentication`).

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// More names than this no certificate needs, and each costs a comparison per pattern.
const MAX_NAMES: usize = 64;

/// The names of a client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The URIs of the subject's alternative names, SPIFFE ids among them.
    pub uris: Vec<String>,
    /// The DNS names of the subject's alternative names, in lower case.
    pub dns_names: Vec<String>,
    /// The common names of the subject.
    pub common_names: Vec<String>,
    /// The certificate's SHA-256.
    pub digest: [u8; 32],
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

impl PeerCertificate {
    /// Reads the leaf of a chain; none if there is no certificate, or one that cannot be read.
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Option<Self> {
        let der = chain?.first()?;
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            tracing::debug!(name: "tls.odd_certificate", "a client's certificate cannot be read");
            return None;
        };
        let mut peer = Self {
            uris: Vec::new(),
            dns_names: Vec::new(),
            common_names: Vec::new(),
            digest: Sha256::digest(der).into(),
            not_after: certificate.validity().not_after.timestamp(),
        };
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names).take(MAX_NAMES) {
            match name {
                GeneralName::URI(uri) => peer.uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => peer.dns_names.push(name.to_ascii_lowercase()),
                _ => {}
            }
        }
        let common = certificate.subject().iter_common_name().take(MAX_NAMES);
        peer.common_names.extend(common.filter_map(|name| name.as_str().ok()).map(str::to_owned));
        Some(peer)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    #[test]
    fn names_of_a_certificate_are_read() {
        let mut params = CertificateParams::new(vec!["Agent.Example".to_owned()]).unwrap();
        let uri = "spiffe://prod.example/ns/acme/sa/agent";
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "acme");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let peer = PeerCertificate::of(Some(&[certificate.der().clone()])).unwrap();
        assert_eq!(peer.uris, [uri]);
        assert_eq!(peer.dns_names, ["agent.example"]);
        assert!(peer.common_names.contains(&"acme".to_owned()), "{peer:?}");
        assert!(peer.not_after > 1_700_000_000);
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        assert_eq!(PeerCertificate::of(None), None);
        assert_eq!(PeerCertificate::of(Some(&[])), None);
        assert_eq!(PeerCertificate::of(Some(&[CertificateDer::from(vec![1, 2, 3])])), None);
    }
}
