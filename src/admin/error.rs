//! Errors as problem details (RFC 9457).

use axum::Json;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    pub(super) fn not_found(detail: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, detail: detail.to_owned() }
    }

    pub(super) fn unavailable(detail: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail: detail.to_owned() }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let body =
            json!({ "type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail });
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body).into_response().into_body())
            .into_response()
    }
}

pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(&format!("nothing is at {}", uri.path()))
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem { status: StatusCode::METHOD_NOT_ALLOWED, detail: format!("{} cannot be asked with {method}", uri.path()) }
}
