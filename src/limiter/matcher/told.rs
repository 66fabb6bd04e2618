//! What a request was counted by, in words: for people, and therefore found again instead of kept by who decides. Nothing is
//! put on the heap for it, but where a request writes its host or path in a way of its own.

use std::borrow::Cow;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::pick::TenantLists;
use super::prepared::{Prepared, host_name, mask, parse_address, path, value};
use super::{Applied, Asked, Described, Found, Matcher, Tier};
use crate::names::credential::ShownValue;
use crate::names::{Name, descriptor, spelling};
use crate::policy::limit::Dimension;
use crate::policy::rate_limits::Action;

/// The counter of a limit that a request met.
#[derive(Clone, Copy, Debug)]
pub struct ToldCounter<'a> {
    /// `None`: it counts requests to every Api of the gateway.
    pub api: Option<&'a Name>,
    /// `None` where the newest policies do not have the limit any more.
    of: Option<(&'a Prepared, &'a Described<'a>)>,
    is_list: bool,
}

impl Matcher {
    /// The tenant of a request, as counters have it. `None` where its gateway tells no tenants apart, or it names none.
    pub fn tenant<'a>(&'a self, asked: &Asked<'a>) -> Option<Cow<'a, [u8]>> {
        let rule = self.gateways.get(asked.gateway)?.tenant.as_deref()?;
        self.tenancy(rule).tenant(of_api(asked)?.entries).ok()
    }

    /// The same as it is shown. Where the tenant's name is a credential that is its hash, but for names that documents have.
    pub fn shown_tenant<'a>(&'a self, asked: &Asked<'a>) -> Option<Cow<'a, [u8]>> {
        let rule = self.gateways.get(asked.gateway)?.tenant.as_deref()?;
        let tenancy = self.tenancy(rule);
        Some(tenancy.shown(tenancy.tenant(of_api(asked)?.entries).ok()?))
    }

    /// The counter of a limit that was found for a request of this tenant.
    pub fn counter<'a>(
        &'a self,
        asked: &Asked<'a>,
        tenant: Option<&[u8]>,
        found: &Found<'a>,
        applied: &Applied<'_>,
    ) -> ToldCounter<'a> {
        let of = |api, prepared: Option<&'a Prepared>| {
            let of = prepared.and_then(|prepared| Some((prepared, of_api(asked)?)));
            ToldCounter { api, of, is_list: false }
        };
        let own = |limits: &'a [Prepared]| limits.iter().find(|prepared| prepared.is_of(applied.limit));
        let gateway = self.gateways.get(asked.gateway);
        match applied.tier {
            Tier::Api => {
                let api = gateway.and_then(|gateway| gateway.api(found.api?.as_str()));
                of(found.api, api.and_then(|api| own(&api.limits)))
            }
            Tier::Tenant => {
                let tenancy = gateway.and_then(|gateway| gateway.tenant.as_deref()).map(|rule| self.tenancy(rule));
                let lists = tenancy.zip(tenant).and_then(|(tenancy, tenant)| tenancy.limits(tenant, found.api).ok());
                match lists {
                    None => of(found.api, None),
                    Some(TenantLists { over_all, for_api }) => match own(over_all) {
                        Some(prepared) => of(None, Some(prepared)),
                        None => of(found.api, own(for_api)),
                    },
                }
            }
            Tier::RateLimits => {
                let entry = |described: &'a Described<'a>| {
                    let (_, id) = described.entries.first()?;
                    let prepared = gateway?.rate_limits.get(std::str::from_utf8(id).ok()?)?;
                    Some((&**prepared, described)).filter(|(prepared, _)| prepared.is_of(applied.limit))
                };
                ToldCounter { api: None, of: asked.descriptors.iter().find_map(entry), is_list: true }
            }
        }
    }
}

impl ToldCounter<'_> {
    /// Tells the values of what the limit counts by, in its order; of a list's entry, all that is reported for it, each after
    /// the key that it is reported by.
    pub fn tell_values(&self, mut tell: impl FnMut(&[&[u8]])) {
        let Some((prepared, described)) = self.of else { return };
        if self.is_list {
            for (key, value) in described.entries.iter().skip(1) {
                tell_entry(value, prepared.is_credential(key), |[before, user, rest, query]| {
                    tell(&[key, b"=", before, user, rest, query]);
                });
            }
            return;
        }
        for (dimension, key) in prepared.by() {
            let reported = value(described.entries, key.as_bytes()).unwrap_or_default();
            tell_value(dimension, reported, |parts| tell(&parts));
        }
    }
}

/// What an Api's route reports.
fn of_api<'a>(asked: &Asked<'a>) -> Option<&'a Described<'a>> {
    let is_of_api = |described: &&Described<'_>| {
        described.entries.first().is_some_and(|(key, _)| *key == descriptor::API.as_bytes())
    };
    asked.descriptors.iter().find(is_of_api)
}

