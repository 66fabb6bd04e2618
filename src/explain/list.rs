//! What Envoy would make of lists of its actions.

use std::borrow::Cow;
use std::net::IpAddr;

use super::{PassedOver, Request};
use crate::names::descriptor;
use crate::policy::api::Api;
use crate::policy::gateway::Gateway;
use crate::policy::limit::{Cost, Limit};
use crate::policy::rate_limits::{Action, Entry, Metadata, RateLimitEntry};
use crate::policy::set::PolicySet;

type Descriptor = Vec<(String, String)>;

/// An action's share of a descriptor.
enum Added {
    Entry(String, String),
    Nothing,
    /// No value is found, and so the descriptor is not sent at all.
    NoDescriptor,
}

/// One descriptor for each entry of a list, where it applies to the request.
pub(super) fn descriptors(policies: &PolicySet, gateway: &Gateway, api: &Api, request: &Request) -> Vec<Descriptor> {
    limited(policies, gateway).filter_map(|(entry, limit)| described(entry, limit, api, request).ok()).collect()
}

/// The limits of the entries that do not apply.
pub(super) fn others(policies: &PolicySet, gateway: &Gateway, api: &Api, request: &Request) -> Vec<PassedOver> {
    let other = |(entry, limit): (_, &Limit)| {
        let action = described(entry, limit, api, request).err()?;
        Some(PassedOver::limit(&limit.name, lack(action)))
    };
    limited(policies, gateway).filter_map(other).collect()
}

fn limited<'a>(policies: &'a PolicySet, gateway: &Gateway) -> impl Iterator<Item = (&'a RateLimitEntry, &'a Limit)> {
    let lists = policies.rate_limits.values().filter(|list| list.is_for(&gateway.name));
    lists.flat_map(|list| list.limited()).map(|(entry, limit)| (entry, &**limit))
}

/// The entries that are reported, or the action for which nothing is.
fn described<'a>(
    entry: &'a RateLimitEntry,
    limit: &Limit,
    api: &Api,
    request: &Request,
) -> Result<Descriptor, &'a Action> {
    let mut entries = vec![(descriptor::RATE_LIMITS.to_owned(), entry.id.clone())];
    for action in &entry.actions {
        match added(action, api, request) {
            Added::Entry(key, value) => entries.push((key, value)),
            Added::Nothing => {}
            Added::NoDescriptor => return Err(action),
        }
    }
    if let Cost::Header(name) = &limit.cost {
        let cost = request.first_header(name).map(str::to_owned);
        entries.extend(limit.cost.descriptor_key().zip(cost));
    }
    Ok(entries)
}

/// What an action found nothing in.
fn lack(action: &Action) -> String {
    match action {
        Action::RequestHeader { name, .. } => format!("the request has no header {name}"),
        Action::QueryParameter { name, .. } => format!("the request has no parameter {name}"),
        Action::RemoteAddressMatch { is_inverted: false, .. } => {
            "the client's address is in none of its ranges".to_owned()
        }
        Action::RemoteAddressMatch { .. } => "the client's address is in one of its ranges".to_owned(),
        Action::HeaderMatch { expect_match: true, .. } => "the request's headers do not match".to_owned(),
        Action::HeaderMatch { .. } => "the request's headers match".to_owned(),
        Action::QueryMatch { expect_match: true, .. } => "the request's parameters do not match".to_owned(),
        Action::QueryMatch { .. } => "the request's parameters match".to_owned(),
        _ => format!("nothing has a value for {}", action.descriptor_key()),
    }
}

fn added(action: &Action, api: &Api, request: &Request) -> Added {
    let found = |key: &str, value: Option<Cow<'_, str>>, skip_if_absent: bool| match value {
        Some(value) => Added::Entry(key.to_owned(), value.into_owned()),
        None if skip_if_absent => Added::Nothing,
        None => Added::NoDescriptor,
    };
    let fixed = |entry: &Entry, applies: bool| found(&entry.key, applies.then_some((&*entry.value).into()), false);
    match action {
        Action::RequestHeader { key, name, skip_if_absent } => {
            found(key, request.first_header(name).map(Cow::Borrowed), *skip_if_absent)
        }
        Action::QueryParameter { key, name, skip_if_absent } => found(key, request.query(name), *skip_if_absent),
        Action::RemoteAddress => Added::Entry(action.descriptor_key().to_owned(), request.client_ip.to_string()),
        Action::MaskedRemoteAddress { v4_bits, v6_bits } => {
            Added::Entry(action.descriptor_key().to_owned(), masked_entry(request.client_ip, *v4_bits, *v6_bits))
        }
        Action::RemoteAddressMatch { entry, ranges, is_inverted } => {
            let is_within = ranges.iter().any(|range| range.contains(request.client_ip));
            fixed(entry, is_within != *is_inverted)
        }
        Action::GenericKey(entry) => fixed(entry, true),
        Action::HeaderMatch { entry, expect_match, headers } => {
            let matches = headers.iter().all(|matcher| matcher.matches(&request.header_values(&matcher.name)));
            fixed(entry, matches == *expect_match)
        }
        Action::QueryMatch { entry, expect_match, parameters } => {
            let matches = parameters.iter().all(|matcher| matcher.matches(request.query(&matcher.name).as_deref()));
            fixed(entry, matches == *expect_match)
        }
        // Nothing on a gateway's Envoys writes metadata that actions could find.
        Action::Metadata(Metadata { key, default, skip_if_absent, .. }) => {
            found(key, default.as_deref().map(Cow::Borrowed), *skip_if_absent)
        }
        // Envoy's own cluster, which is for its bootstrap to say.
        Action::SourceCluster => Added::Entry(action.descriptor_key().to_owned(), String::new()),
        Action::DestinationCluster => Added::Entry(action.descriptor_key().to_owned(), api.service.as_str().to_owned()),
    }
}

/// The value that `masked_remote_address` reports.
pub(super) fn masked_entry(address: IpAddr, v4_bits: u32, v6_bits: u32) -> String {
    let bits = if address.is_ipv4() { v4_bits } else { v6_bits };
    format!("{}/{bits}", masked(address, bits))
}

fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}
