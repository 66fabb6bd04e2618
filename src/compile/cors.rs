//! CORS by Envoy's filter. It answers preflights before anything is asked of the rate limit service, and puts its headers
//! on all other answers, also on those that Envoy gives itself: a page can read a 429.
//!
//! The filter needs a route that takes the preflight. A preflight is OPTIONS whatever it asks for, and has none of the
//! headers of the request that it asks for. So an API has a route for its preflights, in front of its own.

use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::pb;
use crate::policy::api::Api;
use crate::policy::cors::{Cors, Origin};

pub(super) const FILTER: &str = "envoy.filters.http.cors";

/// Of an API that takes all methods.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// The headers in which the answer to a denied request says why, and when to come back.
const EXPOSED: [&str; 6] =
    ["grpc-message", "grpc-status", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];

/// A header that is there and not empty.
const SOMETHING: &str = ".+";

pub(super) fn policy(cors: &Cors, api: &Api) -> CorsPolicy {
    let methods = [&cors.allow_methods, &api.matches.methods].into_iter().find(|methods| !methods.is_empty());
    let exposed = EXPOSED.into_iter().filter(|name| !cors.expose_headers.iter().any(|own| own == name));
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(origin).collect(),
        allow_methods: methods.map_or_else(|| METHODS.join(", "), |methods| methods.join(", ")),
        allow_headers: cors.allow_headers.join(", "),
        expose_headers: cors.expose_headers.iter().map(String::as_str).chain(exposed).collect::<Vec<_>>().join(", "),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: pb::boolean(cors.allow_credentials),
        // Else those of other origins would go on to the service, and be counted on their way.
        forward_not_matching_preflights: pb::boolean(false),
        ..Default::default()
    }
}

fn origin(origin: &Origin) -> StringMatcher {
    pb::string_match(match origin {
        // The filter compares this with `*` too.
        Origin::Any => MatchPattern::Exact("*".to_owned()),
        Origin::Exact(origin) => MatchPattern::Exact(origin.clone()),
        Origin::Below { scheme, domain_and_port } => {
            let (scheme, domain_and_port) = (regex::escape(scheme), regex::escape(domain_and_port));
            MatchPattern::SafeRegex(pb::regex(&format!(r"{scheme}://[a-z0-9._-]+\.{domain_and_port}")))
        }
        Origin::Regex(regex) => MatchPattern::SafeRegex(pb::regex(regex)),
    })
}

/// The headers that make a request a preflight of the API, its path and query aside.
pub(super) fn preflight_headers(api: &Api) -> Vec<HeaderMatcher> {
    let header = |name: &str, pattern| HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pb::string_match(pattern))),
        ..Default::default()
    };
    let asked = match api.matches.methods.as_slice() {
        [] => SOMETHING.to_owned(),
        methods => methods.join("|"),
    };
    vec![
        header(":method", MatchPattern::Exact("OPTIONS".to_owned())),
        header("origin", MatchPattern::SafeRegex(pb::regex(SOMETHING))),
        header("access-control-request-method", MatchPattern::SafeRegex(pb::regex(&asked))),
    ]
}
