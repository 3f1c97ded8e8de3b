//! PEM texts and where they come from.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use crate::config::tls::pem;

/// Where one PEM text is.
#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    Text(Vec<u8>),
}

/// Where the PEM texts of one side are.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    cert: Option<Place>,
    key: Option<Place>,
    authorities: Option<Place>,
}

/// The PEM texts of one side, read together.
#[derive(Debug, Default)]
pub(super) struct Pems {
    pub(super) cert: Option<Vec<u8>>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) authorities: Option<Vec<u8>>,
}

impl Places {
    pub(super) fn cert(mut self, file: Option<&PathBuf>, text: Option<&str>) -> Self {
        self.cert = place(file, text);
        self
    }

    pub(super) fn key(mut self, file: Option<&PathBuf>, text: Option<&str>) -> Self {
        self.key = place(file, text);
        self
    }

    pub(super) fn authorities(mut self, file: Option<&PathBuf>, text: Option<&str>) -> Self {
        self.authorities = place(file, text);
        self
    }

    /// The directories that hold the files; none if all texts are inline.
    pub(super) fn directories(&self) -> Vec<&Path> {
        let places = [&self.cert, &self.key, &self.authorities];
        let mut directories: Vec<_> =
            places.into_iter().filter_map(|place| directory(place.as_ref()?)).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    pub(super) fn read(&self) -> Result<Pems, TlsError> {
        Ok(Pems { cert: read(&self.cert)?, key: read(&self.key)?, authorities: read(&self.authorities)? })
    }
}

impl Pems {
    /// Tells two readings apart.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for text in [&self.cert, &self.key, &self.authorities] {
            let text = text.as_deref().unwrap_or_default();
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }

    pub(super) fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(self.cert.as_deref().ok_or(TlsError::Missing("cert_file"))?, "cert_file")
    }

    /// When the first certificate of the chain that ends does, in seconds since 1970; none without a chain,
    /// or one that cannot be read.
    pub(super) fn not_after(&self) -> Option<i64> {
        let chain = certificates(self.cert.as_deref()?, "cert_file").ok()?;
        let ends = |der: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(der).ok()?;
            Some(certificate.validity().not_after.timestamp())
        };
        chain.iter().filter_map(ends).min()
    }

    pub(super) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let text = self.key.as_deref().ok_or(TlsError::Missing("key_file"))?;
        pem::private_key(text).ok_or(TlsError::Pem { key: "key_file" })
    }
}

/// Adds the certificates of a PEM text to those believed.
pub(super) fn believe(roots: &mut RootCertStore, text: &[u8], key: &'static str) -> Result<(), TlsError> {
    for certificate in certificates(text, key)? {
        roots.add(certificate)?;
    }
    Ok(())
}

fn certificates(text: &[u8], key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    pem::certificates(text).ok_or(TlsError::Pem { key })
}

fn place(file: Option<&PathBuf>, text: Option<&str>) -> Option<Place> {
    match (file, text) {
        (Some(file), _) => Some(Place::File(file.clone())),
        (None, Some(text)) => Some(Place::Text(text.as_bytes().to_vec())),
        (None, None) => None,
    }
}

fn directory(place: &Place) -> Option<&Path> {
    match place {
        Place::File(path) => match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Some(Path::new(".")),
            parent => parent,
        },
        Place::Text(_) => None,
    }
}

fn read(place: &Option<Place>) -> Result<Option<Vec<u8>>, TlsError> {
    match place {
        None => Ok(None),
        Some(Place::Text(text)) => Ok(Some(text.clone())),
        Some(Place::File(path)) => match std::fs::read(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) => Err(TlsError::Read { path: path.clone(), error }),
        },
    }
}