/// The value of what a limit counts by, as people write it.
pub fn shown_value(dimension: &Dimension, reported: &[u8]) -> String {
    let mut shown = String::new();
    tell_value(dimension, reported, |parts| shown = joined(parts));
    shown
}

/// The value that an action of a list reports, as it is shown.
pub fn shown_entry(action: &Action, value: &[u8]) -> String {
    let mut shown = String::new();
    tell_entry(value, action.is_credential(), |parts| shown = joined(parts));
    shown
}

fn joined(parts: [&[u8]; 4]) -> String {
    spelling::spelled(&parts.concat()).into_owned()
}

fn tell_value(dimension: &Dimension, reported: &[u8], tell: impl FnOnce([&[u8]; 4])) {
    match dimension {
        Dimension::ClientIp { prefix } => match (parse_address(reported), prefix) {
            (Some(IpAddr::V4(address)), Some(bits)) => {
                let network = Ipv4Addr::from_bits(address.to_bits() & mask(*bits));
                tell_written(format_args!("{network}/{bits}"), tell);
            }
            (Some(IpAddr::V6(address)), Some(_)) => {
                tell_written(format_args!("{}/64", Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)), tell);
            }
            (Some(address), None) => tell_written(format_args!("{address}"), tell),
            (None, _) => tell_text(reported, tell),
        },
        Dimension::Path => tell_text(&path(reported), tell),
        Dimension::Host => tell_text(&host_name(reported), tell),
        _ if dimension.is_credential() => tell(ShownValue::credential(reported).parts()),
        _ => tell_text(reported, tell),
    }
}

/// The query of a path has no part in the counter of a list's entry, and so none in what is told.
fn tell_entry(value: &[u8], is_credential: bool, tell: impl FnOnce([&[u8]; 4])) {
    match value {
        _ if is_credential => tell(ShownValue::credential(value).parts()),
        [b'/', ..] => tell_text(&path(value), tell),
        _ => tell_text(value, tell),
    }
}

fn tell_text(value: &[u8], tell: impl FnOnce([&[u8]; 4])) {
    tell(ShownValue::without_user_and_query(value).parts());
}

fn tell_written(text: std::fmt::Arguments<'_>, tell: impl FnOnce([&[u8]; 4])) {
    // An address and its network have 43 bytes at most.
    let mut written = [0; 64];
    let mut rest = &mut written[..];
    let _ = rest.write_fmt(text);
    let left = rest.len();
    tell_text(written.get(..written.len() - left).unwrap_or_default(), tell);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_counts_by_is_told_as_people_write_it() {
        let network = Dimension::ClientIp { prefix: Some(24) };
        for (dimension, value, expected) in [
            (&network, &b"10.1.2.3"[..], "10.1.2.0/24"),
            (&network, b"2001:db8::1:2:3:4", "2001:db8::/64"),
            (&network, b"ffff:ffff:ffff:ffff:ffff::", "ffff:ffff:ffff:ffff::/64"),
            (&network, b"unix", "unix"),
            (&network, b"?abc", "?sha256:ba7816bf8f01"),
            (&Dimension::ClientIp { prefix: None }, b"::ffff:10.1.2.3", "10.1.2.3"),
            (&Dimension::Host, b"Shop.example:80", "shop.example"),
            (&Dimension::Host, b"shop.example?abc", "shop.example?sha256:ba7816bf8f01"),
            (&Dimension::Path, b"/a%2f?q", "/a%2F"),
            (&Dimension::Path, b"/to/https://abc@b", "/to/https://sha256:ba7816bf8f01@b"),
            (&Dimension::Header("x-a".to_owned()), b"V", "V"),
            (&Dimension::Header("referer".to_owned()), b"a/?abc", "a/?sha256:ba7816bf8f01"),
            (&Dimension::Header("authorization".to_owned()), b"abc", "sha256:ba7816bf8f01"),
            (&Dimension::Cookie("sid".to_owned()), b"abc", "sha256:ba7816bf8f01"),
            (&Dimension::Query("access_token".to_owned()), b"", ""),
            (&Dimension::Method, b"", ""),
        ] {
            tell_value(dimension, value, |told| assert_eq!(told.concat(), expected.as_bytes(), "{dimension}"));
        }
    }

    #[test]
    fn of_what_a_list_reports_no_query_is_told() {
        for (value, is_credential, expected) in [
            (&b"/a%2f?q"[..], false, "/a%2F"),
            (b"/to/https://abc@b?q", false, "/to/https://sha256:ba7816bf8f01@b"),
            (b"a/?abc", false, "a/?sha256:ba7816bf8f01"),
            (b"http://abc@b", false, "http://sha256:ba7816bf8f01@b"),
            (b"browser?", false, "browser?"),
            (b"abc", true, "sha256:ba7816bf8f01"),
        ] {
            tell_entry(value, is_credential, |told| assert_eq!(told.concat(), expected.as_bytes()));
        }
    }
}
