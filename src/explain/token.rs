//! The claims of a bearer token, as Envoy reads them: nothing is verified.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::Request;

/// From this length on Envoy's filter `header_to_metadata` hands a token on no more.
const TOKEN_BYTES_END: usize = 8 * 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Those that are texts; one within others has their names before its own, with dots between.
pub(super) fn claims(request: &Request) -> Vec<(String, String)> {
    let mut claims = Vec::new();
    if let Some(payload) = payload(request) {
        collect("", &payload, &mut claims);
    }
    claims
}

fn collect(within: &str, values: &Map<String, Value>, claims: &mut Vec<(String, String)>) {
    for (name, value) in values {
        let name = if within.is_empty() { name.clone() } else { format!("{within}.{name}") };
        match value {
            Value::String(text) => claims.push((name, text.clone())),
            Value::Object(values) => collect(&name, values, claims),
            _ => {}
        }
    }
}

fn payload(request: &Request) -> Option<Map<String, Value>> {
    // Envoy joins headers of one name.
    let authorization = request.header_values("authorization").join(",");
    let token = authorization.split(',').find_map(bearer).filter(|token| token.len() < TOKEN_BYTES_END)?;
    let parts: Vec<&str> = token.split('.').collect();
    let [header, payload, _signature] = parts.as_slice() else { return None };
    object(header)?.get("alg")?.as_str()?;
    object(payload)
}

/// The token of credentials of that scheme.
fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, rest) = credentials.trim_start_matches([' ', '\t']).split_once(' ')?;
    let token = rest.trim_start_matches(' ').split(' ').next().filter(|token| !token.is_empty())?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&BASE64.decode(part).ok()?).ok()
}
