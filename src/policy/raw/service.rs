//! An upstream as written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::Requirement;

/// An upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawService {
    /// The service's name; its cluster is called the same.
    pub name: String,
    /// Addresses of its instances, as in `10.0.0.7:8080`.
    pub endpoints: Option<Vec<String>>,
    /// A host name and port that Envoy resolves, as in `order.internal:8080`. With a dot at its end the name is whole:
    /// no search domain is tried.
    pub dns: Option<String>,
    /// The addresses of the name that are instances. Default: all.
    pub dns_family: Option<RawDnsFamily>,
    /// The name that instances register themselves under, each in a key of etcd under its lease.
    pub registry: Option<String>,
    /// The instances that are left where the last of the registered ones is gone: the last ones there were, or none.
    /// Default: keep.
    pub when_empty: Option<RawWhenEmpty>,
    /// TLS to the service, whose certificate is always verified.
    pub tls: Option<RawUpstreamTls>,
    /// The protocol that the service speaks. Default: http1.
    pub protocol: Option<RawProtocol>,
    /// The way in which instances are chosen. Default: least_request.
    pub load_balancing: Option<RawLoadBalancing>,
    /// The time that a connection may take to be made, 1ms to 60s. Default: 1s.
    pub connect_timeout: Option<String>,
    /// Asks each instance whether it is well; those that are not get no requests.
    pub health_check: Option<RawHealthCheck>,
    /// Bounds on what is under way to this service from one Envoy.
    pub circuit_breaker: Option<RawCircuitBreaker>,
    /// Leaves out instances that answer with errors.
    pub outlier_detection: Option<RawOutlierDetection>,
    /// Keys of etcd that this document was made with. While one of them is another one, the last good version of the
    /// document stays.
    pub requires: Option<Vec<Requirement>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawWhenEmpty {
    Keep,
    Empty,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawDnsFamily {
    /// IPv4 and IPv6. Those that no connection can be made to are passed over.
    All,
    /// IPv6 where there are any, else IPv4.
    Auto,
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawProtocol {
    Http1,
    /// Needed for gRPC.
    Http2,
    /// HTTP/2 where the service offers it in the TLS handshake (ALPN), else HTTP/1.1. Needs `tls`.
    Auto,
}

/// Paths are on the Envoy's host; Envoy reads the files anew when they change.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawUpstreamTls {
    /// The host name that is asked for in the handshake (SNI). Default: the host of `dns`.
    pub sni: Option<String>,
    /// Path of the PEM certificates of the authorities that are trusted, as in `/etc/ssl/certs/ca-certificates.crt`.
    pub ca: String,
    /// Path of the PEM certificate chain that is shown to the service, where it asks for one. Needs `private_key`.
    pub certificate_chain: Option<String>,
    /// Path of the PEM private key. Needs `certificate_chain`.
    pub private_key: Option<String>,
    /// The names that the certificate may have: host names, IP addresses or URIs (as in `spiffe://shop/order`), of
    /// which one has to be in it. Default: `sni`.
    pub verify_san: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawLoadBalancing {
    RoundRobin,
    LeastRequest,
    Random,
}

/// One of `http`, `grpc` and `tcp`, and how often.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawHealthCheck {
    /// GET this path; 200 is well.
    pub http: Option<String>,
    /// Ask `grpc.health.v1.Health` for this service; an empty name asks for the server. Needs `protocol: http2`.
    pub grpc: Option<String>,
    /// `true`: a connection is enough.
    pub tcp: Option<bool>,
    /// Default: 5s.
    pub interval: Option<String>,
    /// Default: 1s.
    pub timeout: Option<String>,
    /// So many failures in a row and an instance is left out, 1 to 100. Default: 2.
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: Option<u32>,
    /// So many successes in a row and it is back, 1 to 100. Default: 1.
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCircuitBreaker {
    /// Default: 1024.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection. Default: 1024.
    pub max_pending_requests: Option<u32>,
    /// Requests under way. Default: 1024.
    pub max_requests: Option<u32>,
    /// Retries under way. Without it retries are held to `retry_budget`.
    pub max_retries: Option<u32>,
    /// Retries under way as a share of the requests under way. Default: 20 percent, at least 3.
    pub retry_budget: Option<RawRetryBudget>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetryBudget {
    /// 0 to 100.
    #[schemars(range(max = 100))]
    pub percent: u32,
    /// So many retries are always allowed. Default: 3.
    pub min_concurrency: Option<u32>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOutlierDetection {
    /// So many answers of 5xx in a row and the instance is left out. Default: 5.
    pub consecutive_5xx: Option<u32>,
    /// The time that an instance is left out the first time. Default: 30s.
    pub base_ejection_time: Option<String>,
    /// The time between two looks at the instances. Default: 10s.
    pub interval: Option<String>,
    /// The most instances that may be left out, in percent. Default: 10.
    #[schemars(range(max = 100))]
    pub max_ejection_percent: Option<u32>,
}
