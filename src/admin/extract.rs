//! Axum's extractors, whose refusals are problem details like every other error.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Admin;
use super::error::ProblemDetails;

/// The time that a body may take to come, from the end of the headers.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

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
        in_time(Bytes::from_request(request, admin)).await?.map(Self).map_err(refused)
    }
}

/// The bodies that are read, and the sets that are made of them, at the same time, where anybody may send them: a set takes
/// many times what its text does.
const TURNS: usize = 4;

/// Those who may send a set of documents now.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// The whole body of somebody whose turn it is. The turn lasts as long as this does.
pub(super) struct BodyInTurn {
    pub(super) body: Bytes,
    pub(super) turn: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TURNS)))
    }
}

impl FromRequest<Admin> for BodyInTurn {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let turn = Arc::clone(&admin.turns.0).try_acquire_owned().map_err(|_| {
            let detail = format!("{TURNS} sets of documents are looked at, and no more are at the same time");
            ProblemDetails::unavailable(&detail).retry_after(1)
        })?;
        let Body(body) = Body::from_request(request, admin).await?;
        Ok(Self { body, turn })
    }
}

impl<T: DeserializeOwned> FromRequest<Admin> for OfJson<T> {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let refused = |refused: JsonRejection| ProblemDetails::of(refused.status(), &refused.body_text());
        in_time(Json::from_request(request, admin)).await?.map(|Json(body)| Self(body)).map_err(refused)
    }
}

/// Whoever sends a byte now and then would hold a connection for ever.
async fn in_time<T>(reading: impl Future<Output = T>) -> Result<T, ProblemDetails> {
    let late = |_| {
        let seconds = BODY_TIMEOUT.as_secs();
        ProblemDetails::of(StatusCode::REQUEST_TIMEOUT, &format!("the body did not come within {seconds} s"))
    };
    tokio::time::timeout(BODY_TIMEOUT, reading).await.map_err(late)
}
