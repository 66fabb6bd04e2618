//! A list of Envoy rate limits, each with how much passes. Names and meanings are those of Envoy's
//! `config.route.v3.RateLimit` (route_components.proto), and of envoyproxy/ratelimit's `rate_limit`.
//!
//! What Envoy has and cannot be meant here is a field too, so that it is refused for what it is and not as a typo; it
//! is not in the schema.

mod action;
mod matcher;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::either::Integer;
use crate::document::Requirement;

pub use action::*;
pub use matcher::*;

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
    /// The actions that split the counter. Where an action finds no value, the limit does not apply to the request.
    pub actions: Vec<RawAction>,
    pub limit: RawActionLimit,
    /// The cost of a request. Default: 1.
    pub hits_addend: Option<RawHitsAddend>,
    /// Switches the limit off in an Envoy whose runtime has `ratelimit.<disable_key>.http_filter_enabled: 0`.
    pub disable_key: Option<String>,
    /// 0, which is the stage of the gateways' only rate limit filter.
    #[schemars(range(max = 0))]
    pub stage: Option<u32>,
    #[schemars(skip)]
    pub apply_on_stream_done: Option<bool>,
    #[schemars(skip)]
    pub x_ratelimit_option: Option<String>,
}

/// A unit and a number, or `unlimited`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawActionLimit {
    /// SECOND, MINUTE, HOUR, DAY, WEEK, MONTH (30 days) or YEAR (365 days).
    pub unit: Option<String>,
    /// 0 to 4294967295; 0 denies everything.
    #[schemars(range(max = 4_294_967_295_u32))]
    pub requests_per_unit: Option<Integer>,
    /// `true`: counted by nothing, and so never denied by this limit; the others still apply.
    pub unlimited: Option<bool>,
    #[schemars(skip)]
    pub dynamic_metadata: Option<IgnoredAny>,
    #[schemars(skip)]
    pub rate_limit: Option<IgnoredAny>,
}

/// One of `number` and `format`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHitsAddend {
    /// 1 to 1000000000 hits.
    pub number: Option<Integer>,
    /// The request header that holds the number, as in `%REQ(x-items)%`; 1 where it holds none above 0.
    pub format: Option<String>,
    #[schemars(skip)]
    pub is_negative_hits: Option<bool>,
}
