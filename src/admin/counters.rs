//! Counters: what is used of a limit, what is left, and when more frees up; and to forget what was counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::edit::noted;
use super::error::ProblemDetails;
use super::extract::OfQuery;
use super::gate::Asker;
use super::openapi::Problem;
use super::{Admin, in_background};
use crate::audit::{Entry, Outcome};
use crate::counters::{Counters, StoreAway};
use crate::explain::counters::{NamedCounter, Selection, SelectionError, counters};
use crate::live::Generation;

/// The most counters that one call looks at, or resets.
const COUNTERS_MAX: usize = 1000;
/// The parameter that says how many counters to pass over.
const OFFSET: &str = "offset";

type Parameters = OfQuery<Vec<(String, String)>>;

/// What is said of the counters that are meant.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "the description of the API has it; `Selection::parse` reads it, and parameters with names"
)]
struct CounterQuery {
    gateway: Option<String>,
    api: Option<String>,
    tenant: Option<String>,
    limit: Option<String>,
    /// `api`, `tenant` or `rate_limits`.
    tier: Option<String>,
    client_ip: Option<String>,
    path: Option<String>,
    method: Option<String>,
    host: Option<String>,
    /// What else a limit counts by, as `header.NAME`, `query.NAME`, `cookie.NAME`, `jwt_claim.NAME` and `entry.KEY`.
    #[param(style = Form, explode, example = json!({ "header.x-session": "7f" }))]
    parts: Option<BTreeMap<String, String>>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the description of the API has it; `take_offset` reads it")]
struct Page {
    /// The number of counters to pass over.
    #[param(default = 0)]
    offset: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct CounterPage {
    generation: u64,
    /// `memory` or `redis`.
    store: &'static str,
    /// The number of counters that are meant, on all pages.
    total: usize,
    /// The `offset` of the next page; null on the last one.
    #[schema(required = true)]
    next_offset: Option<usize>,
    counters: Vec<SeenCounter>,
}

/// A counter, and what it says.
#[derive(Serialize, ToSchema)]
struct SeenCounter {
    #[serde(flatten)]
    named: NamedCounter,
    /// True where something was counted. All of these are null where it is not said which counter is meant.
    #[schema(required = true)]
    exists: Option<bool>,
    #[schema(required = true)]
    used: Option<u32>,
    #[schema(required = true)]
    remaining: Option<u32>,
    /// The time until more of it is left.
    #[schema(required = true)]
    frees_after_seconds: Option<f64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ResetCounters {
    /// `memory` or `redis`.
    store: &'static str,
    /// The number of those that had counted something.
    reset: usize,
    counters: Vec<ResetCounter>,
}

#[derive(Serialize, ToSchema)]
struct ResetCounter {
    #[serde(flatten)]
    named: NamedCounter,
    existed: bool,
}

/// Counters: what is used of limits, what is left, and when more frees up.
#[utoipa::path(
    get,
    path = "/v1/counters",
    operation_id = "list_counters",
    params(CounterQuery, Page),
    responses(
        (status = 200, description = "The counters.", body = CounterPage),
        Problem<400>,
        Problem<404>,
        Problem<503>,
    ),
)]
pub(super) async fn look(
    State(admin): State<Admin>,
    OfQuery(mut parameters): Parameters,
) -> Result<Json<CounterPage>, ProblemDetails> {
    let offset = take_offset(&mut parameters)?;
    let generation = admin.generation()?;
    let named = select(&generation, &parameters).await?.1;
    let total = named.len();
    let page: Vec<NamedCounter> = named.into_iter().skip(offset).take(COUNTERS_MAX).collect();
    let next = offset + page.len();
    let charges: Vec<_> = page.iter().filter_map(|counter| counter.charge).collect();
    let mut usages = admin.counters.look(&charges, admin.clock.now()).await.map_err(away)?.into_iter();
    let seen = page.into_iter().map(|named| {
        let usage = named.charge.and_then(|charge| Some((charge, usages.next()?)));
        match usage {
            None => SeenCounter { named, exists: None, used: None, remaining: None, frees_after_seconds: None },
            Some((charge, usage)) => SeenCounter {
                named,
                exists: Some(usage.is_some()),
                used: Some(usage.map_or(0, |usage| usage.used)),
                remaining: Some(usage.map_or(charge.capacity(), |usage| usage.remaining)),
                frees_after_seconds: Some(usage.map_or(0.0, |usage| seconds(usage.frees_after))),
            },
        }
    });
    Ok(Json(CounterPage {
        generation: generation.number,
        store: store(&admin.counters),
        total,
        next_offset: (next < total).then_some(next),
        counters: seen.collect(),
    }))
}

/// Forgets what was counted.
///
/// At most 1000 counters are reset at once.
#[utoipa::path(
    delete,
    path = "/v1/counters",
    operation_id = "reset_counters",
    params(CounterQuery),
    responses(
        (status = 200, description = "They are forgotten.", body = ResetCounters),
        Problem<400>,
        Problem<404>,
        Problem<503>,
        Problem<507>,
    ),
)]
pub(super) async fn reset(
    State(admin): State<Admin>,
    Asker(caller): Asker,
    OfQuery(parameters): Parameters,
) -> Result<Json<ResetCounters>, ProblemDetails> {
    let (selection, named) = select(&admin.generation()?, &parameters).await?;
    if selection.is_everything() {
        return Err(bad("say what is to be reset: expected gateway, api, tenant or limit"));
    }
    let missing: Vec<String> = named.iter().flat_map(|counter| counter.missing.iter().cloned()).collect();
    let named: Vec<NamedCounter> = named.into_iter().filter(|counter| counter.charge.is_some()).collect();
    if named.is_empty() {
        return Err(bad(&nothing_to_reset(missing)));
    }
    if named.len() > COUNTERS_MAX {
        let detail = format!("that names {} counters, and at most {COUNTERS_MAX} are reset at once", named.len());
        return Err(bad(&detail));
    }
    let entry = Entry {
        change: format!("{:016x}", fastrand::u64(..)),
        who: caller.to_string(),
        what: named.iter().map(|counter| format!("reset {}", counter.describe())).collect(),
        base: None,
        force: None,
        result: None,
    };
    let charges: Vec<_> = named.iter().filter_map(|counter| counter.charge).collect();
    let store_of_all = admin.counters.clone();
    let existed = noted(&admin, entry, async move { store_of_all.reset(&charges).await }, |existed| match existed {
        Ok(existed) => Outcome::Reset(existed.iter().filter(|existed| **existed).count()),
        Err(StoreAway) => Outcome::Refused("the store does not answer; some may be reset".to_owned()),
    });
    let existed = existed.await?.map_err(away)?;
    Ok(Json(ResetCounters {
        store: store(&admin.counters),
        reset: existed.iter().filter(|existed| **existed).count(),
        counters: named.into_iter().zip(existed).map(|(named, existed)| ResetCounter { named, existed }).collect(),
    }))
}

