//! The documents, those that are served and those that are refused.

pub(super) mod list;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ETAG;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ProblemDetails;
use super::extract::OfPath;
use super::openapi::Problem;
use super::{Admin, rfc3339};
use crate::document::Origin;
use crate::live::{Generation, Refusal};
use crate::names::{DocumentId, Kind};
use crate::policy::parse::Parsed;
use crate::policy::problem;

/// A list tells of so many problems of each document. The document by itself tells of all.
const LISTED_PROBLEMS_MAX: usize = 5;

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum ListedDocument {
    Served(ServedDocument),
    Refused(RefusedDocument),
}

#[derive(Serialize, ToSchema)]
pub(super) struct ServedDocument {
    kind: Kind,
    #[schema(value_type = String)]
    name: Arc<str>,
    /// File and line, or key.
    origin: String,
    /// Of its last change; null where the source keeps none, as files.
    #[schema(required = true)]
    revision: Option<u64>,
    /// True.
    served: bool,
    /// Why its newest version is not the one that is served; null where it is.
    #[schema(required = true)]
    refused: Option<RefusedDocument>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct DocumentWithText {
    #[serde(flatten)]
    document: ListedDocument,
    /// The text that is served; null where nothing of it is.
    #[schema(required = true)]
    text: Option<String>,
    /// The text that is refused; null where none is, or it cannot be read.
    #[schema(required = true)]
    refused_text: Option<String>,
}

/// A document that is not served as it stands in the source.
#[derive(Serialize, ToSchema)]
pub(super) struct RefusedDocument {
    /// Null where not even that can be told.
    #[schema(required = true)]
    kind: Option<Kind>,
    #[schema(required = true, value_type = Option<String>)]
    name: Option<Arc<str>>,
    /// File and line, or key.
    origin: String,
    #[schema(required = true)]
    revision: Option<u64>,
    /// True where an earlier version is served.
    served: bool,
    /// When it was refused first.
    #[schema(format = DateTime)]
    since: String,
    /// In lists the first 5.
    problems: Vec<DocumentProblem>,
    /// The number of those that are not among them.
    problems_more: usize,
}

/// Why a document is refused.
#[derive(Serialize, ToSchema)]
pub(super) struct DocumentProblem {
    /// As in `apis.yaml:7:10`: line and column.
    location: String,
    /// The field, as in `limits[0].rate`; empty for the document as a whole.
    path: String,
    message: String,
    #[schema(required = true)]
    help: Option<String>,
    /// The text of the line; of a long one the part around the place.
    #[schema(required = true, value_type = Option<String>)]
    line: Option<Arc<str>>,
    /// The place in the document's own text.
    #[schema(required = true)]
    place: Option<PlaceInText>,
}

#[derive(Serialize, ToSchema)]
struct PlaceInText {
    /// Counted from 1, as is the column.
    line: u32,
    /// In characters.
    column: u32,
    /// The length of what is meant, in characters.
    width: u32,
}

/// The place of a document in the API.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct DocumentPath {
    #[param(value_type = Kind, example = "Plan")]
    pub(super) kind: String,
    #[param(example = "gold")]
    pub(super) name: String,
}

impl DocumentPath {
    pub(super) fn id(&self) -> Result<DocumentId, ProblemDetails> {
        Ok(DocumentId::new(kind_of(&self.kind)?, &self.name))
    }
}

pub(super) fn kind_of(text: &str) -> Result<Kind, ProblemDetails> {
    let kinds = || Kind::ALL.map(Kind::as_str).join(", ");
    Kind::parse(text).ok_or_else(|| ProblemDetails::not_found(&format!("{text:?} is none of {}", kinds())))
}

/// A document with its text.
#[utoipa::path(
    get,
    path = "/v1/policies/{kind}/{name}",
    operation_id = "get_document",
    params(DocumentPath),
    responses(
        (
            status = 200,
            description = "The document.",
            body = DocumentWithText,
            headers(("etag" = String, description = "The base version of a change: the revision of the document, or of the set.")),
        ),
        Problem<400>,
        Problem<404>,
        Problem<503>,
    ),
)]
pub(super) async fn one(
    State(admin): State<Admin>,
    OfPath(path): OfPath<DocumentPath>,
) -> Result<(HeaderMap, Json<DocumentWithText>), ProblemDetails> {
    let generation = admin.generation()?;
    let id = path.id()?;
    let refused = admin.live.refused();
    let refusal = refused.of(&id).map(|refusal| &**refusal);
    let served = generation.documents.get(&id);
    let document = match (served, refusal) {
        (Some(parsed), refusal) => ListedDocument::Served(ServedDocument::of(parsed, refusal.map(RefusedDocument::of))),
        (None, Some(refusal)) => ListedDocument::Refused(RefusedDocument::of(refusal)),
        (None, None) => return Err(ProblemDetails::not_found(&format!("no {} is called {:?}", id.kind, path.name))),
    };
    let mut headers = HeaderMap::new();
    if let Ok(etag) = etag(&generation, served).parse() {
        headers.insert(ETAG, etag);
    }
    let text = |content: &[u8]| String::from_utf8_lossy(content).into_owned();
    let told = DocumentWithText {
        document,
        text: served.and_then(|parsed| parsed.document.content.as_deref().ok()).map(text),
        refused_text: refusal.and_then(|refusal| refusal.content.as_deref()).map(text),
    };
    Ok((headers, Json(told)))
}

/// The revision of the document, where the source keeps that, else of the set.
fn etag(generation: &Generation, parsed: Option<&Arc<Parsed>>) -> String {
    let revision = parsed.and_then(|parsed| parsed.document.revision);
    format!("\"{}\"", revision.unwrap_or(generation.revision))
}

impl ServedDocument {
    fn of(parsed: &Parsed, refused: Option<RefusedDocument>) -> Self {
        Self {
            kind: parsed.id.kind,
            name: Arc::clone(&parsed.id.name),
            origin: parsed.document.origin.to_string(),
            revision: parsed.document.revision.map(|revision| revision.0),
            served: true,
            refused,
        }
    }
}

impl RefusedDocument {
    /// With all that is known of it.
    pub(super) fn of(refusal: &Refusal) -> Self {
        Self::with_problems(refusal, usize::MAX)
    }

    /// As one of many.
    pub(super) fn listed(refusal: &Refusal) -> Self {
        Self::with_problems(refusal, LISTED_PROBLEMS_MAX)
    }

    fn with_problems(refusal: &Refusal, problems_max: usize) -> Self {
        Self {
            kind: refusal.id.as_ref().map(|id| id.kind),
            name: refusal.id.as_ref().map(|id| Arc::clone(&id.name)),
            origin: refusal.origin.to_string(),
            revision: refusal.revision.map(|revision| revision.0),
            served: refusal.is_served,
            since: rfc3339(refusal.since),
            problems: refusal.problems.iter().take(problems_max).map(DocumentProblem::of).collect(),
            problems_more: refusal.problems.len().saturating_sub(problems_max),
        }
    }
}

impl DocumentProblem {
    pub(super) fn of(problem: &problem::Problem) -> Self {
        Self {
            location: problem.location(),
            path: problem.path.clone(),
            message: problem.message.clone(),
            help: problem.help.clone(),
            line: problem.place.as_ref().map(|place| Arc::clone(&place.text)),
            place: problem.place.as_ref().map(|place| PlaceInText::of(place, &problem.origin)),
        }
    }
}

impl PlaceInText {
    fn of(place: &problem::Place, origin: &Origin) -> Self {
        Self { line: place.line_in(origin), column: place.column, width: place.width }
    }
}
