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
mod named;
mod pick;
mod prepared;
mod search;
mod told;

use std::sync::Arc;

use foldhash::HashMap;
use smallvec::SmallVec;

use super::key::{KeyHasher, KeyPart};
use super::older::OlderForms;
use super::{Charge, OnError};
use crate::names::certificate::{ClientCertificate, San, allows};
use crate::names::{Name, TenantName};
use crate::policy::gateway::MissingTenant;
use crate::policy::limit::Limit;
use crate::shared_map::SharedMap;
use prepared::Prepared;
use search::Search;

pub use told::{ToldCounter, shown_entry, shown_value};

/// The entries of one descriptor, key and value, as an Envoy reports them. Values are bytes: a client may send
/// any, and Envoy passes them on as they are.
pub type Entries<'a> = [(&'a [u8], &'a [u8])];

#[derive(Clone, Debug)]
pub struct Matcher {
    gateways: SharedMap<Name, Arc<GatewayLimits>>,
    plans: Plans,
    tenants: Tenants,
    /// The beginning of every key.
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
    /// The factor of each limit's cost.
    pub hits: u32,
}

/// The limits of a request, and what else is known of it.
#[derive(Debug)]
pub struct Found<'a> {
    pub gateway: &'a Name,
    /// `None` where only lists of actions apply.
    pub api: Option<&'a Name>,
    /// The limits that it meets, or why its tenant is not served whatever the counters say.
    pub limits: Result<SmallVec<[Applied<'a>; 4]>, TenantDenial>,
    /// The gateway's wish where a limit cannot be counted.
    pub on_error: OnError,
    pub age: Age,
    /// There are limits, and none that the request could be counted by.
    pub is_uncountable: bool,
}

/// The age of the routes that a request came by.
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

impl AsRef<Charge> for Applied<'_> {
    fn as_ref(&self) -> &Charge {
        &self.charge
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    Api,
    Tenant,
    /// A list of Envoy actions that was taken as it is.
    RateLimits,
}

impl Tier {
    pub const ALL: [Self; 3] = [Self::Api, Self::Tenant, Self::RateLimits];

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
    /// The beginning of the keys of its tenants' counters.
    tenant_keys: KeyHasher,
    /// The beginning of the keys of its lists' counters.
    list_keys: KeyHasher,
    pub(super) on_error: OnError,
    /// The certificates that its Envoys show; empty: any.
    identities: Arc<[San]>,
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
    /// The beginning of the keys of its own counters.
    keys: KeyHasher,
    /// What the keys of a tenant's counters for it continue with.
    at_api: [KeyPart; 2],
    limits: Vec<Prepared>,
}

#[derive(Debug)]
pub(super) struct TenantRule {
    missing: MissingTenant,
    /// The tenant is the host that is asked for.
    is_host: bool,
    /// The tenant's name lets whoever has it in.
    is_credential: bool,
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
    pub fn has(&self, id: &str) -> bool {
        self.0.apis.contains_key(id) || self.0.rate_limits.contains_key(id)
    }

    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.ids()
    }
}

/// The limits that an older form of a descriptor was last counted by.
#[derive(Clone, Debug)]
pub(super) enum LastLimits {
    Api { api: Arc<ApiLimits>, tenant: Option<Arc<TenantRule>>, plans: Plans, tenants: Tenants },
    List(Arc<Prepared>),
}

/// The gateway is not for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied<'a> {
    pub gateway: &'a Name,
}

impl Matcher {
    /// As [`Self::find`], for an Envoy with this certificate.
    pub fn find_for<'a>(
        &'a self,
        certificate: Option<&ClientCertificate>,
        asked: &Asked<'a>,
        older: &'a OlderForms,
    ) -> Result<Option<Found<'a>>, Denied<'a>> {
        let gateway = self.gateways.get_key_value(asked.gateway);
        match gateway {
            Some((gateway, limits)) if !allows(&limits.identities, certificate) => return Err(Denied { gateway }),
            Some(_) => {}
            // One that is gone was for somebody, too.
            None => older.check(asked.gateway, certificate)?,
        }
        Ok(self.find_at(gateway, asked, older))
    }

    /// `None` where nothing is known of the request's gateway or of any descriptor.
    pub fn find<'a>(&'a self, asked: &Asked<'a>, older: &'a OlderForms) -> Option<Found<'a>> {
        self.find_at(self.gateways.get_key_value(asked.gateway), asked, older)
    }

    fn find_at<'a>(
        &'a self,
        gateway: Option<(&'a Name, &'a Arc<GatewayLimits>)>,
        asked: &Asked<'a>,
        older: &'a OlderForms,
    ) -> Option<Found<'a>> {
        let mut found = gateway.map(|(name, limits)| Found::new(name, limits.on_error));
        let gateway = gateway.map(|(_, limits)| limits);
        let mut search = Search { matcher: self, older, name: asked.gateway, gateway, found: &mut found };
        let mut is_known = false;
        for described in asked.descriptors {
            is_known |= search.describe(described).is_some();
        }
        if is_known { found } else { None }
    }

    /// The beginning of the keys of an Api's counters.
    fn keys_of_api(&self, gateway: &str, api: &str) -> KeyHasher {
        keys(&self.keys, "api", gateway).part(api.as_bytes()).home()
    }

    /// The beginning of the keys of a gateway's tenants' counters.
    fn keys_of_tenants(&self, gateway: &str) -> KeyHasher {
        keys(&self.keys, "tenant", gateway)
    }

    /// The beginning of the keys of the counters of a gateway's lists.
    fn keys_of_lists(&self, gateway: &str) -> KeyHasher {
        keys(&self.keys, "rate_limits", gateway)
    }
}

/// The beginning of the keys of a tenant's counters over all Apis.
fn keys_of_tenant(tenants: &KeyHasher, tenant: &[u8]) -> KeyHasher {
    tenants.clone().part(tenant).home()
}

/// What the keys of a tenant's counters for an Api continue with.
fn at_api(keys: &KeyHasher, api: &str) -> [KeyPart; 2] {
    [keys.prepare(b"api"), keys.prepare(api.as_bytes())]
}

fn keys_at_api(tenant: KeyHasher, at_api: &[KeyPart; 2]) -> KeyHasher {
    at_api.iter().fold(tenant, KeyHasher::prepared)
}

fn keys(all: &KeyHasher, scope: &str, gateway: &str) -> KeyHasher {
    all.clone().part(scope.as_bytes()).part(gateway.as_bytes())
}

impl<'a> Found<'a> {
    fn new(gateway: &'a Name, on_error: OnError) -> Self {
        let (limits, age) = (Ok(SmallVec::new()), Age::Current);
        Self { gateway, api: None, limits, on_error, age, is_uncountable: false }
    }

    fn add(&mut self, applied: impl IntoIterator<Item = Applied<'a>>) {
        if let Ok(limits) = &mut self.limits {
            // One by one into its place: `extend` makes room for all, and moves each twice.
            for applied in applied {
                limits.push(applied);
            }
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

#[cfg(test)]
mod tests;
