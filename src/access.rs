//! Who may ask the admin port for what. Files say it, a request shows who asks, and each route has a rule.
//!
//! ```text
//! --admin-access, jwks_file, --admin-token-file -> Credentials (swapped whole) -+
//!                                                                               +-> Caller {kind, name, role} | Refusal
//! a request: Authorization, the certificate of its connection, its peer --------+
//! ```
//!
//! A secret that is shown counts by itself: where it is wrong, nothing else that the request shows is looked at. What is shown
//! is compared by its hash and never kept. HTTP is not known here: `admin::gate` takes requests apart and words the answers.

pub mod attempts;
pub mod file;
pub mod hosts;
mod jwks;
mod jwt;
#[cfg(test)]
pub(crate) mod testing;
pub mod token;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::names::certificate::{ClientCertificate, San};
use crate::shown;
use attempts::Attempts;
use hosts::Hosts;
use jwt::Issuer;
use token::{Token, TokenHash};

pub use jwt::JwtRefusal;

/// What somebody may do. Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads, and tries changes that are not made.
    Viewer,
    /// Changes documents and resets counters.
    Operator,
    /// Makes changes that need a reason.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What somebody is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialKind {
    Token,
    Jwt,
    Certificate,
    /// Nothing but the address that it asks from.
    Loopback,
}

/// Whoever asks, once that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub kind: CredentialKind,
    /// The name of the token, the subject of the JWT, the name in the certificate; empty for `Loopback`.
    pub name: Arc<str>,
    /// `None`: it is known, and may do nothing.
    pub role: Option<Role>,
    /// The end of what it shows.
    pub until: Option<Timestamp>,
}

impl Caller {
    fn of_loopback(role: Role) -> Self {
        Self { kind: CredentialKind::Loopback, name: "".into(), role: Some(role), until: None }
    }

    pub fn may(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}

/// Kind and name, as in `token ci`: names of different kinds are chosen by different people.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            CredentialKind::Token => "token",
            CredentialKind::Jwt => "jwt",
            CredentialKind::Certificate => "certificate",
            CredentialKind::Loopback => return f.write_str("loopback"),
        };
        write!(f, "{kind} {}", shown::text(&self.name))
    }
}

/// Why nobody is known by what a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("show a token or a certificate that is known here")]
    Nothing,
    #[error("the certificate has no role here; show a token, or a certificate that has one")]
    UnknownCertificate,
    #[error("without --admin-access only this machine is answered, at its loopback address and by a name of that")]
    NotFromHere,
    #[error("Authorization: expected one Bearer and its token")]
    Malformed,
    #[error("that token is not known here")]
    UnknownToken,
    #[error("{0}")]
    Jwt(JwtRefusal),
    #[error("too many wrong tokens came from that address; it is asked to wait")]
    Slowed { seconds: u16 },
}

impl Refusal {
    /// Those of a failed login, as metrics name them.
    pub const REASONS: [&'static str; 4] = ["malformed", "unknown_token", "unknown_certificate", "slowed"];

    /// `None` where nobody tried to log in.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Nothing | Self::NotFromHere => None,
            Self::UnknownCertificate => Some("unknown_certificate"),
            Self::Malformed => Some("malformed"),
            Self::UnknownToken => Some("unknown_token"),
            Self::Jwt(refusal) => Some(refusal.reason()),
            Self::Slowed { .. } => Some("slowed"),
        }
    }
}

/// What a request shows of whoever asks.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The only header of that name; `Err` where there are several, or it is no text.
    pub authorization: Result<Option<&'a str>, ()>,
    /// That of the connection, which was verified against `--tls-client-ca`.
    pub certificate: Option<&'a ClientCertificate>,
    pub peer: IpAddr,
    /// True where it is for a name of the loopback address.
    pub is_for_loopback: bool,
}

/// What files say of who may ask.
#[derive(Debug)]
pub struct Credentials {
    tokens: Vec<Token>,
    certificates: Vec<(San, Role)>,
    jwt: Option<Issuer>,
    hosts: Hosts,
    /// What somebody on this machine may do who shows nothing.
    of_loopback: Option<Role>,
}

/// The port that is asked.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    pub bound: SocketAddr,
    pub is_tls: bool,
}

/// Who may ask now.
#[derive(Debug)]
pub struct Access {
    pub port: Port,
    /// Anybody may read `/metrics`.
    pub has_open_metrics: bool,
    credentials: ArcSwap<Credentials>,
    /// Counts the times that they changed.
    changes: watch::Sender<u64>,
    /// Why the newest files are not in use.
    trouble: Mutex<Option<String>>,
    attempts: Attempts,
}

impl Access {
    pub fn new(port: Port, has_open_metrics: bool, credentials: Credentials) -> Self {
        Self {
            port,
            has_open_metrics,
            credentials: ArcSwap::from_pointee(credentials),
            changes: watch::Sender::default(),
            trouble: Mutex::default(),
            attempts: Attempts::default(),
        }
    }

