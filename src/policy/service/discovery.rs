//! How the instances of a service are found.

use std::net::SocketAddr;

use crate::names::Name;
use crate::policy::problem::Findings;
use crate::policy::raw::{RawDnsFamily, RawService, RawWhenEmpty};
use crate::policy::text;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    Endpoints(Vec<SocketAddr>),
    Dns {
        /// With a dot at its end where the name is whole.
        host: String,
        port: u16,
        family: DnsFamily,
    },
    /// Instances that register themselves under a name.
    Registry {
        name: Name,
        when_empty: WhenEmpty,
    },
}

/// The addresses of a name that are instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsFamily {
    All,
    /// IPv6 where there are any, else IPv4.
    Auto,
    V4,
    V6,
}

/// The instances that are left where the last registered one is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenEmpty {
    /// The last instances there were: more often their leases are lost than they are.
    Keep,
    Empty,
}

impl Discovery {
    pub(super) fn read(raw: &RawService, findings: &mut Findings) -> Option<Self> {
        if raw.when_empty.is_some() && raw.registry.is_none() {
            findings.within("when_empty", |findings| findings.say("needs `registry`".to_owned()));
        }
        if raw.dns_family.is_some() && raw.dns.is_none() {
            findings.within("dns_family", |findings| findings.say("needs `dns`".to_owned()));
        }
        match (&raw.endpoints, &raw.dns, &raw.registry) {
            (Some(endpoints), None, None) => Self::read_endpoints(endpoints, findings),
            (None, Some(dns), None) => {
                let family = match raw.dns_family {
                    None | Some(RawDnsFamily::All) => DnsFamily::All,
                    Some(RawDnsFamily::Auto) => DnsFamily::Auto,
                    Some(RawDnsFamily::V4) => DnsFamily::V4,
                    Some(RawDnsFamily::V6) => DnsFamily::V6,
                };
                let (host, port) = findings.within("dns", |findings| findings.check(dns, parse_dns(dns)))?;
                Some(Self::Dns { host, port, family })
            }
            (None, None, Some(registry)) => {
                let name = text::name(findings, "registry", registry)?;
                let when_empty = match raw.when_empty {
                    None | Some(RawWhenEmpty::Keep) => WhenEmpty::Keep,
                    Some(RawWhenEmpty::Empty) => WhenEmpty::Empty,
                };
                Some(Self::Registry { name, when_empty })
            }
            (None, None, None) => {
                findings.say("has no instances: expected endpoints, dns or registry".to_owned());
                None
            }
            (_, dns, registry) => {
                let field = if registry.is_some() { "registry" } else { "dns" };
                let other = if dns.is_some() && registry.is_some() { "dns" } else { "endpoints" };
                findings.within(field, |f| f.say(format!("stands beside {other}: expected one of the two")));
                None
            }
        }
    }

    fn read_endpoints(endpoints: &[String], findings: &mut Findings) -> Option<Self> {
        text::not_empty(findings, "endpoints", Some(endpoints));
        let mut addresses: Vec<SocketAddr> = Vec::with_capacity(endpoints.len());
        findings.within("endpoints", |findings| {
            for (index, endpoint) in endpoints.iter().enumerate() {
                let address = endpoint.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
                let address = address.ok_or("an IP address and a port, as in 10.0.0.7:8080 (host names go into dns)");
                findings.within(index, |findings| match findings.check(endpoint, address) {
                    Some(address) if addresses.contains(&address) => findings.say(format!("{address} stands twice")),
                    Some(address) => addresses.push(address),
                    None => {}
                });
            }
        });
        (!addresses.is_empty() && addresses.len() == endpoints.len()).then_some(Self::Endpoints(addresses))
    }

    /// True where there may be addresses that nobody listens on, as where a name has IPv6 addresses and its service
    /// does not.
    pub fn may_have_dead_addresses(&self) -> bool {
        matches!(self, Self::Dns { family: DnsFamily::All, .. })
    }
}

fn parse_dns(dns: &str) -> Result<(String, u16), &'static str> {
    text::host_and_port(dns).ok_or("a host name and a port, as in order.internal:8080")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_end_with_a_dot() {
        assert_eq!(parse_dns("x.local.:80"), Ok(("x.local.".to_owned(), 80)));
        assert_eq!(parse_dns("x.local:80"), Ok(("x.local".to_owned(), 80)));
        for bad in [".:80", "x..:80", ".x:80", "x.local.", "x.local.:0", "[::1]:80"] {
            assert!(parse_dns(bad).is_err(), "{bad}");
        }
    }
}
