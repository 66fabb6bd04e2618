//! The description of the API (OpenAPI 3.1), made from the handlers: `GET /openapi.json`.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, ToSchema};

use super::ConfigDump;
use super::documents::list::DocumentPage;
use super::edit::MadeChange;
use super::error::ProblemBody;
use super::gate::Rule;
use super::nodes::NodePage;

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Tierflow",
        description = "The admin API: what is served, to whom, and what is wrong with it; and changes of documents.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(ProblemBody, MadeChange, ConfigDump, DocumentPage, NodePage)),
    modifiers(&Credentials),
)]
pub(super) struct Document;

/// The names of what can be shown.
const SCHEMES: [&str; 3] = ["token", "jwt", "certificate"];

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut OpenApi) {
        let bearer = |format: &str, what: &str| {
            let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format(format);
            SecurityScheme::Http(bearer.description(Some(what)).build())
        };
        let schemes = [
            bearer("opaque", "A token that --admin-access or --admin-token-file has."),
            bearer("JWT", "A JWT of the issuer that --admin-access names."),
            SecurityScheme::MutualTls {
                description: Some("A certificate of --tls-client-ca, for a name that --admin-access has.".to_owned()),
                deprecated: None,
                extensions: None,
            },
        ];
        let components = document.components.get_or_insert_default();
        for (name, scheme) in SCHEMES.into_iter().zip(schemes) {
            components.add_security_scheme(name, scheme);
        }
    }
}

/// Who may ask an operation: the role that it needs, or that it needs none.
pub(super) const ROLE: &str = "x-role";

/// Adds to each operation who may ask it, and how whoever may not is answered.
pub(super) fn describe_rule(rule: Rule, item: &mut PathItem) {
    let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
    for operation in operations.into_iter().flatten() {
        let (role, statuses): (_, &[u16]) = match rule {
            Rule::Probe => ("none", &[]),
            Rule::Page => ("none", &[400, 403, 421]),
            Rule::Metrics => ("viewer", &[400, 401, 403, 421, 429]),
            Rule::Role(role) => (role.as_str(), &[400, 401, 403, 421, 429]),
        };
        // Where a body may come it may come with a content coding.
        let of_body = operation.request_body.as_ref().map(|_| &415);
        for (status, answer) in statuses.iter().chain(of_body).map(|status| problem(*status)) {
            operation.responses.responses.entry(status).or_insert(answer);
        }
        if role != "none" {
            // The last one stands for whoever needs to show nothing: at loopback, without --admin-access.
            let shown = SCHEMES.map(|scheme| SecurityRequirement::new(scheme, [""; 0]));
            operation.security = Some(shown.into_iter().chain([SecurityRequirement::default()]).collect());
        }
        add_extension(operation, role);
    }
}

fn add_extension(operation: &mut Operation, role: &str) {
    let role = ExtensionsBuilder::new().add(ROLE, role).build();
    operation.extensions.get_or_insert_default().merge(role);
}

/// It depends on the program alone.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, document) = super::routes().split_for_parts();
    // Nothing in it could fail to be written.
    let text = document.to_json().unwrap_or_default();
    // OpenAPI's format registry has `uint32` where utoipa writes `u-int32`.
    text.replace("\"format\":\"u-int", "\"format\":\"uint")
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

/// An answer with an ETag that is a hash of it, or that the client has it ([`super::tagged`]). Its schema is named in [`Document`].
pub(super) struct Tagged<T>(PhantomData<T>);

impl<T: ToSchema> IntoResponses for Tagged<T> {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let known = ResponseBuilder::new().description("The client has it.").build();
        let told = success::<T>("What was asked for.", "A hash of the answer, for If-None-Match.");
        BTreeMap::from([told, (StatusCode::NOT_MODIFIED.as_str().to_owned(), known.into())])
    }
}

/// The answer to a change of documents that is made.
pub(super) struct Made;

impl IntoResponses for Made {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        BTreeMap::from([success::<MadeChange>("It is made.", "The revision that it made.")])
    }
}

fn success<T: ToSchema>(description: &str, etag: &str) -> (String, RefOr<Response>) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(T::name()))).build();
    let etag = HeaderBuilder::new().description(Some(etag)).build();
    let response = ResponseBuilder::new().description(description).content("application/json", content);
    (StatusCode::OK.as_str().to_owned(), response.header(header::ETAG.as_str(), etag).build().into())
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
        [400, 404, 409, 412, 422, 428, 503, 504, 507].map(problem).into()
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
    let header = match StatusCode::from_u16(status) {
        Ok(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) => {
            Some((header::RETRY_AFTER, "The seconds after which it may be worth to ask again."))
        }
        Ok(StatusCode::UNSUPPORTED_MEDIA_TYPE) => {
            Some((header::ACCEPT_ENCODING, "The content codings that are taken, where the body's is not."))
        }
        Ok(StatusCode::UNAUTHORIZED) => Some((header::WWW_AUTHENTICATE, "That a bearer token would do.")),
        _ => None,
    };
    let response = match header {
        Some((name, what)) => response.header(name.as_str(), HeaderBuilder::new().description(Some(what)).build()),
        None => response,
    };
    (status.to_string(), response.build().into())
}

/// What a status says in this API.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The question makes no sense; `detail` says what was expected.",
        401 => "It needs a token or a certificate that is known here.",
        403 => {
            "Whoever asks may not: `detail` names the role that it needs, or says that the page or the machine is none that may."
        }
        404 => "It is not there.",
        408 => "The request did not come in time.",
        409 => "Policies come from files, or the change takes away more than is usual and gives no reason.",
        412 => "It was changed meanwhile; `current` says to what.",
        413 => "It is larger than what is taken.",
        415 => "The body is of another type, or has a content coding; it is taken as it is.",
        421 => "Nothing is answered by that Host.",
        422 => "The documents, or the set that they would make, make no sense; `problems` says why.",
        428 => "A change says which revision it was made from.",
        429 => "Too many wrong tokens came from that address.",
        503 => "No policy set is loaded yet, or something that is needed does not answer.",
        504 => "It is not known whether the change was made: etcd did not answer in time.",
        507 => "The audit log cannot be written, or not in time, so nothing is changed.",
        _ => "It cannot be done.",
    }
}
