//! Changes of documents: `PUT` and `DELETE` of one, `POST /v1/apply` of several as a whole.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::access::Who;
use super::documents::{kind_of, problem_json, refusal_json};
use super::error::ProblemDetails;
use super::{Admin, in_background};
use crate::audit::{Entry, Outcome};
use crate::editor::draft::{Draft, drafts};
use crate::editor::{Edit, EditError, Edited, Editor, Outlook};
use crate::names::{DocumentId, Revision};

/// The revision that a change was made from.
const BASE: &str = "x-config-base-version";
/// A name for the request, so that it can be sent again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest such name, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// The longest reason, in bytes.
const FORCE_BYTES_MAX: usize = 1024;

#[derive(serde::Deserialize)]
pub(super) struct Options {
    /// Why it is to be done although it takes away more than is usual.
    force: Option<String>,
}

pub(super) async fn put(
    State(admin): State<Admin>,
    Who(who): Who,
    Path((kind, name)): Path<(String, String)>,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ProblemDetails> {
    let editor = editor_of(&admin)?;
    let (id, draft_editor) = (id_of(&kind, &name)?, Arc::clone(editor));
    let draft = in_background(move || draft_editor.draft(id, &body)).await.map_err(explain)?;
    make(&admin, editor, who, vec![draft], options, &headers).await
}

pub(super) async fn delete(
    State(admin): State<Admin>,
    Who(who): Who,
    Path((kind, name)): Path<(String, String)>,
    Query(options): Query<Options>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    let editor = editor_of(&admin)?;
    let draft = Draft::deletion(id_of(&kind, &name)?);
    make(&admin, editor, who, vec![draft], options, &headers).await
}

/// The body is a file of documents.
pub(super) async fn apply(
    State(admin): State<Admin>,
    Who(who): Who,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ProblemDetails> {
    let editor = editor_of(&admin)?;
    let drafts = in_background(move || drafts(&"body".into(), &body)).await.map_err(explain)?;
    make(&admin, editor, who, drafts, options, &headers).await
}

fn editor_of(admin: &Admin) -> Result<&Arc<Editor>, ProblemDetails> {
    admin.editor.as_ref().ok_or_else(|| {
        ProblemDetails::of(StatusCode::CONFLICT, "policies come from files here, and files are the truth: change those")
    })
}

async fn make(
    admin: &Admin,
    editor: &Editor,
    who: String,
    drafts: Vec<Draft>,
    options: Options,
    headers: &HeaderMap,
) -> Result<Response, ProblemDetails> {
    let edit = Edit { drafts, base: base_of(headers)?, force: force_of(options)?, request: request_of(headers)? };
    let mut entry = Entry {
        change: format!("{:016x}", fastrand::u64(..)),
        who,
        what: edit.drafts.iter().map(describe).collect(),
        base: Some(edit.base.0),
        force: edit.force.clone(),
        result: None,
    };
    note(admin, &entry).await?;
    let edited = editor.edit(&edit).await;
    entry.result = Some(match &edited {
        Ok(edited) => Outcome::Revision(edited.revision.0),
        Err(error) => Outcome::Refused(error.to_string()),
    });
    // It is done or not done by now; what cannot be noted any more is an alarm, and no other answer.
    let _ = note(admin, &entry).await;
    let edited = edited.map_err(explain)?;
    Ok(answer(edited, &editor.outlook(&edit, edited).await))
}

fn describe(draft: &Draft) -> String {
    format!("{} {}", if draft.parsed.is_some() { "put" } else { "delete" }, draft.id())
}

/// The disk is waited for, so that the line is there before the change.
pub(super) async fn note(admin: &Admin, entry: &Entry) -> Result<(), ProblemDetails> {
    let (audit, entry, now) = (Arc::clone(&admin.audit), entry.clone(), admin.clock.now());
    in_background(move || audit.note(&entry, now)).await.map_err(|error| {
        tracing::error!(%error, "the audit log cannot be written");
        ProblemDetails::of(StatusCode::INSUFFICIENT_STORAGE, "the audit log cannot be written, so nothing is changed")
    })
}

fn answer(edited: Edited, outlook: &Outlook) -> Response {
    let body = json!({
        "revision": edited.revision.0,
        "replayed": edited.is_replay,
        "shown": outlook.is_shown,
        "waiting": outlook.waiting.iter().map(|refusal| refusal_json(refusal)).collect::<Vec<_>>(),
    });
    let mut response = Json(body).into_response();
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", edited.revision)) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

fn explain(error: EditError) -> ProblemDetails {
    let detail = error.to_string();
    match error {
        EditError::Empty | EditError::Twice(_) | EditError::Future { .. } => {
            ProblemDetails::of(StatusCode::BAD_REQUEST, &detail)
        }
        EditError::TooLarge { .. } => ProblemDetails::of(StatusCode::PAYLOAD_TOO_LARGE, &detail),
        EditError::Missing(_) => ProblemDetails::not_found(&detail),
        EditError::Stale { changed, .. } => {
            let current = |(id, revision): &(DocumentId, Revision)| json!({ "kind": id.kind.as_str(), "name": id.name, "revision": revision.0 });
            ProblemDetails::of(StatusCode::PRECONDITION_FAILED, &detail)
                .with_list("current", changed.iter().map(current))
        }
        EditError::Invalid(problems) => invalid(&problems),
        EditError::Unreadable { .. } => ProblemDetails::of(StatusCode::CONFLICT, &detail),
        EditError::Guarded(findings) => ProblemDetails::of(StatusCode::CONFLICT, &detail)
            .with_list("guarded", findings.into_iter().map(Value::from)),
        EditError::OtherRequest => ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, &detail),
        EditError::NotClaimed | EditError::Unavailable(_) => ProblemDetails::unavailable(&detail).retry_after(1),
        EditError::Unknown(_) => ProblemDetails::of(StatusCode::GATEWAY_TIMEOUT, &detail),
    }
}

fn invalid(problems: &[crate::policy::problem::Problem]) -> ProblemDetails {
    let detail = "the documents, or the set that they would make, make no sense";
    ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, detail)
        .with_list("problems", problems.iter().map(problem_json))
}

fn id_of(kind: &str, name: &str) -> Result<DocumentId, ProblemDetails> {
    Ok(DocumentId::new(kind_of(kind)?, name))
}

fn base_of(headers: &HeaderMap) -> Result<Revision, ProblemDetails> {
    let named = headers.get(BASE).or_else(|| headers.get(IF_MATCH)).ok_or_else(|| {
        let detail = "say in X-Config-Base-Version (or If-Match) which revision the change was made from; 0 for \
                      documents that are new";
        ProblemDetails::of(StatusCode::PRECONDITION_REQUIRED, detail)
    })?;
    let number = named.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    let expected = "the base version is a revision: a whole number, as in the ETag of what was read";
    number.map(Revision).ok_or_else(|| ProblemDetails::of(StatusCode::BAD_REQUEST, expected))
}

fn request_of(headers: &HeaderMap) -> Result<Option<String>, ProblemDetails> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()));
    let expected = format!("Idempotency-Key: expected 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes of ASCII");
    key.map(|key| Some(key.to_owned())).ok_or_else(|| ProblemDetails::of(StatusCode::BAD_REQUEST, &expected))
}

fn force_of(options: Options) -> Result<Option<String>, ProblemDetails> {
    match options.force {
        Some(reason) if reason.trim().is_empty() || reason.len() > FORCE_BYTES_MAX => {
            let expected = format!("force: expected a reason of 1 to {FORCE_BYTES_MAX} bytes");
            Err(ProblemDetails::of(StatusCode::BAD_REQUEST, &expected))
        }
        force => Ok(force),
    }
}
