//! Documents as written: the types that YAML is decoded into and that the JSON Schema is made from.
//!
//! They say which fields there are and of what shape. What the fields mean, and which values make sense,
//! is decided when a raw document is turned into a policy (see `policy::{gateway, service, api, tenant, limit}`).
//! The doc comments here are what an editor shows, so they are written for the operator.

mod cors;
mod either;
mod rate_limits;
mod service;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::Requirement;

pub use cors::*;
pub use either::{Integer, NumberOr, WordOr};

pub use rate_limits::*;
pub use service::*;

/// One document of a policy set.
#[derive(JsonSchema)]
#[serde(tag = "kind")]
#[schemars(title = "Tierflow policy")]
pub enum RawDocument {
    Gateway(RawGateway),
    Service(RawService),
    Api(RawApi),
    Plan(RawPlan),
    Tenant(RawTenant),
}

/// A gateway: the address that a group of Envoys listens on, and the rules for all its requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawGateway {
    /// The gateway's name; its listener and route configuration are called the same.
    pub name: String,
    /// The Envoys that serve this gateway. Every condition given must hold.
    pub nodes: RawNodes,
    /// The certificates that may have this gateway: URIs or DNS names of which a certificate has one as its
    /// subjectAltName, as in `spiffe://shop/edge` or `edge.shop.internal`; at most 64, none of them a pattern. An Envoy that
    /// shows another one to Tierflow gets no configuration of this gateway and no decision for it, whatever its `node`
    /// says. They are asked for with `serve --tls-client-ca`; without it nobody gets the gateway. Default: any certificate
    /// of that authority.
    #[schemars(length(min = 1, max = 64))]
    pub identities: Option<Vec<String>>,
    /// The address that Envoy listens on, as in `0.0.0.0:10000`.
    pub listen: String,
    /// Terminate TLS with this certificate. The paths are on the Envoy's host; Envoy reloads the files when they change.
    pub tls: Option<RawTls>,
    /// The way in which the client's address is found.
    pub client_ip: Option<RawClientIp>,
    /// The rules for the paths of requests.
    pub path: Option<RawPathRules>,
    /// The pages of other origins that may use the Apis that do not say it themselves. Default: none.
    pub cors: Option<RawCors>,
    /// The place where requests say which tenant they belong to. Without it the gateway has no tenant limits.
    pub tenant: Option<RawTenantRule>,
    /// The way in which Envoy asks the rate limit service.
    pub limiter: Option<RawLimiter>,
    /// Folder on the Envoys' hosts that `tierflow bootstrap --sds-dir` has filled, as in `/etc/envoy/sds`: from there they
    /// take the certificate that they show when they ask for decisions, and take it anew whenever its files change. All of
    /// the gateway's Envoys need it. Default: the certificate that is in their bootstrap, until they restart.
    pub sds_dir: Option<String>,
    /// The file in which Envoy writes down each request. Default: none.
    pub access_log: Option<RawAccessLog>,
    /// The spans that Envoy makes of requests. Default: none.
    pub tracing: Option<RawTracing>,
    /// Keys of etcd that this document was made with. While one of them is another one, the last good version of the
    /// document stays.
    pub requires: Option<Vec<Requirement>>,
}

