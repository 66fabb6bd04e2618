//! Axum's extractors, whose refusals are problem details like every other error.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError};
use serde::de::DeserializeOwned;
use serde_json::Value;
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

/// The sets of documents that are made at the same time, where anybody may send them: a set takes many times what its text
/// does.
const SETS: usize = 4;
/// The bytes of such bodies that are kept at the same time, those that are still coming among them.
const BYTES: usize = 64 * 1024 * 1024;

/// Those who may send a set of documents now. Whoever takes long to send one takes nobody's turn, and room for no more than
/// what came.
#[derive(Clone, Debug)]
pub struct Turns {
    sets: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The whole body of somebody whose turn it is. The turn lasts as long as this does.
pub(super) struct BodyInTurn {
    pub(super) body: Vec<u8>,
    pub(super) turn: Turn,
}

/// A place among those whose set is made, and the room that its text takes.
pub(super) struct Turn(#[expect(dead_code, reason = "held until it is dropped")] [Option<OwnedSemaphorePermit>; 2]);

impl Default for Turns {
    fn default() -> Self {
        Self { sets: Arc::new(Semaphore::new(SETS)), bytes: Arc::new(Semaphore::new(BYTES)) }
    }
}

impl Turns {
    /// A turn of those that there are, or none.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.sets).try_acquire_owned().ok()
    }

    async fn read(&self, request: Request) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), ProblemDetails> {
        let mut coming = request.with_limited_body().into_body();
        let (mut body, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        while let Some(frame) = coming.frame().await {
            let Ok(data) = frame.map_err(unread)?.into_data() else { continue };
            let more = u32::try_from(data.len()).ok();
            let more = more.and_then(|bytes| Arc::clone(&self.bytes).try_acquire_many_owned(bytes).ok());
            let more = more.ok_or_else(|| no_turn("as much as there is room for"))?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            body.extend_from_slice(&data);
        }
        Ok((body, room))
    }
}

impl FromRequest<Admin> for BodyInTurn {
    type Rejection = ProblemDetails;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, ProblemDetails> {
        let (body, room) = in_time(admin.turns.read(request)).await??;
        let set = admin.turns.take().ok_or_else(|| no_turn(&format!("{SETS} of them")))?;
        Ok(Self { body, turn: Turn([room, Some(set)]) })
    }
}

fn no_turn(taken: &str) -> ProblemDetails {
    let detail = format!("sets of documents are looked at, {taken}, and no more are at the same time");
    ProblemDetails::unavailable(&detail).retry_after(1)
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
        let read = in_time(Json::<Value>::from_request(request, admin)).await?;
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
