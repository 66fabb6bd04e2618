//! Errors as problem details (RFC 9457).

use axum::Json;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::documents::DocumentProblem;
use super::edit::CurrentVersion;
use crate::shown;

/// The most members of a list in an error: a person reads it, and a change has up to 20 000 documents.
const LISTED_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct ProblemDetails {
    pub(super) status: StatusCode,
    pub(super) detail: String,
    /// Further members (RFC 9457, section 3.2).
    members: Map<String, Value>,
    header: Option<Asked>,
}

/// What a status asks of the client, in a header of its own.
#[derive(Clone, Copy, Debug)]
enum Asked {
    /// To come again after so many seconds.
    Later(u16),
    /// To log in (RFC 9110, section 11.6.1: each 401 says it).
    Login(&'static str),
    /// To send the body without a content coding (RFC 9110, section 15.5.16).
    NoCoding,
}

impl Asked {
    fn header(self) -> (HeaderName, HeaderValue) {
        match self {
            Self::Later(seconds) => (header::RETRY_AFTER, seconds.into()),
            Self::Login(challenge) => (header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge)),
            Self::NoCoding => (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        }
    }
}

/// Problem details as they are sent.
#[derive(utoipa::ToSchema)]
#[schema(as = ProblemDetails)]
#[expect(dead_code, reason = "the document tells of it")]
pub(super) struct ProblemBody {
    /// `about:blank`: the status says it all.
    #[schema(rename = "type", example = "about:blank")]
    type_: String,
    /// The words of the status.
    #[schema(example = "Not Found")]
    title: String,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What is wrong, in words.
    detail: String,
    /// What is wrong with the documents of a change; the first 20.
    problems: Option<Vec<DocumentProblem>>,
    problems_more: Option<usize>,
    /// The documents that changed after the base version of a change; the first 20.
    current: Option<Vec<CurrentVersion>>,
    current_more: Option<usize>,
    /// Why a change takes away more than is usual; the first 20.
    guarded: Option<Vec<String>>,
    guarded_more: Option<usize>,
}

impl ProblemBody {
    pub(super) const CONTENT_TYPE: &'static str = "application/problem+json";
}

impl ProblemDetails {
    pub(super) fn of(status: StatusCode, detail: &str) -> Self {
        // It may repeat what a client asked for.
        let detail = shown::sentences(detail).into_owned();
        Self { status, detail, members: Map::new(), header: None }
    }

    pub(super) fn not_found(detail: &str) -> Self {
        Self::of(StatusCode::NOT_FOUND, detail)
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        Self::of(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    pub(super) fn with(mut self, member: &str, value: Value) -> Self {
        self.members.insert(member.to_owned(), value);
        self
    }

    /// Adds the beginning of a list, and the number of the rest as `<member>_more`.
    pub(super) fn with_list<T: Serialize>(self, member: &str, list: impl ExactSizeIterator<Item = T>) -> Self {
        let more = list.len().saturating_sub(LISTED_MAX);
        let with_list = self.with(member, list.take(LISTED_MAX).map(|one| json!(one)).collect());
        if more == 0 { with_list } else { with_list.with(&format!("{member}_more"), more.into()) }
    }

    /// The time after which it may be worth to ask again, in seconds.
    pub(super) fn retry_after(self, seconds: u16) -> Self {
        Self { header: Some(Asked::Later(seconds)), ..self }
    }

    /// What would log in (RFC 9110, section 11.6.1: each 401 says it).
    pub(super) fn challenge(self, challenge: &'static str) -> Self {
        Self { header: Some(Asked::Login(challenge)), ..self }
    }

    /// A body would be taken without a content coding (RFC 9110, section 15.5.16).
    pub(super) fn takes_no_coding(self) -> Self {
        Self { header: Some(Asked::NoCoding), ..self }
    }
}

impl IntoResponse for ProblemDetails {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let mut body = self.members;
        for (member, value) in [
            ("type", "about:blank".into()),
            ("title", title.into()),
            ("status", self.status.as_u16().into()),
            ("detail", self.detail.into()),
        ] {
            body.insert(member.to_owned(), value);
        }
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(ProblemBody::CONTENT_TYPE));
        response.headers_mut().extend(self.header.map(Asked::header));
        response
    }
}

pub(super) async fn not_found(uri: Uri) -> ProblemDetails {
    ProblemDetails::not_found(&format!("nothing is at {}", uri.path()))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ProblemDetails {
    ProblemDetails::of(StatusCode::METHOD_NOT_ALLOWED, &format!("{} cannot be asked with {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn answer(problem: ProblemDetails) -> (Response<()>, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(body.collect()).unwrap().to_bytes();
        (Response::from_parts(parts, ()), serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_says_its_status_twice() {
        let (response, body) = answer(ProblemDetails::not_found("no Plan is there"));
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers().get(header::RETRY_AFTER), None);
        let expected =
            json!({ "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no Plan is there" });
        assert_eq!(body, expected);
    }

    #[test]
    fn further_members_take_none_of_those_away() {
        let problem = ProblemDetails::unavailable("no").with("status", 200.into()).with("problems", json!([1]));
        let (response, body) = answer(problem.retry_after(7));
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert_eq!((&body["status"], &body["problems"]), (&json!(503), &json!([1])));
    }

    #[test]
    fn a_problem_repeats_no_more_of_a_question_than_so_much() {
        let name = "n".repeat(60_000);
        let (_, body) = answer(ProblemDetails::not_found(&format!("no Plan is called {name:?}")));
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.len() <= 2048 && detail.starts_with("no Plan is called \"nnn"), "{detail}");
        assert!(detail.ends_with(" bytes more)"), "{detail}");
    }

    #[test]
    fn what_is_not_there_is_told_by_its_path() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let uri = || Uri::from_static("http://a/v1/thing?x=1");
        let (response, body) = answer(runtime.block_on(not_found(uri())));
        assert_eq!((response.status().as_u16(), &body["detail"]), (404, &json!("nothing is at /v1/thing")));
        let (response, body) = answer(runtime.block_on(method_not_allowed(Method::PATCH, uri())));
        assert_eq!(
            (response.status().as_u16(), &body["detail"]),
            (405, &json!("/v1/thing cannot be asked with PATCH"))
        );
    }
}
