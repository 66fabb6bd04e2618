//! Which limits a request meets, and which counter of each: a lookup by gateway and API, then by tenant.
//!
//! ```text
//! descriptor --(first entry: api, form)--> limits of the API, limits of its tenant
//!            --(first entry: rate_limits)--> the limit of a list's entry
//! ```
//!
//! A matcher is made from a policy set and never changes, like the routes that were compiled from the same set. A request
//! that comes from a route of an older set says so by its form, and is counted by what fits it ([`older`](super::older)).

mod build;
mod pick;
mod prepared;

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::key::KeyHasher;
use super::older::OlderForms;
use super::{Charge, OnNoRoom};
use crate::names::{FormId, Name, Reported, TenantName, descriptor};
use crate::policy::gateway::MissingTenant;
use crate::policy::limit::Limit;
use crate::shared_map::SharedMap;
use pick::{Tenancy, TenantLists, pick};
use prepared::Prepared;

/// What an Envoy tells of a request: the entries of one descriptor, key and value. Values are bytes: a client may send
/// any, and Envoy passes them on as they are.
pub type Entries<'a> = [(&'a [u8], &'a [u8])];

#[derive(Clone, Debug)]
pub struct Matcher {
    gateways: Arc<HashMap<Name, Arc<GatewayLimits>>>,
    plans: Plans,
    tenants: Tenants,
    /// What every key begins with.
    keys: KeyHasher,
}

type Plans = Arc<HashMap<Name, Arc<PlanLimits>>>;
type Tenants = SharedMap<TenantName, Arc<TenantLimits>>;

/// A request as the rate limit service hears of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub gateway: &'a str,
    pub descriptors: &'a [Described<'a>],
}

#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    pub entries: &'a Entries<'a>,
    /// What each limit's cost is multiplied by.
    pub hits: u32,
}

/// What is known of a request.
#[derive(Debug)]
pub struct Found<'a> {
    pub gateway: &'a Name,
    /// `None` where only lists of actions apply.
    pub api: Option<&'a Name>,
    /// The limits that it meets, or why its tenant is not served whatever the counters say.
    pub limits: Result<SmallVec<[Applied<'a>; 8]>, TenantDenial>,
    /// What the gateway wants where a limit cannot be counted.
    pub on_no_room: OnNoRoom,
    pub age: Age,
    /// There are limits, and none that the request could be counted by.
    pub is_uncountable: bool,
}

/// Of the routes that a request came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Age {
    /// They report what the newest policies count by.
    #[default]
    Current,
    /// They were made from older policies, whose last limits are known.
    Older,
    /// Nobody here knows the policies that they were made from.
    Unknown,
}

/// A limit that a request meets.
#[derive(Debug)]
pub struct Applied<'a> {
    pub limit: &'a Limit,
    pub tier: Tier,
    pub charge: Charge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    Api,
    Tenant,
    /// A list of Envoy actions that was taken as it is.
    RateLimits,
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Tenant => "tenant",
            Self::RateLimits => "rate_limits",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TenantDenial {
    Missing,
    Unknown,
    Suspended,
}

#[derive(Debug)]
pub(super) struct GatewayLimits {
    pub(super) on_no_room: OnNoRoom,
    pub(super) tenant: Option<Arc<TenantRule>>,
    /// By the id that the newest routes report.
    pub(super) apis: HashMap<String, Arc<ApiLimits>>,
    ids_by_name: HashMap<Name, String>,
    /// By the id that the newest routes report.
    pub(super) rate_limits: HashMap<String, Arc<Prepared>>,
}

#[derive(Debug)]
pub(super) struct ApiLimits {
    name: Name,
    limits: Vec<Prepared>,
}

#[derive(Debug)]
pub(super) struct TenantRule {
    missing: MissingTenant,
    /// The tenant is the host that is asked for.
    is_host: bool,
    /// `None`: tenants without a document are denied.
    default_plan: Option<Name>,
}

#[derive(Debug)]
pub(super) struct PlanLimits {
    limits: Vec<Prepared>,
    apis: HashMap<Name, Vec<Prepared>>,
}

#[derive(Debug)]
pub(super) struct TenantLimits {
    /// `None`: the gateway's default plan. By its name, so that a changed plan changes no tenant.
    plan: Option<Name>,
    limits: Option<Vec<Prepared>>,
    apis: HashMap<Name, Vec<Prepared>>,
    is_suspended: bool,
}

/// The ids that a gateway's routes report.
#[derive(Clone, Debug)]
pub struct GatewayForms(Arc<GatewayLimits>);

impl GatewayForms {
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.apis.keys().chain(self.0.rate_limits.keys()).map(String::as_str)
    }
}

