//! The files that say who may ask, as written and as meant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::hosts::{Host, Hosts, Origin};
use super::jwt::{Issuer, REGISTERED};
use super::token::{self, Token, TokenHash};
use super::{Credentials, Port, Role, jwks};
use crate::document::{Document, Origin as FileOrigin};
use crate::names::certificate::San;
use crate::policy::parse::settings;
use crate::policy::problem::{Findings, nearest};
use crate::shown;

/// The most entries of a list of the file.
const ENTRIES_MAX: usize = 1000;
/// The longest value of a claim, and the longest issuer and audience, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// The names of all fields of the file. Of others nothing is told: somebody may have put a token in the place of one.
const FIELDS: [&str; 17] = [
    "tokens",
    "name",
    "role",
    "sha256",
    "certificates",
    "san",
    "jwt",
    "jwks_file",
    "issuer",
    "audience",
    "roles_claim",
    "roles",
    "viewer",
    "operator",
    "admin",
    "hosts",
    "origins",
];

/// The file of `--admin-access` as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    tokens: Vec<RawToken>,
    #[serde(default)]
    certificates: Vec<RawCertificate>,
    jwt: Option<RawJwt>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    origins: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    name: String,
    role: String,
    /// Whatever stands here is not repeated: it may be the token itself.
    sha256: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCertificate {
    san: String,
    role: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwt {
    jwks_file: String,
    issuer: String,
    audience: String,
    roles_claim: String,
    roles: BTreeMap<String, Vec<String>>,
}

/// The same as meant, without what other files have.
#[derive(Debug)]
struct AccessFile {
    tokens: Vec<Token>,
    certificates: Vec<(San, Role)>,
    jwt: Option<(PathBuf, Issuer)>,
    hosts: Vec<Host>,
    origins: Vec<Origin>,
}

/// The files that flags name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessFiles {
    /// `--admin-access`
    pub file: Option<PathBuf>,
    /// `--admin-token-file`
    pub token_file: Option<PathBuf>,
}

/// Reads all files that have a part in it, each by `read`: what is wrong is told with its file and its place.
pub fn credentials(
    files: &AccessFiles,
    port: Port,
    mut read: impl FnMut(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<Credentials, String> {
    let mut content = |path: &Path| read(path).map_err(|error| format!("{}: {error}", shown::path(path)));
    let mut credentials = Credentials::none(port);
    if let Some(path) = &files.token_file {
        let text = String::from_utf8(content(path)?).map_err(|_| "it is no UTF-8".to_owned());
        let tokens = text.and_then(|text| token::lines(&text));
        credentials.tokens = tokens.map_err(|problem| format!("{}: {problem}", shown::path(path)))?;
        // So it was before there were roles.
        credentials.of_loopback = Some(Role::Viewer);
    }
    if let Some(path) = &files.file {
        let AccessFile { tokens, certificates, jwt, hosts, origins } = AccessFile::parse(path, content(path)?)?;
        credentials.tokens.extend(tokens);
        credentials.certificates = certificates;
        credentials.hosts = Hosts::new(port, hosts, origins);
        credentials.of_loopback = None;
        if let Some((keys_path, issuer)) = jwt {
            let keys = jwks::parse(&content(&keys_path)?);
            let keys = keys.map_err(|problem| format!("{}: {problem}", shown::path(&keys_path)))?;
            credentials.jwt = Some(Issuer { keys, ..issuer });
        }
    }
    Ok(credentials)
}

impl AccessFile {
    fn parse(path: &Path, content: Vec<u8>) -> Result<Self, String> {
        let origin = FileOrigin::File { path: shown::path(path).into(), number: 1, line: 1 };
        let document = Document { origin, revision: None, content: Ok(content.into()) };
        let folder = path.parent().unwrap_or(Path::new(""));
        settings(&document, &FIELDS, |raw: &RawFile, findings| raw.read(folder, findings)).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            shown::few(&problems, "; ")
        })
    }
}

impl RawFile {
    fn read(&self, folder: &Path, findings: &mut Findings) -> Option<AccessFile> {
        let tokens = each("tokens", &self.tokens, findings, RawToken::read);
        let certificates = each("certificates", &self.certificates, findings, RawCertificate::read);
        let hosts = each("hosts", &self.hosts, findings, |host, findings| {
            findings.check(host, Host::parse(host).ok_or(Host::EXPECTED))
        });
        let origins = each("origins", &self.origins, findings, |origin, findings| {
            findings.check(origin, Origin::parse(origin).ok_or(Origin::EXPECTED))
        });
        let jwt = self.jwt.as_ref().map(|jwt| findings.within("jwt", |findings| jwt.read(folder, findings)));
        self.refuse_repeated(findings);
        if tokens.is_empty() && certificates.is_empty() && self.jwt.is_none() && findings.is_empty() {
            findings.say("says nobody who may ask: expected tokens, certificates or jwt".to_owned());
        }
        let jwt = jwt.flatten();
        findings.is_empty().then_some(AccessFile { tokens, certificates, jwt, hosts, origins })
    }

