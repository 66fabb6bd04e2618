//! Envoy's `RateLimit.Action`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{RawHeaderMatcher, RawQueryParameterMatcher};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAction {
    RequestHeaders(RawRequestHeaders),
    QueryParameters(RawQueryParameters),
    RemoteAddress(RawEmpty),
    MaskedRemoteAddress(RawMaskedRemoteAddress),
    RemoteAddressMatch(RawRemoteAddressMatch),
    GenericKey(RawGenericKey),
    HeaderValueMatch(RawHeaderValueMatch),
    QueryParameterValueMatch(RawQueryParameterValueMatch),
    Metadata(RawMetadata),
    /// Envoy's older name for `metadata` of source DYNAMIC.
    DynamicMetadata(RawDynamicMetadata),
    SourceCluster(RawEmpty),
    DestinationCluster(RawEmpty),
    #[schemars(skip)]
    Extension(IgnoredAny),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEmpty {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRequestHeaders {
    /// For `:path` the query is left out of the value.
    pub header_name: String,
    pub descriptor_key: String,
    /// Leave out this entry, not the whole limit, where the header is missing.
    pub skip_if_absent: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawQueryParameters {
    pub query_parameter_name: String,
    pub descriptor_key: String,
    /// Leave out this entry, not the whole limit, where the parameter is missing.
    pub skip_if_absent: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMaskedRemoteAddress {
    /// Default: 32.
    #[schemars(range(max = 32))]
    pub v4_prefix_mask_len: Option<u32>,
    /// Default: 128.
    #[schemars(range(max = 128))]
    pub v6_prefix_mask_len: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRemoteAddressMatch {
    pub descriptor_value: String,
    /// Default: remote_address_match.
    pub descriptor_key: Option<String>,
    pub default_value: Option<String>,
    pub address_matcher: RawAddressMatcher,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAddressMatcher {
    pub ranges: Vec<RawCidrRange>,
    /// Applies to all other addresses. Default: false.
    pub invert_match: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCidrRange {
    pub address_prefix: String,
    /// Up to 32, or 128 for IPv6. Default: 0, which is every address.
    #[schemars(range(max = 128))]
    pub prefix_len: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawGenericKey {
    pub descriptor_value: String,
    /// Default: generic_key.
    pub descriptor_key: Option<String>,
    /// Only used by an Envoy that is told by its runtime to read `descriptor_value` as a format.
    pub default_value: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHeaderValueMatch {
    pub descriptor_value: String,
    /// Default: header_match.
    pub descriptor_key: Option<String>,
    /// Only used by an Envoy that is told by its runtime to read `descriptor_value` as a format.
    pub default_value: Option<String>,
    /// True where the headers must match, false where they must not. Default: true.
    pub expect_match: Option<bool>,
    pub headers: Vec<RawHeaderMatcher>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawQueryParameterValueMatch {
    pub descriptor_value: String,
    /// Default: query_match.
    pub descriptor_key: Option<String>,
    /// Only used by an Envoy that is told by its runtime to read `descriptor_value` as a format.
    pub default_value: Option<String>,
    /// True where the parameters must match, false where they must not. Default: true.
    pub expect_match: Option<bool>,
    pub query_parameters: Vec<RawQueryParameterMatcher>,
}

/// Nothing on a gateway's Envoys writes metadata for it, so it is `default_value` that counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMetadata {
    pub descriptor_key: String,
    pub metadata_key: RawMetadataKey,
    pub default_value: Option<String>,
    /// DYNAMIC, ROUTE_ENTRY or CLUSTER_ENTRY. Default: DYNAMIC.
    pub source: Option<String>,
    /// Leave out this entry, not the whole limit, where there is no value.
    pub skip_if_absent: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDynamicMetadata {
    pub descriptor_key: String,
    pub metadata_key: RawMetadataKey,
    pub default_value: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMetadataKey {
    /// The namespace, as in `envoy.filters.http.jwt_authn`.
    pub key: String,
    pub path: Vec<RawPathSegment>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPathSegment {
    pub key: Option<String>,
    #[schemars(skip)]
    pub index: Option<IgnoredAny>,
}
