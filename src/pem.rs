//! PEM files (RFC 7468) that a flag names: certificates and private keys.

use std::fmt::{Debug, Display, Formatter};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::x509::Described;
use crate::{regular_file, shown, x509};

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
        match regular_file::read(path) {
            Ok(content) => Ok(Self { flag, path: path.to_owned(), content }),
            Err(error) => Err(Unusable { flag, path: path.to_owned(), problem: error.to_string() }),
        }
    }

    pub fn flag(&self) -> &'static str {
        self.flag
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For whom each certificate is, and until when.
    pub fn described(&self) -> Result<Vec<Described>, Unusable> {
        let certificates = self.certificates()?;
        certificates.iter().map(|der| x509::described(der).map_err(|error| self.unusable(error))).collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> PemFile {
        PemFile { flag: "--tls-cert", path: "/tls.crt".into(), content: content.to_vec() }
    }

    fn of_tests(name: &str) -> Vec<u8> {
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)).unwrap()
    }

    #[test]
    fn a_file_holds_as_many_certificates_as_it_says() {
        let (one, other, key) = (of_tests("server.crt"), of_tests("authority.crt"), of_tests("server.key"));
        assert_eq!(file(&one).certificates().unwrap().len(), 1);
        assert_eq!(file(&[&*one, &*other].concat()).certificates().unwrap().len(), 2);
        assert_eq!(file(&[b"words before\n", &*one, b"\nand after"].concat()).certificates().unwrap().len(), 1);
        // Both in one file, as some tools write it.
        let both = file(&[&*key, &*one].concat());
        assert!(both.certificates().unwrap().len() == 1 && both.private_key().is_ok());
        assert_eq!(file(&[&*one, &*other].concat()).authorities().unwrap().len(), 2);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_flag_and_its_path() {
        let told = |result: Result<(), Unusable>| String::from(result.unwrap_err());
        let missing = PemFile::read("--tls-key", Path::new("/nonexistent/tls.key"));
        assert!(told(missing.map(drop)).starts_with("--tls-key /nonexistent/tls.key: No such file"));
        let certificates = |content: &[u8]| told(file(content).certificates().map(drop));
        assert_eq!(certificates(b""), "--tls-cert /tls.crt: expected a CERTIFICATE in PEM");
        assert_eq!(certificates(&of_tests("server.key")), "--tls-cert /tls.crt: expected a CERTIFICATE in PEM");
        let certificate = of_tests("server.crt");
        let cut = certificates(&certificate[..certificate.len() / 2]);
        assert!(cut.starts_with("--tls-cert /tls.crt: "), "{cut}");
        let key = told(file(&certificate).private_key().map(drop));
        assert!(key.starts_with("--tls-cert /tls.crt: expected a PRIVATE KEY in PEM: "), "{key}");
        let nonsense = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(file(nonsense).certificates().is_ok(), "what is in it is looked at where it is used");
        assert!(told(file(nonsense).authorities().map(drop)).starts_with("--tls-cert /tls.crt: "));
    }

    #[test]
    fn a_key_is_never_printed() {
        let key = file(&of_tests("server.key"));
        assert_eq!(format!("{key:?}"), "--tls-cert /tls.crt");
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_file_is_an_answer_or_an_error(
            content in prop::collection::vec(any::<u8>(), 0..300),
            label in prop::sample::select(vec!["CERTIFICATE", "PRIVATE KEY", "RSA PRIVATE KEY", "x"]),
        ) {
            let content = [format!("-----BEGIN {label}-----\n").as_bytes(), &content, b"\n-----END ", label.as_bytes(), b"-----"].concat();
            let file = file(&content);
            let is_certificate = file.certificates().is_ok();
            prop_assert!(!is_certificate || label == "CERTIFICATE");
            let _ = (file.private_key().is_ok(), file.authorities().is_ok());
        }
    }
}
