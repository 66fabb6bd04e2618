//! Who asks, and what that may do.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Admin;
use super::gate::Asker;
use crate::access::{CredentialKind, Role};

#[derive(Serialize, ToSchema)]
pub(super) struct Rights {
    /// Whoever asks, as the audit log names it: `token ci`, `jwt ann`, `certificate spiffe://shop/ops` or `loopback`.
    who: String,
    kind: CredentialKind,
    #[schema(required = true)]
    role: Option<Role>,
    /// True where a token may be shown.
    takes_tokens: bool,
    /// Where policies come from: `etcd`, or `files`, which cannot be changed here.
    policies: &'static str,
}

/// Who asks, what that may do, and where policies come from.
#[utoipa::path(
    get,
    path = "/v1/access",
    operation_id = "access",
    responses((status = 200, description = "Who asks.", body = Rights)),
)]
pub(super) async fn answer(State(admin): State<Admin>, Asker(caller): Asker) -> Json<Rights> {
    Json(Rights {
        who: caller.to_string(),
        kind: caller.kind,
        role: caller.role,
        takes_tokens: admin.access.takes_tokens(),
        policies: if admin.editor.is_some() { "etcd" } else { "files" },
    })
}
