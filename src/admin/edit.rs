//! Changes of documents: `PUT` and `DELETE` of one, `POST /v1/apply` of several as a whole.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::documents::{DocumentPath, DocumentProblem, RefusedDocument};
use super::error::ProblemDetails;
use super::extract::{Body, OfPath, OfQuery};
use super::gate::{Asker, Gate};
use super::openapi::{Made, Problem, RefusedChange};
use super::{Admin, in_background, to_the_end};
use crate::access::Role;
use crate::audit::{Entry, Outcome, Unnoted};
use crate::editor::draft::{Draft, drafts};
use crate::editor::{Edit, EditError, Edited, Editor, Outlook};
use crate::names::{DocumentId, Kind, Revision};

/// The revision that a change was made from.
const BASE: &str = "x-config-base-version";
/// A name for the request, so that it can be sent again.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest such name, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// The longest reason, in bytes.
const FORCE_BYTES_MAX: usize = 1024;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Options {
    /// Why it is to be done although it takes away more than is usual. It needs the role admin.
    #[param(min_length = 1, max_length = 1024)]
    force: Option<String>,
}

/// Whoever asks for a change, and why it is to be done at any rate. As an argument of a handler it comes before the body, which
/// is not read from somebody who may not.
pub(super) struct Editing {
    who: String,
    force: Option<String>,
}

impl FromRequestParts<Admin> for Editing {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ProblemDetails> {
        let Asker(caller) = Asker::from_request_parts(parts, admin).await?;
        let OfQuery(options) = OfQuery::<Options>::from_request_parts(parts, admin).await?;
        if options.force.is_some() {
            Gate::from_request_parts(parts, admin).await?.require(&caller, Role::Admin)?;
        }
        Ok(Self { who: caller.to_string(), force: force_of(options)? })
    }
}

/// What the headers of a change say.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "the description of the API has it; `base_of` and `request_of` read it")]
pub(super) struct ChangeHeaders {
    /// The revision that the change was made from, as the ETag of what was read says it; 0 for documents that are new. A
    /// change needs it, here or in If-Match.
    #[param(rename = "X-Config-Base-Version", example = 0)]
    base: Option<u64>,
    /// The same, in the quotes of an ETag.
    #[param(rename = "If-Match", pattern = r#"^"[0-9]{1,19}"$"#)]
    if_match: Option<String>,
    /// A name for the change: sent again with the same name, it is not made twice.
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 256, pattern = "^[ -~]+$")]
    key: Option<String>,
}

/// A change that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct MadeChange {
    /// The revision that it made.
    revision: u64,
    /// True where the same request had made it before.
    replayed: bool,
    /// True where whoever asks this replica is shown the change.
    shown: bool,
    /// The documents that are not served as they were written: the keys that they require are not what they have to be.
    waiting: Vec<RefusedDocument>,
}

/// A document as it is after others changed it.
#[derive(Serialize, ToSchema)]
pub(super) struct CurrentVersion {
    kind: Kind,
    #[schema(value_type = String)]
    name: Arc<str>,
    /// 0: it is not there any more.
    revision: u64,
}

/// Makes a document, or changes it.
///
/// The body is the document.
#[utoipa::path(
    put,
    path = "/v1/policies/{kind}/{name}",
    operation_id = "put_document",
    params(DocumentPath, Options, ChangeHeaders),
    request_body(
        content = Object,
        content_type = "application/yaml",
        example = json!({ "kind": "Plan", "name": "gold", "limits": [{ "rate": "100/minute" }] }),
    ),
    responses(
        Made,
        RefusedChange,
        Problem<408>,
        Problem<413>,
    ),
)]
pub(super) async fn put(
    State(admin): State<Admin>,
    editing: Editing,
    OfPath(path): OfPath<DocumentPath>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ProblemDetails> {
    let editor = editor_of(&admin)?;
    let (id, draft_editor) = (path.id()?, Arc::clone(editor));
    let draft = in_background(move || draft_editor.draft(id, &body)).await.map_err(explain)?;
    make(&admin, editor, editing, vec![draft], &headers).await
}

/// Deletes a document.
#[utoipa::path(
    delete,
    path = "/v1/policies/{kind}/{name}",
    operation_id = "delete_document",
    params(DocumentPath, Options, ChangeHeaders),
    responses(Made, RefusedChange,)
)]
pub(super) async fn delete(
    State(admin): State<Admin>,
    editing: Editing,
    OfPath(path): OfPath<DocumentPath>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    let editor = editor_of(&admin)?;
    let draft = Draft::deletion(path.id()?);
    make(&admin, editor, editing, vec![draft], &headers).await
}

