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
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    gateway: Option<String>,
    /// This one alone, and its counters.
    tenant: Option<String>,
    /// Tenants with this as a part of their names, in any case, and their counters.
    search: Option<String>,
    /// Counters of this Api alone; tenants are not told apart by Apis.
    api: Option<String>,
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
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Busiest {
    /// From when on: 50 to 60 seconds ago.
    pub since: String,
    /// False where there is so much that decisions were drawn, and the numbers are estimates.
    pub exact: bool,
    pub tenants: Vec<BusyTenant>,
    /// The number of those that are known, too, and beyond the limit.
    #[serde(default)]
    #[schema(required = true)]
    pub tenants_more: usize,
    /// What a tenant that is not known has at most, by what was asked for. 0: every tenant is known.
    #[serde(default)]
    #[schema(required = true)]
    pub tenants_missed_max: u64,
    pub keys: Vec<BusyKey>,
    #[serde(default)]
    #[schema(required = true)]
    pub keys_more: usize,
}

#[derive(Serialize, Deserialize, ToSchema)]
pub struct BusyTenant {
    pub gateway: String,
    pub tenant: String,
    /// Requests that were decided.
    pub decisions: u64,
    /// Of these, those that were denied.
    pub denied: u64,
}

/// A counter.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct BusyKey {
    pub gateway: String,
    /// Null: it counts requests to every Api of the gateway.
    pub api: Option<String>,
    pub tier: String,
    pub limit: String,
    /// Whose counter it is; null for one that is no tenant's.
    pub tenant: Option<String>,
    /// The values of what the limit counts by, in its order: the first 4 of them, and 128 bytes of each.
    pub key: Vec<String>,
    /// The limit is in shadow: what had no room passed all the same.
    pub shadow: bool,
    /// Requests that met the counter.
    pub decisions: u64,
    /// Of these, those that it had no room for.
    pub denied: u64,
}

/// The busiest or most denied tenants and counters of the last minute.
#[utoipa::path(
    get,
    path = "/v1/top",
    operation_id = "get_top",
    params(Parameters),
    responses((status = 200, description = "The largest first.", body = Busiest), Problem<400>, Problem<404>, Problem<503>),
)]
pub(super) async fn busiest(
    State(admin): State<Admin>,
    OfQuery(parameters): OfQuery<Parameters>,
) -> Result<Json<Busiest>, ProblemDetails> {
    let limit = page::limit(parameters.limit.or(Some(LIMIT_DEFAULT)))?;
    admin.check_names(parameters.gateway.as_deref(), parameters.api.as_deref())?;
    let report = in_background(move || {
        let by = match parameters.by {
            By::Decisions => Measure::Decisions,
            By::Denied => Measure::Denied,
        };
        let Parameters { gateway, tenant, search, api, .. } = &parameters;
        let question = Question {
            gateway: gateway.as_deref(),
            tenant: tenant.as_deref(),
            search: search.as_deref(),
            api: api.as_deref(),
            by,
            limit,
        };
        admin.top.report(&question, admin.clock.now())
    });
    let report = report.await;
    Ok(Json(Busiest {
        since: rfc3339(report.since),
        exact: report.is_exact,
        tenants: report.tenants.into_iter().map(BusyTenant::of).collect(),
        tenants_more: report.tenants_more,
        tenants_missed_max: report.tenants_missed_max,
        keys: report.counters.into_iter().map(BusyKey::of).collect(),
        keys_more: report.counters_more,
    }))
}

impl BusyTenant {
    fn of((id, counts): (TenantId, Counts)) -> Self {
        let (TenantId { gateway, tenant }, Counts { decisions, denied }) = (id, counts);
        Self { gateway: gateway.to_string(), tenant: tenant.into(), decisions, denied }
    }
}

impl BusyKey {
    fn of((name, counts): (CounterName, Counts)) -> Self {
        let CounterName { gateway, api, tenant, tier, limit, values, is_shadow } = name;
        let Counts { decisions, denied } = counts;
        Self {
            gateway: gateway.to_string(),
            api: api.as_ref().map(Name::to_string),
            tier: tier.to_owned(),
            limit: limit.to_string(),
            tenant: tenant.map(String::from),
            key: values.into_iter().map(String::from).collect(),
            shadow: is_shadow,
            decisions,
            denied,
        }
    }
}
