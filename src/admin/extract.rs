//! Axum's extractors, whose refusals are problem details like every other error.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::RequestExt as _;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Admin;
use super::error::ProblemDetails;
use crate::budget::{Allowance, Held};

/// What a request takes before its body has come: its headers, which may be so large.
const HEAD_BYTES: usize = 16 * 1024;
/// The time that a body may take to come, from the end of the headers.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What stands in the places of the path's names.
pub(super) struct OfPath<T>(pub(super) T);

/// The parameters of the query.
pub(super) struct OfQuery<T>(pub(super) T);

/// The body, which is JSON.
pub(super) struct OfJson<T>(pub(super) T);

/// The whole body, which is among what its connection holds from its first byte on until this is dropped.
pub(super) struct Body {
    bytes: Vec<u8>,
    held: Held,
}

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

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    async fn read(request: Request) -> Result<Self, ProblemDetails> {
        let allowance = request.extensions().get::<Arc<Allowance>>().cloned().unwrap_or_default();
        let mut body = Self { bytes: Vec::new(), held: allowance.held() };
        body.hold()?;
        let mut coming = request.with_limited_body().into_body();
        while let Some(frame) = coming.frame().await {
            let Ok(data) = frame.map_err(unread)?.into_data() else { continue };
            body.bytes.extend_from_slice(&data);
            body.hold()?;
        }
        Ok(body)
    }

    fn hold(&mut self) -> Result<(), ProblemDetails> {
        let held = self.held.set(HEAD_BYTES + self.bytes.capacity());
        held.map_err(|full| ProblemDetails::unavailable(&full.to_string()).retry_after(1))
    }
}

impl FromRequest<Admin> for Body {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, _: &Admin) -> Result<Self, ProblemDetails> {
        in_time(Self::read(request)).await?
    }
}

/// The sets of documents that are made at the same time, where anybody may send them: a set takes many times what its text
/// does.
const SETS: usize = 4;

/// Those who may send a set of documents now. Whoever takes long to send one takes nobody's turn.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Semaphore>);

/// The whole body of somebody whose turn it is. The turn lasts as long as this does.
pub(super) struct BodyInTurn {
    pub(super) body: Body,
    pub(super) turn: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(SETS)))
    }
}

impl Turns {
    /// A turn of those that there are, or none.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

impl FromRequest<Admin> for BodyInTurn {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let body = Body::from_request(request, admin).await?;
        let turn = admin.turns.take().ok_or_else(|| {
            let detail = format!("{SETS} sets of documents are looked at, and no more are at the same time");
            ProblemDetails::unavailable(&detail).retry_after(1)
        })?;
        Ok(Self { body, turn })
    }
}

/// In the words of axum's extractors.
fn unread(error: axum::Error) -> ProblemDetails {
    let is_too_long = error.into_inner().is::<LengthLimitError>();
    match is_too_long {
        true => ProblemDetails::of(StatusCode::PAYLOAD_TOO_LARGE, "length limit exceeded"),
        false => ProblemDetails::of(StatusCode::BAD_REQUEST, "Failed to buffer the request body"),
    }
}

impl<T: DeserializeOwned> FromRequest<Admin> for OfJson<T> {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let refused = |refused: JsonRejection| ProblemDetails::of(refused.status(), &refused.body_text());
        let (head, body) = request.into_parts();
        let with = |body| Request::from_parts(head.clone(), body);
        let body = Body::from_request(with(body), admin).await?;
        let read = Json::<Value>::from_request(with(body.bytes.into()), admin).await;
        of_value(read.map_err(refused)?.0).map(Self)
    }
}

/// A list would be taken for the members of an object in their order, and errors would name types of this program.
fn of_value<T: DeserializeOwned>(value: Value) -> Result<T, ProblemDetails> {
    let refused = |detail: &str| ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, detail);
    let found = match &value {
        Value::Object(_) => None,
        Value::Array(_) => Some("an array"),
        Value::String(_) => Some("a text"),
        Value::Number(_) => Some("a number"),
        Value::Bool(_) => Some("true or false"),
        Value::Null => Some("null"),
    };
    if let Some(found) = found {
        return Err(refused(&format!("the body: found {found}, expected a JSON object")));
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let place = match error.path().to_string().as_str() {
            "." => "the body".to_owned(),
            place => place.to_owned(),
        };
        refused(&format!("{place}: {}", error.inner()))
    })
}

/// Whoever sends a byte now and then would hold a connection for ever.
async fn in_time<T>(reading: impl Future<Output = T>) -> Result<T, ProblemDetails> {
    let late = |_| {
        let seconds = BODY_TIMEOUT.as_secs();
        ProblemDetails::of(StatusCode::REQUEST_TIMEOUT, &format!("the body did not come within {seconds} s"))
    };
    tokio::time::timeout(BODY_TIMEOUT, reading).await.map_err(late)
}
