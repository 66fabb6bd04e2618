//! Certificates as they are encoded (RFC 5280): for whom they are, and until when.

use std::net::IpAddr;
use std::time::SystemTime;

use x509_cert::Certificate;
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::names::certificate::{ClientCertificate, San};

/// Reads a certificate that was verified already.
pub fn client_certificate(der: &[u8]) -> Result<ClientCertificate, der::Error> {
    let certificate = Certificate::from_der(der)?;
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>()?;
    let san = |name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(San::Uri(uri.to_string())),
        GeneralName::DnsName(name) => Some(San::Dns(name.to_string())),
        _ => None,
    };
    let sans = names.map_or(Vec::new(), |(_, SubjectAltName(names))| names.into_iter().filter_map(san).collect());
    Ok(ClientCertificate { sans, not_after: Some(end(&certificate)) })
}

/// A certificate as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// As RFC 4514 writes it, as in `CN=edge,O=Shop`. Empty: it has none.
    pub subject: String,
    /// Those of its subjectAltName that are URIs, DNS names or addresses.
    pub names: Vec<String>,
    /// The last second in which it is valid.
    pub not_after: SystemTime,
}

pub fn described(der: &[u8]) -> Result<Described, der::Error> {
    let certificate = Certificate::from_der(der)?;
    // What cannot be read of the names is no reason not to know when it ends.
    let names = certificate.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten();
    Ok(Described {
        subject: certificate.tbs_certificate().subject().to_string(),
        names: names.map_or(Vec::new(), |(_, SubjectAltName(names))| names.iter().filter_map(shown_name).collect()),
        not_after: end(&certificate),
    })
}

fn shown_name(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(address) => {
            let v4 = <[u8; 4]>::try_from(address.as_bytes()).map(IpAddr::from);
            v4.or(<[u8; 16]>::try_from(address.as_bytes()).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn end(certificate: &Certificate) -> SystemTime {
    certificate.tbs_certificate().validity().not_after.to_system_time()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::made_certificates::Authority;

    fn der(names: &[&str], not_after: SystemTime) -> CertificateDer<'static> {
        let made = Authority::new().issue(names, not_after);
        CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()
    }

    #[test]
    fn a_certificate_says_for_whom_it_is_and_until_when() {
        let end = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        let names = ["spiffe://shop/edge", "Edge.shop", "*.shop", "10.0.0.7", "ann@shop.example"];
        let read = client_certificate(&der(&names, end)).unwrap();
        let dns = |name: &str| San::Dns(name.to_owned());
        assert_eq!(read.sans, [San::Uri("spiffe://shop/edge".to_owned()), dns("edge.shop"), dns("*.shop")]);
        let described = described(&der(&names, end)).unwrap();
        assert_eq!((read.not_after, described.not_after), (Some(end), end));
        assert_eq!(described.names, ["spiffe://shop/edge", "Edge.shop", "*.shop", "10.0.0.7"]);
        assert!(described.subject.starts_with("CN="), "{}", described.subject);
        assert_eq!(client_certificate(&der(&[], end)).unwrap().sans, []);
    }

    proptest! {
        #[test]
        fn whatever_a_certificate_holds_is_an_answer_or_an_error(at in 0..400_usize, byte in any::<u8>(), end in 0..400_usize) {
            let mut changed = der(&["spiffe://shop/edge", "edge.shop"], UNIX_EPOCH).to_vec();
            if let Some(place) = changed.get_mut(at) {
                *place = byte;
            }
            let _ = client_certificate(&changed);
            changed.truncate(end);
            let _ = (client_certificate(&changed), described(&changed));
        }
    }
}
