//! TLS to a service. There is no way not to verify its certificate: whoever stands between would read and change
//! everything, and nobody would notice.

use std::net::IpAddr;

use crate::policy::gateway;
use crate::policy::problem::Findings;
use crate::policy::raw::RawUpstreamTls;
use crate::policy::text;

/// The most names that a certificate may be for.
const NAMES_MAX: usize = 16;

/// Paths on the Envoy's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `None`: the handshake names no host.
    pub sni: Option<String>,
    pub ca: String,
    pub identity: Option<gateway::Tls>,
    /// One of these has to be in the certificate.
    pub names: Vec<SubjectName>,
}

/// A subject alternative name (RFC 5280, section 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectName {
    Dns(String),
    Ip(IpAddr),
    Uri(String),
}

impl Tls {
    /// `host` is the service's own, where it has one.
    pub(super) fn read(raw: &RawUpstreamTls, host: Option<&str>, findings: &mut Findings) -> Option<Self> {
        let ca = text::envoy_path(findings, "ca", &raw.ca);
        let identity = Self::read_identity(raw, findings);
        let sni = raw.sni.as_deref().map(|sni| findings.within("sni", |f| f.check(sni, parse_sni(sni))));
        let names = raw.verify_san.as_deref().map(|names| Self::read_names(names, findings));
        let host = host.map(|host| host.strip_suffix('.').unwrap_or(host));
        // An address is no name to ask for (RFC 6066, section 3).
        let sni = text::optional(sni)?.or_else(|| parse_sni(host?).ok());
        let its_own = || Some(vec![SubjectName::parse(sni.as_deref().or(host)?).ok()?]);
        let Some(names) = text::optional(names)?.or_else(its_own) else {
            findings.say("does not say whose certificate it has to be: expected `sni` or `verify_san`".to_owned());
            return None;
        };
        Some(Self { sni, ca: ca?, identity: identity?, names })
    }

    fn read_identity(raw: &RawUpstreamTls, findings: &mut Findings) -> Option<Option<gateway::Tls>> {
        match (&raw.certificate_chain, &raw.private_key) {
            (None, None) => Some(None),
            (Some(certificate_chain), Some(private_key)) => {
                let certificate_chain = text::envoy_path(findings, "certificate_chain", certificate_chain);
                let private_key = text::envoy_path(findings, "private_key", private_key);
                Some(Some(gateway::Tls { certificate_chain: certificate_chain?, private_key: private_key? }))
            }
            (Some(_), None) => {
                findings.within("certificate_chain", |findings| findings.say("needs `private_key`".to_owned()));
                None
            }
            (None, Some(_)) => {
                findings.within("private_key", |findings| findings.say("needs `certificate_chain`".to_owned()));
                None
            }
        }
    }

    fn read_names(raw: &[String], findings: &mut Findings) -> Option<Vec<SubjectName>> {
        text::not_empty(findings, "verify_san", Some(raw));
        findings.within("verify_san", |findings| {
            if raw.len() > NAMES_MAX {
                findings.say(format!("has {} entries, expected at most {NAMES_MAX}", raw.len()));
            }
            let mut names = Vec::with_capacity(raw.len());
            for (index, name) in raw.iter().enumerate() {
                findings.within(index, |findings| match findings.check(name, SubjectName::parse(name)) {
                    Some(parsed) if names.contains(&parsed) => findings.say(format!("{name} stands twice")),
                    Some(parsed) => names.push(parsed),
                    None => {}
                });
            }
            (!names.is_empty() && names.len() == raw.len()).then_some(names)
        })
    }
}

impl SubjectName {
    fn parse(name: &str) -> Result<Self, &'static str> {
        let uri = || text::plain(name).ok().filter(|name| name.contains("://") && name.is_ascii()).map(Self::Uri);
        let host = || text::host_name(name).map(Self::Dns);
        let ip = name.parse().ok().map(Self::Ip);
        ip.or_else(host).or_else(uri).ok_or("a host name, an IP address or a URI, as in order.internal")
    }
}

fn parse_sni(sni: &str) -> Result<String, &'static str> {
    let is_address = sni.parse::<IpAddr>().is_ok();
    text::host_name(sni).filter(|_| !is_address).ok_or("a host name without a port, as in order.internal")
}
