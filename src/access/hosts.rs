//! The names that the port is asked by, and the pages that may ask it.
//!
//! A browser asks whatever address a name leads to, on behalf of any page (DNS rebinding): the page's own name is in `Host`, and
//! where it comes from is in `Origin`. No page chooses these.

use std::net::IpAddr;

use super::Port;

/// What a client calls the server: a host and, where it says so, a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    /// In lower case.
    Name(String),
}

/// Where a page comes from (RFC 6454).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// The longest name of a host, in bytes (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

impl Host {
    /// The form of a host, as error messages say it.
    pub const EXPECTED: &'static str = "a name or an address without a port, as in tierflow.internal";

    pub fn parse(text: &str) -> Option<Self> {
        let in_brackets = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match in_brackets {
            Some(address) => address.parse().ok().map(|address| Self::Ip(IpAddr::V6(address))),
            None => match text.parse::<std::net::Ipv4Addr>() {
                Ok(address) => Some(Self::Ip(address.into())),
                Err(_) => is_name(text).then(|| Self::Name(text.to_ascii_lowercase())),
            },
        }
    }

    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

fn is_name(text: &str) -> bool {
    let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.split('.').all(|label| !label.is_empty() && label.bytes().all(is_part))
}

impl Authority {
    /// RFC 9110, section 7.2: `host[:port]`, and no user.
    pub fn parse(text: &str) -> Option<Self> {
        let after_host = text.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match text.get(after_host..)?.find(':') {
            None => (text, None),
            Some(colon) => (text.get(..after_host + colon)?, Some(text.get(after_host + colon + 1..)?)),
        };
        let is_number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port {
            None => None,
            Some(port) if is_number(port) => Some(port.parse().ok()?),
            Some(_) => return None,
        };
        Some(Self { host: Host::parse(host)?, port })
    }
}

impl Origin {
    /// The form of an origin, as error messages say it.
    pub const EXPECTED: &'static str = "http:// or https:// and a host, as in https://tierflow.internal";

    /// As browsers write it: `null`, which sandboxed pages have, is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let (scheme, default_port) = match scheme {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            _ => return None,
        };
        let Authority { host, port } = Authority::parse(authority)?;
        Some(Self { scheme, host, port: port.unwrap_or(default_port) })
    }
}

/// The hosts and origins that are answered.
#[derive(Debug)]
pub struct Hosts {
    port: Port,
    hosts: Vec<Host>,
    origins: Vec<Origin>,
}

impl Hosts {
    pub(super) fn new(port: Port, hosts: Vec<Host>, origins: Vec<Origin>) -> Self {
        Self { port, hosts, origins }
    }

    /// Names of the loopback address, the address that is listened on, and those that are named. Of a port that listens on all
    /// addresses any address: DNS rebinding needs a name. The number of the port may be that of whoever forwards to it.
    pub fn answers_to(&self, host: &Host) -> bool {
        let bound = self.port.bound.ip().to_canonical();
        let is_bound = matches!(host, Host::Ip(address) if bound.is_unspecified() || address.to_canonical() == bound);
        host.is_loopback() || is_bound || self.hosts.contains(host)
    }

