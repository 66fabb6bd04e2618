//! Which Envoys know what policies lead to: from [`OLDEST`] on all of it but for the rows of [`FEATURES`].
//!
//! Whoever emits a field that [`OLDEST`] does not have adds a row. `docs/operating.md` has the same table, and tests
//! hold both against each other and against the oldest Envoy itself.

use std::sync::Arc;

use crate::names::{DocumentId, Kind, Name};
use crate::policy::api::Api;
use crate::policy::gateway::{Gateway, TenantSource};
use crate::policy::limit::{Dimension, Limit};
use crate::policy::rate_limits::{Action, Entry, MetadataSource};
use crate::policy::set::PolicySet;
use crate::policy::tenant::LimitsByApi;
use crate::snapshot::feature::{EnvoyVersion, Feature, Need, Older};

/// The oldest and the newest Envoy that everything is tested with.
pub const OLDEST: EnvoyVersion = EnvoyVersion::new(1, 36);
pub const NEWEST: EnvoyVersion = EnvoyVersion::new(1, 40);

/// A feature, and what of a policy leads to it.
pub struct Row {
    pub feature: Feature,
    uses: &'static [Use],
}

enum Use {
    Gateway(fn(&Gateway) -> bool),
    /// Of limits of APIs, plans and tenants.
    Dimension(fn(&Dimension) -> bool),
    /// Of lists of Envoy actions.
    Action(fn(&Action) -> bool),
}

pub static FEATURES: [Row; 4] = [
    Row {
        feature: Feature { name: "jwt_claim", since: EnvoyVersion::new(1, 40), older: Older::Refuses },
        uses: &[
            Use::Gateway(|gateway| {
                gateway.tenant.as_ref().is_some_and(|rule| matches!(rule.from, TenantSource::JwtClaim(_)))
            }),
            Use::Dimension(|dimension| matches!(dimension, Dimension::JwtClaim(_))),
        ],
    },
    Row {
        feature: Feature { name: "remote_address_match", since: EnvoyVersion::new(1, 38), older: Older::Refuses },
        uses: &[Use::Action(|action| matches!(action, Action::RemoteAddressMatch { .. }))],
    },
    Row {
        feature: Feature { name: "metadata of CLUSTER_ENTRY", since: EnvoyVersion::new(1, 38), older: Older::Refuses },
        uses: &[Use::Action(
            |action| matches!(action, Action::Metadata(metadata) if metadata.source == MetadataSource::ClusterEntry),
        )],
    },
    Row {
        feature: Feature {
            name: "default_value beside descriptor_value",
            since: EnvoyVersion::new(1, 37),
            older: Older::Ignores,
        },
        uses: &[Use::Action(|action| entry(action).is_some_and(|entry| entry.default.is_some()))],
    },
];

/// The features of the gateway's resources that not every supported Envoy knows.
pub(super) fn needs(policies: &PolicySet, gateway: &Gateway) -> Vec<Arc<Need>> {
    let need = |row: &'static Row| {
        let documents = row.uses.iter().flat_map(|used| documents(used, policies, gateway));
        Need::new(&row.feature, documents).map(Arc::new)
    };
    FEATURES.iter().filter_map(need).collect()
}

/// The documents in which something of it is used for this gateway.
fn documents(used: &Use, policies: &PolicySet, gateway: &Gateway) -> Vec<String> {
    let shown = |kind, name: &str| DocumentId::new(kind, name).to_string();
    match used {
        Use::Gateway(is_used) => {
            is_used(gateway).then(|| shown(Kind::Gateway, gateway.name.as_str())).into_iter().collect()
        }
        Use::Action(is_used) => {
            // They are on routes; a gateway without an Api has none.
            let has_routes = policies.apis.of_gateway(&gateway.name).next().is_some();
            let lists = policies.rate_limits.values().filter(|list| has_routes && list.is_for(&gateway.name));
            let using = lists.filter(|list| list.limited().any(|(entry, _)| entry.actions.iter().any(is_used)));
            using.map(|list| shown(Kind::RateLimits, &list.name)).collect()
        }
        Use::Dimension(is_used) => {
            let counts = |limits: &[Arc<Limit>]| limits.iter().any(|limit| limit.by.iter().any(is_used));
            let apis: Vec<&Arc<Api>> = policies.apis.of_gateway(&gateway.name).collect();
            let is_ours = |api: &Name| policies.apis.get(api.as_str()).is_some_and(|api| api.gateway == gateway.name);
            let counts_by_api =
                |limits: &LimitsByApi| limits.iter().any(|(api, limits)| is_ours(api) && counts(limits));
            let mut documents: Vec<String> =
                apis.iter().filter(|api| counts(&api.limits)).map(|api| shown(Kind::Api, api.name.as_str())).collect();
            if gateway.tenant.is_some() {
                let plans = policies.plans.values().filter(|plan| counts(&plan.limits) || counts_by_api(&plan.apis));
                documents.extend(plans.map(|plan| shown(Kind::Plan, plan.name.as_str())));
                // There may be a million of them, and what they count by is kept apart from who they are.
                let is_by_tenant = |api: &&Arc<Api>| policies.reported_for_tenants.of_api(&api.name).any(is_used);
                documents.extend(apis.iter().any(is_by_tenant).then(|| "a Tenant".to_owned()));
            }
            documents
        }
    }
}

fn entry(action: &Action) -> Option<&Entry> {
    match action {
        Action::GenericKey(entry) | Action::HeaderMatch { entry, .. } | Action::QueryMatch { entry, .. } => Some(entry),
        _ => None,
    }
}
