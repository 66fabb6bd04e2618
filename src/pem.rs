//! PEM files (RFC 7468) that a flag names: certificates and private keys.

use std::fmt::{Debug, Display, Formatter};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::shown;

/// A file as it was when it was read. It may hold a private key, and is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFile {
    flag: &'static str,
    path: PathBuf,
    content: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
#[error("{flag} {path}: {problem}", path = shown::path(.path))]
pub struct Unusable {
    flag: &'static str,
    path: PathBuf,
    problem: String,
}

impl PemFile {
    pub fn read(flag: &'static str, path: &Path) -> Result<Self, Unusable> {
        match std::fs::read(path) {
            Ok(content) => Ok(Self { flag, path: path.to_owned(), content }),
            Err(error) => Err(Unusable { flag, path: path.to_owned(), problem: error.to_string() }),
        }
    }

    /// All certificates, of which there must be one.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let certificates = CertificateDer::pem_slice_iter(&self.content).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(self.unusable("expected a CERTIFICATE in PEM")),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.unusable(error)),
        }
    }

    /// The certificates as authorities to be trusted.
    pub fn authorities(&self) -> Result<RootCertStore, Unusable> {
        let mut authorities = RootCertStore::empty();
        for certificate in self.certificates()? {
            authorities.add(certificate).map_err(|error| self.unusable(error))?;
        }
        Ok(authorities)
    }

    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, Unusable> {
        PrivateKeyDer::from_pem_slice(&self.content)
            .map_err(|error| self.unusable(format_args!("expected a PRIVATE KEY in PEM: {error}")))
    }

    /// The error of somebody who could not use what is in the file.
    pub fn unusable(&self, problem: impl Display) -> Unusable {
        Unusable { flag: self.flag, path: self.path.clone(), problem: problem.to_string() }
    }
}

/// Verbs tell people what went wrong in words.
impl From<Unusable> for String {
    fn from(unusable: Unusable) -> Self {
        unusable.to_string()
    }
}

impl Debug for PemFile {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.flag, shown::path(&self.path))
    }
}
