//! How verbs talk to a running server's admin API.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde_json::Value;

use super::Failure;
use super::checked::{Check, Typed};
use crate::names::Kind;
use crate::pem::PemFile;
use crate::{regular_file, shown};

/// The time that a server may take for an answer. A server waits for etcd itself, and knows better what went wrong.
const ANSWER: Duration = Duration::from_secs(15);

#[derive(Clone, clap::Args)]
pub(super) struct ServerArgs {
    /// The admin address of the server.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "TIERFLOW_SERVER_URL")]
    server: String,
    /// PEM file of the authority that signed the server's certificate; needed for https.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_SERVER_CA")]
    server_ca: Option<PathBuf>,
    /// PEM file of the certificate to show to the server.
    #[arg(long, value_name = "FILE", requires = "server_key", env = "TIERFLOW_SERVER_CERT")]
    server_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    #[arg(long, value_name = "FILE", requires = "server_cert", env = "TIERFLOW_SERVER_KEY")]
    server_key: Option<PathBuf>,
    /// File that holds the token to show to the server, alone or as NAME:TOKEN.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A request to a server.
pub(super) struct Question<'a> {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, &'a str)>,
    pub(super) body: Vec<u8>,
}

impl Question<'_> {
    pub(super) fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
    }
}

impl Check for ServerArgs {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        if self.server.contains('@') {
            return Err("--server names a user, whom every list of processes would show; use --token-file".to_owned());
        }
        if self.server.contains(['?', '#']) {
            return Err("--server has parameters, and there are none; use --token-file for a token".to_owned());
        }
        match typed.first_of(&["server_ca", "server_cert", "server_key"]) {
            Some(flag) if !self.server.starts_with("https:") => {
                Err(format!("{flag} needs --server with https, and it is {:?}", self.server))
            }
            _ => Ok(()),
        }
    }
}

impl ServerArgs {
    /// The JSON that is answered. An answer other than 2xx is a failure, with all that the server says of it.
    pub(super) fn ask(&self, question: Question<'_>) -> Result<Value, Failure> {
        self.ask_within(question, ANSWER)
    }

    pub(super) fn ask_within(&self, question: Question<'_>, deadline: Duration) -> Result<Value, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let answer = runtime.block_on(async { tokio::time::timeout(deadline, self.send(question)).await });
        let (status, body) = answer.map_err(|_| format!("{}: no answer within {deadline:?}", self.server))??;
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        if (200..300).contains(&status) { Ok(json) } else { Err(told(status, json)) }
    }

    /// All pages of a list in one answer: that of the last page, with the rows of all.
    pub(super) fn ask_pages(&self, path: &str, rows: &str) -> Result<Value, Failure> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let cursor = after.as_deref().map(|after| format!("&after={}", encoded(after))).unwrap_or_default();
            let mut page = self.ask(Question::get(&format!("{path}{cursor}")))?;
            // Whatever else it is, whoever reads it says so.
            let Some(Value::Array(of_page)) = page.get_mut(rows).map(Value::take) else { return Ok(page) };
            all.extend(of_page);
            let Some(members) = page.as_object_mut() else { return Ok(page) };
            let next = members.remove("next").and_then(|next| next.as_str().map(str::to_owned));
            // A page that leads to itself is the last, whatever the server says.
            if next.is_none() || next == after {
                members.insert(rows.to_owned(), Value::Array(all));
                return Ok(page);
            }
            after = next;
        }
    }

    async fn send(&self, question: Question<'_>) -> Result<(u16, Bytes), Failure> {
        let url = format!("{}{}", self.server.trim_end_matches('/'), question.path);
        let is_url = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
        };
        let uri = url.parse::<Uri>().ok().filter(is_url);
        let uri = uri.ok_or_else(|| {
            format!("--server: found {:?}, expected http://HOST:PORT or https://HOST:PORT", self.server)
        })?;
        let mut request = Request::builder().method(question.method).uri(uri);
        for (name, value) in question.headers {
            request = request.header(name, value);
        }
        if let Some(token) = self.token()? {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::<Bytes>::from(question.body)).map_err(|error| error.to_string())?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(self.tls()?).https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let answer = client.request(request).await.map_err(|error| unreachable(&self.server, &error))?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| format!("{}: {error}", self.server))?;
        Ok((status, body.to_bytes()))
    }

    /// For plain http nothing of it is needed.
    fn tls(&self) -> Result<ClientConfig, Failure> {
        let ca = self.server_ca.as_deref().map(|path| PemFile::read("--server-ca", path)).transpose()?;
        let authorities = match ca {
            Some(ca) => ca.authorities()?,
            None if self.server.starts_with("https:") => {
                return Err(
                    "--server with https needs --server-ca, the authority that signed the server's certificate"
                        .to_owned(),
                );
            }
            None => RootCertStore::empty(),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities);
        let Some((certificate, key)) = self.server_cert.as_ref().zip(self.server_key.as_ref()) else {
            return Ok(config.with_no_client_auth());
        };
        let certificate = PemFile::read("--server-cert", certificate)?;
        let key = PemFile::read("--server-key", key)?.private_key()?;
        let config = config.with_client_auth_cert(certificate.certificates()?, key);
        Ok(config.map_err(|error| certificate.unusable(error))?)
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let Some(file) = &self.token_file else { return Ok(None) };
        let text = regular_file::read_input(file).map_err(|error| format!("{}: {error}", shown::path(file)))?;
        let line = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
        let token = line.split_once(':').map_or(line, |(_, token)| token);
        Ok(Some(token.trim().to_owned()))
    }
}

fn unreachable(server: &str, error: &hyper_util::client::legacy::Error) -> Failure {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    let cause = causes.last().map(|cause| format!(": {cause}"));
    format!("{server}: cannot be reached{}", cause.unwrap_or_default())
}

/// Problem details (RFC 9457), as far as a person is told of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    detail: String,
    problems: Vec<Told>,
    /// The number of problems that are not among them.
    problems_more: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    location: String,
    path: String,
    pub(super) message: String,
    help: Option<String>,
}

fn told(status: u16, json: Value) -> Failure {
    let details: Details = serde_json::from_value(json).unwrap_or_default();
    let mut told = match details.detail.as_str() {
        "" => format!("the server answers {status}"),
        detail => format!("{detail} ({status})"),
    };
    for Told { location, path, message, help } in details.problems {
        let path = if path.is_empty() { path } else { format!("{path}: ") };
        let help = help.map(|help| format!(" ({help})")).unwrap_or_default();
        told.push_str(&format!("\n  {location}: {path}{message}{help}"));
    }
    if details.problems_more > 0 {
        told.push_str(&format!("\n  and {} more", details.problems_more));
    }
    told
}

/// A document's path in the API.
pub(super) fn path_of(kind: Kind, name: &str) -> String {
    format!("/v1/policies/{kind}/{}", encoded(name))
}

/// For a segment of a path or a value of a query (RFC 3986, section 2).
pub(super) fn encoded(text: &str) -> String {
    let encode = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(encode).collect()
}
