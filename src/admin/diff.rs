//! Sets of policies that are not served: what is wrong with one, and what would change if it took the place of the one that
//! is. Nothing is changed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::counters::bad;
use super::documents::{DocumentProblem, kind_of};
use super::error::ProblemDetails;
use super::extract::{BodyInTurn, OfQuery};
use super::openapi::RefusedSet;
use super::{Admin, in_background};
use crate::diff::Difference;
use crate::document::split;
use crate::editor::EditError;
use crate::live::Generation;
use crate::names::DocumentId;
use crate::policy::parse::{parse, parse_for_etcd};
use crate::policy::problem;

/// What becomes of the documents that are served and that the body does not have.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Options {
    /// They stay. Otherwise the body is the whole set.
    #[serde(default)]
    merge: bool,
    /// One of them that goes, as in `Tenant/acme`; the others stay.
    delete: Option<String>,
}

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
/// The body is a file of documents: the whole set, or what is merged into the one that is served.
#[utoipa::path(
    post,
    path = "/v1/check",
    operation_id = "check",
    params(Options),
    request_body(content = Option<Object>, content_type = "application/yaml"),
    responses(
        (status = 200, description = "They are.", body = CheckedSet),
        RefusedSet,
    ),
)]
pub(super) async fn check(
    State(admin): State<Admin>,
    OfQuery(options): OfQuery<Options>,
    BodyInTurn { body, turn }: BodyInTurn,
) -> Result<Json<CheckedSet>, ProblemDetails> {
    let served = admin.generation()?;
    // Whoever asked may be gone before it is done.
    let documents = in_background(move || {
        let _turn = turn;
        if options.delete.is_none() && split(&"body".into(), &body).is_empty() {
            return Err(bad("the body has no document: expected a file of documents"));
        }
        wanted(&admin, &served, &options, &body).map(|wanted| wanted.documents.len())
    });
    Ok(Json(CheckedSet { documents: documents.await? }))
}

/// What would change if documents took the place of those that are served.
///
/// The body is a file of documents: the whole set, or what is merged into the one that is served. Nothing is changed.
#[utoipa::path(
    post,
    path = "/v1/diff",
    operation_id = "diff",
    params(Options),
    request_body(content = Option<Object>, content_type = "application/yaml"),
    responses(
        (status = 200, description = "What would change.", body = DifferenceToServed),
        RefusedSet,
    ),
)]
pub(super) async fn diff(
    State(admin): State<Admin>,
    OfQuery(options): OfQuery<Options>,
    BodyInTurn { body, turn }: BodyInTurn,
) -> Result<Json<DifferenceToServed>, ProblemDetails> {
    let served = admin.generation()?;
    let generation = served.number;
    let difference = in_background(move || {
        let _turn = turn;
        let wanted = wanted(&admin, &served, &options, &body)?;
        Ok(served.difference(&wanted))
    });
    Ok(Json(DifferenceToServed { generation, difference: difference.await? }))
}

fn wanted(admin: &Admin, served: &Generation, options: &Options, body: &[u8]) -> Result<Generation, ProblemDetails> {
    let deleted = options.delete.as_deref().map(id_of).transpose()?;
    if let Some(id) = deleted.as_ref().filter(|id| !served.documents.contains_key(*id)) {
        // As a deletion would be answered: one that is refused, and of which nothing is served, is there.
        let is_there = admin.live.refused().of(id).is_some();
        is_there.then_some(()).ok_or_else(|| ProblemDetails::not_found(&EditError::Missing(id.clone()).to_string()))?;
    }
    if let Some(id) = deleted.as_ref().filter(|id| holds(body, id)) {
        return Err(bad(&format!("delete: {id} is in the body, too: expected one of both")));
    }
    let is_amendment = options.merge || deleted.is_some();
    let wanted = match is_amendment {
        true => amended(admin, served, deleted, body),
        false => served.replaced(split(&"body".into(), body)),
    };
    wanted.map_err(|problems| {
        let told =
            ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, "these documents are no set that could be served");
        told.with_list("problems", problems.iter().map(DocumentProblem::of))
    })
}

/// True where the body has the document.
fn holds(body: &[u8], id: &DocumentId) -> bool {
    let mut documents = split(&"body".into(), body).into_iter().map(Arc::new);
    documents.any(|document| parse(&document).is_ok_and(|parsed| parsed.id == *id))
}

/// The set that is served with the documents of the body in the places of those of their names.
fn amended(
    admin: &Admin,
    served: &Generation,
    deleted: Option<DocumentId>,
    body: &[u8],
) -> Result<Generation, Vec<problem::Problem>> {
    let parse = if admin.editor.is_some() { parse_for_etcd } else { parse };
    let (mut changes, mut problems) = (Vec::from_iter(deleted.map(|id| (id, None))), Vec::new());
    for document in split(&"body".into(), body) {
        match parse(&Arc::new(document)) {
            Ok(parsed) => changes.push((parsed.id.clone(), Some(Arc::new(parsed)))),
            Err(refused) => problems.extend(refused.problems),
        }
    }
    if problems.is_empty() { served.amended(changes) } else { Err(problems) }
}

fn id_of(text: &str) -> Result<DocumentId, ProblemDetails> {
    let expected = || bad(&format!("delete: found {text:?}, expected KIND/NAME"));
    let (kind, name) = text.split_once('/').ok_or_else(expected)?;
    Ok(DocumentId::new(kind_of(kind)?, name))
}
