//! What would change if a set of policies took the place of the one that is served. Nothing is changed.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::documents::problem_json;
use super::error::ProblemDetails;
use super::extract::Body;
use super::{Admin, in_background};
use crate::diff::{Difference, Side};
use crate::document::split;
use crate::live::Generation;

/// The body is a file of documents: the whole set.
pub(super) async fn answer(State(admin): State<Admin>, Body(body): Body) -> Result<Json<Value>, ProblemDetails> {
    let generation = admin.generation()?;
    in_background(move || difference(&generation, &body)).await.map(Json)
}

fn difference(served: &Generation, body: &[u8]) -> Result<Value, ProblemDetails> {
    let wanted = served.replaced(split(&"body".into(), body)).map_err(|problems| {
        let told =
            ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, "these documents are no set that could be served");
        told.with_list("problems", problems.iter().map(problem_json))
    })?;
    let difference = Difference::between(side(served), side(&wanted));
    let mut told = json!(difference);
    if let Some(fields) = told.as_object_mut() {
        fields.insert("generation".to_owned(), served.number.into());
    }
    Ok(told)
}

fn side(generation: &Generation) -> Side<'_> {
    let Generation { documents, policies, snapshot, .. } = generation;
    Side { documents, policies, snapshot }
}
