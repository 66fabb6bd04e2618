//! All limits, with what they have denied.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::counters::seconds;
use super::error::ProblemDetails;
use super::extract::OfQuery;
use super::openapi::Problem;
use super::{Admin, in_background, page, rfc3339};
use crate::clock::Timestamp;
use crate::counters::Usage;
use crate::explain::counters::{NamedCounter, Selection, counters};
use crate::explain::limits::{self, Held, LimitId, Limits, Setting};
use crate::live::Generation;
use crate::metrics::totals::ByLimit;
use crate::names::{DocumentId, Name, has_part};

/// The tier of limits of Apis.
const OF_APIS: &str = "api";

/// The limits of the generation that was asked for last: whoever looks at them looks again and again.
#[derive(Debug, Default)]
pub struct LimitsOfLast(Mutex<Option<(u64, Arc<Limits>)>>);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    gateway: Option<String>,
    api: Option<String>,
    /// A part of the limit's or the Api's name, in any case.
    search: Option<String>,
    /// The most limits to tell of: 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LimitPage {
    /// The moment of these numbers.
    at: String,
    limits: Vec<Row>,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A limit, as metrics know it. The numbers are those since this process began: what two looks differ by is what came in
/// between.
#[derive(Serialize, ToSchema)]
#[schema(as = LimitRow)]
struct Row {
    gateway: String,
    /// Null: it counts requests to every Api of the gateway.
    api: Option<String>,
    /// `api`, `tenant` or `rate_limits`.
    tier: &'static str,
    limit: String,
    /// Null where documents share the limit's name and not its rate, algorithm and mode.
    #[serde(flatten)]
    setting: Shown,
    /// The documents that have the limit, the first 20 of them.
    documents: Vec<Holder>,
    /// The number of the others.
    documents_more: usize,
    /// What it has counted. Null for limits of tenants and of lists, which have a counter for each of many.
    #[schema(required = true)]
    counter: Option<Counted>,
    /// Requests that it denied.
    over_limit: u64,
    /// Requests that it would have denied if it were enforced.
    shadow_over_limit: u64,
    /// Requests to the Api that were decided; where `api` is null, to the gateway.
    decisions: u64,
}

/// The counter of a limit.
#[derive(Serialize, ToSchema)]
#[schema(as = LimitCounter)]
struct Counted {
    /// What it would have to be told to know which of the limit's counters is meant. Empty: there is only this one.
    missing: Vec<String>,
    /// Null, as are the others, where something is missing, and while the store of counters does not answer.
    #[schema(required = true)]
    used: Option<u32>,
    #[schema(required = true)]
    remaining: Option<u32>,
    /// The time until more of it is left.
    #[schema(required = true)]
    frees_after_seconds: Option<f64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = LimitDocument)]
struct Holder {
    kind: &'static str,
    name: String,
    #[serde(flatten)]
    setting: Shown,
}

#[derive(Serialize, ToSchema)]
#[schema(as = LimitSetting)]
struct Shown {
    /// As in `100/minute`.
    rate: Option<String>,
    algorithm: Option<&'static str>,
    mode: Option<&'static str>,
}

/// Every limit, with what it denied since this process began.
#[utoipa::path(
    get,
    path = "/v1/limits",
    operation_id = "list_limits",
    params(Parameters),
    responses((status = 200, description = "A page of them.", body = LimitPage), Problem<400>, Problem<404>, Problem<503>),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    OfQuery(parameters): OfQuery<Parameters>,
) -> Result<Json<LimitPage>, ProblemDetails> {
    let generation = admin.generation()?;
    let limit = page::limit(parameters.limit)?;
    let after = parameters.after.as_deref().map(id_of).transpose()?;
    admin.check_names(parameters.gateway.as_deref(), parameters.api.as_deref())?;
    let asking = admin.clone();
    let of_page = in_background(move || {
        let limits = admin.limits.of(&generation);
        let page = page_of(&limits, &parameters, after, limit, &admin.metrics.by_limit(), admin.clock.now());
        let counters: Vec<_> = counters_of(&generation, &page.limits);
        (page, counters)
    });
    let (mut page, counters) = of_page.await;
    let charges: Vec<_> = counters.iter().filter_map(|(_, named)| named.charge).collect();
    // The rest of the page is known without the store.
    let mut usages = asking.counters.look(&charges, asking.clock.now()).await.ok().map(Vec::into_iter);
    for (place, named) in counters {
        let usage = named.charge.and_then(|charge| Some((charge.capacity(), usages.as_mut()?.next()?)));
        if let Some(row) = page.limits.get_mut(place) {
            row.counter = Some(Counted::of(named.missing, usage));
        }
    }
    Ok(Json(page))
}

