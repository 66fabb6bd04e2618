//! CORS as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::WordOr;

/// The rights of pages of other origins in a browser (the CORS protocol of the Fetch standard).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCors {
    /// The origins of the pages, as in `https://shop.example`, `https://*.shop.example` (one label or more) or `*`
    /// (any), 1 to 64.
    pub allow_origins: Vec<WordOr<RawOrigin>>,
    /// The methods that they may use. Default: the Api's `methods`, or GET, HEAD, POST, PUT, PATCH and DELETE.
    pub allow_methods: Option<Vec<String>>,
    /// The headers that they may send besides the few that all may. Default: none.
    pub allow_headers: Option<Vec<String>>,
    /// The headers of an answer that they may read, besides those that say what a limit did. Default: none.
    pub expose_headers: Option<Vec<String>>,
    /// The time that a browser may remember the answer to a preflight, in whole seconds of 0s to 24h. Default: as long
    /// as the browser likes, mostly 5s.
    pub max_age: Option<String>,
    /// True where cookies and the like come along, which takes origins that are named. Default: false.
    pub allow_credentials: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawOrigin {
    /// A regular expression (RE2) for the whole origin, at most 1024 bytes.
    Regex(String),
}
