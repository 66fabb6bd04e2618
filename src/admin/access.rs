//! Who may change something: whoever shows one of the tokens; without tokens, whoever is on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;

use super::error::ProblemDetails;
use super::{Admin, in_background};

use crate::shown;

#[derive(Clone, Debug, Default)]
pub struct Access {
    /// A file of lines `name:token`. It is read at each change, so that a token that is taken out is out.
    pub token_file: Option<PathBuf>,
}

/// The name of whoever asks for a change. As an argument of a handler it comes before the body, which is not read from
/// somebody who may not.
pub(super) struct Who(pub(super) String);

impl FromRequestParts<Admin> for Who {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, admin: &Admin) -> Result<Self, ProblemDetails> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = peer.ok_or_else(|| ProblemDetails::unavailable("the peer's address is not known"))?.0;
        admin.access.who(parts, peer).await.map(Self)
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct Rights {
    /// The name of whoever asks; null where that may change nothing.
    #[schema(required = true)]
    who: Option<String>,
    /// Why it may change nothing.
    #[schema(required = true)]
    reason: Option<String>,
    /// True where changes need a token.
    takes_tokens: bool,
    /// Where policies come from: `etcd`, or `files`, which cannot be changed here.
    policies: &'static str,
}

/// Who asks, whether that may change something, and where policies come from.
#[utoipa::path(
    get,
    path = "/v1/access",
    operation_id = "access",
    responses((status = 200, description = "Who asks.", body = Rights)),
)]
pub(super) async fn answer(State(admin): State<Admin>, who: Result<Who, ProblemDetails>) -> Json<Rights> {
    let (who, reason) = match who {
        Ok(Who(name)) => (Some(name), None),
        Err(problem) => (None, Some(problem.detail)),
    };
    let policies = if admin.editor.is_some() { "etcd" } else { "files" };
    Json(Rights { who, reason, takes_tokens: admin.access.token_file.is_some(), policies })
}

/// The shortest token.
const TOKEN_BYTES_MIN: usize = 16;

impl Access {
    /// The name of whoever asks, for the audit log.
    async fn who(&self, parts: &Parts, peer: SocketAddr) -> Result<String, ProblemDetails> {
        match &self.token_file {
            Some(file) => {
                let read = {
                    let file = file.clone();
                    in_background(move || read_tokens(&file)).await
                };
                let tokens = read.map_err(|error| {
                    tracing::error!("--admin-token-file {}: {error}", shown::path(file));
                    ProblemDetails::of(StatusCode::SERVICE_UNAVAILABLE, "the tokens cannot be read")
                })?;
                let shown = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
                let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
                name_of(&tokens, shown).ok_or_else(|| {
                    ProblemDetails::of(StatusCode::UNAUTHORIZED, "changes need a token that is known here, as a bearer")
                })
            }
            // A page in somebody's browser reaches this address too, under a name of its own choice.
            None if peer.ip().to_canonical().is_loopback() && is_for_loopback(parts) => Ok("loopback".to_owned()),
            None => Err(ProblemDetails::of(
                StatusCode::FORBIDDEN,
                "without --admin-token-file changes are taken from this machine only, at its loopback address",
            )),
        }
    }
}

