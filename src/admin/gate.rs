//! The gate of the admin port: each route has a rule, and no request gets to a handler that its rule does not let in.
//!
//! ```text
//! Host known? -> Origin known? -> who asks (access) -> may that the rule's role? -> handler, which is told the Caller
//!  400, 421        403              401, 403, 429        403
//! ```
//!
//! Whoever is let in is told what of the request is none that its operation takes ([`super::described`]).
//!
//! A route is registered by [`Routes::with`], which takes its rule and describes it, so that none is served without one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts, Request};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use super::Admin;
use super::described::Described;
use super::error::ProblemDetails;
use super::openapi::describe_rule;
use crate::access::hosts::{Authority, Origin};
use crate::access::{Access, Caller, JwtRefusal, Refusal, Role, Shown};
use crate::clock::{Clock, Timestamp};
use crate::metrics::{Metrics, ReasonLabels};
use crate::names::certificate::ClientCertificate;

/// Who may ask a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Anybody, by any name: whoever orchestrates asks by the address of the moment.
    Probe,
    /// Anybody who could log in, so that the page can ask for what logs in.
    Page,
    /// A viewer; anybody, where the operator says so.
    Metrics,
    Role(Role),
}

pub(super) const VIEWER: Rule = Rule::Role(Role::Viewer);
pub(super) const OPERATOR: Rule = Rule::Role(Role::Operator);

/// Why a request was turned away that showed nothing wrong, as metrics name it.
const TURNED_AWAY: [&str; 4] = ["host", "origin", "nothing_shown", "role"];

/// Between two lines of the log about logins that fail: whoever knocks must not fill it.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// Routes, each with its rule.
pub(super) struct Routes(OpenApiRouter<Admin>);

impl Routes {
    pub(super) fn with_openapi(document: utoipa::openapi::OpenApi) -> Self {
        Self(OpenApiRouter::with_openapi(document))
    }

    pub(super) fn with(self, rule: Rule, (schemas, mut paths, router): UtoipaMethodRouter<Admin>) -> Self {
        for item in paths.paths.values_mut() {
            describe_rule(rule, item);
        }
        // What the tools of others ask, with parameters of their own, is not about what stands in these.
        let described = paths.paths.values().filter(|_| matches!(rule, Rule::Role(_)));
        let described: Arc<[Described]> = described.map(Described::of).collect();
        let guarded = from_fn(move |mut request: Request, next: Next| {
            let described = Arc::clone(&described);
            async move {
                let admitted = admit(rule, &mut request);
                match admitted.and_then(|()| described.iter().try_for_each(|item| item.check(&request))) {
                    Ok(()) => next.run(request).await,
                    Err(refused) => refused.into_response(),
                }
            }
        });
        Self(self.0.routes((schemas, paths, router.route_layer(guarded))))
    }

    pub(super) fn split_for_parts(self) -> (axum::Router<Admin>, utoipa::openapi::OpenApi) {
        self.0.split_for_parts()
    }
}

pub(super) fn start_series(metrics: &Metrics) {
    let of_jwt = JwtRefusal::ALL.map(JwtRefusal::reason);
    for reason in Refusal::REASONS.into_iter().chain(of_jwt) {
        let _ = metrics.admin_logins_failed.get_or_create(&ReasonLabels { reason });
    }
    for reason in TURNED_AWAY {
        let _ = metrics.admin_turned_away.get_or_create(&ReasonLabels { reason });
    }
}

/// What the gate knows of. Each request has it in its extensions.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) access: Arc<Access>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Clock,
    /// The moment at which the log was last told of a failed login.
    pub(super) told: Arc<Mutex<Option<Timestamp>>>,
}

/// The one who asks, as the gate has found out.
pub(super) struct Asker(pub(super) Caller);

impl FromRequestParts<Admin> for Asker {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, _: &Admin) -> Result<Self, ProblemDetails> {
        parts.extensions.get::<Caller>().cloned().map(Self).ok_or_else(|| closed("nobody found out who asks"))
    }
}

/// What is missing is a mistake of this program, and lets nobody in.
fn closed(why: &str) -> ProblemDetails {
    ProblemDetails::unavailable(why)
}

/// Lets the request in, and tells it who asks, or says why not.
pub(super) fn admit(rule: Rule, request: &mut Request) -> Result<(), ProblemDetails> {
    if rule == Rule::Probe {
        return Ok(());
    }
    let gate = request.extensions().get::<Gate>().cloned().ok_or_else(|| closed("the gate is missing"))?;
    let asked = gate.asked_for(request)?;
    gate.check_origin(request.headers(), &asked)?;
    let is_open = match rule {
        Rule::Page => gate.access.takes_credentials(),
        Rule::Metrics => gate.access.has_open_metrics,
        Rule::Probe | Rule::Role(_) => false,
    };
    if is_open {
        return Ok(());
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0);
    let peer = peer.ok_or_else(|| closed("the peer's address is not known"))?;
    let shown = Shown {
        authorization: only(request.headers(), &AUTHORIZATION),
        certificate: request.extensions().get::<Arc<ClientCertificate>>().map(|certificate| &**certificate),
        peer: peer.ip(),
        is_for_loopback: asked.host.is_loopback(),
    };
    let caller = gate.access.identify(&shown, gate.clock.now()).map_err(|refusal| gate.refuse(refusal, peer))?;
    let needed = if let Rule::Role(role) = rule { role } else { Role::Viewer };
    gate.require(&caller, needed)?;
    request.extensions_mut().insert(caller);
    Ok(())
}