    /// Two with one name cannot be told apart in the audit log, and of two roles nobody knows which one is meant.
    fn refuse_repeated(&self, findings: &mut Findings) {
        let names = self.tokens.iter().map(|token| token.name.clone());
        repeated("tokens", "name", names, findings);
        let hashes = self.tokens.iter().map(|token| token.sha256.to_string().to_ascii_lowercase());
        repeated("tokens", "sha256", hashes, findings);
        let sans = self.certificates.iter().map(|certificate| certificate.san.clone());
        repeated("certificates", "san", sans, findings);
    }
}

impl RawToken {
    fn read(&self, findings: &mut Findings) -> Option<Token> {
        let name = findings.within("name", |findings| findings.check(&self.name, token::name(&self.name)));
        let role = role(&self.role, findings);
        let hash = self.sha256.as_str().and_then(TokenHash::parse);
        if hash.is_none() {
            findings.within("sha256", |findings| {
                findings.say("expected the SHA-256 of a token, 64 hexadecimal digits in quotes".to_owned());
            });
        }
        Some(Token { name: name?, role: role?, hash: hash? })
    }
}

impl RawCertificate {
    fn read(&self, findings: &mut Findings) -> Option<(San, Role)> {
        let san =
            findings.within("san", |findings| findings.check(&self.san, San::parse(&self.san).ok_or(San::EXPECTED)));
        let role = role(&self.role, findings);
        Some((san?, role?))
    }
}

impl RawJwt {
    fn read(&self, folder: &Path, findings: &mut Findings) -> Option<(PathBuf, Issuer)> {
        for (member, text) in [
            ("jwks_file", &self.jwks_file),
            ("issuer", &self.issuer),
            ("audience", &self.audience),
            ("roles_claim", &self.roles_claim),
        ] {
            if !(1..=TEXT_BYTES_MAX).contains(&text.len()) {
                findings.within(member, |findings| {
                    findings.refuse(text, format_args!("1 to {TEXT_BYTES_MAX} bytes"));
                });
            }
        }
        if REGISTERED.contains(&self.roles_claim.as_str()) {
            findings.within("roles_claim", |findings| {
                findings.refuse(&self.roles_claim, "a claim of its own, as in groups");
            });
        }
        let roles = findings.within("roles", |findings| self.roles(findings));
        let issuer = Issuer {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            roles_claim: self.roles_claim.clone(),
            roles,
            keys: BTreeMap::new(),
        };
        Some((folder.join(&self.jwks_file), issuer))
    }

    /// A value that several roles have, has the highest.
    fn roles(&self, findings: &mut Findings) -> BTreeMap<String, Role> {
        let mut roles = BTreeMap::new();
        for (written, values) in &self.roles {
            let Some(role) = Role::parse(written) else {
                findings.within(written.as_str(), |findings| unknown_role(written, findings));
                continue;
            };
            for value in values {
                let own = roles.entry(value.clone()).or_insert(role);
                *own = (*own).max(role);
            }
        }
        if roles.is_empty() && findings.is_empty() {
            findings.say("says nobody's role: expected a list of values for one of viewer, operator, admin".to_owned());
        }
        roles
    }
}

fn each<R, T>(
    member: &'static str,
    raw: &[R],
    findings: &mut Findings,
    read: impl Fn(&R, &mut Findings) -> Option<T>,
) -> Vec<T> {
    findings.within(member, |findings| {
        if raw.len() > ENTRIES_MAX {
            findings.say(format!("found {} entries, expected at most {ENTRIES_MAX}", raw.len()));
        }
        let raw = raw.iter().take(ENTRIES_MAX).enumerate();
        raw.filter_map(|(index, entry)| findings.within(index, |findings| read(entry, findings))).collect()
    })
}

fn repeated(list: &'static str, member: &'static str, values: impl Iterator<Item = String>, findings: &mut Findings) {
    let mut known = BTreeSet::new();
    for (index, value) in values.enumerate() {
        if !known.insert(value) {
            let say = |findings: &mut Findings| findings.say("stands here again: expected one of its own".to_owned());
            findings.within(list, |findings| {
                findings.within(index, |findings| findings.within(member, say));
            });
        }
    }
}

fn role(text: &str, findings: &mut Findings) -> Option<Role> {
    let role = Role::parse(text);
    if role.is_none() {
        findings.within("role", |findings| unknown_role(text, findings));
    }
    role
}

fn unknown_role(text: &str, findings: &mut Findings) {
    let message = format!("found {text:?}, expected viewer, operator or admin");
    match nearest(text, Role::ALL.map(Role::as_str)) {
        Some(help) => findings.say_with_help(message, help),
        None => findings.say(message),
    }
}

#[cfg(test)]
mod tests;
