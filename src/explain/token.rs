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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        Request {
            method: "GET".to_owned(),
            path: "/".to_owned(),
            host: "h".to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            client_ip: Ipv4Addr::LOCALHOST.into(),
        }
    }

    fn token(header: &Value, payload: &Value) -> String {
        let [header, payload] = [header, payload].map(|part| BASE64.encode(part.to_string()));
        format!("{header}.{payload}.c2ln")
    }

    fn claims_of(authorization: &str) -> Vec<(String, String)> {
        claims(&request(&[("authorization", authorization)]))
    }

    fn shown(claims: &[(String, String)]) -> String {
        claims.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn claims_are_texts_by_their_path() {
        let payload = json!({
            "sub": "ann", "level": 7, "roles": ["a"], "is_admin": true, "nothing": null,
            "org": { "tenant": "acme", "deep": { "er": "x" } }, "a.b": "y",
        });
        let token = token(&json!({ "alg": "none" }), &payload);
        assert_eq!(shown(&claims_of(&format!("Bearer {token}"))), "a.b=y org.deep.er=x org.tenant=acme sub=ann");
    }

    #[test]
    fn a_token_is_found_as_envoy_finds_it() {
        let token = token(&json!({ "alg": "RS256" }), &json!({ "sub": "ann" }));
        for good in [
            "Bearer T",
            "bearer T",
            "BEARER   T",
            "Bearer T more",
            "Bearer T,Basic x",
            "Basic x,Bearer T",
            "Bearer  ,Bearer T",
        ] {
            assert_eq!(shown(&claims_of(&good.replace('T', &token))), "sub=ann", "{good}");
        }
        for bad in ["T", "Basic T", "BearerT", "Bearer", "", "Bearer x T", "Bearer T.more"] {
            assert_eq!(claims_of(&bad.replace('T', &token)), [], "{bad}");
        }
        let twice = request(&[("authorization", &format!("Bearer {token}")), ("authorization", "Basic x")]);
        assert_eq!(shown(&claims(&twice)), "sub=ann", "headers of one name are joined");
        assert_eq!(claims(&request(&[])), []);
    }

    #[test]
    fn what_is_no_token_has_no_claims() {
        let (header, payload) = (json!({ "alg": "none" }), json!({ "sub": "ann" }));
        let bearer = |token: String| claims_of(&format!("Bearer {token}"));
        assert_eq!(bearer(token(&json!({}), &payload)), [], "without an algorithm");
        assert_eq!(bearer(token(&json!({ "alg": 7 }), &payload)), []);
        assert_eq!(bearer(token(&header, &json!("ann"))), [], "no object");
        assert_eq!(bearer(token(&header, &payload).replacen('.', "", 1)), []);
        assert_eq!(bearer(format!("!{}", token(&header, &payload))), []);
        // Of any length: nobody reads the signature.
        let of_length = |length: usize| {
            let token = token(&header, &payload);
            let fill = "x".repeat(length - token.len());
            format!("{token}{fill}")
        };
        assert_eq!(bearer(of_length(TOKEN_BYTES_END - 1)).len(), 1);
        assert_eq!(bearer(of_length(TOKEN_BYTES_END)), []);
    }

    /// Others pad their parts, or leave bits that say nothing.
    #[test]
    fn parts_may_be_padded() {
        let (header, payload) = (json!({ "alg": "none" }), json!({ "sub": "ann" }));
        let padded = |part: &Value| {
            let part = BASE64.encode(part.to_string());
            let bare = part.trim_end_matches('=');
            (bare.to_owned(), format!("{bare}{}", "=".repeat((4 - bare.len() % 4) % 4)))
        };
        let ((bare_header, padded_header), (bare, padded)) = (padded(&header), padded(&payload));
        for token in [format!("{bare_header}.{bare}.x"), format!("{padded_header}.{padded}.x")] {
            assert_eq!(shown(&claims_of(&format!("Bearer {token}"))), "sub=ann", "{token}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_no_more_than_no_token(authorization in "(Bearer )?[!-~]{0,60}(\\.[A-Za-z0-9_=-]{0,40}){0,3}") {
            let claims = claims_of(&authorization);
            prop_assert!(claims.is_empty() || authorization.matches('.').count() >= 2);
        }
    }
}
