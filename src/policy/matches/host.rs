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

    /// Whether every host of `other` is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(own), Self::Exact(other)) => own == other,
            (Self::Suffix(own), Self::Exact(other)) => other.len() > own.len() && other.ends_with(own.as_str()),
            (Self::Suffix(own), Self::Suffix(other)) => other.ends_with(own.as_str()),
            (Self::Exact(_), Self::Suffix(_)) => false,
        }
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
        for bad in ["*", "shop.*", "a:80", "a..b", "*shop"] {
            assert!(HostMatch::parse(bad).is_err(), "{bad}");
        }
    }
}
