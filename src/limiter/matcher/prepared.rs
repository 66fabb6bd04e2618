//! A limit, ready to be asked of: everything about its counters that is the same for every request.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Applied, Described, Entries, Tier};
use crate::limiter::Charge;
use crate::limiter::key::{KeyHasher, KeyPart};
use crate::names::{FormId, Reported, descriptor};
use crate::policy::limit::{Cost, Dimension, Limit};
use crate::policy::matches;
use crate::policy::normalize::capitalize_escapes;
use crate::policy::rate_limits::{Action, RateLimitEntry};

#[derive(Debug)]
pub(in crate::limiter) struct Prepared {
    limit: Arc<Limit>,
    /// What the keys of its counters continue with: everything but what it counts by.
    identity: KeyPart,
    /// The keys of the entries that `limit.by` reads, in its order.
    by_keys: Box<[String]>,
    /// The keys of what a list's entry reports of the host that is asked for.
    host_keys: Box<[String]>,
    /// The keys of what a list's entry reports of credentials.
    credential_keys: Box<[String]>,
    /// The key of the entry that says what a request costs.
    cost_key: Option<String>,
    /// The parts of a request that a route has to report for it.
    needs: SmallVec<[Reported; 4]>,
}

impl Prepared {
    pub(super) fn new(keys: &KeyHasher, limit: &Arc<Limit>) -> Self {
        let algorithm = limit.algorithm.as_str();
        // The rate is left out: a limit whose rate changes keeps what it counted.
        let by: Vec<String> = limit.by.iter().map(ToString::to_string).collect();
        let identity = format!("{}\n{}\n{algorithm}\n{}", limit.name, limit.rate.window.secs(), by.join("\n"));
        Self {
            limit: Arc::clone(limit),
            identity: keys.prepare(identity.as_bytes()),
            by_keys: limit.by.iter().map(Dimension::descriptor_key).collect(),
            host_keys: Box::default(),
            credential_keys: Box::default(),
            cost_key: limit.cost.descriptor_key(),
            needs: limit.needs().collect(),
        }
    }

    pub(super) fn of_list(keys: &KeyHasher, entry: &RateLimitEntry, limit: &Arc<Limit>) -> Self {
        let host_key = |action: &Action| match action {
            Action::RequestHeader { key, name, .. } if matches!(name.as_str(), ":authority" | "host") => {
                Some(key.clone())
            }
            _ => None,
        };
        let credentials = entry.actions.iter().filter(|action| action.is_credential());
        Self {
            host_keys: entry.actions.iter().filter_map(host_key).collect(),
            credential_keys: credentials.map(|action| action.descriptor_key().to_owned()).collect(),
            ..Self::new(keys, limit)
        }
    }

    /// True where a request of the form tells all that it takes to count it.
    pub(super) fn fits(&self, form: &FormId) -> bool {
        self.needs.iter().all(|needed| form.has(*needed))
    }

    pub(super) fn is_of(&self, limit: &Limit) -> bool {
        std::ptr::eq(&*self.limit, limit)
    }

    /// The dimensions that split the limit's counters, each with the key that it is reported by.
    pub(super) fn by(&self) -> impl Iterator<Item = (&Dimension, &str)> {
        self.limit.by.iter().zip(self.by_keys.iter().map(String::as_str))
    }

    /// True for another version of the same limit: called the same, or counted in the same counters.
    pub(super) fn replaces(&self, older: &Self) -> bool {
        self.limit.name == older.limit.name || self.identity == older.identity
    }

    pub(super) fn apply<'a>(&'a self, tier: Tier, key: &KeyHasher, described: &Described<'_>) -> Applied<'a> {
        let key = key.clone().prepared(&self.identity);
        // What a request lacks is the empty value, in one counter for all such requests.
        let value_of = |key: &str| value(described.entries, key.as_bytes()).unwrap_or_default();
        let key = self.by().fold(key, |hasher, (dimension, key)| add_value(hasher, dimension, value_of(key)));
        let charge = Charge {
            key: key.finish(),
            rate: self.limit.rate,
            algorithm: self.limit.algorithm,
            mode: self.limit.mode,
            hits: self.cost(described.entries).saturating_mul(described.hits),
            is_exact: self.limit.is_exact,
        };
        Applied { limit: &self.limit, tier, charge }
    }

    /// The counter of a list's entry: everything that Envoy reported splits it, as in Envoy's own meaning of actions; but
    /// not what the request costs.
    pub(super) fn add_entries(&self, hasher: KeyHasher, entries: &Entries<'_>) -> KeyHasher {
        let is_cost = |key: &[u8]| self.cost_key.as_ref().is_some_and(|cost| cost.as_bytes() == key);
        let split_by = entries.iter().filter(|(key, _)| !is_cost(key));
        let is_host = |key: &[u8]| self.host_keys.iter().any(|host| host.as_bytes() == key);
        split_by.fold(hasher, |hasher, (key, value)| match *value {
            value if is_host(key) => hasher.part(key).part(&host_name(value)),
            value => add_entry(hasher, key, value),
        })
    }

    /// True for the key of a list's entry whose value is not shown.
    pub(super) fn is_credential(&self, key: &[u8]) -> bool {
        self.credential_keys.iter().any(|own| own.as_bytes() == key)
    }