    /// The page that is served here, or one of those that are named.
    pub fn takes_from(&self, origin: &Origin, asked: &Authority) -> bool {
        let default_port = if origin.scheme == Scheme::Https { 443 } else { 80 };
        let is_own = origin.host == asked.host && origin.port == asked.port.unwrap_or(default_port);
        // Whoever takes TLS off on the way here leaves pages with `https` at a port without it.
        let has_own_scheme = origin.scheme == Scheme::Https || !self.port.is_tls;
        (is_own && has_own_scheme) || self.origins.contains(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(bound: &str, is_tls: bool, names: &[&str], origins: &[&str]) -> Hosts {
        let names = names.iter().map(|name| Host::parse(name).unwrap()).collect();
        let origins = origins.iter().map(|origin| Origin::parse(origin).unwrap()).collect();
        Hosts::new(Port { bound: bound.parse().unwrap(), is_tls }, names, origins)
    }

    fn answers(hosts: &Hosts, host: &str) -> bool {
        Authority::parse(host).is_some_and(|authority| hosts.answers_to(&authority.host))
    }

    #[test]
    fn names_of_loopback_the_bound_address_and_those_that_are_named_are_answered() {
        let hosts = hosts("10.0.0.5:8080", false, &["tierflow.internal", "192.0.2.1"], &[]);
        for good in [
            "localhost",
            "LocalHost:8080",
            "127.0.0.1:1",
            "127.3.2.1",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
            "10.0.0.5",
            "10.0.0.5:9999",
            "[::ffff:10.0.0.5]:8080",
            "tierflow.internal:443",
            "TIERFLOW.internal",
            "192.0.2.1",
        ] {
            assert!(answers(&hosts, good), "{good}");
        }
        for bad in [
            "",
            "shop.example:8080",
            "10.0.0.6",
            "localhost.",
            "localhost.evil.example",
            "evil.localhost",
            "tierflow.internal.evil.example",
            "evil-tierflow.internal",
            "tierflow.internal.",
            "tierflow.internal:x",
            "tierflow.internal:",
            "tierflow.internal:99999",
            "tierflow.internal:80:80",
            "tierflow.internal@evil.example",
            "evil.example@tierflow.internal",
            "tierflow.internal/",
            "tierflow.internal,evil.example",
            "tierflow.internal evil.example",
            "http://tierflow.internal",
            // Other spellings of 127.0.0.1, which some resolvers take.
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.0.0.1.nip.example",
            "0.0.0.0",
            "::1",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "[]",
            "*",
        ] {
            assert!(!answers(&hosts, bad), "{bad}");
        }
    }

    #[test]
    fn a_port_of_all_addresses_is_answered_by_any_of_them_and_by_no_name() {
        for bound in ["0.0.0.0:8080", "[::]:8080"] {
            let hosts = hosts(bound, false, &[], &[]);
            assert!(
                answers(&hosts, "10.0.0.5:8080") && answers(&hosts, "[2001:db8::1]") && answers(&hosts, "localhost")
            );
            assert!(!answers(&hosts, "tierflow.internal") && !answers(&hosts, "127.1"));
        }
    }

    #[test]
    fn pages_that_are_served_here_and_those_that_are_named_may_ask() {
        let plain = hosts("127.0.0.1:8080", false, &["a.example"], &["https://panel.example", "http://other:81"]);
        let secure = hosts("127.0.0.1:8080", true, &["a.example"], &[]);
        let takes = |hosts: &Hosts, origin: &str, asked: &str| {
            let asked = Authority::parse(asked).unwrap();
            Origin::parse(origin).is_some_and(|origin| hosts.takes_from(&origin, &asked))
        };
        for (origin, asked) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://localhost", "localhost"),
            ("http://localhost", "localhost:80"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("https://a.example", "a.example"),
            ("https://panel.example", "127.0.0.1:8080"),
            ("https://panel.example:443", "127.0.0.1:8080"),
            ("http://other:81", "a.example"),
        ] {
            assert!(takes(&plain, origin, asked), "{origin} {asked}");
        }
        for (origin, asked) in [
            ("null", "127.0.0.1:8080"),
            ("", "127.0.0.1:8080"),
            ("http://127.0.0.1:8081", "127.0.0.1:8080"),
            ("http://localhost:8080", "127.0.0.1:8080"),
            ("http://evil.example", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080.evil.example", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080@evil.example", "127.0.0.1:8080"),
            ("http://evil.example#127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://panel.example", "127.0.0.1:8080"),
            ("https://panel.example.evil.example", "127.0.0.1:8080"),
            ("https://evil.example/https://panel.example", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080, http://evil.example", "127.0.0.1:8080"),
            ("file://", "127.0.0.1:8080"),
            ("chrome-extension://abc", "127.0.0.1:8080"),
            ("//127.0.0.1:8080", "127.0.0.1:8080"),
        ] {
            assert!(!takes(&plain, origin, asked), "{origin} {asked}");
        }
        assert!(takes(&secure, "https://a.example", "a.example"));
        assert!(!takes(&secure, "http://a.example:443", "a.example:443"), "without TLS it is not from here");
    }
}
