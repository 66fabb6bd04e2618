//! Envoy's `HeaderMatcher`, `QueryParameterMatcher` and `StringMatcher`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::policy::raw::either::Integer;

/// With a name alone, the header has to be there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHeaderMatcher {
    pub name: String,
    pub present_match: Option<bool>,
    pub string_match: Option<RawStringMatch>,
    /// A whole number from `start` and below `end`.
    pub range_match: Option<RawRange>,
    /// Envoy's older form of `string_match`.
    pub exact_match: Option<String>,
    /// Envoy's older form of `string_match`.
    pub prefix_match: Option<String>,
    /// Envoy's older form of `string_match`.
    pub suffix_match: Option<String>,
    /// Envoy's older form of `string_match`.
    pub contains_match: Option<String>,
    /// Envoy's older form of `string_match`.
    pub safe_regex_match: Option<RawRegex>,
    /// A header that is missing still does not match, unless it is treated as empty. Default: false.
    pub invert_match: Option<bool>,
    /// Default: false; what is missing then does not match.
    pub treat_missing_header_as_empty: Option<bool>,
}

/// With a name alone, the parameter has to be there.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawQueryParameterMatcher {
    pub name: String,
    pub present_match: Option<bool>,
    pub string_match: Option<RawStringMatch>,
}

/// One of the patterns.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawStringMatch {
    pub exact: Option<String>,
    pub prefix: Option<String>,
    pub suffix: Option<String>,
    pub contains: Option<String>,
    /// Has to match the whole value.
    pub safe_regex: Option<RawRegex>,
    /// For ASCII letters; not with `safe_regex`, where `(?i)` says it. Default: false.
    pub ignore_case: Option<bool>,
    #[schemars(skip)]
    pub custom: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRegex {
    /// Of RE2, up to 1024 bytes.
    pub regex: String,
    /// RE2 is Envoy's only engine, whether it is named or not.
    #[schemars(skip)]
    pub google_re2: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRange {
    /// Default: 0.
    pub start: Option<Integer>,
    /// Not part of the range. Default: 0.
    pub end: Option<Integer>,
}
