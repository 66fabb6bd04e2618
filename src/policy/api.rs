//! An API: which requests belong to it, who answers them, and what they are limited to together.

use std::sync::Arc;
use std::time::Duration;

use super::cors::{ApiCors, Cors};
use super::gateway::Gateway;
use super::limit::Limit;
use super::matches::Match;
use super::problem::Findings;
use super::raw::{NumberOr, RawApi, RawRetry};
use super::text;
use crate::names::{Kind, Name};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    pub name: Name,
    pub gateway: Name,
    pub matches: Match,
    pub service: Name,
    /// `None`: an answer may take as long as it likes.
    pub timeout: Option<Duration>,
    /// `None`: a request may stand still for as long as it likes.
    pub idle_timeout: Option<Duration>,
    pub upgrades: Vec<Upgrade>,
    pub cors: ApiCors,
    pub retry: Option<Retry>,
    pub limits: Vec<Arc<Limit>>,
}

/// A protocol that a connection may be handed over to (RFC 9110, section 7.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    Websocket,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Envoy's names, as in `x-envoy-retry-on`.
    pub conditions: Vec<&'static str>,
    pub statuses: Vec<u32>,
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    /// True where the operator says that every method of the API may be repeated.
    pub is_idempotent: bool,
}

const CONNECT_FAILURE: &str = "connect-failure";

/// The conditions that allow a retry whatever the method, because the upstream has not seen the request.
const UNSEEN_CONDITIONS: [&str; 2] = [CONNECT_FAILURE, "refused-stream"];

const CONDITIONS: [&str; 11] = [
    "5xx",
    "cancelled",
    CONNECT_FAILURE,
    "deadline-exceeded",
    "gateway-error",
    "internal",
    "refused-stream",
    "reset",
    "resource-exhausted",
    "retriable-4xx",
    "unavailable",
];

/// The methods that may be repeated without harm (RFC 9110, section 9.2.2).
pub const IDEMPOTENT_METHODS: [&str; 6] = ["DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"];

pub fn is_idempotent(method: &str) -> bool {
    IDEMPOTENT_METHODS.contains(&method)
}

impl Api {
    pub fn read(raw: &RawApi, findings: &mut Findings) -> Option<Self> {
        text::requires(findings, (Kind::Api, &raw.name), raw.requires.as_deref());
        let name = text::name(findings, "name", &raw.name);
        let gateway = text::name(findings, "gateway", &raw.gateway);
        let service = text::name(findings, "service", &raw.service);
        let matches = findings.within("match", |findings| Match::read(&raw.matches, findings));
        let timeout = text::duration_or(
            findings,
            "timeout",
            raw.timeout.as_deref(),
            Duration::from_secs(15),
            Duration::ZERO..=HOUR,
        );
        let idle_timeout = raw
            .idle_timeout
            .as_deref()
            .map(|text| findings.within("idle_timeout", |f| f.check(text, text::duration(text, Duration::ZERO..=DAY))));
        let upgrades = Upgrade::read_list(raw.upgrades.as_deref(), findings);
        let cors = ApiCors::read(raw.cors.as_ref(), findings);
        let retry = raw.retry.as_ref();
        let retry = retry.map(|raw| findings.within("retry", |f| Retry::read(raw, matches.as_ref(), f)));
        let limits = Limit::read_list("limits", "api", raw.limits.as_deref(), findings);
        let (timeout, retry) = (not_zero(timeout?), text::optional(retry)?);
        let idle_timeout = match text::optional(idle_timeout)? {
            None => idle_timeout_beside(timeout),
            Some(idle_timeout) => {
                refuse_tries_that_outlast(idle_timeout, retry.as_ref(), findings);
                not_zero(idle_timeout)
            }
        };
        Some(Self {
            name: name?,
            gateway: gateway?,
            matches: matches?,
            service: service?,
            timeout,
            idle_timeout,
            upgrades: upgrades?,
            cors: cors?,
            retry,
            limits: limits?,
        })
    }
}

impl Api {
    /// The pages of other origins that may use the API; `None`: Envoy does not care.
    pub fn cors<'a>(&'a self, gateway: &'a Gateway) -> Option<&'a Cors> {
        match &self.cors {
            ApiCors::OfGateway => gateway.cors.as_ref(),
            ApiCors::None => None,
            ApiCors::Own(cors) => Some(cors),
        }
    }
}

impl Upgrade {
    fn read_list(raw: Option<&[String]>, findings: &mut Findings) -> Option<Vec<Self>> {
        let raw = text::not_empty(findings, "upgrades", raw);
        findings.within("upgrades", |findings| {
            let mut upgrades = Vec::with_capacity(raw.len());
            for (index, word) in raw.iter().enumerate() {
                findings.within(index, |findings| match findings.check(word, Self::parse(word)) {
                    Some(upgrade) if upgrades.contains(&upgrade) => findings.say(format!("{word} stands twice")),
                    Some(upgrade) => upgrades.push(upgrade),
                    None => {}
                });
            }
            (upgrades.len() == raw.len()).then_some(upgrades)
        })
    }

    fn parse(word: &str) -> Result<Self, &'static str> {
        match word {
            "websocket" => Ok(Self::Websocket),
            _ => Err("websocket: what goes through other upgrades (CONNECT, h2c) can be requests that no limit sees"),
        }
    }
}