/// Changes several documents as a whole.
///
/// The body is a file of documents.
#[utoipa::path(
    post,
    path = "/v1/apply",
    operation_id = "apply",
    params(Options, ChangeHeaders),
    request_body(
        content = Object,
        content_type = "application/yaml",
        example = json!({ "kind": "Plan", "name": "silver", "limits": [{ "rate": "10/minute" }] }),
    ),
    responses(
        Made,
        RefusedChange,
        Problem<408>,
        Problem<413>,
    ),
)]
pub(super) async fn apply(
    State(admin): State<Admin>,
    editing: Editing,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ProblemDetails> {
    let editor = editor_of(&admin)?;
    let drafts = in_background(move || drafts(&"body".into(), &body)).await.map_err(explain)?;
    make(&admin, editor, editing, drafts, &headers).await
}

fn editor_of(admin: &Admin) -> Result<&Arc<Editor>, ProblemDetails> {
    admin.editor.as_ref().ok_or_else(|| {
        ProblemDetails::of(StatusCode::CONFLICT, "policies come from files here, and files are the truth: change those")
    })
}

async fn make(
    admin: &Admin,
    editor: &Arc<Editor>,
    Editing { who, force }: Editing,
    drafts: Vec<Draft>,
    headers: &HeaderMap,
) -> Result<Response, ProblemDetails> {
    let edit = Edit { drafts, base: base_of(headers)?, force, request: request_of(headers)? };
    let entry = Entry {
        change: format!("{:016x}", fastrand::u64(..)),
        who,
        what: edit.drafts.iter().map(describe).collect(),
        base: Some(edit.base.0),
        force: edit.force.clone(),
        result: None,
    };
    let edit = Arc::new(edit);
    let change = {
        let (editor, edit) = (Arc::clone(editor), Arc::clone(&edit));
        async move { editor.edit(&edit).await }
    };
    let edited = noted(admin, entry, change, |edited| match edited {
        Ok(edited) => Outcome::Revision(edited.revision.0),
        Err(error) => Outcome::Refused(error.to_string()),
    });
    let edited = edited.await?.map_err(explain)?;
    Ok(answer(edited, &editor.outlook(&edit, edited).await))
}

fn describe(draft: &Draft) -> String {
    format!("{} {}", if draft.parsed.is_some() { "put" } else { "delete" }, draft.id())
}

/// Makes a change between the two lines that note it. Once the first line is there, it goes on to the second one also where
/// whoever asked has gone.
pub(super) async fn noted<T: Send + 'static>(
    admin: &Admin,
    mut entry: Entry,
    change: impl Future<Output = T> + Send + 'static,
    outcome: impl FnOnce(&T) -> Outcome + Send + 'static,
) -> Result<T, ProblemDetails> {
    let (audit, clock) = (Arc::clone(&admin.audit), admin.clock);
    to_the_end(async move {
        audit.note(&entry, clock.now()).await.map_err(not_noted)?;
        let made = change.await;
        entry.result = Some(outcome(&made));
        // It is done or not done by now; what cannot be noted any more is an alarm, and no other answer.
        let _ = audit.note(&entry, clock.now()).await;
        Ok(made)
    })
    .await
}

