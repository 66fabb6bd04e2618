//! The admin HTTP API: what is served, to whom, and what is wrong with it; and changes of documents.

mod access;
mod audit;
mod counters;
mod described;
mod diff;
pub mod directory;
mod documents;
mod edit;
mod error;
pub mod events;
mod explain;
pub mod extract;
mod gate;
mod health;
pub mod limits;
mod nodes;
mod openapi;
mod page;
mod status;
mod tagged;
#[cfg(test)]
mod tests;
pub mod top;
mod traffic;
mod web;

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, OpenApi as _, ToSchema};
use utoipa_axum::router::UtoipaMethodRouterExt as _;
use utoipa_axum::routes;

use crate::access::Access;
use crate::audit::Audit;
use crate::certificates::Certificates;
use crate::clock::{Clock, Timestamp};
use crate::counters::Counters;
use crate::crowding::Crowding;
use crate::denial_log::DenialLog;
use crate::denials::Denials;
use crate::editor::Editor;
use crate::explain::counters::Selection;
use crate::last_good::Keeping;
use crate::live::{Generation, Live};
use crate::metrics::Metrics;
use crate::names::Name;
use crate::nodes::Nodes;
use crate::rollout::{GroupOffer, Rollout};
use crate::snapshot::render;
use crate::snapshot::resource::Resource;
use crate::source::board::Board;
use crate::top::Top;
use crate::traces::Traces;
use crate::traffic::Traffic;
use crate::trouble::Trouble;
use directory::Directory;
use error::ProblemDetails;
use events::Following;
use extract::{OfQuery, Turns};
use gate::{Gate, OPERATOR, Routes, Rule, VIEWER};
use health::Check;
use limits::LimitsOfLast;
use openapi::{Problem, Tagged};
use tagged::{Known, tagged};

/// The state that the API tells of. The addresses are `serve`'s to know.
#[derive(Clone)]
pub struct Admin {
    pub live: Arc<Live>,
    pub rollout: Arc<Rollout>,
    pub nodes: Arc<Nodes>,
    pub denials: Arc<Denials>,
    pub certificates: Arc<Certificates>,
    /// True where whoever connects has to show a certificate.
    pub asks_for_certificates: bool,
    pub counters: Counters,
    pub metrics: Arc<Metrics>,
    pub traffic: Arc<Traffic>,
    pub top: Arc<Top>,
    pub limits: Arc<LimitsOfLast>,
    pub following: Following,
    pub turns: Turns,
    pub board: Arc<Board>,
    pub directory: Arc<Directory>,
    /// `None` where policies do not come from where they could be changed.
    pub editor: Option<Arc<Editor>>,
    pub audit: Arc<Audit>,
    /// `None`: what is served is not kept.
    pub keeping: Option<Arc<Keeping>>,
    /// Why the newest version of the ports' certificate and its key is not in use.
    pub tls_trouble: Trouble,
    /// Of the three ports.
    pub crowding: [Arc<Crowding>; 3],
    /// `None`: there are no spans of decisions.
    pub traces: Option<Traces>,
    /// `None`: there is no log of denials.
    pub denial_log: Option<DenialLog>,
    pub access: Arc<Access>,
    pub clock: Clock,
    pub listeners: Listeners,
    /// The bytes that Envoys may leave unread before slow ones have less time.
    pub xds_unread_bytes_max: u64,
    /// Cancelled once it is about to end.
    pub leaving: CancellationToken,
}

/// The largest body of a request, and that of a change of many documents.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
const APPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The addresses that Tierflow listens on.
#[derive(Clone, Copy, Debug, serde::Serialize, ToSchema)]
pub struct Listeners {
    #[schema(value_type = String)]
    pub xds: std::net::SocketAddr,
    #[schema(value_type = String)]
    pub rls: std::net::SocketAddr,
    #[schema(value_type = String)]
    pub admin: std::net::SocketAddr,
}

/// Alarms need series before the first of what they count.
pub fn start_series(metrics: &Metrics) {
    gate::start_series(metrics);
    health::start_series(metrics);
}

impl Admin {
    pub fn into_router(self) -> Router {
        let (router, _) = routes().split_for_parts();
        let gate = Gate {
            access: Arc::clone(&self.access),
            metrics: Arc::clone(&self.metrics),
            clock: self.clock,
            told: Arc::default(),
        };
        router
            .fallback(gate::not_found)
            .method_not_allowed_fallback(gate::method_not_allowed)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(axum::middleware::map_response(kept_to_itself))
            .layer(axum::Extension(gate))
            .with_state(self)
    }

