//! A list of Envoy rate limit actions with a limit each, taken as it is.
//! Names and meanings are those of Envoy's `config.route.v3.RateLimit.Action`.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::Requirement;

/// Envoy rate limit actions, each list with a limit, for all routes of the gateways.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRateLimits {
    /// Default: made from the place of the document.
    pub name: Option<String>,
    /// The Gateway whose routes these are for. Default: all.
    pub gateway: Option<String>,
    pub rate_limits: Vec<RawRateLimit>,
    /// Keys of etcd that this document was made with. While one of them is another one, the last good version of the
    /// document stays.
    pub requires: Option<Vec<Requirement>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRateLimit {
    /// What the counter is split by. Where an action finds no value, the limit does not apply to the request.
    pub actions: Vec<RawAction>,
    pub limit: RawActionLimit,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawActionLimit {
    /// SECOND, MINUTE, HOUR, DAY, WEEK, MONTH (30 days) or YEAR (365 days).
    pub unit: String,
    /// 0 to 1000000000; 0 denies everything.
    #[schemars(range(max = 1_000_000_000))]
    pub requests_per_unit: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAction {
    RequestHeaders(RawRequestHeaders),
    QueryParameters(RawQueryParameters),
    RemoteAddress(RawEmpty),
    MaskedRemoteAddress(RawMaskedRemoteAddress),
    GenericKey(RawGenericKey),
    HeaderValueMatch(RawHeaderValueMatch),
    SourceCluster(RawEmpty),
    DestinationCluster(RawEmpty),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEmpty {}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRequestHeaders {
    /// For `:path` the query is left out of the value.
    pub header_name: String,
    pub descriptor_key: String,
    /// Leave out this entry, not the whole limit, where the header is missing.
    pub skip_if_absent: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawQueryParameters {
    pub query_parameter_name: String,
    pub descriptor_key: String,
    /// Leave out this entry, not the whole limit, where the parameter is missing.
    pub skip_if_absent: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMaskedRemoteAddress {
    /// Default: 32.
    #[schemars(range(max = 32))]
    pub v4_prefix_mask_len: Option<u32>,
    /// Default: 128.
    #[schemars(range(max = 128))]
    pub v6_prefix_mask_len: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawGenericKey {
    pub descriptor_value: String,
    /// Default: generic_key.
    pub descriptor_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHeaderValueMatch {
    pub descriptor_value: String,
    /// Default: header_match.
    pub descriptor_key: Option<String>,
    /// Whether the headers must match, or must not. Default: true.
    pub expect_match: Option<bool>,
    pub headers: Vec<RawHeaderMatcher>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHeaderMatcher {
    pub name: String,
    pub present_match: Option<bool>,
    pub string_match: Option<RawStringMatch>,
    pub invert_match: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawStringMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
}
