//! The documents, those that are served and those that are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::ProblemDetails;
use super::extract::OfPath;
use super::openapi::Problem;
use super::{Admin, in_background, rfc3339};
use crate::live::{Generation, Refusal, Refusals};
use crate::names::{DocumentId, Kind};
use crate::policy::parse::Parsed;
use crate::policy::problem;

/// The documents, those that are served and those that are refused.
#[utoipa::path(
    get,
    path = "/v1/policies",
    operation_id = "list_documents",
    responses((status = 200), Problem<503>),
)]
pub(super) async fn list(State(admin): State<Admin>) -> Result<Response, ProblemDetails> {
    let served = admin.live.served();
    let generation = admin.generation()?;
    Ok(in_background(move || list_of(&generation, &served.refused)).await)
}

fn list_of(generation: &Generation, refused: &Refusals) -> Response {
    let mut rows: BTreeMap<Option<DocumentId>, Vec<Value>> = BTreeMap::new();
    for parsed in generation.documents.values() {
        let refusal = refused.of(&parsed.id).map(|refusal| &**refusal);
        rows.entry(Some(parsed.id.clone())).or_default().push(row(parsed, refusal));
    }
    for refusal in refused.sorted().into_iter().filter(|refusal| !refusal.is_served) {
        rows.entry(refusal.id.clone()).or_default().push(refusal_json(refusal));
    }
    let documents: Vec<Value> = rows.into_values().flatten().collect();
    Json(json!({ "generation": generation.number, "revision": generation.revision.0, "documents": documents }))
        .into_response()
}

/// A document with its text.
#[utoipa::path(
    get,
    path = "/v1/policies/{kind}/{name}",
    operation_id = "get_document",
    responses((status = 200), Problem<400>, Problem<404>, Problem<503>),
)]
pub(super) async fn one(
    State(admin): State<Admin>,
    OfPath((kind, name)): OfPath<(String, String)>,
) -> Result<(HeaderMap, Json<Value>), ProblemDetails> {
    let generation = admin.generation()?;
    let kind = kind_of(&kind)?;
    let id = DocumentId::new(kind, &name);
    let refused = admin.live.refused();
    let refusal = refused.of(&id).map(|refusal| &**refusal);
    let served = generation.documents.get(&id);
    let body = match (served, refusal) {
        (Some(parsed), refusal) => with_text(row(parsed, refusal), parsed),
        (None, Some(refusal)) => refusal_json(refusal),
        (None, None) => return Err(ProblemDetails::not_found(&format!("no {kind} is called {name:?}"))),
    };
    let mut headers = HeaderMap::new();
    if let Ok(etag) = etag(&generation, served).parse() {
        headers.insert(ETAG, etag);
    }
    Ok((headers, Json(body)))
}

pub(super) fn kind_of(text: &str) -> Result<Kind, ProblemDetails> {
    let kinds = Kind::ALL.map(Kind::as_str).join(", ");
    Kind::parse(text).ok_or_else(|| ProblemDetails::not_found(&format!("{text:?} is none of {kinds}")))
}

/// The revision of the document, where the source keeps that, else of the set.
fn etag(generation: &Generation, parsed: Option<&Arc<Parsed>>) -> String {
    let revision = parsed.and_then(|parsed| parsed.document.revision);
    format!("\"{}\"", revision.unwrap_or(generation.revision))
}

fn row(parsed: &Parsed, refusal: Option<&Refusal>) -> Value {
    json!({
        "kind": parsed.id.kind.as_str(),
        "name": parsed.id.name,
        "origin": parsed.document.origin.to_string(),
        "revision": parsed.document.revision.map(|revision| revision.0),
        "served": true,
        "refused": refusal.map(refusal_json),
    })
}

fn with_text(mut row: Value, parsed: &Parsed) -> Value {
    let text = parsed.document.content.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
    if let Some(fields) = row.as_object_mut() {
        fields.insert("text".to_owned(), text.into());
    }
    row
}

pub(super) fn refusal_json(refusal: &Refusal) -> Value {
    json!({
        "kind": refusal.id.as_ref().map(|id| id.kind.as_str()),
        "name": refusal.id.as_ref().map(|id| &id.name),
        "origin": refusal.origin.to_string(),
        "revision": refusal.revision.map(|revision| revision.0),
        "served": refusal.is_served,
        "since": rfc3339(refusal.since),
        "problems": refusal.problems.iter().map(problem_json).collect::<Vec<_>>(),
    })
}

pub(super) fn problem_json(problem: &problem::Problem) -> Value {
    json!({
        "location": problem.location(),
        "path": problem.path.to_string(),
        "message": problem.message,
        "help": problem.help,
        "line": problem.place.as_ref().map(|place| &place.text),
    })
}