    /// Who asks. Whoever shows wrong secrets again and again from one address has to wait; whoever showed a right one lately
    /// has not, wherever it asks from.
    pub fn identify(&self, shown: &Shown<'_>, now: Timestamp) -> Result<Caller, Refusal> {
        let credentials = self.credentials.load();
        match shown.authorization {
            // Without credentials there is nothing to show, and nothing is looked at.
            _ if credentials.is_none() => credentials.caller_on_loopback(shown).ok_or(Refusal::NotFromHere),
            Ok(None) => credentials.caller_without_secret(shown),
            Ok(Some(header)) => self.attempt(&credentials, header, shown.peer, now),
            Err(()) => self.attempt(&credentials, "", shown.peer, now),
        }
    }

    fn attempt(
        &self,
        credentials: &Credentials,
        header: &str,
        peer: IpAddr,
        now: Timestamp,
    ) -> Result<Caller, Refusal> {
        let secret = bearer(header);
        let hash = TokenHash::of(secret.unwrap_or_default());
        if let Some(wait) = self.attempts.wait(peer, &hash, now) {
            let seconds = u16::try_from(wait.as_secs() + 1).unwrap_or(u16::MAX);
            return Err(Refusal::Slowed { seconds });
        }
        let secret = secret.ok_or(Refusal::Malformed);
        let caller = secret.and_then(|secret| credentials.caller_by_secret(secret, &hash, now));
        match &caller {
            Ok(_) => self.attempts.succeeded(hash),
            Err(_) => self.attempts.failed(peer, now),
        }
        caller
    }

    /// True where something could be shown that is known here.
    pub fn takes_credentials(&self) -> bool {
        !self.credentials.load().is_none()
    }

    /// True where a bearer token may be known here.
    pub fn takes_tokens(&self) -> bool {
        let credentials = self.credentials.load();
        !credentials.tokens.is_empty() || credentials.jwt.is_some()
    }

    /// The names that the port is asked by, and the pages that may ask it.
    pub fn with_hosts<T>(&self, look: impl FnOnce(&Hosts) -> T) -> T {
        look(&self.credentials.load().hosts)
    }

    /// Takes what the files say now. Whoever is being answered for long is asked again who it is.
    pub fn renew(&self, credentials: Credentials) {
        self.credentials.store(Arc::new(credentials));
        *self.trouble.lock() = None;
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The files make no sense now, and those of before count on.
    pub fn keep(&self, trouble: Option<String>) {
        *self.trouble.lock() = trouble;
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Tells when somebody has to be looked at again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

impl Credentials {
    /// Nobody has any: whoever is on this machine may do everything.
    pub fn none(port: Port) -> Self {
        let hosts = Hosts::new(port, Vec::new(), Vec::new());
        Self { tokens: Vec::new(), certificates: Vec::new(), jwt: None, hosts, of_loopback: Some(Role::Admin) }
    }

    fn is_none(&self) -> bool {
        self.of_loopback == Some(Role::Admin)
    }

    /// A page in somebody's browser reaches this address too, under a name of its own choice.
    fn caller_on_loopback(&self, shown: &Shown<'_>) -> Option<Caller> {
        let is_from_here = shown.peer.to_canonical().is_loopback() && shown.is_for_loopback;
        self.of_loopback.filter(|_| is_from_here).map(Caller::of_loopback)
    }

    fn caller_without_secret(&self, shown: &Shown<'_>) -> Result<Caller, Refusal> {
        if let Some(caller) = shown.certificate.and_then(|certificate| self.caller_by_certificate(certificate)) {
            return Ok(caller);
        }
        let is_strange = shown.certificate.is_some() && !self.certificates.is_empty();
        let refusal = if is_strange { Refusal::UnknownCertificate } else { Refusal::Nothing };
        self.caller_on_loopback(shown).ok_or(refusal)
    }

    /// Of several names with a role, the one that may the most.
    fn caller_by_certificate(&self, certificate: &ClientCertificate) -> Option<Caller> {
        let known = self.certificates.iter().filter(|(san, _)| certificate.sans.contains(san));
        known.max_by_key(|(_, role)| *role).map(|(san, role)| Caller {
            kind: CredentialKind::Certificate,
            name: san.as_str().into(),
            role: Some(*role),
            until: None,
        })
    }

    fn caller_by_secret(&self, secret: &str, hash: &TokenHash, now: Timestamp) -> Result<Caller, Refusal> {
        if let Some(token) = token::find(&self.tokens, hash) {
            let name = Arc::clone(&token.name);
            return Ok(Caller { kind: CredentialKind::Token, name, role: Some(token.role), until: None });
        }
        match &self.jwt {
            Some(issuer) if jwt::looks_like_one(secret) => issuer.verify(secret, now).map_err(Refusal::Jwt),
            _ => Err(Refusal::UnknownToken),
        }
    }
}

/// RFC 6750, section 2.1; the scheme is compared without regard to case (RFC 9110, section 11.1).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, secret) = header.split_once(' ')?;
    // There may be more than one space (RFC 9110, section 11.4).
    let secret = secret.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty()).then_some(secret)
}
