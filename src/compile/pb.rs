//! Small protobuf values that several resources are made of.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, PathConfigSource, SocketAddress, WatchedDirectory,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf;

pub(super) fn duration(duration: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(0);
    Some(protobuf::Duration { seconds, nanos })
}

pub(super) fn uint32(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub(super) fn boolean(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

/// Resources that come over the same ADS stream.
pub(super) fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    })
}

/// Resources in a file of the Envoy's host, read anew when something in its folder is put in the place of something else.
pub(super) fn file(folder: &str, name: &str) -> ConfigSource {
    let source = PathConfigSource {
        path: format!("{folder}/{name}"),
        watched_directory: Some(WatchedDirectory { path: folder.to_owned(), ..Default::default() }),
        ..Default::default()
    };
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(source)),
        ..Default::default()
    }
}

pub(super) fn socket_address(address: SocketAddr) -> Option<Address> {
    host_port(&address.ip().to_string(), address.port())
}

/// `[::]` is all addresses of the machine, IPv4 ones too, as with other servers; alone it would be those of IPv6.
pub(super) fn listen_address(address: SocketAddr) -> Option<Address> {
    let port_specifier = Some(PortSpecifier::PortValue(address.port().into()));
    let ipv4_compat = address.is_ipv6() && address.ip().is_unspecified();
    let address =
        SocketAddress { address: address.ip().to_string(), port_specifier, ipv4_compat, ..Default::default() };
    Some(Address { address: Some(AddressKind::SocketAddress(address)) })
}

pub(super) fn host_port(host: &str, port: u16) -> Option<Address> {
    let port_specifier = Some(PortSpecifier::PortValue(port.into()));
    let address = SocketAddress { address: host.to_owned(), port_specifier, ..Default::default() };
    Some(Address { address: Some(AddressKind::SocketAddress(address)) })
}

pub(super) fn string_match(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

/// RE2 is Envoy's only engine. It has to match the whole value.
pub(super) fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}