    fn cost(&self, entries: &Entries<'_>) -> u32 {
        match self.limit.cost {
            Cost::Hits(hits) => hits.get(),
            Cost::Header(_) => {
                let named = self.cost_key.as_deref().and_then(|key| value(entries, key.as_bytes()));
                named.and_then(parse_cost).unwrap_or(1)
            }
        }
    }
}

/// A whole number above 0. One that is too large for any limit costs more than every limit allows.
fn parse_cost(text: &[u8]) -> Option<u32> {
    let text = text.trim_ascii();
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let add = |number: u32, digit: &u8| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    is_number.then(|| digits.iter().fold(0, add)).filter(|hits| *hits > 0)
}

pub(super) fn value<'a>(entries: &Entries<'a>, key: &[u8]) -> Option<&'a [u8]> {
    entries.iter().find(|(own, _)| *own == key).map(|(_, value)| *value)
}

fn add_entry(hasher: KeyHasher, key: &[u8], value: &[u8]) -> KeyHasher {
    let hasher = hasher.part(key);
    match value {
        [b'/', ..] => hasher.part(&path(value)),
        value if key == descriptor::CLIENT_IP.as_bytes() => hasher.part(&address(value)),
        value => hasher.part(value),
    }
}

fn add_value(hasher: KeyHasher, dimension: &Dimension, value: &[u8]) -> KeyHasher {
    match dimension {
        Dimension::ClientIp { prefix: Some(bits) } => hasher.part(&network(value, *bits)),
        Dimension::ClientIp { prefix: None } => hasher.part(&address(value)),
        Dimension::Path => hasher.part(&path(value)),
        Dimension::Host => hasher.part(&host_name(value)),
        _ => hasher.part(value),
    }
}

pub(super) fn parse_address(value: &[u8]) -> Option<IpAddr> {
    let address = std::str::from_utf8(value).ok()?.parse::<IpAddr>().ok()?;
    Some(address.to_canonical())
}

/// An address is the same however it is written: `::ffff:1.1.1.1` is 1.1.1.1.
fn address(value: &[u8]) -> SmallVec<[u8; 16]> {
    match parse_address(value) {
        Some(IpAddr::V4(address)) => SmallVec::from_slice(&address.octets()),
        Some(IpAddr::V6(address)) => SmallVec::from_slice(&address.octets()),
        None => SmallVec::from_slice(value),
    }
}

/// The network that an address is in: `bits` of an IPv4 address, 64 of an IPv6 address, which is what one
/// subscriber has.
fn network(value: &[u8], bits: u8) -> SmallVec<[u8; 16]> {
    match parse_address(value) {
        Some(IpAddr::V4(address)) => SmallVec::from_slice(&(address.to_bits() & mask(bits)).to_be_bytes()),
        Some(IpAddr::V6(address)) => SmallVec::from_slice(&(address.to_bits() >> 64).to_be_bytes()),
        None => SmallVec::from_slice(value),
    }
}

/// Of an IPv4 network.
pub(super) fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0)
}

/// Without the query, and the same whichever case its percent-escapes are written in.
pub(super) fn path(path_and_query: &[u8]) -> Cow<'_, [u8]> {
    capitalize_escapes(path_and_query.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default())
}

/// The name of a host as all its spellings have it.
pub(super) fn host_name(host: &[u8]) -> Cow<'_, [u8]> {
    match matches::host_name(host) {
        name if name.iter().any(u8::is_ascii_uppercase) => name.to_ascii_lowercase().into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_queries_are_no_way_round_a_limit() {
        assert_eq!(*host_name(b"Shop.example:8080"), *b"shop.example");
        assert_eq!(*host_name(b"shop.example.:x"), *b"shop.example");
        assert_eq!(*host_name(b"[::1]:80"), *b"[::1]");
        assert_eq!(*host_name(b"\xff:80"), *b"\xff");
        assert_eq!(*path(b"/a?b#c"), *b"/a");
        assert_eq!(*path(b"/a%2f?%2f"), *b"/a%2F");
    }

    #[test]
    fn a_cost_is_a_whole_number_and_never_too_large_to_count() {
        let costs = [("5", 5), (" 12 ", 12), ("+7", 7), ("007", 7)];
        costs.iter().for_each(|(text, cost)| assert_eq!(parse_cost(text.as_bytes()), Some(*cost), "{text:?}"));
        for text in ["4294967295", "4294967296", "99999999999999999999999999"] {
            assert_eq!(parse_cost(text.as_bytes()), Some(u32::MAX), "{text:?}");
        }
        for nonsense in ["", "+", "0", "-3", "1.5", "1e3", "0x10", "many", "\u{666}"] {
            assert_eq!(parse_cost(nonsense.as_bytes()), None, "{nonsense:?}");
        }
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        assert_eq!(address(b"::ffff:1.1.1.1"), address(b"1.1.1.1"));
        assert_eq!(address(b"2001:DB8:0::1"), address(b"2001:db8::1"));
        assert_ne!(address(b"1.1.1.1"), address(b"1.1.1.2"));
        assert_eq!(address(b"\xff").as_slice(), b"\xff");
    }
}
