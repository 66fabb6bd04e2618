//! What a certificate says of whoever shows it.

use std::fmt;
use std::time::SystemTime;

use super::Name;
use crate::shown;

/// The certificate of a client, once it was verified against the authority that clients are to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// All that are URIs or DNS names. None, where what the certificate says cannot be read: then it is nobody's.
    pub sans: Vec<San>,
    /// The end of its validity; `None` where it cannot be read.
    pub not_after: Option<SystemTime>,
}

impl ClientCertificate {
    /// True where the certificate is for one of those that are named.
    pub fn is_one_of(&self, identities: &[San]) -> bool {
        self.sans.iter().any(|san| identities.contains(san))
    }
}

/// True where whoever shows the certificate may have what is for these identities. What names none is for everybody.
pub fn allows(identities: &[San], certificate: Option<&ClientCertificate>) -> bool {
    identities.is_empty() || certificate.is_some_and(|certificate| certificate.is_one_of(identities))
}

/// Why somebody may not have these gateways, in a sentence for logs and for whoever is refused.
pub fn denial(gateways: &[Name], certificate: Option<&ClientCertificate>) -> String {
    let gateways = shown::few(gateways, ", ");
    match certificate {
        None => {
            format!("gateway {gateways} is for some certificates only, and this port asks for none (--tls-client-ca)")
        }
        Some(certificate) if certificate.sans.is_empty() => {
            format!(
                "gateway {gateways} is not for a certificate that has neither a URI nor a DNS name (subjectAltName)"
            )
        }
        Some(certificate) => {
            let sans: Vec<_> = certificate.sans.iter().map(|san| shown::text(san.as_str())).collect();
            format!("gateway {gateways} is not for the certificate of {}", shown::few(&sans, ", "))
        }
    }
}

/// A name that a certificate is for (RFC 5280, section 4.2.1.6: subjectAltName). Two are the same where their bytes are,
/// those of DNS names without regard to case. Nothing in it is a pattern: `*.shop.internal` is no name but its own.
#[derive(Clone, Debug)]
pub enum San {
    Uri(String),
    Dns(String),
}

/// SPIFFE-ID, section 2.3.
const URI_BYTES_MAX: usize = 2048;
/// RFC 1035, section 2.3.4; a name of 255 bytes on the wire is written in 253.
const DNS_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

impl San {
    /// The form of a name, as error messages say it.
    pub const EXPECTED: &'static str =
        "a URI or a DNS name that a certificate is for, as in spiffe://shop/edge or edge.shop.internal";

    /// Reads a name that somebody wrote down, to be compared with those in certificates. One that no certificate can
    /// be for is a mistake.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some((scheme, rest)) => is_uri(text, scheme, rest).then(|| Self::Uri(text.to_owned())),
            None => is_dns_name(text).then(|| Self::Dns(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Uri(text) | Self::Dns(text) => text,
        }
    }
}

impl PartialEq for San {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Uri(one), Self::Uri(other)) => one == other,
            (Self::Dns(one), Self::Dns(other)) => one.eq_ignore_ascii_case(other),
            (Self::Uri(_), Self::Dns(_)) | (Self::Dns(_), Self::Uri(_)) => false,
        }
    }
}

impl Eq for San {}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// RFC 3986: an absolute URI. What tools print before a name, as in `URI:spiffe://shop/edge`, is no part of it.
fn is_uri(text: &str, scheme: &str, rest: &str) -> bool {
    let is_scheme_character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme_character);
    let is_label = ["uri", "dns", "ip", "email"].iter().any(|label| scheme.eq_ignore_ascii_case(label));
    let is_character = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()+,;=%".contains(&b);
    is_scheme
        && !is_label
        && text.len() <= URI_BYTES_MAX
        && !rest.is_empty()
        && rest.bytes().all(is_character)
        && (!scheme.eq_ignore_ascii_case("spiffe") || scheme == "spiffe" && is_spiffe_id(rest))
}

