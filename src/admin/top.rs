//! The busiest and the most denied.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ProblemDetails;
use super::extract::OfQuery;
use super::openapi::Problem;
use super::{Admin, in_background, page, rfc3339};
use crate::names::Name;
use crate::top::notes::{CounterName, TenantId};
use crate::top::{Counts, Measure, Question};

/// So many are told where it is not said how many.
const LIMIT_DEFAULT: usize = 20;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    gateway: Option<String>,
    /// What the largest are the first by: `decisions` by default.
    #[serde(default)]
    #[param(inline)]
    by: By,
    /// The most tenants, and the most counters, to tell of: 20 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    #[default]
    Decisions,
    Denied,
}

/// The first of the last minute, on this replica.
#[derive(Serialize, ToSchema)]
pub(super) struct Busiest {
    /// From when on: 50 to 60 seconds ago.
    since: String,
    /// False where there is so much that decisions were drawn, and the numbers are estimates.
    exact: bool,
    tenants: Vec<Tenant>,
    keys: Vec<Key>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = BusyTenant)]
struct Tenant {
    gateway: String,
    tenant: String,
    /// Requests that were decided.
    decisions: u64,
    /// Of these, those that were denied.
    denied: u64,
}

/// A counter.
#[derive(Serialize, ToSchema)]
#[schema(as = BusyKey)]
struct Key {
    gateway: String,
    /// Null: it counts requests to every Api of the gateway.
    api: Option<String>,
    tier: &'static str,
    limit: String,
    /// Whose counter it is; null for one that is no tenant's.
    tenant: Option<String>,
    /// The values of what the limit counts by, in its order: the first 4 of them, and 128 bytes of each.
    key: Vec<String>,
    /// The limit is in shadow: what had no room passed all the same.
    shadow: bool,
    /// Requests that met the counter.
    decisions: u64,
    /// Of these, those that it had no room for.
    denied: u64,
}

/// The busiest or most denied tenants and counters of the last minute.
#[utoipa::path(
    get,
    path = "/v1/top",
    operation_id = "get_top",
    params(Parameters),
    responses((status = 200, description = "The largest first.", body = Busiest), Problem<400>),
)]
pub(super) async fn busiest(
    State(admin): State<Admin>,
    OfQuery(parameters): OfQuery<Parameters>,
) -> Result<Json<Busiest>, ProblemDetails> {
    let limit = page::limit(parameters.limit.or(Some(LIMIT_DEFAULT)))?;
    let report = in_background(move || {
        let by = match parameters.by {
            By::Decisions => Measure::Decisions,
            By::Denied => Measure::Denied,
        };
        let question = Question { gateway: parameters.gateway.as_deref(), by, limit };
        admin.top.report(&question, admin.clock.now())
    });
    let report = report.await;
    Ok(Json(Busiest {
        since: rfc3339(report.since),
        exact: report.is_exact,
        tenants: report.tenants.into_iter().map(Tenant::of).collect(),
        keys: report.counters.into_iter().map(Key::of).collect(),
    }))
}

impl Tenant {
    fn of((id, counts): (TenantId, Counts)) -> Self {
        let (TenantId { gateway, tenant }, Counts { decisions, denied }) = (id, counts);
        Self { gateway: gateway.to_string(), tenant: tenant.into(), decisions, denied }
    }
}

impl Key {
    fn of((name, counts): (CounterName, Counts)) -> Self {
        let CounterName { gateway, api, tenant, tier, limit, values, is_shadow } = name;
        let Counts { decisions, denied } = counts;
        Self {
            gateway: gateway.to_string(),
            api: api.as_ref().map(Name::to_string),
            tier,
            limit: limit.to_string(),
            tenant: tenant.map(String::from),
            key: values.into_iter().map(String::from).collect(),
            shadow: is_shadow,
            decisions,
            denied,
        }
    }
}