/// What an older form of a descriptor was last counted by.
#[derive(Clone, Debug)]
pub(super) enum LastLimits {
    Api { api: Arc<ApiLimits>, tenant: Option<Arc<TenantRule>>, plans: Plans, tenants: Tenants },
    List(Arc<Prepared>),
}

/// A search for the limits of one request.
struct Search<'a> {
    matcher: &'a Matcher,
    older: &'a OlderForms,
    asked: Asked<'a>,
    /// `None`: the newest policies know no such gateway.
    gateway: Option<&'a Arc<GatewayLimits>>,
    found: Option<Found<'a>>,
}

impl Matcher {
    /// `None` where nothing is known of the request's gateway or of any descriptor.
    pub fn find<'a>(&'a self, asked: &Asked<'a>, older: &'a OlderForms) -> Option<Found<'a>> {
        let gateway = self.gateways.get_key_value(asked.gateway);
        let found = gateway.map(|(name, limits)| Found::new(name, limits.on_no_room));
        let gateway = gateway.map(|(_, limits)| limits);
        let mut search = Search { matcher: self, older, asked: *asked, gateway, found };
        let mut is_known = false;
        for described in asked.descriptors {
            is_known |= search.describe(described).is_some();
        }
        search.found.filter(|_| is_known)
    }

    fn key(&self, scope: &str, gateway: &str) -> KeyHasher {
        self.keys.clone().part(scope.as_bytes()).part(gateway.as_bytes())
    }
}

impl<'a> Found<'a> {
    fn new(gateway: &'a Name, on_no_room: OnNoRoom) -> Self {
        let (limits, age) = (Ok(SmallVec::new()), Age::Current);
        Self { gateway, api: None, limits, on_no_room, age, is_uncountable: false }
    }

    fn add(&mut self, applied: impl IntoIterator<Item = Applied<'a>>) {
        if let Ok(limits) = &mut self.limits {
            limits.extend(applied);
            self.is_uncountable &= limits.is_empty();
        }
    }

    /// A denial stands, whatever another descriptor says.
    fn deny(&mut self, denial: TenantDenial) {
        if self.limits.is_ok() {
            self.limits = Err(denial);
        }
    }

    fn miss(&mut self) {
        self.is_uncountable |= matches!(&self.limits, Ok(limits) if limits.is_empty());
    }
}

impl<'a> Search<'a> {
    /// `None` where the descriptor is none of ours.
    fn describe(&mut self, described: &Described<'a>) -> Option<()> {
        let (key, id) = described.entries.first()?;
        let id = std::str::from_utf8(id).ok()?;
        match *key {
            key if key == descriptor::API.as_bytes() => self.describe_api(id, described),
            key if key == descriptor::RATE_LIMITS.as_bytes() => self.describe_list_entry(id, described),
            _ => None,
        }
    }

    fn describe_api(&mut self, id: &str, described: &Described<'a>) -> Option<()> {
        let current = self.gateway.and_then(|gateway| Some((gateway, gateway.apis.get(id)?)));
        let Some((gateway, api)) = current else { return self.describe_older_api(id, described) };
        let found = self.found.as_mut()?;
        found.api = Some(&api.name);
        let key = self.matcher.key("api", self.asked.gateway).part(api.name.as_str().as_bytes());
        found.add(api.limits.iter().map(|prepared| prepared.apply(Tier::Api, &key, described)));
        if let Some(rule) = &gateway.tenant {
            let tenancy = self.matcher.tenancy(rule);
            let lists = tenancy.tenant(described.entries).and_then(|tenant| {
                let lists = tenancy.limits(&tenant, Some(&api.name))?;
                Ok((tenant, lists))
            });
            match lists {
                Ok((tenant, lists)) => self.apply_tenant(&tenant, api.name.as_str(), &lists, described),
                Err(denial) => found.deny(denial),
            }
        }
        Some(())
    }

    /// Counted by the newest limits that the form allows for, and by those of its last limits that only it has.
    fn describe_older_api(&mut self, id: &str, described: &Described<'a>) -> Option<()> {
        let (name, form) = descriptor::parse_api_id(id)?;
        let last = self.last_limits(id);
        let found = self.found.as_mut()?;
        let last = match last {
            Some(LastLimits::Api { api, tenant, plans, tenants }) => {
                Some((api, tenant.as_deref().map(|rule| Tenancy { rule, plans, tenants })))
            }
            _ => None,
        };
        found.age = found.age.max(if last.is_some() { Age::Older } else { Age::Unknown });
        let newest = self.gateway.and_then(|gateway| gateway.api(name));
        let api = newest.or(last.as_ref().map(|(api, _)| *api));
        found.api = api.map(|api| &api.name).or(found.api);
        let key = self.matcher.key("api", self.asked.gateway).part(name.as_bytes());
        let picked = pick(newest.map(|api| &api.limits[..]), last.as_ref().map(|(api, _)| &api.limits[..]), &form);
        found.add(picked.limits.iter().map(|prepared| prepared.apply(Tier::Api, &key, described)));
        let mut is_short = picked.is_short;
        if form.has(Reported::TENANT) {
            let last = last.as_ref().and_then(|(api, tenancy)| Some((&api.name, tenancy.as_ref()?)));
            is_short |= self.describe_older_tenant(name, newest.map(|api| &api.name), last, &form, described);
        }
        if is_short && let Some(found) = &mut self.found {
            found.miss();
        }
        Some(())
    }

