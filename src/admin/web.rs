//! The page that operators open. Its files are a part of the program: nothing builds them, and no other host is asked for
//! anything.

use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use utoipa_axum::routes;

use super::error::not_found;
use super::extract::OfPath;
use super::gate::{Routes, Rule};
use super::openapi::Problem;
use crate::names::Version;

/// Nothing but what is served here, and nothing inline: text that somebody smuggles in is text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Files of the folder `web`, by their paths in it.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("web/", $path)).as_slice())),*]
    };
}

const INDEX: &str = "index.html";
static FILES: &[(&str, &[u8])] = &files![
    "app.js",
    "icon.svg",
    "index.html",
    "lib/api.js",
    "lib/format.js",
    "lib/hints.js",
    "lib/keys.js",
    "lib/lines.js",
    "lib/live.js",
    "lib/poll.js",
    "lib/router.js",
    "lib/session.js",
    "lib/stream.js",
    "lib/theme.js",
    "parts/access.js",
    "parts/basics.js",
    "parts/change.js",
    "parts/chart.js",
    "parts/checks.js",
    "parts/code.js",
    "parts/difference.js",
    "parts/editor.js",
    "parts/event.js",
    "parts/finder.js",
    "parts/findings.js",
    "parts/frame.js",
    "parts/help.js",
    "parts/icons.js",
    "parts/table.js",
    "parts/tenants.js",
    "parts/uses.js",
    "style/base.css",
    "style/chart.css",
    "style/code.css",
    "style/parts.css",
    "style/shell.css",
    "vendor/LICENSES.txt",
    "vendor/preact.js",
    "views/api.js",
    "views/audit.js",
    "views/envoys.js",
    "views/events.js",
    "views/explain.js",
    "views/limits.js",
    "views/overview.js",
    "views/policies.js",
    "views/policy.js",
    "views/tenant.js",
    "views/tenants.js",
];

/// Adds the routes, which are described like those of the API.
pub(super) fn add_to(routes: Routes) -> Routes {
    routes.with(Rule::Page, routes!(page)).with(Rule::Page, routes!(asset)).with(Rule::Page, routes!(asset_in_folder))
}

/// The page for people.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "page",
    tag = "page",
    responses(
        (status = 200, description = "The page.", content_type = "text/html", body = String),
        (status = 304, description = "It is known."),
    ),
)]
async fn page(headers: HeaderMap, uri: Uri) -> Response {
    file(INDEX, &headers, uri).await
}

/// A part of the page.
#[utoipa::path(
    get,
    path = "/assets/{file}",
    operation_id = "asset",
    tag = "page",
    params(("file" = String, Path)),
    responses(
        (status = 200, description = "A script, a style or a picture.", content_type = "text/plain", body = String),
        (status = 304, description = "It is known."),
        Problem<400>,
        Problem<404>,
    ),
)]
async fn asset(OfPath(name): OfPath<String>, headers: HeaderMap, uri: Uri) -> Response {
    file(&name, &headers, uri).await
}

/// A part of the page, in a folder.
#[utoipa::path(
    get,
    path = "/assets/{folder}/{file}",
    operation_id = "asset_in_folder",
    tag = "page",
    params(("folder" = String, Path), ("file" = String, Path)),
    responses(
        (status = 200, description = "A script, a style or a picture.", content_type = "text/plain", body = String),
        (status = 304, description = "It is known."),
        Problem<400>,
        Problem<404>,
    ),
)]
async fn asset_in_folder(OfPath((folder, name)): OfPath<(String, String)>, headers: HeaderMap, uri: Uri) -> Response {
    file(&format!("{folder}/{name}"), &headers, uri).await
}

async fn file(path: &str, asked: &HeaderMap, uri: Uri) -> Response {
    let Some((path, bytes)) = FILES.iter().find(|(own, _)| *own == path) else {
        return not_found(uri).await.into_response();
    };
    let bytes = in_source(path).unwrap_or_else(|| bytes.to_vec());
    let etag = format!("\"{}\"", Version::of(&bytes));
    let headers = [
        (CONTENT_TYPE, content_type(path)),
        (ETAG, &etag),
        // It is asked for each time, so that a page and its parts are of one version.
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let is_known = asked.get_all(IF_NONE_MATCH).iter().any(|known| known.as_bytes() == etag.as_bytes());
    match is_known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, bytes).into_response(),
    }
}

/// For whoever works on the page: the file as it is in the source tree now, if `TIERFLOW_PAGE_DIR` says where that is.
fn in_source(path: &str) -> Option<Vec<u8>> {
    let folder = std::env::var_os("TIERFLOW_PAGE_DIR").filter(|_| cfg!(debug_assertions))?;
    std::fs::read(std::path::Path::new(&folder).join(path)).ok()
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn text(path: &str) -> &'static str {
        let (_, bytes) = FILES.iter().find(|(own, _)| *own == path).unwrap_or_else(|| panic!("no file {path}"));
        std::str::from_utf8(bytes).unwrap()
    }

    fn scripts() -> impl Iterator<Item = &'static str> {
        let own = |path: &&str| path.ends_with(".js") && !path.starts_with("vendor/");
        FILES.iter().map(|(path, _)| *path).filter(own)
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/web");
        let (mut found, mut folders) = (BTreeSet::new(), vec![folder.clone()]);
        while let Some(next) = folders.pop() {
            for path in std::fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned())),
                }
            }
        }
        assert_eq!(found, FILES.iter().map(|(path, _)| (*path).to_owned()).collect());
    }

    /// A style or a script in the document would be refused by the policy, and a text that becomes HTML is somebody's script.
    #[test]
    fn nothing_is_inline_and_no_text_becomes_html() {
        let index = text(INDEX);
        for inline in ["style=", "<style", "<script>", " onclick", "javascript:", "http://", "https://"] {
            assert!(!index.contains(inline), "{inline}");
        }
        for script in scripts() {
            for dangerous in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("] {
                assert!(!text(script).contains(dangerous), "{script}: {dangerous}");
            }
        }
    }
}