fn not_noted(unnoted: Unnoted) -> ProblemDetails {
    let detail = match unnoted {
        Unnoted::Failed(_) => "the audit log cannot be written, so nothing is changed",
        Unnoted::Late => "the audit log was not written in time, so nothing is changed",
    };
    ProblemDetails::of(StatusCode::INSUFFICIENT_STORAGE, detail)
}

fn answer(edited: Edited, outlook: &Outlook) -> Response {
    let body = MadeChange {
        revision: edited.revision.0,
        replayed: edited.is_replay,
        shown: outlook.is_shown,
        waiting: outlook.waiting.iter().map(|refusal| RefusedDocument::listed(refusal)).collect(),
    };
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
            let current = |(id, revision): &(DocumentId, Revision)| CurrentVersion {
                kind: id.kind,
                name: Arc::clone(&id.name),
                revision: revision.0,
            };
            ProblemDetails::of(StatusCode::PRECONDITION_FAILED, &detail)
                .with_list("current", changed.iter().map(current))
        }
        EditError::Invalid(problems) => invalid(&problems),
        EditError::Unreadable { .. } => ProblemDetails::of(StatusCode::CONFLICT, &detail),
        EditError::Guarded(findings) => {
            ProblemDetails::of(StatusCode::CONFLICT, &detail).with_list("guarded", findings.into_iter())
        }
        EditError::OtherRequest => ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, &detail),
        EditError::NotClaimed | EditError::Unavailable(_) => ProblemDetails::unavailable(&detail).retry_after(1),
        EditError::Unknown(_) => ProblemDetails::of(StatusCode::GATEWAY_TIMEOUT, &detail),
    }
}

