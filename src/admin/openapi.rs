//! The description of the API (OpenAPI 3.1), made from the handlers: `GET /openapi.json`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, ToSchema};

use super::error::ProblemBody;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tierflow",
        description = "The admin API: what is served, to whom, and what is wrong with it; and changes of documents.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ProblemBody)),
    modifiers(&BearerToken),
)]
pub(super) struct Document;

/// What changes are made with, where `--admin-token-file` is given.
struct BearerToken;

impl Modify for BearerToken {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", bearer);
    }
}

/// It depends on the program alone.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, document) = super::routes().split_for_parts();
    // Nothing in it could fail to be written.
    document.to_json().unwrap_or_default()
});

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    responses((status = 200, description = "The description.", body = Object, content_type = "application/json")),
)]
pub(super) async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

/// The answer of a status other than those of success: problem details.
pub(super) struct Problem<const STATUS: u16>;

impl<const STATUS: u16> IntoResponses for Problem<STATUS> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([problem(STATUS)])
    }
}

/// Why a change of documents may be refused.
pub(super) struct RefusedChange;

impl IntoResponses for RefusedChange {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [400, 401, 403, 404, 409, 412, 422, 428, 503, 504, 507].map(problem).into()
    }
}

/// Why a set of documents may not be looked at, or makes no sense.
pub(super) struct RefusedSet;

impl IntoResponses for RefusedSet {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [400, 404, 408, 413, 422, 503].map(problem).into()
    }
}

fn problem(status: u16) -> (String, RefOr<Response>) {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let response = ResponseBuilder::new().description(meaning(status)).content(ProblemBody::CONTENT_TYPE, content);
    let response = match status == StatusCode::SERVICE_UNAVAILABLE.as_u16() {
        true => {
            let seconds = "The seconds after which it may be worth to ask again.";
            let header = HeaderBuilder::new().description(Some(seconds)).build();
            response.header(header::RETRY_AFTER.as_str(), header)
        }
        false => response,
    };
    (status.to_string(), response.build().into())
}

/// What a status says in this API.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The question makes no sense; `detail` says what was expected.",
        401 => "Changes need a token that is known here.",
        403 => "Without tokens, changes are taken from the machine itself only.",
        404 => "It is not there.",
        408 => "The request did not come in time.",
        409 => "Policies come from files, or the change takes away more than is usual and gives no reason.",
        412 => "It was changed meanwhile; `current` says to what.",
        413 => "It is larger than what is taken.",
        415 => "The body is no JSON.",
        422 => "The documents, or the set that they would make, make no sense; `problems` says why.",
        428 => "A change says which revision it was made from.",
        503 => "No policy set is loaded yet, or something that is needed does not answer.",
        504 => "It is not known whether the change was made: etcd did not answer in time.",
        507 => "The audit log cannot be written, so nothing is changed.",
        _ => "It cannot be done.",
    }
}