    /// Whether there are limits that the form does not allow for, and no last ones instead.
    fn describe_older_tenant(
        &mut self,
        api: &str,
        newest_api: Option<&Name>,
        last: Option<(&Name, &Tenancy<'a>)>,
        form: &FormId,
        described: &Described<'a>,
    ) -> bool {
        let rule = self.gateway.and_then(|gateway| gateway.tenant.as_deref());
        let newest = rule.map(|rule| self.matcher.tenancy(rule));
        let Some(tenancy) = newest.as_ref().or(last.map(|(_, tenancy)| tenancy)) else {
            // Where the gateway is known, it has no tenants any more.
            return self.gateway.is_none();
        };
        let lists = tenancy.tenant(described.entries).and_then(|tenant| {
            let newest = newest.as_ref().map(|newest| newest.limits(&tenant, newest_api)).transpose()?;
            let last = last.map(|(api, last)| last.limits(&tenant, Some(api)));
            // Whether a tenant is served is for the newest policies to say.
            let last = if newest.is_some() { last.and_then(Result::ok) } else { last.transpose()? };
            Ok((tenant, newest, last))
        });
        match lists {
            Ok((tenant, newest, last)) => {
                let over_all = pick(newest.map(|lists| lists.over_all), last.map(|lists| lists.over_all), form);
                let for_api = newest.filter(|_| newest_api.is_some()).map(|lists| lists.for_api);
                let for_api = pick(for_api, last.map(|lists| lists.for_api), form);
                self.add_tenant(
                    &tenant,
                    api,
                    over_all.limits.iter().copied(),
                    for_api.limits.iter().copied(),
                    described,
                );
                over_all.is_short || for_api.is_short
            }
            Err(denial) => {
                if let Some(found) = &mut self.found {
                    found.deny(denial);
                }
                false
            }
        }
    }

    fn apply_tenant(&mut self, tenant: &[u8], api: &str, lists: &TenantLists<'a>, described: &Described<'a>) {
        self.add_tenant(tenant, api, lists.over_all.iter(), lists.for_api.iter(), described);
    }

    fn add_tenant(
        &mut self,
        tenant: &[u8],
        api: &str,
        over_all: impl Iterator<Item = &'a Prepared>,
        for_api: impl Iterator<Item = &'a Prepared>,
        described: &Described<'a>,
    ) {
        let Some(found) = &mut self.found else { return };
        let key = self.matcher.key("tenant", self.asked.gateway).part(tenant);
        found.add(over_all.map(|prepared| prepared.apply(Tier::Tenant, &key, described)));
        let key = key.part(b"api").part(api.as_bytes());
        found.add(for_api.map(|prepared| prepared.apply(Tier::Tenant, &key, described)));
    }

    /// Everything that Envoy reported for the entry splits its counter, as in Envoy's own meaning of actions.
    fn describe_list_entry(&mut self, id: &str, described: &Described<'a>) -> Option<()> {
        let current = self.gateway.and_then(|gateway| gateway.rate_limits.get(id));
        let (prepared, age) = match current {
            Some(prepared) => (Some(prepared), Age::Current),
            None => match self.last_limits(id) {
                Some(LastLimits::List(prepared)) => (Some(prepared), Age::Older),
                _ => (None, Age::Unknown),
            },
        };
        let found = self.found.as_mut()?;
        found.age = found.age.max(age);
        match prepared {
            Some(prepared) => {
                let key = prepared.add_entries(self.matcher.key("rate_limits", self.asked.gateway), described.entries);
                found.add([prepared.apply(Tier::RateLimits, &key, described)]);
            }
            None => found.miss(),
        }
        Some(())
    }

    /// What the id was last counted by. A gateway that is gone is known by it.
    fn last_limits(&mut self, id: &str) -> Option<&'a LastLimits> {
        let older = self.older.get(self.asked.gateway, id)?;
        self.found.get_or_insert_with(|| Found::new(older.gateway(), older.on_no_room()));
        Some(older.last_limits())
    }
}

#[cfg(test)]
mod tests;
