//! The last changes: who asked for what, and what came of it.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ProblemDetails;
use super::extract::OfQuery;
use super::openapi::Problem;
use super::{Admin, page, rfc3339};
use crate::audit::Outcome;
use crate::audit::recent::Change;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// The most changes to tell of: 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    before: Option<String>,
}

/// A page of the last changes, the newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Changes {
    entries: Vec<AuditEntry>,
    /// The `before` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A change, as far as it is kept in memory. The log has all of it.
#[derive(Serialize, ToSchema)]
pub(super) struct AuditEntry {
    /// When it was asked for.
    at: String,
    /// Tells it from all other changes.
    change: String,
    who: String,
    /// As in `put Api pay`, `delete Tenant acme` or `reset tenant limit a of Gateway shop, Tenant acme`.
    what: Vec<String>,
    /// The number of those that are not in `what`.
    what_more: usize,
    /// The revision that it was made from; null for what is no change of documents.
    base: Option<u64>,
    /// Why it was to be done although it takes away more than is usual.
    force: Option<String>,
    /// Null while it is under way, and where this process ended in the middle of it.
    result: Option<Outcome>,
}

/// The last changes, the newest first.
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "list_changes",
    params(Parameters),
    responses((status = 200, description = "A page of them.", body = Changes), Problem<400>),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    OfQuery(parameters): OfQuery<Parameters>,
) -> Result<Json<Changes>, ProblemDetails> {
    let limit = page::limit(parameters.limit)?;
    let before = parameters.before.as_deref().map(|before| page::key_of("before", before)).transpose()?;
    let (changes, next) = page::of(admin.audit.changes(before, limit + 1), limit, |last| last.number);
    Ok(Json(Changes { entries: changes.into_iter().map(AuditEntry::of).collect(), next }))
}

impl AuditEntry {
    pub(super) fn of(change: Change) -> Self {
        let Change { number: _, ended: _, at, change, who, what, what_more, base, force, result } = change;
        Self { at: rfc3339(at), change, who, what, what_more, base, force, result }
    }
}