/// By the name that the client has for this server: HTTP/1.1 says it in a header, HTTP/2 in the URI.
fn is_for_loopback(parts: &Parts) -> bool {
    let header = parts.headers.get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let mut names = header.into_iter().chain(parts.uri.authority().map(Authority::as_str)).peekable();
    names.peek().is_some() && names.all(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name).trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn read_tokens(file: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let read = |(index, line): (usize, &str)| match line.split_once(':') {
        Some((name, token)) if !name.is_empty() && token.trim().len() >= TOKEN_BYTES_MIN => {
            Ok((name.to_owned(), token.trim().to_owned()))
        }
        _ => Err(format!("line {}: expected NAME:TOKEN, the token of at least {TOKEN_BYTES_MIN} bytes", index + 1)),
    };
    lines.map(read).collect()
}

/// All tokens are compared, each in a time that does not depend on how much of it is right.
fn name_of(tokens: &[(String, String)], shown: &str) -> Option<String> {
    let mut found = None;
    for (name, token) in tokens {
        if bool::from(token.as_bytes().ct_eq(shown.as_bytes())) {
            found = Some(name.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who_asks_for(
        access: &Access,
        uri: &str,
        peer: &str,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<String, u16> {
        let (mut parts, ()) = axum::http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        parts.headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let who = runtime.block_on(access.who(&parts, peer.parse().unwrap()));
        who.map_err(|problem| problem.status.as_u16())
    }

    fn who(access: &Access, peer: &str, headers: &[(header::HeaderName, &str)]) -> Result<String, u16> {
        who_asks_for(access, "/v1/policies", peer, headers)
    }

    #[test]
    fn without_tokens_only_this_machine_may() {
        let access = Access::default();
        let host = |host| [(header::HOST, host)];
        for good in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.3.2.1"] {
            assert_eq!(who(&access, "127.0.0.1:5", &host(good)).as_deref(), Ok("loopback"), "{good}");
        }
        for bad in ["shop.example:8080", "10.0.0.7", "localhost.evil.example", ""] {
            assert_eq!(who(&access, "127.0.0.1:5", &host(bad)), Err(403), "{bad}");
        }
        assert_eq!(who(&access, "10.0.0.7:5", &host("127.0.0.1")), Err(403));
        let of_http2 = |uri, headers: &[_]| who_asks_for(&access, uri, "127.0.0.1:5", headers);
        assert_eq!(of_http2("https://localhost:8080/v1", &[]).as_deref(), Ok("loopback"));
        assert_eq!(of_http2("https://shop.example/v1", &[]), Err(403));
        assert_eq!(of_http2("https://shop.example/v1", &host("localhost")), Err(403));
        assert_eq!(who(&access, "127.0.0.1:5", &[]), Err(403));
        assert_eq!(who(&access, "[::ffff:127.0.0.1]:5", &host("localhost")).as_deref(), Ok("loopback"));
    }

    #[test]
    fn a_token_has_a_name_and_nothing_else_helps() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, "# people\nann:0123456789abcdef\n\nci: fedcba9876543210\n").unwrap();
        let access = Access { token_file: Some(file.clone()) };
        let shows = |token: &str| who(&access, "10.0.0.7:5", &[(header::AUTHORIZATION, token)]);
        assert_eq!(shows("Bearer 0123456789abcdef").as_deref(), Ok("ann"));
        assert_eq!(shows("Bearer fedcba9876543210").as_deref(), Ok("ci"));
        for bad in ["", "Bearer ", "0123456789abcdef", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer ann"]
        {
            assert_eq!(shows(bad), Err(401), "{bad}");
        }
        assert_eq!(who(&access, "127.0.0.1:5", &[(header::HOST, "localhost")]), Err(401));
        std::fs::write(&file, "ann:short\n").unwrap();
        assert_eq!(shows("Bearer short"), Err(503));
    }

    #[test]
    fn the_tokens_are_those_that_are_in_the_file_now() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let access = Access { token_file: Some(file.clone()) };
        let shows = |token: &str| who(&access, "10.0.0.7:5", &[(header::AUTHORIZATION, token)]);
        assert_eq!(shows("Bearer 0123456789abcdef"), Err(503), "there is no file");
        for (text, expected) in [
            ("ann:0123456789abcdef\n", Ok("ann".to_owned())),
            ("ann:0123456789abcdef", Ok("ann".to_owned())),
            ("ann: 0123456789abcdef \r\n", Ok("ann".to_owned())),
            ("\n#ann:0123456789abcdef\n", Err(401)),
            ("", Err(401)),
            // A token may hold what stands between it and its name.
            ("ann:0123456789:abcdef\n", Err(401)),
            // One line that is wrong, and nobody knows which token was meant.
            ("ann:0123456789abcdef\nci\n", Err(503)),
            ("ann:0123456789abcdef\n:0123456789abcdef\n", Err(503)),
            ("ann:0123456789abcdef\nci:0123456789abcde\n", Err(503)),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(shows("Bearer 0123456789abcdef"), expected, "{text:?}");
        }
        std::fs::write(&file, "ann:0123456789:abcdef\n").unwrap();
        assert_eq!(shows("Bearer 0123456789:abcdef").as_deref(), Ok("ann"));
        std::fs::write(&file, b"ann:\xff123456789abcdef\n").unwrap();
        assert_eq!(shows("Bearer x"), Err(503), "it is no text");
    }

    #[test]
    fn what_is_wrong_with_the_tokens_is_told_by_the_line_and_without_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        std::fs::write(&file, "# people\n\nann:secret\n").unwrap();
        let told = read_tokens(&file).unwrap_err();
        assert_eq!(told, "line 3: expected NAME:TOKEN, the token of at least 16 bytes");
    }

    proptest::proptest! {
        /// Nothing but the whole token is the token.
        #[test]
        fn a_part_of_a_token_is_none(token in "[!-~]{16,40}", shown in "[!-~]{0,40}", cut in 0..40_usize) {
            let tokens = [("ann".to_owned(), token.clone()), ("ci".to_owned(), format!("{token}x"))];
            let cut = token.get(..cut.min(token.len() - 1)).unwrap_or_default();
            proptest::prop_assert_eq!(name_of(&tokens, cut), None);
            proptest::prop_assert_eq!(name_of(&tokens, &token), Some("ann".to_owned()));
            if shown != token && shown != tokens[1].1 {
                proptest::prop_assert_eq!(name_of(&tokens, &shown), None);
            }
        }
    }
}
