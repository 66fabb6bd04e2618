//! Errors as problem details (RFC 9457).

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// The most members of a list in an error: a person reads it, and a change has up to 20 000 documents.
const LISTED_MAX: usize = 20;

#[derive(Debug)]
pub(super) struct ProblemDetails {
    pub(super) status: StatusCode,
    detail: String,
    /// Further members (RFC 9457, section 3.2).
    members: Map<String, Value>,
    /// The time after which it may be worth to ask again, in seconds.
    retry_after: Option<u16>,
}

impl ProblemDetails {
    pub(super) fn of(status: StatusCode, detail: &str) -> Self {
        Self { status, detail: detail.to_owned(), members: Map::new(), retry_after: None }
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
    pub(super) fn with_list(self, member: &str, list: impl ExactSizeIterator<Item = Value>) -> Self {
        let more = list.len().saturating_sub(LISTED_MAX);
        let with_list = self.with(member, list.take(LISTED_MAX).collect());
        if more == 0 { with_list } else { with_list.with(&format!("{member}_more"), more.into()) }
    }

    pub(super) fn retry_after(self, seconds: u16) -> Self {
        Self { retry_after: Some(seconds), ..self }
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
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub(super) async fn not_found(uri: Uri) -> ProblemDetails {
    ProblemDetails::not_found(&format!("nothing is at {}", uri.path()))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ProblemDetails {
    ProblemDetails::of(StatusCode::METHOD_NOT_ALLOWED, &format!("{} cannot be asked with {method}", uri.path()))
}