fn invalid(problems: &[crate::policy::problem::Problem]) -> ProblemDetails {
    let detail = "the documents, or the set that they would make, make no sense";
    ProblemDetails::of(StatusCode::UNPROCESSABLE_ENTITY, detail)
        .with_list("problems", problems.iter().map(DocumentProblem::of))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
            .collect()
    }

    fn status<T>(result: Result<T, ProblemDetails>) -> Result<T, u16> {
        result.map_err(|problem| problem.status.as_u16())
    }

    /// RFC 6585 has the status for a change that does not say what it was made from.
    #[test]
    fn a_change_says_which_revision_it_was_made_from() {
        let base = |lines: &[_]| status(base_of(&headers(lines))).map(|revision| revision.0);
        assert_eq!(base(&[(BASE, "41")]), Ok(41));
        assert_eq!(base(&[("if-match", "\"41\"")]), Ok(41), "as the ETag of what was read");
        assert_eq!(base(&[("if-match", "7"), (BASE, " 41 ")]), Ok(41), "its own header is right");
        assert_eq!(base(&[(BASE, "0")]), Ok(0));
        assert_eq!(base(&[]), Err(428));
        for bad in ["", "-1", "1.5", "*", "W/\"41\"", "41, 42", "18446744073709551616", "\u{661}"] {
            assert_eq!(base(&[(BASE, bad)]), Err(400), "{bad}");
            assert_eq!(base(&[("if-match", bad)]), Err(400), "{bad}");
        }
    }

    #[test]
    fn a_request_may_have_a_name_of_some_length() {
        let request = |lines: &[_]| status(request_of(&headers(lines)));
        let (longest, longer) = ("k".repeat(IDEMPOTENCY_KEY_BYTES_MAX), "k".repeat(IDEMPOTENCY_KEY_BYTES_MAX + 1));
        assert_eq!(request(&[]), Ok(None));
        for good in ["a", "7 of 9", longest.as_str()] {
            assert_eq!(request(&[(IDEMPOTENCY_KEY, good)]), Ok(Some(good.to_owned())));
        }
        for bad in ["", longer.as_str(), "\u{fc}"] {
            assert_eq!(request(&[(IDEMPOTENCY_KEY, bad)]), Err(400), "{bad}");
        }
    }

    #[test]
    fn force_needs_a_reason() {
        let force = |reason: Option<&str>| status(force_of(Options { force: reason.map(str::to_owned) }));
        assert_eq!(force(None), Ok(None));
        assert_eq!(force(Some("a slow day")), Ok(Some("a slow day".to_owned())));
        for bad in ["", "  ", &"x".repeat(FORCE_BYTES_MAX + 1)] {
            assert_eq!(force(Some(bad)), Err(400), "{bad}");
        }
    }

    #[test]
    fn a_kind_that_is_none_is_not_found() {
        let id = |kind: &str| status(DocumentPath { kind: kind.to_owned(), name: "a".to_owned() }.id());
        assert_eq!(id("Plan"), Ok(DocumentId::new(Kind::Plan, "a")));
        assert_eq!(id("Thing"), Err(404));
    }

    /// Who may ask again with the same words is told when, and 504 says that nobody knows what came of it.
    #[test]
    fn each_reason_has_its_status() {
        let id = || DocumentId::new(Kind::Plan, "a");
        let (base, newest) = (Revision(7), Revision(9));
        let key = || "/tierflow/edit".to_owned();
        let expected = [
            (EditError::Empty, 400),
            (EditError::Twice(id()), 400),
            (EditError::Future { base, newest }, 400),
            (EditError::TooLarge { what: "9 documents".to_owned(), max: 3 }, 413),
            (EditError::Missing(id()), 404),
            (EditError::Stale { base, changed: vec![(id(), newest)] }, 412),
            (EditError::Invalid(Vec::new()), 422),
            (EditError::Guarded(vec!["to 0".to_owned()]), 409),
            (EditError::Unreadable { key: key(), revision: newest, why: "x".to_owned() }, 409),
            (EditError::OtherRequest, 422),
            (EditError::NotClaimed, 503),
            (EditError::Unavailable("etcd is away".to_owned()), 503),
            (EditError::Unknown("timed out".to_owned()), 504),
        ];
        for (error, status) in expected {
            let told = error.to_string();
            let is_to_come_back = status == 503;
            let response = explain(error).into_response();
            assert_eq!(response.status().as_u16(), status, "{told}");
            assert_eq!(response.headers().contains_key("retry-after"), is_to_come_back, "{told}");
        }
    }

    #[test]
    fn who_was_late_is_told_what_changed_meanwhile() {
        let changed =
            |count: u64| (1..=count).map(|n| (DocumentId::new(Kind::Plan, &format!("p{n}")), Revision(n % 3)));
        let told = |count| EditError::Stale { base: Revision(7), changed: changed(count).collect() }.to_string();
        let again = "changed after base version 7; look at the current version and try again";
        assert_eq!(told(1), format!("Plan p1 (revision 1) {again}"));
        assert_eq!(
            told(3),
            format!("Plan p1 (revision 1), Plan p2 (revision 2), Plan p3 (not there any more) {again}")
        );
        assert!(told(5).contains("and 2 more changed"), "{}", told(5));
    }

    #[test]
    fn what_is_done_has_the_revision_as_its_etag() {
        let outlook = Outlook { is_shown: true, waiting: Vec::new() };
        let response = answer(Edited { revision: Revision(41), is_replay: true }, &outlook);
        assert_eq!((response.status().as_u16(), &response.headers()[ETAG]), (200, &HeaderValue::from_static("\"41\"")));
    }

    #[test]
    fn the_audit_log_says_what_is_put_and_what_is_deleted() {
        let put = drafts(&"body".into(), b"{kind: Plan, name: a, limits: [{rate: 1/m}]}").unwrap().remove(0);
        assert_eq!(describe(&put), "put Plan a");
        assert_eq!(describe(&Draft::deletion(DocumentId::new(Kind::Tenant, "acme inc"))), "delete Tenant acme inc");
    }
}