/// SPIFFE-ID, sections 2.1 and 2.2: a trust domain in lower case and a path, and nothing else of what a URI may have.
fn is_spiffe_id(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix("//") else { return false };
    let (trust_domain, path) = rest.split_once('/').map_or((rest, None), |(domain, path)| (domain, Some(path)));
    let is_domain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    let is_segment = |segment: &str| {
        let is_character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        !matches!(segment, "" | "." | "..") && segment.bytes().all(is_character)
    };
    !trust_domain.is_empty()
        && trust_domain.bytes().all(is_domain)
        && path.is_none_or(|path| path.split('/').all(is_segment))
}

/// RFC 1034, section 3.5, with the underscore that names of hosts have in practice.
fn is_dns_name(text: &str) -> bool {
    let is_character = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &str| {
        let has_edges = !label.starts_with('-') && !label.ends_with('-');
        (1..=LABEL_BYTES_MAX).contains(&label.len()) && has_edges && label.bytes().all(is_character)
    };
    text.len() <= DNS_BYTES_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_uri_or_a_dns_name() {
        let uri = |text: &str| matches!(San::parse(text), Some(San::Uri(read)) if read == text);
        let dns = |text: &str| matches!(San::parse(text), Some(San::Dns(read)) if read == text);
        for good in
            ["spiffe://shop/edge", "spiffe://shop", "spiffe://shop.io/ns/a/sa/b", "urn:uuid:f81d", "https://a.b/c?d"]
        {
            assert!(uri(good), "{good}");
        }
        let label = "l".repeat(LABEL_BYTES_MAX);
        for good in ["edge", "edge.shop.internal", "EDGE-1.Shop", "_edge.shop", &format!("{label}.{label}")] {
            assert!(dns(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "edge.",
            "-edge",
            "edge-",
            "*.shop.internal",
            "edge shop",
            "CN=edge",
            "édge",
            &"l".repeat(LABEL_BYTES_MAX + 1),
            &[&*label; 5].join("."),
            "spiffe:shop/edge",
            "SPIFFE://shop/edge",
            "spiffe://",
            "spiffe://Shop/edge",
            "spiffe://shop/",
            "spiffe://shop/edge/",
            "spiffe://shop//edge",
            "spiffe://shop/../edge",
            "spiffe://shop/*",
            "spiffe://shop/edge?a",
            "spiffe://shop:443/edge",
            "spiffe://ann@shop/edge",
            "URI:spiffe://shop/edge",
            "DNS:edge.shop",
            "IP:10.0.0.1",
            "://edge",
            "1a://edge",
            "edge:",
            "https://a b",
            "https://a/*",
            &format!("urn:{}", "x".repeat(URI_BYTES_MAX)),
        ] {
            assert_eq!(San::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_compared_as_bytes_and_those_of_hosts_in_any_case() {
        let parse = |text| San::parse(text).unwrap();
        assert_eq!(parse("edge.shop"), parse("EDGE.Shop"));
        assert_ne!(parse("https://a/b"), parse("https://a/B"));
        assert_ne!(parse("https://a/b"), parse("HTTPS://a/b"));
        assert_ne!(San::Uri("edge".to_owned()), San::Dns("edge".to_owned()));
        let shown = |sans: &[San]| ClientCertificate { sans: sans.to_vec(), not_after: None };
        let allowed = [parse("spiffe://shop/edge"), parse("edge.shop")];
        assert!(shown(&[parse("other.shop"), parse("Edge.shop")]).is_one_of(&allowed));
        for others in [&[][..], &[San::Dns("*.shop".to_owned())], &[parse("spiffe://shop/edge2")], &[parse("shop")]] {
            assert!(!shown(others).is_one_of(&allowed), "{others:?}");
        }
        assert!(!shown(&allowed).is_one_of(&[]));
    }
}
