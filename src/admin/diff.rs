//! Sets of policies that are not served: what is wrong with one, and what would change if it took the place of the one that
//! is. Nothing is changed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::documents::DocumentProblem;
use super::error::ProblemDetails;
use super::extract::BodyInTurn;
use super::openapi::Problem;
use super::{Admin, in_background};
use crate::diff::Difference;
use crate::document::split;
use crate::live::Generation;

#[derive(Serialize, ToSchema)]
pub(super) struct CheckedSet {
    /// The number of documents.
    documents: usize,
}

/// What would change.
#[derive(Serialize, ToSchema)]
pub(super) struct DifferenceToServed {
    /// The generation that is served.
    generation: u64,
    #[serde(flatten)]
    difference: Difference,
}

/// Whether documents are a set that could be served.
///
/// The body is a file of documents: the whole set.
#[utoipa::path(
    post,
    path = "/v1/check",
    operation_id = "check",
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, description = "They are.", body = CheckedSet), Problem<408>, Problem<413>, Problem<422>, Problem<503>),
)]
pub(super) async fn check(
    State(admin): State<Admin>,
    BodyInTurn { body, turn }: BodyInTurn,
) -> Result<Json<CheckedSet>, ProblemDetails> {
    let served = admin.generation()?;
    // Whoever asked may be gone before it is done.
    let documents = in_background(move || {
        let _turn = turn;
        wanted(&served, &body).map(|wanted| wanted.documents.len())
    });
    Ok(Json(CheckedSet { documents: documents.await? }))
}

/// What would change if documents took the place of those that are served.
///
/// The body is a file of documents: the whole set. Nothing is changed.
#[utoipa::path(
    post,
    path = "/v1/diff",
    operation_id = "diff",
    request_body(content = String, content_type = "application/yaml"),
    responses(
        (status = 200, description = "What would change.", body = DifferenceToServed),
        Problem<408>,
        Problem<413>,
        Problem<422>,
        Problem<503>,
    ),
)]
pub(super) async fn diff(
    State(admin): State<Admin>,
    BodyInTurn { body, turn }: BodyInTurn,
) -> Result<Json<DifferenceToServed>, ProblemDetails> {
    let served = admin.generation()?;
    let generation = served.number;
    let difference = in_background(move || {
        let _turn = turn;
        let wanted = wanted(&served, &body)?;
        Ok(served.difference(&wanted))
    });
    Ok(Json(DifferenceToServed { generation, difference: difference.await? }))
}

fn wanted(served: &Generation, body: &[u8]) -> Result<Generation, ProblemDetails> {
    served.replaced(split(&"body".into(), body)).map_err(|problems| {
        let told =
            ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, "these documents are no set that could be served");
        told.with_list("problems", problems.iter().map(DocumentProblem::of))
    })
}
