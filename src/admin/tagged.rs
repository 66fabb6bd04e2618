//! Answers that say what they are by a hash of their content, so that whoever has one already is not sent it again (RFC 9110,
//! section 13).

use axum::Json;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::IntoParams;

use crate::names::Version;

/// What the headers of a question may say.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the description of the API has it; `has` reads it")]
pub(super) struct Known {
    /// The ETags of answers that the client has: for one of these it is told 304, and nothing else.
    #[param(rename = "If-None-Match")]
    if_none_match: Option<String>,
}

/// JSON, or 304 where the client has it.
pub(super) fn tagged(asked: &HeaderMap, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => tagged_bytes(asked, bytes),
        Err(_) => Json(body).into_response(),
    }
}

fn tagged_bytes(asked: &HeaderMap, bytes: Vec<u8>) -> Response {
    let tag = format!("\"{}\"", Version::of(&bytes));
    let has_it = has(asked, &tag);
    let json = HeaderValue::from_static("application/json");
    let mut response = match has_it {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(CONTENT_TYPE, json)], bytes).into_response(),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// By the weak comparison: a tag of a proxy that compressed the answer is as good.
fn has(asked: &HeaderMap, tag: &str) -> bool {
    let lines = asked.get_all(IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_in_any_of_the_ways_in_which_it_can_be_said() {
        let has = |lines: &[&'static str]| {
            let mut asked = HeaderMap::new();
            for line in lines {
                asked.append(IF_NONE_MATCH, HeaderValue::from_static(line));
            }
            super::has(&asked, "\"a\"")
        };
        assert!(["\"a\"", "W/\"a\"", "\"b\", \"a\"", "\"b\",W/\"a\"", "*"].iter().all(|line| has(&[line])));
        assert!(has(&["\"b\"", "\"a\""]), "two lines are one");
        assert!(!["", "a", "\"b\"", "\"A\"", "\"a"].iter().any(|line| has(&[line])));
        assert!(!has(&[]));
    }

    #[test]
    fn what_is_known_is_not_sent_again_and_what_is_another_is() {
        let mut asked = HeaderMap::new();
        let first = tagged(&asked, &[1, 2]);
        assert_eq!(first.status().as_u16(), 200);
        assert_eq!(first.headers()[CONTENT_TYPE], "application/json");
        asked.insert(IF_NONE_MATCH, first.headers()[ETAG].clone());
        let again = tagged(&asked, &[1, 2]);
        assert_eq!((again.status().as_u16(), &again.headers()[ETAG]), (304, &first.headers()[ETAG]));
        assert_eq!(again.headers().get(CONTENT_TYPE), None);
        assert_eq!(tagged(&asked, &[1, 3]).status().as_u16(), 200);
    }
}