/// `0s` says that there is no limit.
fn not_zero(duration: Duration) -> Option<Duration> {
    Some(duration).filter(|duration| !duration.is_zero())
}

/// The idle timeout beside a timeout: it is left to end clients that stop sending or reading. It begins before
/// `timeout` does (the request is still to come, and to be decided about), and must not end first.
fn idle_timeout_beside(timeout: Option<Duration>) -> Option<Duration> {
    timeout.map(|timeout| (timeout + MINUTE).max(5 * MINUTE))
}

/// A try that waits for its answer stands still, so the request would end before the next one could begin.
fn refuse_tries_that_outlast(idle_timeout: Duration, retry: Option<&Retry>, findings: &mut Findings) {
    let per_try_timeout = retry.and_then(|retry| retry.per_try_timeout);
    if per_try_timeout.is_some_and(|per_try| !idle_timeout.is_zero() && idle_timeout <= per_try) {
        let message = "ends a request before `retry.per_try_timeout` ends a try: expected more than that, or 0s";
        findings.within("idle_timeout", |findings| findings.say(message.to_owned()));
    }
}

impl Retry {
    fn read(raw: &RawRetry, matches: Option<&Match>, findings: &mut Findings) -> Option<Self> {
        text::not_empty(findings, "on", Some(&raw.on));
        let mut conditions = Vec::new();
        let mut statuses = Vec::new();
        findings.within("on", |findings| {
            for (index, on) in raw.on.iter().enumerate() {
                findings.within(index, |findings| match on {
                    NumberOr::Number(status) => {
                        let known = u32::try_from(*status).ok().filter(|status| (400..=599).contains(status));
                        statuses.extend(findings.check(status, known.ok_or("a status of 400 to 599")));
                    }
                    NumberOr::Other(word) => {
                        let known = CONDITIONS.into_iter().find(|known| known == word);
                        let known = known.ok_or_else(|| format!("a status or one of {}", CONDITIONS.join(", ")));
                        conditions.extend(findings.check(word, known));
                    }
                });
            }
        });
        let attempts = text::number_within(findings, "attempts", raw.attempts, 1, 1..=10);
        let per_try_timeout = raw.per_try_timeout.as_deref().map(|text| {
            let bounds = Duration::from_millis(1)..=HOUR;
            findings.within("per_try_timeout", |findings| findings.check(text, text::duration(text, bounds)))
        });
        let retry = Self {
            conditions,
            statuses,
            attempts: attempts?,
            per_try_timeout: text::optional(per_try_timeout)?,
            is_idempotent: raw.idempotent.unwrap_or(false),
        };
        retry.refuse_if_it_never_acts(matches?, findings);
        Some(retry)
    }

    fn refuse_if_it_never_acts(&self, matches: &Match, findings: &mut Findings) {
        let methods = &matches.methods;
        let some_method_can_repeat = methods.is_empty() || methods.iter().any(|method| is_idempotent(method));
        if !some_method_can_repeat && !self.is_idempotent && self.for_unsafe_methods().is_none() {
            let message = format!("never acts: {} may be repeated only on connect-failure", methods.join(" and "));
            let help = "add connect-failure to `on`, or say `idempotent: true` if repeating does no harm".to_owned();
            findings.say_with_help(message, help);
        }
    }

    /// Only what nobody has seen is tried again.
    pub fn of_connections() -> Self {
        Self {
            conditions: vec![CONNECT_FAILURE],
            statuses: Vec::new(),
            attempts: 3,
            per_try_timeout: None,
            is_idempotent: false,
        }
    }

    /// The policy, and connections that could not be made are tried again.
    #[must_use]
    pub fn with_connections(mut self) -> Self {
        if !self.conditions.contains(&CONNECT_FAILURE) {
            self.conditions.push(CONNECT_FAILURE);
        }
        self
    }

    /// The part of the policy for methods whose requests must not be repeated once the upstream saw them.
    pub fn for_unsafe_methods(&self) -> Option<Self> {
        if self.is_idempotent {
            return Some(self.clone());
        }
        let mut conditions = self.conditions.clone();
        conditions.retain(|condition| UNSEEN_CONDITIONS.contains(condition));
        (!conditions.is_empty()).then(|| Self { conditions, statuses: Vec::new(), ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::split;
    use crate::policy::parse::{Policy, parse};

    fn api(fields: &str) -> Arc<Api> {
        let text = format!("{{kind: Api, name: a, gateway: g, service: s, match: {{path: /}}, {fields}}}");
        let document = split(&"p.yaml".into(), text.as_bytes()).remove(0);
        match parse(&Arc::new(document)).unwrap().policy {
            Policy::Api(api) => api,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_idle_timeout_follows_the_timeout_unless_it_is_given() {
        let idle_timeout = |fields: &str| api(fields).idle_timeout.map(|timeout| timeout.as_secs());
        assert_eq!(idle_timeout(""), Some(300));
        assert_eq!(idle_timeout("timeout: 4m"), Some(300));
        assert_eq!(idle_timeout("timeout: 10m"), Some(660));
        assert_eq!(idle_timeout("timeout: 0s"), None);
        assert_eq!(idle_timeout("timeout: 0s, idle_timeout: 1m"), Some(60));
        assert_eq!(idle_timeout("timeout: 10m, idle_timeout: 1s"), Some(1));
        assert_eq!(idle_timeout("idle_timeout: 0s"), None);
    }
}
