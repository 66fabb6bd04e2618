//! A service: an upstream, how its instances are found, chosen and kept from harm.

mod discovery;
mod tls;

use std::time::Duration;

use super::problem::Findings;
use super::raw::{
    RawCircuitBreaker, RawHealthCheck, RawLoadBalancing, RawOutlierDetection, RawProtocol, RawRetryBudget, RawService,
};
use super::text;
use crate::names::{Kind, Name};

pub use discovery::{Discovery, DnsFamily, WhenEmpty};
pub use tls::{SubjectName, Tls};

const MINUTE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: Name,
    pub discovery: Discovery,
    pub tls: Option<Tls>,
    pub protocol: Protocol,
    pub load_balancing: LoadBalancing,
    pub connect_timeout: Duration,
    pub health_check: Option<HealthCheck>,
    pub circuit_breaker: CircuitBreaker,
    pub outlier_detection: Option<OutlierDetection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// The one of the two that the service prefers. Only with TLS, whose handshake finds it out.
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalancing {
    RoundRobin,
    LeastRequest,
    Random,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    Http { path: String },
    Grpc { service: String },
    Tcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreaker {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub retries: RetryBound,
}

/// The bound that keeps retries from making an outage worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryBound {
    Budget { percent: u32, min_concurrency: u32 },
    Max(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    pub consecutive_5xx: u32,
    pub base_ejection_time: Duration,
    pub interval: Duration,
    pub max_ejection_percent: u32,
}

impl Service {
    pub fn read(raw: &RawService, findings: &mut Findings) -> Option<Self> {
        text::requires(findings, (Kind::Service, &raw.name), raw.requires.as_deref());
        let name = text::name(findings, "name", &raw.name);
        let discovery = Discovery::read(raw, findings);
        let host = raw.dns.as_deref().and_then(|dns| dns.rsplit_once(':')).map(|(host, _)| host);
        let tls = raw.tls.as_ref().map(|raw| findings.within("tls", |findings| Tls::read(raw, host, findings)));
        let protocol = Protocol::read(raw, findings);
        let bounds = MILLISECOND..=MINUTE;
        let default = Duration::from_secs(1);
        let connect_timeout =
            text::duration_or(findings, "connect_timeout", raw.connect_timeout.as_deref(), default, bounds);
        let health_check = raw.health_check.as_ref();
        let health_check = health_check.map(|raw| findings.within("health_check", |f| HealthCheck::read(raw, f)));
        let circuit_breaker =
            findings.within("circuit_breaker", |findings| CircuitBreaker::read(raw.circuit_breaker.as_ref(), findings));
        let asks_grpc = raw.health_check.as_ref().is_some_and(|raw| raw.grpc.is_some());
        if asks_grpc && !matches!(raw.protocol, Some(RawProtocol::Http2 | RawProtocol::Auto)) {
            findings.within("health_check", |findings| {
                findings.within("grpc", |findings| findings.say("needs `protocol: http2`".to_owned()));
            });
        }
        let outlier = raw.outlier_detection.as_ref();
        let outlier = outlier.map(|raw| findings.within("outlier_detection", |f| OutlierDetection::read(raw, f)));
        Some(Self {
            name: name?,
            discovery: discovery?,
            tls: text::optional(tls)?,
            protocol: protocol?,
            load_balancing: match raw.load_balancing {
                None | Some(RawLoadBalancing::LeastRequest) => LoadBalancing::LeastRequest,
                Some(RawLoadBalancing::RoundRobin) => LoadBalancing::RoundRobin,
                Some(RawLoadBalancing::Random) => LoadBalancing::Random,
            },
            connect_timeout: connect_timeout?,
            health_check: text::optional(health_check)?,
            circuit_breaker: circuit_breaker?,
            outlier_detection: text::optional(outlier)?,
        })
    }
}

impl Protocol {
    fn read(raw: &RawService, findings: &mut Findings) -> Option<Self> {
        match raw.protocol {
            None | Some(RawProtocol::Http1) => Some(Self::Http1),
            Some(RawProtocol::Http2) => Some(Self::Http2),
            Some(RawProtocol::Auto) if raw.tls.is_some() => Some(Self::Auto),
            Some(RawProtocol::Auto) => {
                findings.within("protocol", |findings| {
                    findings.say("needs `tls`, whose handshake finds it out".to_owned())
                });
                None
            }
        }
    }
}

impl HealthCheck {
    fn read(raw: &RawHealthCheck, findings: &mut Findings) -> Option<Self> {
        let probe = match (&raw.http, &raw.grpc, raw.tcp) {
            (Some(path), None, None) => findings.within("http", |findings| {
                let parsed =
                    if path.starts_with('/') { text::plain(path) } else { Err("a path, as in /healthz".to_owned()) };
                findings.check(path, parsed).map(|path| Probe::Http { path })
            }),
            (None, Some(service), None) => Some(Probe::Grpc { service: service.clone() }),
            (None, None, Some(true)) => Some(Probe::Tcp),
            _ => {
                findings.say("expected exactly one of http: /path, grpc: service and tcp: true".to_owned());
                None
            }
        };
        let bounds = Duration::from_millis(10)..=10 * MINUTE;
        let five_seconds = Duration::from_secs(5);
        let interval = text::duration_or(findings, "interval", raw.interval.as_deref(), five_seconds, bounds.clone());
        let timeout = text::duration_or(findings, "timeout", raw.timeout.as_deref(), Duration::from_secs(1), bounds);
        let unhealthy = text::number_within(findings, "unhealthy_threshold", raw.unhealthy_threshold, 2, 1..=100);
        let healthy = text::number_within(findings, "healthy_threshold", raw.healthy_threshold, 1, 1..=100);
        Some(Self {
            probe: probe?,
            interval: interval?,
            timeout: timeout?,
            unhealthy_threshold: unhealthy?,
            healthy_threshold: healthy?,
        })
    }
}

impl CircuitBreaker {
    /// Envoy's own default for connections, requests and waiting requests.
    const DEFAULT_MAX: u32 = 1024;

    fn read(raw: Option<&RawCircuitBreaker>, findings: &mut Findings) -> Option<Self> {
        let mut max = |field, number: fn(&RawCircuitBreaker) -> Option<u32>| {
            text::number_within(findings, field, raw.and_then(number), Self::DEFAULT_MAX, 1..=1_000_000)
        };
        let max_connections = max("max_connections", |raw| raw.max_connections);
        let max_pending_requests = max("max_pending_requests", |raw| raw.max_pending_requests);
        let max_requests = max("max_requests", |raw| raw.max_requests);
        let budget = raw.and_then(|raw| raw.retry_budget.as_ref());
        let retries = match (raw.and_then(|raw| raw.max_retries), budget) {
            (Some(_), Some(_)) => {
                let message = "stands beside max_retries, which it would override: expected one of the two";
                findings.within("retry_budget", |findings| findings.say(message.to_owned()));
                None
            }
            (Some(max), None) => Some(RetryBound::Max(max)),
            (None, budget) => findings.within("retry_budget", |findings| RetryBound::read(budget, findings)),
        };
        Some(Self {
            max_connections: max_connections?,
            max_pending_requests: max_pending_requests?,
            max_requests: max_requests?,
            retries: retries?,
        })
    }
}

impl RetryBound {
    fn read(raw: Option<&RawRetryBudget>, findings: &mut Findings) -> Option<Self> {
        let percent = text::number_within(findings, "percent", raw.map(|raw| raw.percent), 20, 0..=100);
        let min = raw.and_then(|raw| raw.min_concurrency);
        let min_concurrency = text::number_within(findings, "min_concurrency", min, 3, 0..=1_000_000);
        Some(Self::Budget { percent: percent?, min_concurrency: min_concurrency? })
    }
}

impl OutlierDetection {
    fn read(raw: &RawOutlierDetection, findings: &mut Findings) -> Option<Self> {
        let consecutive_5xx = text::number_within(findings, "consecutive_5xx", raw.consecutive_5xx, 5, 1..=1_000_000);
        let bounds = MILLISECOND..=60 * MINUTE;
        let base = raw.base_ejection_time.as_deref();
        let base = text::duration_or(findings, "base_ejection_time", base, Duration::from_secs(30), bounds.clone());
        let interval =
            text::duration_or(findings, "interval", raw.interval.as_deref(), Duration::from_secs(10), bounds);
        let percent = text::number_within(findings, "max_ejection_percent", raw.max_ejection_percent, 10, 0..=100);
        Some(Self {
            consecutive_5xx: consecutive_5xx?,
            base_ejection_time: base?,
            interval: interval?,
            max_ejection_percent: percent?,
        })
    }
}