fn take_offset(parameters: &mut Vec<(String, String)>) -> Result<usize, ProblemDetails> {
    let Some(index) = parameters.iter().position(|(name, _)| name == OFFSET) else { return Ok(0) };
    let (_, offset) = parameters.remove(index);
    let number = offset.parse::<i64>().ok().and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| bad(&format!("{OFFSET}: found {offset:?}, expected a whole number")))
}

/// There may be very many Apis, so that it is done in the background.
async fn select(
    generation: &Arc<Generation>,
    parameters: &[(String, String)],
) -> Result<(Selection, Vec<NamedCounter>), ProblemDetails> {
    let pairs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let selection = Selection::parse(pairs).map_err(explain)?;
    let generation = Arc::clone(generation);
    let named = in_background(move || {
        let named = counters(&generation.policies, &generation.matcher, &selection)?;
        Ok((selection, named))
    });
    named.await.map_err(explain)
}

fn nothing_to_reset(mut missing: Vec<String>) -> String {
    missing.sort_unstable();
    missing.dedup();
    match missing.is_empty() {
        true => "that names no counter".to_owned(),
        false => format!("that names no counter yet: limits there count by {}, so say these too", missing.join(", ")),
    }
}

pub(super) fn explain(error: SelectionError) -> ProblemDetails {
    match error {
        SelectionError::Unknown(why) => ProblemDetails::not_found(&why),
        SelectionError::Unfit(why) => bad(&why),
    }
}

pub(super) fn bad(detail: &str) -> ProblemDetails {
    ProblemDetails::of(StatusCode::BAD_REQUEST, detail)
}

pub(super) fn away(StoreAway: StoreAway) -> ProblemDetails {
    ProblemDetails::unavailable("the store of counters does not answer").retry_after(1)
}

pub(super) fn store(counters: &Counters) -> &'static str {
    match counters {
        Counters::Memory(_) => "memory",
        Counters::Redis(_) => "redis",
        #[cfg(test)]
        Counters::Away => "away",
    }
}

/// In whole milliseconds.
pub(super) fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}
