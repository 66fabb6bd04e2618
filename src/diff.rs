//! What a set of policies changes that takes the place of another: documents, limits and what becomes of their counters, and
//! the resources that Envoys would be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::names::{DocumentId, Kind, Name};
use crate::policy::limit::{Algorithm, Cost, Limit};
use crate::policy::set::{ParsedById, PolicySet};
use crate::policy::tenant::LimitsByApi;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{Resources, Snapshot};

/// A set, and what is made of it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    pub documents: &'a ParsedById,
    pub policies: &'a PolicySet,
    pub snapshot: &'a Snapshot,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    pub documents: Vec<DocumentChange>,
    pub limits: Vec<LimitChange>,
    pub pushes: Vec<Push>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Added,
    Changed,
    Removed,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// A document that means something else. Comments and spaces mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DocumentChange {
    pub kind: Kind,
    pub name: String,
    pub change: Change,
}

/// A limit that is another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LimitChange {
    /// The place where it stands, as in `Plan standard, Api order-create`.
    pub of: String,
    pub limit: String,
    pub change: Change,
    /// What is another one in it.
    pub fields: Vec<FieldChange>,
    pub counters: CounterChange,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldChange {
    pub field: String,
    pub from: String,
    pub to: String,
}

/// What becomes of what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CounterChange {
    /// It goes on counting.
    Kept,
    /// They start anew, from nothing.
    New,
    /// Nobody asks for them any more.
    Dropped,
}

/// The resources of one type that the Envoys of a gateway would be sent, or told that they are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Push {
    pub gateway: String,
    #[serde(rename = "type")]
    pub resource_type: String,
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
}

impl Difference {
    pub fn between(before: Side<'_>, after: Side<'_>) -> Self {
        Self {
            documents: documents(before.documents, after.documents),
            limits: limits(before.policies, after.policies),
            pushes: pushes(before.snapshot, after.snapshot),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn documents(before: &ParsedById, after: &ParsedById) -> Vec<DocumentChange> {
    let ids: BTreeSet<&DocumentId> = before.keys().chain(after.keys()).collect();
    let change = |id: &DocumentId| {
        let change = match (before.get(id), after.get(id)) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (Some(before), Some(after)) if before.policy == after.policy => return None,
            _ => Change::Changed,
        };
        Some(DocumentChange { kind: id.kind, name: id.name.to_string(), change })
    };
    ids.into_iter().filter_map(change).collect()
}

/// By the place where it stands, its name, and in lists the id of its entry: entries may share a name.
type LimitPlace<'a> = (String, &'a Name, &'a str);
type LimitsByPlace<'a> = BTreeMap<LimitPlace<'a>, &'a Limit>;

fn limits(before: &PolicySet, after: &PolicySet) -> Vec<LimitChange> {
    let (before, after) = (limits_of(before), limits_of(after));
    let places: BTreeSet<&LimitPlace<'_>> = before.keys().chain(after.keys()).collect();
    let change = |place: &LimitPlace<'_>| {
        let (change, fields, counters) = match (before.get(place), after.get(place)) {
            (Some(before), Some(after)) if before == after => return None,
            (Some(before), Some(after)) => (Change::Changed, fields(before, after), counters(before, after)),
            (None, Some(after)) => (Change::Added, vec![FieldChange::new("rate", "", after.rate)], CounterChange::New),
            (Some(before), None) => {
                (Change::Removed, vec![FieldChange::new("rate", before.rate, "")], CounterChange::Dropped)
            }
            (None, None) => return None,
        };
        let (of, limit) = (place.0.clone(), place.1.to_string());
        Some(LimitChange { of, limit, change, fields, counters })
    };
    places.into_iter().filter_map(change).collect()
}

fn limits_of(policies: &PolicySet) -> LimitsByPlace<'_> {
    let mut all = LimitsByPlace::new();
    for api in policies.apis.names().filter_map(|name| policies.apis.get(name.as_str())) {
        put(&mut all, &format!("Api {}", api.name), &api.limits);
    }
    for plan in policies.plans.values() {
        let of = format!("Plan {}", plan.name);
        put(&mut all, &of, &plan.limits);
        put_by_api(&mut all, &of, &plan.apis);
    }
    for tenant in policies.tenants.values() {
        let of = format!("Tenant {}", tenant.name);
        put(&mut all, &of, tenant.limits.as_deref().unwrap_or_default());
        put_by_api(&mut all, &of, &tenant.apis);
    }
    for list in policies.rate_limits.values() {
        for (entry, limit) in list.limited() {
            all.insert((format!("RateLimits {}", list.name), &limit.name, &entry.id), limit);
        }
    }
    all
}

