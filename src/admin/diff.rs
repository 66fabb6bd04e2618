//! Sets of policies that are not served: what is wrong with one, and what would change if it took the place of the one that
//! is. Nothing is changed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::documents::problem_json;
use super::error::ProblemDetails;
use super::extract::Body;
use super::openapi::Problem;
use super::{Admin, in_background};
use crate::diff::{Difference, Side};
use crate::document::split;
use crate::live::Generation;

/// Whether documents are a set that could be served. The body is a file of documents: the whole set.
#[utoipa::path(
    post,
    path = "/v1/check",
    operation_id = "check",
    responses((status = 200), Problem<413>, Problem<422>, Problem<503>),
)]
pub(super) async fn check(State(admin): State<Admin>, Body(body): Body) -> Result<Json<Value>, ProblemDetails> {
    let served = admin.generation()?;
    let wanted = in_background(move || wanted(&served, &body)).await?;
    Ok(Json(json!({ "documents": wanted.documents.len() })))
}

/// What would change if documents took the place of those that are served. The body is a file of documents: the whole set.
#[utoipa::path(
    post,
    path = "/v1/diff",
    operation_id = "diff",
    responses((status = 200), Problem<413>, Problem<422>, Problem<503>),
)]
pub(super) async fn diff(State(admin): State<Admin>, Body(body): Body) -> Result<Json<Value>, ProblemDetails> {
    let served = admin.generation()?;
    let number = served.number;
    let difference = in_background(move || {
        let wanted = wanted(&served, &body)?;
        Ok(Difference::between(side(&served), side(&wanted)))
    });
    let mut told = json!(difference.await?);
    if let Some(fields) = told.as_object_mut() {
        fields.insert("generation".to_owned(), number.into());
    }
    Ok(Json(told))
}

fn wanted(served: &Generation, body: &[u8]) -> Result<Generation, ProblemDetails> {
    served.replaced(split(&"body".into(), body)).map_err(|problems| {
        let told =
            ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, "these documents are no set that could be served");
        told.with_list("problems", problems.iter().map(problem_json))
    })
}

fn side(generation: &Generation) -> Side<'_> {
    let Generation { documents, policies, snapshot, .. } = generation;
    Side { documents, policies, snapshot }
}
