//! Hosts: a whole name, or everything below one.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostMatch {
    Exact(String),
    /// `*.shop.example` is kept as `.shop.example`.
    Suffix(String),
}

impl HostMatch {
    pub(super) fn parse(host: &str) -> Result<Self, String> {
        let (name, is_suffix) = match host.strip_prefix('*') {
            Some(suffix) => (suffix.strip_prefix('.').unwrap_or("*"), true),
            None => (host, false),
        };
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err("a host name without a port, as in shop.example or *.shop.example".to_owned());
        }
        let name = name.to_ascii_lowercase();
        Ok(if is_suffix { Self::Suffix(format!(".{name}")) } else { Self::Exact(name) })
    }

    /// The host that a request's `host` header names.
    pub fn of_header(host: &str) -> Self {
        let name = host.get(..host_name(host.as_bytes()).len()).unwrap_or(host);
        Self::Exact(name.to_ascii_lowercase())
    }

    /// True where every host of `other` is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Suffix(own), Self::Exact(other)) => other.len() > own.len() && other.ends_with(own.as_str()),
            (Self::Suffix(own), Self::Suffix(other)) => other.ends_with(own.as_str()),
            (Self::Exact(_), Self::Suffix(_)) => false,
        }
    }
}

/// The name in a `host` header, without the port and without the dot by which it says that it is whole (RFC 1034, section
/// 3.1): `shop.example.` is where `shop.example` is.
pub fn host_name(host: &[u8]) -> &[u8] {
    let name = host.get(..name_length(host)).unwrap_or(host);
    name.strip_suffix(b".").unwrap_or(name)
}

/// The length of the part of a `host` header that is not the port. Envoy takes whatever stands after the last colon
/// for a port, unless that colon is one of an IPv6 address in brackets
/// (`RouteConfiguration.ignore_port_in_host_matching`).
pub fn name_length(host: &[u8]) -> usize {
    let last = |wanted: u8| host.iter().rposition(|byte| *byte == wanted);
    match (last(b':'), last(b']')) {
        (Some(colon), Some(bracket)) if bracket > colon => host.len(),
        (Some(colon), _) => colon,
        (None, _) => host.len(),
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_whole_names_or_suffixes() {
        let host = |text: &str| HostMatch::parse(text).unwrap();
        assert!(host("*.shop.example").covers(&host("a.shop.example")));
        assert!(host("*.example").covers(&host("*.shop.example")));
        assert!(!host("*.shop.example").covers(&host("shop.example")));
        assert_eq!(host("Shop.Example").to_string(), "shop.example");
        for spelling in ["Shop.Example:8443", "shop.example.", "shop.example.:x"] {
            assert_eq!(HostMatch::of_header(spelling), host("shop.example"));
        }
        for bad in ["*", "shop.*", "a:80", "a..b", "*shop"] {
            assert!(HostMatch::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_port_of_a_host_is_what_envoy_takes_for_one() {
        for (host, name) in [
            ("a.b", "a.b"),
            ("a.b:80", "a.b"),
            ("a.b:", "a.b"),
            ("a.b:x", "a.b"),
            ("a.b:1:2", "a.b:1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(name_length(host.as_bytes()), name.len(), "{host}");
        }
    }
}