fn put_by_api<'a>(all: &mut LimitsByPlace<'a>, of: &str, apis: &'a LimitsByApi) {
    apis.iter().for_each(|(api, limits)| put(all, &format!("{of}, Api {api}"), limits));
}

fn put<'a>(all: &mut LimitsByPlace<'a>, of: &str, limits: &'a [Arc<Limit>]) {
    all.extend(limits.iter().map(|limit| ((of.to_owned(), &limit.name, ""), &**limit)));
}

/// A changed rate keeps what was counted; another window, algorithm or division is another counter.
fn counters(before: &Limit, after: &Limit) -> CounterChange {
    let identity = |limit: &Limit| (limit.rate.window, limit.algorithm.as_str(), limit.by.clone());
    if identity(before) == identity(after) { CounterChange::Kept } else { CounterChange::New }
}

fn fields(before: &Limit, after: &Limit) -> Vec<FieldChange> {
    let told = |limit: &Limit| {
        let by: Vec<String> = limit.by.iter().map(ToString::to_string).collect();
        let burst = match limit.algorithm {
            Algorithm::TokenBucket { burst } => burst.to_string(),
            _ => String::new(),
        };
        let cost = match &limit.cost {
            Cost::Hits(hits) => hits.to_string(),
            Cost::Header(name) => format!("header {name}"),
        };
        [
            ("rate", limit.rate.to_string()),
            ("by", by.join(", ")),
            ("algorithm", limit.algorithm.as_str().to_owned()),
            ("burst", burst),
            ("mode", limit.mode.as_str().to_owned()),
            ("status", limit.status.to_string()),
            ("cost", cost),
            ("exact", limit.is_exact.to_string()),
        ]
    };
    let both = told(before).into_iter().zip(told(after));
    let differing = both.filter(|((_, from), (_, to))| from != to);
    differing.map(|((field, from), (_, to))| FieldChange::new(field, from, to)).collect()
}

impl FieldChange {
    fn new(field: &str, from: impl ToString, to: impl ToString) -> Self {
        Self { field: field.to_owned(), from: from.to_string(), to: to.to_string() }
    }
}

fn pushes(before: &Snapshot, after: &Snapshot) -> Vec<Push> {
    let gateways: BTreeSet<&Name> = before.groups.keys().chain(after.groups.keys()).collect();
    let of_gateway = |gateway: &Name| {
        let [before, after] = [before, after].map(|side| by_type(side.groups.get(gateway)));
        let types: BTreeSet<&'static str> = before.keys().chain(after.keys()).copied().collect();
        let gateway = gateway.to_string();
        let push = move |resource_type| {
            let nothing = BTreeMap::new();
            let [before, after] = [&before, &after].map(|side| side.get(resource_type).unwrap_or(&nothing));
            push(&gateway, resource_type, before, after)
        };
        types.into_iter().filter_map(push).collect::<Vec<_>>()
    };
    gateways.into_iter().flat_map(of_gateway).collect()
}

type ResourcesByName<'a> = BTreeMap<&'a str, &'a Resource>;

fn by_type(resources: Option<&Arc<Resources>>) -> BTreeMap<&'static str, ResourcesByName<'_>> {
    let mut by_type: BTreeMap<_, ResourcesByName<'_>> = BTreeMap::new();
    let all = resources.into_iter().flat_map(|resources| resources.iter());
    for (resource_type, resource) in all {
        by_type.entry(ResourceType::as_str(resource_type)).or_default().insert(&resource.name, resource);
    }
    by_type
}

fn push(
    gateway: &str,
    resource_type: &'static str,
    before: &ResourcesByName<'_>,
    after: &ResourcesByName<'_>,
) -> Option<Push> {
    let named = |of: &ResourcesByName<'_>, is_meant: &dyn Fn(&str, &Resource) -> bool| {
        let meant = of.iter().filter(|(name, resource)| is_meant(name, resource));
        meant.map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>()
    };
    let added = named(after, &|name, _| !before.contains_key(name));
    let removed = named(before, &|name, _| !after.contains_key(name));
    let is_other =
        |name: &str, resource: &Resource| before.get(name).is_some_and(|own| own.version != resource.version);
    let changed = named(after, &is_other);
    let is_nothing = added.is_empty() && removed.is_empty() && changed.is_empty();
    (!is_nothing).then(|| Push {
        gateway: gateway.to_owned(),
        resource_type: resource_type.to_owned(),
        added,
        changed,
        removed,
    })
}

#[cfg(test)]
mod tests;