    /// The gateways that nobody can have, because nobody is asked for the certificate that they are for.
    fn unidentifiable_gateways(&self) -> Vec<Name> {
        let generation = self.live.generation().filter(|_| !self.asks_for_certificates);
        let gateways = generation.iter().flat_map(|generation| generation.policies.gateways.values());
        let mut names: Vec<Name> =
            gateways.filter(|gateway| !gateway.identities.is_empty()).map(|gateway| gateway.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// Fails where a list is asked for what is of a Gateway or an Api that there is not: an empty one would look as if nothing
    /// were wrong.
    fn check_names(&self, gateway: Option<&str>, api: Option<&str>) -> Result<(), ProblemDetails> {
        if gateway.is_none() && api.is_none() {
            return Ok(());
        }
        Selection::of(gateway, api).check(&self.generation()?.policies).map_err(counters::explain)
    }

    fn generation(&self) -> Result<Arc<Generation>, ProblemDetails> {
        self.live.generation().ok_or_else(|| ProblemDetails::unavailable("no policy set is loaded yet"))
    }
}

/// Every route with its rule and its description. `routes!` reads the path and the methods from the handlers' descriptions,
/// so none is served that is not described.
fn routes() -> Routes {
    let large = DefaultBodyLimit::max(APPLY_BYTES_MAX);
    let routes = Routes::with_openapi(openapi::Document::openapi())
        .with(Rule::Probe, routes!(health::healthz))
        .with(Rule::Probe, routes!(health::readyz))
        .with(Rule::Metrics, routes!(metrics))
        .with(VIEWER, routes!(openapi::document))
        .with(VIEWER, routes!(documents::list::list))
        .with(VIEWER, routes!(documents::one))
        .with(OPERATOR, routes!(edit::put, edit::delete))
        .with(OPERATOR, routes!(edit::apply).layer(large))
        .with(VIEWER, routes!(audit::list))
        .with(VIEWER, routes!(events::follow))
        .with(VIEWER, routes!(limits::list))
        .with(VIEWER, routes!(top::busiest))
        .with(VIEWER, routes!(traffic::seconds))
        .with(VIEWER, routes!(nodes::list))
        .with(VIEWER, routes!(nodes::one))
        .with(VIEWER, routes!(counters::look))
        .with(OPERATOR, routes!(counters::reset))
        .with(VIEWER, routes!(diff::check).layer(large))
        .with(VIEWER, routes!(diff::diff).layer(large))
        .with(VIEWER, routes!(explain::answer))
        .with(VIEWER, routes!(status::status))
        .with(VIEWER, routes!(access::answer))
        .with(VIEWER, routes!(config_dump));
    web::add_to(routes)
}

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A browser takes every answer for what it says that it is, and gives it to no other page. The page has a policy of its own.
async fn kept_to_itself(mut response: Response) -> Response {
    const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(nothing);
    response
}

/// What is measured, in the text format of OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    responses((status = 200, description = "The numbers.", body = String, content_type = METRICS_TYPE)),
)]
async fn metrics(State(admin): State<Admin>) -> ([(&'static str, &'static str); 1], String) {
    let gauge = |number| i64::try_from(number).unwrap_or(i64::MAX);
    match &admin.counters {
        Counters::Memory(memory) => {
            admin.metrics.counter_keys.set(gauge(memory.len()));
            admin.metrics.counter_keys_max.set(gauge(memory.keys_max()));
        }
        Counters::Redis(redis) => {
            let report = redis.report();
            admin.metrics.counter_store_connections.set(gauge(report.connections_open));
            admin.metrics.counter_store_replicas.set(report.replicas.unwrap_or(0).into());
            admin.metrics.counter_keys.set(gauge(redis.local_keys()));
            admin.metrics.counter_keys_max.set(gauge(redis.local_keys_max()));
        }
        #[cfg(test)]
        Counters::Away => {}
    }
    admin.metrics.xds_streams.serve(admin.rollout.offer().gateways().cloned().collect());
    let lag = admin.board.read().lag(admin.clock.now());
    // A source that was never heard has no age; Prometheus knows a number for that.
    admin.metrics.source_lag.set(lag.map_or(f64::NAN, |lag| lag.as_secs_f64()));
    Check::measure_all(&admin);
    ([("content-type", METRICS_TYPE)], admin.metrics.render())
}

#[derive(serde::Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ConfigDumpQuery {
    gateway: String,
}

#[derive(serde::Serialize, ToSchema)]
struct ConfigDump {
    generation: u64,
    /// True where they are not those of the whole generation, because an Envoy refused a part of it.
    held: bool,
    resources: Vec<DumpedResource>,
}

#[derive(serde::Serialize, ToSchema)]
struct DumpedResource {
    #[schema(value_type = String)]
    name: Arc<str>,
    /// A hash of the content.
    version: String,
    /// A `google.protobuf.Any` in protobuf's JSON.
    #[schema(value_type = Object)]
    resource: Value,
}

/// The resources that a gateway's Envoys are to have.
#[utoipa::path(
    get,
    path = "/v1/config_dump",
    operation_id = "config_dump",
    params(ConfigDumpQuery, Known),
    responses(
        Tagged<ConfigDump>,
        Problem<400>,
        Problem<404>,
        Problem<503>,
    ),
)]
async fn config_dump(
    State(admin): State<Admin>,
    OfQuery(query): OfQuery<ConfigDumpQuery>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    admin.generation()?;
    admin.check_names(Some(&query.gateway), None)?;
    let offer = admin.rollout.offer();
    let group = offer.group(&query.gateway);
    let group = group.ok_or_else(|| ProblemDetails::not_found(&format!("no Gateway is called {:?}", query.gateway)))?;
    let (number, group) = (offer.number, Arc::clone(group));
    Ok(in_background(move || tagged(&headers, &dump(number, &group))).await)
}

fn dump(generation: u64, group: &GroupOffer) -> ConfigDump {
    let resource = |(resource_type, resource): (_, &Arc<Resource>)| DumpedResource {
        name: Arc::clone(&resource.name),
        version: resource.version.to_string(),
        resource: render::to_any_json(resource_type, resource),
    };
    let resources = group.resources().iter().map(resource).collect();
    ConfigDump { generation, held: group.hold.is_some(), resources }
}

/// Does work that takes long, or waits for a disk, on a thread of its own: the few that answer requests answer probes, too.
async fn in_background<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// Does work that goes on where the client leaves, with whom the future of its request goes.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    joined(tokio::spawn(work)).await
}

async fn joined<T>(task: tokio::task::JoinHandle<T>) -> T {
    match task.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and with it whoever waits.
            Err(_) => std::future::pending().await,
        },
    }
}

/// RFC 3339, in UTC and whole milliseconds.
fn rfc3339(timestamp: Timestamp) -> String {
    humantime::format_rfc3339_millis(wall(timestamp)).to_string()
}

fn wall(timestamp: Timestamp) -> SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_nanos(timestamp.as_nanos())
}