/// The value of a header that is there once; `Err` where there are several, or it is no text.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}

impl Gate {
    /// What the client calls this server: HTTP/1.1 says it in a header, HTTP/2 in the URI, and whoever says both says the same.
    fn asked_for(&self, request: &Request) -> Result<Authority, ProblemDetails> {
        let of_header = only(request.headers(), &HOST).map(|host| host.map(Authority::parse));
        let of_uri = request.uri().authority().map(|authority| Authority::parse(authority.as_str()));
        let asked = match (of_header, of_uri) {
            (Ok(Some(header)), Some(uri)) if header == uri => uri,
            (Ok(Some(asked)), None) | (Ok(None), Some(asked)) => asked,
            _ => None,
        };
        let Some(asked) = asked else {
            self.count_turned_away("host");
            return Err(ProblemDetails::of(StatusCode::BAD_REQUEST, "expected one Host, a name or an address"));
        };
        if !self.access.with_hosts(|hosts| hosts.answers_to(&asked.host)) {
            self.count_turned_away("host");
            let detail = "nothing is answered by that Host; --admin-access names those that are, as hosts";
            return Err(ProblemDetails::of(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        Ok(asked)
    }

    /// A browser says which page asks, where that may change something or would be told something.
    fn check_origin(&self, headers: &HeaderMap, asked: &Authority) -> Result<(), ProblemDetails> {
        let is_known = match only(headers, &ORIGIN) {
            Ok(None) => true,
            Ok(Some(origin)) => Origin::parse(origin)
                .is_some_and(|origin| self.access.with_hosts(|hosts| hosts.takes_from(&origin, asked))),
            Err(()) => false,
        };
        if is_known {
            return Ok(());
        }
        self.count_turned_away("origin");
        let detail = "that page may not ask here; --admin-access names those that may, as origins";
        Err(ProblemDetails::of(StatusCode::FORBIDDEN, detail))
    }

    /// Fails where whoever asks may not what is asked for.
    pub(super) fn require(&self, caller: &Caller, needed: Role) -> Result<(), ProblemDetails> {
        if caller.may(needed) {
            return Ok(());
        }
        self.count_turned_away("role");
        let own = caller.role.map_or("none".to_owned(), |role| format!("the role {role}"));
        let detail = format!("that needs the role {needed}, and {caller} has {own}");
        Err(ProblemDetails::of(StatusCode::FORBIDDEN, &detail))
    }

    fn refuse(&self, refusal: Refusal, peer: SocketAddr) -> ProblemDetails {
        match refusal.reason() {
            Some(reason) => {
                self.metrics.admin_logins_failed.get_or_create(&ReasonLabels { reason }).inc();
                self.tell(peer, reason);
            }
            None => self.count_turned_away("nothing_shown"),
        }
        let detail = refusal.to_string();
        match refusal {
            Refusal::NotFromHere => ProblemDetails::of(StatusCode::FORBIDDEN, &detail),
            Refusal::Slowed { seconds } => {
                ProblemDetails::of(StatusCode::TOO_MANY_REQUESTS, &detail).retry_after(seconds)
            }
            // RFC 6750, section 3.1: whoever showed nothing is not told of an error.
            Refusal::Nothing | Refusal::UnknownCertificate => {
                ProblemDetails::of(StatusCode::UNAUTHORIZED, &detail).challenge("Bearer realm=\"tierflow\"")
            }
            Refusal::Malformed | Refusal::UnknownToken | Refusal::Jwt(_) => {
                let challenge = "Bearer realm=\"tierflow\", error=\"invalid_token\"";
                ProblemDetails::of(StatusCode::UNAUTHORIZED, &detail).challenge(challenge)
            }
        }
    }

    fn tell(&self, peer: SocketAddr, reason: &str) {
        let (now, mut told) = (self.clock.now(), self.told.lock());
        if told.is_none_or(|told| now.since(told) >= TOLD_INTERVAL) {
            *told = Some(now);
            tracing::warn!(%peer, reason, "a login at the admin port failed");
        }
    }

    fn count_turned_away(&self, reason: &'static str) {
        self.metrics.admin_turned_away.get_or_create(&ReasonLabels { reason }).inc();
    }
}

/// A handler's look at what the gate knows.
impl FromRequestParts<Admin> for Gate {
    type Rejection = ProblemDetails;

    async fn from_request_parts(parts: &mut Parts, _: &Admin) -> Result<Self, ProblemDetails> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| closed("the gate is missing"))
    }
}

/// What is not there is told to whoever may see what is.
pub(super) async fn not_found(mut request: Request) -> Response {
    match admit(VIEWER, &mut request) {
        Ok(()) => super::error::not_found(request.uri().clone()).await.into_response(),
        Err(refused) => refused.into_response(),
    }
}

pub(super) async fn method_not_allowed(mut request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    match admit(VIEWER, &mut request) {
        Ok(()) => super::error::method_not_allowed(method, uri).await.into_response(),
        Err(refused) => refused.into_response(),
    }
}
