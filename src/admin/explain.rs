//! Why a request is treated as it is, with what its counters have left now. Nothing is counted.

use std::net::{IpAddr, Ipv4Addr};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::counters::{away, bad, seconds, store};
use super::error::ProblemDetails;
use super::extract::OfJson;
use super::openapi::Problem;
use super::{Admin, in_background};
use crate::counters::Usage;
use crate::explain::{Answer, ExplainedLimit, Explanation, PassedOver, Request, check_header, explain_with_others};

/// A request as a client would send it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AskedRequest {
    /// Null: every gateway.
    gateway: Option<String>,
    #[serde(default = "get")]
    method: String,
    /// With the query.
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default = "loopback")]
    #[schema(value_type = String, example = "10.0.0.7")]
    client_ip: IpAddr,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Explanations {
    generation: u64,
    /// `memory` or `redis`.
    store: &'static str,
    /// One for each gateway that was asked about.
    explanations: Vec<LiveExplanation>,
}

/// What becomes of a request, with what its counters say now.
#[derive(Serialize, ToSchema)]
struct LiveExplanation {
    gateway: String,
    /// The certificates whose Envoys may have the gateway; empty: any that Tierflow's ports take.
    identities: Vec<String>,
    /// The gateway's answer before it looks for an Api.
    #[schema(required = true)]
    answer: Option<Answer>,
    /// Path and query as Apis, limits and the service see them.
    #[schema(required = true)]
    path: Option<String>,
    /// Null without an answer: the gateway answers with 404.
    #[schema(required = true)]
    api: Option<String>,
    #[schema(required = true)]
    service: Option<String>,
    /// True for a preflight (CORS), which Envoy answers itself.
    preflight: bool,
    /// As the request names it.
    #[schema(required = true)]
    tenant: Option<String>,
    /// Why the tenant is denied whatever the counters say.
    #[schema(required = true)]
    denied: Option<&'static str>,
    limits: Vec<LiveLimit>,
    /// The limits that have no room for it now.
    denied_by: Vec<String>,
    /// The Apis and the limits that might have been expected here, some of them.
    passed_over: Vec<PassedOver>,
}

/// A limit, and what its counter says.
#[derive(Serialize, ToSchema)]
struct LiveLimit {
    #[serde(flatten)]
    limit: ExplainedLimit,
    used: u32,
    remaining: u32,
    frees_after_seconds: f64,
    /// True where the request would fit.
    allows: bool,
}

fn get() -> String {
    "GET".to_owned()
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

/// Why a request is treated as it is, with what its counters have left now. Nothing is counted.
#[utoipa::path(
    post,
    path = "/v1/explain",
    operation_id = "explain",
    request_body = AskedRequest,
    responses(
        (status = 200, description = "Why.", body = Explanations),
        Problem<400>,
        Problem<404>,
        Problem<408>,
        Problem<413>,
        Problem<415>,
        Problem<422>,
        Problem<503>,
    ),
)]
pub(super) async fn answer(
    State(admin): State<Admin>,
    OfJson(asked): OfJson<AskedRequest>,
) -> Result<Json<Explanations>, ProblemDetails> {
    let generation = admin.generation()?;
    admin.check_names(asked.gateway.as_deref(), None)?;
    for Header { name, value } in &asked.headers {
        check_header(name, value).map_err(|expected| bad(&format!("headers: {expected}")))?;
    }
    let number = generation.number;
    // There may be very many Apis.
    let explanations = in_background(move || {
        let gateways = generation.policies.gateways.sorted().into_iter().map(|(_, gateway)| gateway);
        let chosen = gateways.filter(|gateway| asked.gateway.as_ref().is_none_or(|own| own == gateway.name.as_str()));
        let request = asked.request();
        let explain = |gateway| explain_with_others(&generation.policies, &generation.matcher, gateway, &request);
        chosen.map(|gateway| explain(gateway)).collect::<Vec<_>>()
    })
    .await;
    let mut told = Vec::with_capacity(explanations.len());
    for explanation in explanations {
        told.push(LiveExplanation::of(&admin, explanation).await?);
    }
    Ok(Json(Explanations { generation: number, store: store(&admin.counters), explanations: told }))
}

impl AskedRequest {
    fn request(&self) -> Request {
        let headers = self.headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.clone()));
        Request {
            method: self.method.clone(),
            path: self.path.clone(),
            host: self.host.clone(),
            headers: headers.collect(),
            client_ip: self.client_ip,
        }
    }
}

impl LiveExplanation {
    async fn of(admin: &Admin, explanation: Explanation) -> Result<Self, ProblemDetails> {
        let charges: Vec<_> = explanation.limits.iter().map(|limit| limit.charge).collect();
        let usages = admin.counters.look(&charges, admin.clock.now()).await.map_err(away)?;
        let limits = explanation.limits.into_iter().zip(usages);
        let limits: Vec<LiveLimit> = limits.map(|(limit, usage)| LiveLimit::of(limit, usage)).collect();
        let denying = limits.iter().filter(|live| live.limit.charge.is_enforced() && !live.allows);
        let denied_by = denying.map(|live| live.limit.name.clone()).collect();
        Ok(Self {
            gateway: explanation.gateway,
            identities: explanation.identities,
            answer: explanation.answer,
            path: explanation.path,
            api: explanation.api,
            service: explanation.service,
            preflight: explanation.preflight,
            tenant: explanation.tenant,
            denied: explanation.denied,
            limits,
            denied_by,
            passed_over: explanation.passed_over,
        })
    }
}

impl LiveLimit {
    fn of(limit: ExplainedLimit, usage: Option<Usage>) -> Self {
        let capacity = limit.charge.capacity();
        let (used, remaining) = usage.map_or((0, capacity), |usage| (usage.used, usage.remaining));
        let frees_after_seconds = usage.map_or(0.0, |usage| seconds(usage.frees_after));
        let allows = remaining >= limit.cost.max(1);
        Self { limit, used, remaining, frees_after_seconds, allows }
    }
}
