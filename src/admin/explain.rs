//! Why a request is treated as it is, with what its counters have left now. Nothing is counted.

use std::net::{IpAddr, Ipv4Addr};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::counters::{away, bad, seconds, store};
use super::error::ProblemDetails;
use super::extract::OfJson;
use super::openapi::Problem;
use super::{Admin, in_background};
use crate::counters::Usage;
use crate::explain::{ExplainedLimit, Explanation, Request, explain_with_others};

/// A request as a client would send it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// `None`: every gateway.
    gateway: Option<String>,
    #[serde(default = "get")]
    method: String,
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default = "loopback")]
    client_ip: IpAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

/// A limit, and what its counter says.
#[derive(Serialize)]
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
    responses((status = 200), Problem<400>, Problem<413>, Problem<415>, Problem<422>, Problem<503>),
)]
pub(super) async fn answer(
    State(admin): State<Admin>,
    OfJson(asked): OfJson<Asked>,
) -> Result<Json<Value>, ProblemDetails> {
    let generation = admin.generation()?;
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
    if explanations.is_empty() {
        return Err(bad("gateway: no Gateway is called that"));
    }
    let mut told = Vec::with_capacity(explanations.len());
    for explanation in explanations {
        told.push(live(&admin, explanation).await?);
    }
    Ok(Json(json!({ "generation": number, "store": store(&admin.counters), "explanations": told })))
}

impl Asked {
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

async fn live(admin: &Admin, mut explanation: Explanation) -> Result<Value, ProblemDetails> {
    let limits = std::mem::take(&mut explanation.limits);
    let charges: Vec<_> = limits.iter().map(|limit| limit.charge).collect();
    let usages = admin.counters.look(&charges, admin.clock.now()).await.map_err(away)?;
    let limits: Vec<LiveLimit> =
        limits.into_iter().zip(usages).map(|(limit, usage)| LiveLimit::of(limit, usage)).collect();
    let denying = limits.iter().filter(|live| live.limit.charge.is_enforced() && !live.allows);
    let denied_by: Vec<&str> = denying.map(|live| live.limit.name.as_str()).collect();
    let mut told = json!(explanation);
    if let Some(fields) = told.as_object_mut() {
        fields.insert("denied_by".to_owned(), json!(denied_by));
        fields.insert("limits".to_owned(), json!(limits));
    }
    Ok(told)
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
