//! Envoy's actions, each of which adds an entry to what is reported of a request.

use std::net::IpAddr;

use super::matcher::{HeaderMatcher, QueryMatcher};
use crate::names::credential::is_credential;
use crate::names::descriptor;
use crate::policy::problem::Findings;
use crate::policy::raw::{
    RawAction, RawAddressMatcher, RawCidrRange, RawMaskedRemoteAddress, RawMetadataKey, RawPathSegment,
};
use crate::policy::text;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    RequestHeader { key: String, name: String, skip_if_absent: bool },
    QueryParameter { key: String, name: String, skip_if_absent: bool },
    RemoteAddress,
    MaskedRemoteAddress { v4_bits: u32, v6_bits: u32 },
    RemoteAddressMatch { entry: Entry, ranges: Vec<AddressRange>, is_inverted: bool },
    GenericKey(Entry),
    HeaderMatch { entry: Entry, expect_match: bool, headers: Vec<HeaderMatcher> },
    QueryMatch { entry: Entry, expect_match: bool, parameters: Vec<QueryMatcher> },
    Metadata(Metadata),
    SourceCluster,
    DestinationCluster,
}

/// The entry of a descriptor that is reported where it applies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub key: String,
    pub value: String,
    /// For Envoys that read the value as a format and find it empty.
    pub default: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddressRange {
    pub address: IpAddr,
    pub bits: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Metadata {
    pub key: String,
    pub source: MetadataSource,
    pub namespace: String,
    /// Keys of nested mappings; at least one.
    pub path: Vec<String>,
    pub default: Option<String>,
    pub skip_if_absent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetadataSource {
    Dynamic,
    RouteEntry,
    ClusterEntry,
}

impl Action {
    /// True where the value that it reports lets whoever has it in.
    pub fn is_credential(&self) -> bool {
        match self {
            Self::RequestHeader { name, .. } | Self::QueryParameter { name, .. } => is_credential(name),
            _ => false,
        }
    }

    pub(super) fn read(raw: &RawAction, findings: &mut Findings) -> Option<Self> {
        match raw {
            RawAction::RequestHeaders(raw) => findings.within("request_headers", |findings| {
                let name = read_header_name(findings, "header_name", &raw.header_name);
                let key = read_key(findings, &raw.descriptor_key);
                let skip_if_absent = raw.skip_if_absent.unwrap_or(false);
                Some(Self::RequestHeader { key: key?, name: name?, skip_if_absent })
            }),
            RawAction::QueryParameters(raw) => findings.within("query_parameters", |findings| {
                let name = read_plain(findings, "query_parameter_name", &raw.query_parameter_name);
                let key = read_key(findings, &raw.descriptor_key);
                let skip_if_absent = raw.skip_if_absent.unwrap_or(false);
                Some(Self::QueryParameter { key: key?, name: name?, skip_if_absent })
            }),
            RawAction::RemoteAddress(_) => Some(Self::RemoteAddress),
            RawAction::MaskedRemoteAddress(raw) => {
                findings.within("masked_remote_address", |findings| read_masked(raw, findings))
            }
            RawAction::RemoteAddressMatch(raw) => findings.within("remote_address_match", |findings| {
                let entry = Entry::read(
                    &raw.descriptor_value,
                    raw.descriptor_key.as_deref().unwrap_or("remote_address_match"),
                    raw.default_value.as_deref(),
                    findings,
                );
                if raw.descriptor_value.contains('%') {
                    let message = "the formats of access logs (%...%) are not taken: what they give is not known here";
                    findings.within("descriptor_value", |findings| findings.say(message.to_owned()));
                }
                let RawAddressMatcher { ranges, invert_match } = &raw.address_matcher;
                let ranges = findings
                    .within("address_matcher", |findings| text::list(findings, "ranges", ranges, AddressRange::read));
                let is_inverted = invert_match.unwrap_or(false);
                Some(Self::RemoteAddressMatch { entry: entry?, ranges: ranges?, is_inverted })
            }),
            RawAction::GenericKey(raw) => findings.within("generic_key", |findings| {
                let key = raw.descriptor_key.as_deref().unwrap_or("generic_key");
                Entry::read(&raw.descriptor_value, key, raw.default_value.as_deref(), findings).map(Self::GenericKey)
            }),
            RawAction::HeaderValueMatch(raw) => findings.within("header_value_match", |findings| {
                let key = raw.descriptor_key.as_deref().unwrap_or("header_match");
                let entry = Entry::read(&raw.descriptor_value, key, raw.default_value.as_deref(), findings);
                let headers = text::list(findings, "headers", &raw.headers, HeaderMatcher::read);
                let expect_match = raw.expect_match.unwrap_or(true);
                Some(Self::HeaderMatch { entry: entry?, expect_match, headers: headers? })
            }),
            RawAction::QueryParameterValueMatch(raw) => findings.within("query_parameter_value_match", |findings| {
                let key = raw.descriptor_key.as_deref().unwrap_or("query_match");
                let entry = Entry::read(&raw.descriptor_value, key, raw.default_value.as_deref(), findings);
                let parameters = text::list(findings, "query_parameters", &raw.query_parameters, QueryMatcher::read);
                let expect_match = raw.expect_match.unwrap_or(true);
                Some(Self::QueryMatch { entry: entry?, expect_match, parameters: parameters? })
            }),
            RawAction::Metadata(raw) => findings.within("metadata", |findings| {
                let source = raw.source.as_deref().map_or(Some(MetadataSource::Dynamic), |source| {
                    findings.within("source", |findings| findings.check(source, MetadataSource::parse(source)))
                });
                let read =
                    Metadata::read(&raw.descriptor_key, &raw.metadata_key, raw.default_value.as_deref(), findings);
                let skip_if_absent = raw.skip_if_absent.unwrap_or(false);
                Some(Self::Metadata(Metadata { source: source?, skip_if_absent, ..read? }))
            }),
            RawAction::DynamicMetadata(raw) => findings.within("dynamic_metadata", |findings| {
                Metadata::read(&raw.descriptor_key, &raw.metadata_key, raw.default_value.as_deref(), findings)
                    .map(Self::Metadata)
            }),
            RawAction::SourceCluster(_) => Some(Self::SourceCluster),
            RawAction::DestinationCluster(_) => Some(Self::DestinationCluster),
            RawAction::Extension(_) => {
                let message = "what an extension reports is not known here; use another action";
                findings.within("extension", |findings| findings.say(message.to_owned()));
                None
            }
        }
    }

    /// The key of the descriptor entry that Envoy makes of it.
    pub fn descriptor_key(&self) -> &str {
        match self {
            Self::RequestHeader { key, .. } | Self::QueryParameter { key, .. } => key,
            Self::RemoteAddressMatch { entry, .. }
            | Self::GenericKey(entry)
            | Self::HeaderMatch { entry, .. }
            | Self::QueryMatch { entry, .. } => &entry.key,
            Self::Metadata(metadata) => &metadata.key,
            Self::RemoteAddress => "remote_address",
            Self::MaskedRemoteAddress { .. } => "masked_remote_address",
            Self::SourceCluster => "source_cluster",
            Self::DestinationCluster => "destination_cluster",
        }
    }
}

impl Entry {
    fn read(value: &str, key: &str, default: Option<&str>, findings: &mut Findings) -> Option<Self> {
        let value = read_plain(findings, "descriptor_value", value);
        let key = read_key(findings, key);
        let default = read_default(default, findings);
        Some(Self { key: key?, value: value?, default: text::optional(default)? })
    }
}

impl AddressRange {
    fn read(raw: &RawCidrRange, findings: &mut Findings) -> Option<Self> {
        let address = raw.address_prefix.parse::<IpAddr>().map_err(|_| "an IP address");
        let address = findings.within("address_prefix", |findings| findings.check(&raw.address_prefix, address))?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = text::number_within(findings, "prefix_len", raw.prefix_len, 0, 0..=bits_max)?;
        Some(Self { address, bits: u8::try_from(bits).ok()? })
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let differing_bits = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => return false,
        };
        differing_bits >= self.bits.into()
    }
}

impl Metadata {
    /// As `dynamic_metadata` means it.
    fn read(key: &str, metadata_key: &RawMetadataKey, default: Option<&str>, findings: &mut Findings) -> Option<Self> {
        let key = read_key(findings, key);
        let (namespace, path) = findings.within("metadata_key", |findings| {
            let namespace = read_plain(findings, "key", &metadata_key.key);
            (namespace, text::list(findings, "path", &metadata_key.path, read_segment))
        });
        let default = read_default(default, findings);
        Some(Self {
            key: key?,
            source: MetadataSource::Dynamic,
            namespace: namespace?,
            path: path?,
            default: text::optional(default)?,
            skip_if_absent: false,
        })
    }
}

impl MetadataSource {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "DYNAMIC" => Ok(Self::Dynamic),
            "ROUTE_ENTRY" => Ok(Self::RouteEntry),
            "CLUSTER_ENTRY" => Ok(Self::ClusterEntry),
            "CLUSTER_LOCALITY_ENTRY" => {
                Err("DYNAMIC, ROUTE_ENTRY or CLUSTER_ENTRY: no upstream is chosen yet when a request is counted")
            }
            _ => Err("DYNAMIC, ROUTE_ENTRY or CLUSTER_ENTRY"),
        }
    }
}

