//! Axum's extractors, whose refusals are problem details like every other error.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Admin;
use super::error::ProblemDetails;

/// What stands in the places of the path's names.
pub(super) struct OfPath<T>(pub(super) T);

/// The parameters of the query.
pub(super) struct OfQuery<T>(pub(super) T);

/// The body, which is JSON.
pub(super) struct OfJson<T>(pub(super) T);

/// The whole body.
pub(super) struct Body(pub(super) Bytes);

impl<T: DeserializeOwned + Send> FromRequestParts<Admin> for OfPath<T> {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ProblemDetails> {
        let refused = |refused: PathRejection| ProblemDetails::of(refused.status(), &refused.body_text());
        Path::from_request_parts(parts, admin).await.map(|Path(names)| Self(names)).map_err(refused)
    }
}

impl<T: DeserializeOwned> FromRequestParts<Admin> for OfQuery<T> {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ProblemDetails> {
        let refused = |refused: QueryRejection| ProblemDetails::of(refused.status(), &refused.body_text());
        Query::from_request_parts(parts, admin).await.map(|Query(parameters)| Self(parameters)).map_err(refused)
    }
}

impl FromRequest<Admin> for Body {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let refused = |refused: BytesRejection| ProblemDetails::of(refused.status(), &refused.body_text());
        Bytes::from_request(request, admin).await.map(Self).map_err(refused)
    }
}

impl<T: DeserializeOwned> FromRequest<Admin> for OfJson<T> {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let refused = |refused: JsonRejection| ProblemDetails::of(refused.status(), &refused.body_text());
        Json::from_request(request, admin).await.map(|Json(body)| Self(body)).map_err(refused)
    }
}