/// The counters of limits of Apis, with the places of their rows.
fn counters_of(generation: &Generation, rows: &[Row]) -> Vec<(usize, NamedCounter)> {
    let mut of_apis: BTreeMap<(&str, &str), BTreeMap<String, NamedCounter>> = BTreeMap::new();
    let mut found = Vec::new();
    for (place, row) in rows.iter().enumerate().filter(|(_, row)| row.tier == OF_APIS) {
        let Some(api) = &row.api else { continue };
        let of_api = of_apis.entry((&row.gateway, api)).or_insert_with(|| {
            let named = [("gateway", row.gateway.as_str()), ("api", api), ("tier", row.tier)];
            let named = Selection::parse(named.into_iter())
                .and_then(|selection| counters(&generation.policies, &generation.matcher, &selection));
            named.unwrap_or_default().into_iter().map(|counter| (counter.limit.clone(), counter)).collect()
        });
        found.extend(of_api.remove(&row.limit).map(|counter| (place, counter)));
    }
    found
}

impl Counted {
    /// `usage` is what there is when nothing is used, and what is used. Nothing where nobody says.
    fn of(missing: Vec<String>, usage: Option<(u32, Option<Usage>)>) -> Self {
        let told = usage.map(|(capacity, usage)| match usage {
            Some(usage) => (usage.used, usage.remaining, seconds(usage.frees_after)),
            None => (0, capacity, 0.0),
        });
        Self {
            missing,
            used: told.map(|(used, ..)| used),
            remaining: told.map(|(_, remaining, _)| remaining),
            frees_after_seconds: told.map(|(.., frees)| frees),
        }
    }
}

impl LimitsOfLast {
    fn of(&self, generation: &Generation) -> Arc<Limits> {
        let mut last = self.0.lock();
        match &*last {
            Some((number, limits)) if *number == generation.number => Arc::clone(limits),
            _ => {
                let limits = Arc::new(limits::limits(&generation.policies));
                *last = Some((generation.number, Arc::clone(&limits)));
                limits
            }
        }
    }
}

fn page_of(
    limits: &Limits,
    parameters: &Parameters,
    after: Option<LimitId>,
    limit: usize,
    counted: &ByLimit,
    now: Timestamp,
) -> LimitPage {
    let is_meant = |id: &LimitId| {
        let Parameters { gateway, api, search, .. } = parameters;
        let own_api = id.api.as_ref().map(Name::as_str);
        let is_found =
            |part: &String| has_part(id.limit.as_str(), part) || own_api.is_some_and(|api| has_part(api, part));
        gateway.as_ref().is_none_or(|gateway| gateway == id.gateway.as_str())
            && api.as_ref().is_none_or(|api| Some(api.as_str()) == own_api)
            && search.as_ref().is_none_or(is_found)
    };
    let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
    let meant = limits.range((begin, Bound::Unbounded)).filter(|(id, _)| is_meant(id));
    let (rows, next) =
        page::of(meant.take(limit + 1).collect(), limit, |&(LimitId { gateway, api, tier, limit }, _)| {
            (gateway.as_str(), api.as_ref().map(Name::as_str), tier, limit.as_str())
        });
    let limits = rows.into_iter().map(|(id, held)| Row::of(id, held, counted)).collect();
    LimitPage { at: rfc3339(now), limits, next }
}

/// The row that a cursor stands for.
fn id_of(cursor: &str) -> Result<LimitId, ProblemDetails> {
    let (gateway, api, tier, limit): (String, Option<String>, String, String) = page::key_of("after", cursor)?;
    LimitId::parse(&gateway, api.as_deref(), &tier, &limit).ok_or_else(|| page::no_cursor("after", cursor))
}

impl Row {
    fn of(id: &LimitId, held: &Held, counted: &ByLimit) -> Self {
        let LimitId { gateway, api, tier, limit } = id;
        let over = counted.over_limit(gateway, api.as_ref(), tier, limit);
        let holder = |(document, setting): &(DocumentId, Setting)| Holder {
            kind: document.kind.as_str(),
            name: document.name.to_string(),
            setting: Shown::of(Some(*setting)),
        };
        Self {
            gateway: gateway.to_string(),
            api: api.as_ref().map(Name::to_string),
            tier,
            limit: limit.to_string(),
            setting: Shown::of(held.setting),
            documents: held.holders.iter().map(holder).collect(),
            documents_more: held.holders_more,
            counter: None,
            over_limit: over.enforced,
            shadow_over_limit: over.shadow,
            decisions: counted.decisions(gateway, api.as_ref()),
        }
    }
}

impl Shown {
    fn of(setting: Option<Setting>) -> Self {
        Self {
            rate: setting.map(|setting| setting.rate.to_string()),
            algorithm: setting.map(|setting| setting.algorithm.as_str()),
            mode: setting.map(|setting| setting.mode.as_str()),
        }
    }
}