fn read_segment(raw: &RawPathSegment, findings: &mut Findings) -> Option<String> {
    if raw.index.is_some() {
        let message = "elements of lists by their index are not known to every Envoy that is supported";
        findings.within("index", |findings| findings.say(message.to_owned()));
    }
    match &raw.key {
        Some(key) => read_plain(findings, "key", key),
        None if raw.index.is_some() => None,
        None => {
            findings.say("missing field `key`".to_owned());
            None
        }
    }
}

fn read_masked(raw: &RawMaskedRemoteAddress, findings: &mut Findings) -> Option<Action> {
    let v4_bits = text::number_within(findings, "v4_prefix_mask_len", raw.v4_prefix_mask_len, 32, 0..=32);
    let v6_bits = text::number_within(findings, "v6_prefix_mask_len", raw.v6_prefix_mask_len, 128, 0..=128);
    Some(Action::MaskedRemoteAddress { v4_bits: v4_bits?, v6_bits: v6_bits? })
}

/// A key that Tierflow's own entries do not have: a request must not be able to pose as another API or tenant.
fn read_key(findings: &mut Findings, key: &str) -> Option<String> {
    findings.within("descriptor_key", |findings| {
        if descriptor::is_reserved(key) {
            let message = format!("{key:?} is a key by which Tierflow tells APIs, tenants and their limits apart");
            findings.say_with_help(message, "choose another one; it shows only in the limit's name".to_owned());
            return None;
        }
        findings.check(key, text::plain(key))
    })
}

fn read_plain(findings: &mut Findings, field: &str, value: &str) -> Option<String> {
    findings.within(field, |findings| findings.check(value, text::plain(value)))
}

/// To protobuf, an empty text and none are the same.
#[expect(clippy::option_option, reason = "a part that may be left out, but not be wrong")]
fn read_default(default: Option<&str>, findings: &mut Findings) -> Option<Option<String>> {
    default.filter(|default| !default.is_empty()).map(|default| read_plain(findings, "default_value", default))
}

/// Other than in Tierflow's own documents, HTTP/2's pseudo headers are headers here, as in Envoy.
pub(super) fn read_header_name(findings: &mut Findings, field: &str, name: &str) -> Option<String> {
    let (colon, plain_name) = name.strip_prefix(':').map_or(("", name), |plain_name| (":", plain_name));
    let checked = text::header_name(plain_name).map(|plain_name| format!("{colon}{plain_name}"));
    findings.within(field, |findings| findings.check(name, checked))
}