/// Selects Envoys by what they say of themselves in their bootstrap's `node`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawNodes {
    /// `node.cluster` is one of these; a `*` at the end stands for anything.
    pub clusters: Option<Vec<String>>,
    /// `node.id` is one of these; a `*` at the end stands for anything.
    pub ids: Option<Vec<String>>,
    /// `node.metadata` has each of these string values.
    pub metadata: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTls {
    /// Path of the PEM certificate chain on the Envoy's host.
    pub certificate_chain: String,
    /// Path of the PEM private key on the Envoy's host.
    pub private_key: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAccessLog {
    /// Path of the file on the Envoy's host, as in `/dev/stdout`. Its folder has to be there, or Envoy refuses the
    /// listener.
    pub path: String,
    /// The form of a line. Default: json.
    pub format: Option<RawAccessLogFormat>,
    /// With `json`, further headers of the request, at most 32. The one that tenants are named in is there anyway.
    pub headers: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAccessLogFormat {
    /// An object with the names that Istio and Envoy Gateway use.
    Json,
    /// Envoy's own format. It has no header that says whose a request is.
    Text,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTracing {
    /// The collector that takes the spans: a host and a port for OTLP over gRPC without TLS, as in `127.0.0.1:4317`.
    pub otlp: String,
    /// The number of requests that are traced of 10000, 0 to 10000. Default: 100, one percent.
    #[schemars(range(max = 10_000))]
    pub sample_per_10000: Option<u32>,
    /// Requests that come with a `traceparent` go on with that trace, and it says whether they are traced, whatever
    /// `sample_per_10000` is. Whoever reaches the Envoy is believed. Default: false; `traceparent` and `tracestate` of
    /// requests are removed then.
    pub continue_traces: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawClientIp {
    /// The number of proxies in front that are believed in `x-forwarded-for`, 0 to 16. The client's address is the one
    /// that the outermost of them saw; with 0 it is the connection's. Default: 0.
    #[schemars(range(max = 16))]
    pub trusted_hops: Option<u32>,
    /// Instead: the header in which the proxy in front puts the client's address, whatever the client sent. Whoever
    /// reaches the Envoy is believed. Where it holds no address it is the connection's.
    pub header: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPathRules {
    /// The treatment of a path that has `%2F` or `%5C` in it. Default: redirect.
    pub escaped_slashes: Option<RawEscapedSlashes>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawEscapedSlashes {
    /// 307 to the decoded path.
    Redirect,
    /// The request goes on with the decoded path, which is also what the service sees.
    Decode,
    /// They are no slashes: `/pkg/a%2Fb` has two segments, for Apis, limits and the service.
    Keep,
    /// 400.
    Refuse,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTenantRule {
    /// The place where a request names its tenant.
    pub from: RawTenantSource,
    /// The tenant of a request that names none, or `reject` to answer it with 400. Default: `anonymous`.
    pub missing: Option<String>,
    /// The Plan of tenants that no Tenant document names, or `deny` to answer them with 403.
    pub default_plan: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawTenantSource {
    /// The value of this request header.
    Header(String),
    /// The value of this parameter of the query.
    Query(String),
    /// The value of this cookie.
    Cookie(String),
    /// A string claim of the bearer token in `authorization`. The token's signature is not verified here.
    JwtClaim(String),
    /// The client certificate's subject alternative name. Not supported yet.
    ClientCertificate(String),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLimiter {
    /// The time that Envoy waits for a decision, 1ms to 10s. Default: 20ms.
    pub timeout: Option<String>,
    /// The treatment of a request when no decision comes: `allow` it, or `deny` it with 503. With `local` the limits hold
    /// also while the store of counters that replicas share is away: each replica enforces its part of them by itself. Without
    /// Tierflow, and for what has no room in memory, it is `allow`. Default: allow.
    pub on_error: Option<RawOnError>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawOnError {
    Allow,
    Deny,
    Local,
}

/// A set of requests that belong together (tier 1).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawApi {
    pub name: String,
    /// The Gateway that takes these requests.
    pub gateway: String,
    /// The requests that are the API's.
    #[serde(rename = "match")]
    pub matches: RawMatch,
    /// The Service that answers them.
    pub service: String,
    /// The time that an answer may take, retries included; 0s for no limit, at most 1h. Default: 15s.
    pub timeout: Option<String>,
    /// The time that a request may stand still: nothing of it or of its answer comes or goes. 0s for no limit, at most
    /// 24h. Default: 5m, and a minute more than `timeout` where that is longer; no limit where `timeout` is 0s.
    pub idle_timeout: Option<String>,
    /// Protocols that a connection may be handed over to: `websocket`. Default: none, such requests get 403.
    pub upgrades: Option<Vec<String>>,
    /// The pages of other origins that may use it, or `none`. Default: what the gateway says.
    pub cors: Option<WordOr<RawCors>>,
    /// The conditions on which a request is tried again.
    pub retry: Option<RawRetry>,
    /// Limits of this API, all tenants together.
    pub limits: Option<Vec<RawLimit>>,
    /// Keys of etcd that this document was made with. While one of them is another one, the last good version of the
    /// document stays.
    pub requires: Option<Vec<Requirement>>,
}

/// Exactly one of `path`, `path_prefix`, `path_template` and `path_regex`, and further conditions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMatch {
    /// The whole path, without the query.
    pub path: Option<String>,
    /// The path or one below it: `/order` takes `/order` and `/order/7`, not `/orders`.
    pub path_prefix: Option<String>,
    /// A path with variables for whole segments, as in `/order/{id}`.
    pub path_template: Option<String>,
    /// A regular expression (RE2, ASCII) for the whole path, at most 1024 bytes.
    pub path_regex: Option<String>,
    /// Any of these methods. Default: all.
    pub methods: Option<Vec<String>>,
    /// Any of these hosts, as in `shop.example` or `*.shop.example`, without a port. Default: all.
    pub hosts: Option<Vec<String>>,
    /// Conditions on request headers; all must hold.
    pub headers: Option<BTreeMap<String, WordOr<RawCondition>>>,
    /// Conditions on parameters of the query; all must hold.
    pub query: Option<BTreeMap<String, WordOr<RawCondition>>>,
}

/// A condition on a value. A plain string is short for `exact`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawCondition {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    /// A regular expression (RE2, ASCII) for the whole value.
    Regex(String),
    /// `true`: there is one. `false`: there is none.
    Present(bool),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawRetry {
    /// Conditions (connect-failure, refused-stream, reset, 5xx, gateway-error, retriable-4xx, cancelled,
    /// deadline-exceeded, internal, resource-exhausted, unavailable) and statuses, as in `[connect-failure, 503]`.
    pub on: Vec<NumberOr<String>>,
    /// The number of further tries, 1 to 10. Default: 1.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: Option<u32>,
    /// The time that each try may take.
    pub per_try_timeout: Option<String>,
    /// `true` says that repeating any of these requests does no harm. Default: false; then POST, PATCH and the
    /// like are tried again only when no connection was made.
    pub idempotent: Option<bool>,
}

/// The limits of a class of tenants (tier 2).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawPlan {
    pub name: String,
    /// Limits of each tenant over all APIs of a gateway.
    pub limits: Option<Vec<RawLimit>>,
    /// Limits of each tenant for single APIs.
    pub apis: Option<BTreeMap<String, Vec<RawLimit>>>,
    /// Keys of etcd that this document was made with. While one of them is another one, the last good version of the
    /// document stays.
    pub requires: Option<Vec<Requirement>>,
}

/// One tenant. Its name is the value of the gateway's tenant source.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTenant {
    /// 1 to 128 bytes of printable ASCII.
    pub name: String,
    /// The Plan that the tenant has. Default: the gateway's `default_plan`.
    pub plan: Option<String>,
    /// Replaces the plan's limits over all APIs.
    pub limits: Option<Vec<RawLimit>>,
    /// Replaces the plan's limits for these APIs.
    pub apis: Option<BTreeMap<String, Vec<RawLimit>>>,
    /// A suspended tenant's requests are answered with 403. Default: active.
    pub status: Option<RawTenantStatus>,
    /// Keys of etcd that this document was made with. While one of them is another one, the last good version of the
    /// document stays.
    pub requires: Option<Vec<Requirement>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawTenantStatus {
    Active,
    Suspended,
}

/// A limit: the rate that may pass, and what it is counted by.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLimit {
    /// `N/window`: N is 0 to 1000000000; the window is s, m, h, d, w, month (30 days), year (365 days) or a
    /// number of them, as in `100/10m`, 1s to 366d. `0/s` denies everything.
    pub rate: String,
    /// One counter for each value of these.
    pub by: Option<Vec<WordOr<RawDimension>>>,
    /// Default: sliding_window.
    pub algorithm: Option<RawAlgorithm>,
    /// With `token_bucket`: how many hits can be saved up. Default: N of the rate.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// `shadow` counts and reports, and never denies. Default: enforce.
    pub mode: Option<RawMode>,
    /// The HTTP status of a denial: 400, 401, 402, 403, 404, 409, 413, 429, 451, 500, 502, 503 or 504. Default: 429.
    pub status: Option<u32>,
    /// The cost of a request: a number of hits, or a header that holds it. Default: 1.
    pub cost: Option<NumberOr<RawCostSource>>,
    /// With counters that replicas share: the store is asked about each request, and no replica takes hits in advance or
    /// denies by itself. Default: false.
    pub exact: Option<bool>,
    /// Shows in headers, metrics and answers. Default: made from the window and the dimensions.
    pub name: Option<String>,
}

/// One of the words `client_ip`, `client_ip/24` (a network), `path` (without the query), `method` and `host`,
/// or a mapping.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawDimension {
    Header(String),
    Query(String),
    Cookie(String),
    JwtClaim(String),
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawAlgorithm {
    /// Never more than N in any interval of the window's length.
    SlidingWindow,
    /// Refills evenly; `burst` hits can be saved up.
    TokenBucket,
    /// Windows aligned to UTC.
    FixedWindow,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawMode {
    Enforce,
    Shadow,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RawCostSource {
    Header(String),
}
