//! Which limits a request meets, and which counter of each: a lookup by gateway and API, then by tenant.
//!
//! A matcher is made from a policy set and never changes, like the routes that were compiled from the same set.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::key::KeyHasher;
use super::{Charge, OnNoRoom};
use crate::names::{DocumentId, Kind, Name, TenantName, descriptor};
use crate::policy::gateway::{DefaultPlan, Gateway, MissingTenant, OnError};
use crate::policy::limit::{Algorithm, Cost, Dimension, Limit};
use crate::policy::matches::name_length;
use crate::policy::set::PolicySet;
use crate::policy::tenant::{LimitsByApi, Plan, Tenant};
use crate::shared_map::SharedMap;

/// What an Envoy tells of a request: the entries of one descriptor, key and value.
pub type Entries<'a> = [(&'a str, &'a str)];

#[derive(Clone, Debug)]
pub struct Matcher {
    gateways: Arc<HashMap<Name, GatewayLimits>>,
    plans: Arc<HashMap<Name, Arc<PlanLimits>>>,
    tenants: SharedMap<TenantName, Arc<TenantLimits>>,
    /// What every key begins with.
    keys: KeyHasher,
}

/// A request as the rate limit service hears of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub gateway: &'a str,
    pub descriptors: &'a [&'a Entries<'a>],
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
struct GatewayLimits {
    on_no_room: OnNoRoom,
    tenant: Option<TenantRule>,
    apis: HashMap<Name, Vec<Prepared>>,
    /// By the id that the route reports.
    rate_limits: HashMap<String, Prepared>,
}

#[derive(Debug)]
struct TenantRule {
    missing: MissingTenant,
    /// The tenant is the host that is asked for.
    is_host: bool,
    /// `None`: tenants without a document are denied.
    default_plan: Option<Arc<PlanLimits>>,
}

#[derive(Debug)]
struct PlanLimits {
    limits: Vec<Prepared>,
    apis: HashMap<Name, Vec<Prepared>>,
}

#[derive(Debug)]
struct TenantLimits {
    /// `None`: the gateway's default plan. By its name, so that a changed plan changes no tenant.
    plan: Option<Name>,
    limits: Option<Vec<Prepared>>,
    apis: HashMap<Name, Vec<Prepared>>,
    is_suspended: bool,
}

/// A limit with the part of its keys that is the same for every request.
#[derive(Debug)]
struct Prepared {
    limit: Arc<Limit>,
    identity: Box<str>,
    /// The keys of the entries that `limit.by` reads, in its order.
    by_keys: Box<[String]>,
    /// The key of the entry that says what a request costs.
    cost_key: Option<String>,
}

impl Matcher {
    /// Knows nothing yet. Keys of counters depend on the seed, so that nobody outside can choose values whose
    /// counters collide.
    pub fn empty(seed: [u8; 16]) -> Self {
        Self {
            gateways: Arc::default(),
            plans: Arc::default(),
            tenants: SharedMap::default(),
            keys: KeyHasher::new(seed),
        }
    }

    /// The matcher of a set that differs in these documents from the one that this matcher was made from.
    #[must_use]
    pub fn next(&self, policies: &PolicySet, changed: &BTreeSet<DocumentId>) -> Self {
        let mut tenants = self.tenants.clone();
        for id in changed.iter().filter(|id| id.kind == Kind::Tenant) {
            match policies.tenants.get(&*id.name) {
                Some(tenant) => drop(tenants.insert(tenant.name.clone(), Arc::new(TenantLimits::new(tenant)))),
                None => drop(tenants.remove(&*id.name)),
            }
        }
        if changed.iter().all(|id| id.kind == Kind::Tenant) {
            return Self { tenants, ..self.clone() };
        }
        let plans: HashMap<_, _> =
            policies.plans.iter().map(|(name, plan)| (name.clone(), Arc::new(PlanLimits::new(plan)))).collect();
        let gateways = policies.gateways.values();
        let gateways = gateways.map(|gateway| (gateway.name.clone(), GatewayLimits::new(policies, gateway, &plans)));
        Self { gateways: Arc::new(gateways.collect()), plans: Arc::new(plans), tenants, keys: self.keys.clone() }
    }

    /// `None` where nothing is known of the request's gateway or its API.
    pub fn find<'a>(&'a self, asked: &Asked<'a>) -> Option<Found<'a>> {
        let (name, gateway) = self.gateways.get_key_value(asked.gateway)?;
        let mut applied = SmallVec::new();
        let mut api = None;
        let mut denial = None;
        for entries in asked.descriptors {
            let request = Request { gateway: asked.gateway, entries, hits: asked.hits };
            if let Some(prepared) = value(entries, descriptor::RATE_LIMITS).and_then(|id| gateway.rate_limits.get(id)) {
                applied.push(self.apply_list_entry(prepared, &request));
            }
            let Some(named) = value(entries, descriptor::API) else { continue };
            let Some((named, limits)) = gateway.apis.get_key_value(named) else { continue };
            api = Some(named);
            let key = self.key("api", &request).part(named.as_str().as_bytes());
            applied.extend(limits.iter().map(|prepared| prepared.apply(Tier::Api, &key, &request)));
            if let Some(rule) = &gateway.tenant {
                denial = self.apply_tenant(rule, named, &request, &mut applied).err();
            }
        }
        let is_known = api.is_some() || !applied.is_empty();
        let limits = denial.map_or(Ok(applied), Err);
        is_known.then_some(Found { gateway: name, api, limits, on_no_room: gateway.on_no_room })
    }

    /// Adds the limits of the request's tenant: its own where it has them, else its plan's.
    fn apply_tenant<'a>(
        &'a self,
        rule: &'a TenantRule,
        api: &'a Name,
        request: &Request<'a>,
        applied: &mut SmallVec<[Applied<'a>; 8]>,
    ) -> Result<(), TenantDenial> {
        let named = value(request.entries, descriptor::TENANT).filter(|tenant| !tenant.is_empty());
        let tenant = match (named, &rule.missing) {
            (Some(host), _) if rule.is_host => &host_name(host),
            (Some(tenant), _) => tenant,
            (None, MissingTenant::Is(tenant)) => tenant.as_str(),
            (None, MissingTenant::Reject) => return Err(TenantDenial::Missing),
        };
        let own = self.tenants.get(tenant);
        if own.is_some_and(|own| own.is_suspended) {
            return Err(TenantDenial::Suspended);
        }
        let plan = own.and_then(|own| self.plans.get(own.plan.as_ref()?)).or(rule.default_plan.as_ref());
        if own.is_none() && plan.is_none() {
            return Err(TenantDenial::Unknown);
        }
        let over_all = own.and_then(|own| own.limits.as_ref()).or(plan.map(|plan| &plan.limits));
        let for_api = own.and_then(|own| own.apis.get(api)).or(plan.and_then(|plan| plan.apis.get(api)));
        let key = self.key("tenant", request).part(tenant.as_bytes());
        applied.extend(over_all.into_iter().flatten().map(|prepared| prepared.apply(Tier::Tenant, &key, request)));
        let key = key.part(b"api").part(api.as_str().as_bytes());
        let for_api = for_api.into_iter().flatten();
        applied.extend(for_api.map(|prepared| prepared.apply(Tier::Tenant, &key, request)));
        Ok(())
    }

    /// Everything that Envoy reported for the entry splits its counter, as in Envoy's own meaning of actions; but not
    /// what the request costs.
    fn apply_list_entry<'a>(&self, prepared: &'a Prepared, request: &Request<'a>) -> Applied<'a> {
        let is_cost = |key: &str| prepared.cost_key.as_deref() == Some(key);
        let split_by = request.entries.iter().filter(|(key, _)| !is_cost(key));
        let key = split_by.fold(self.key("rate_limits", request), |hasher, (key, value)| {
            let value = if value.starts_with('/') { without_query(value) } else { value };
            hasher.part(key.as_bytes()).part(value.as_bytes())
        });
        prepared.apply(Tier::RateLimits, &key, request)
    }

    fn key(&self, scope: &str, request: &Request<'_>) -> KeyHasher {
        self.keys.clone().part(scope.as_bytes()).part(request.gateway.as_bytes())
    }
}

struct Request<'a> {
    gateway: &'a str,
    entries: &'a Entries<'a>,
    hits: u32,
}

impl GatewayLimits {
    fn new(policies: &PolicySet, gateway: &Gateway, plans: &HashMap<Name, Arc<PlanLimits>>) -> Self {
        Self {
            on_no_room: match gateway.limiter.on_error {
                OnError::Allow => OnNoRoom::Pass,
                OnError::Deny => OnNoRoom::Deny,
            },
            tenant: gateway.tenant.as_ref().map(|tenant| TenantRule {
                missing: tenant.missing.clone(),
                is_host: tenant.from.is_host(),
                default_plan: match &tenant.default_plan {
                    DefaultPlan::Plan(plan) => plans.get(plan).cloned(),
                    DefaultPlan::Deny => None,
                },
            }),
            apis: policies.apis_of(&gateway.name).map(|api| (api.name.clone(), prepare(&api.limits))).collect(),
            rate_limits: rate_limits_of(policies, &gateway.name),
        }
    }
}

impl TenantLimits {
    fn new(tenant: &Tenant) -> Self {
        Self {
            plan: tenant.plan.clone(),
            limits: tenant.limits.as_deref().map(prepare),
            apis: prepare_by_api(&tenant.apis),
            is_suspended: tenant.is_suspended,
        }
    }
}

impl PlanLimits {
    fn new(plan: &Plan) -> Self {
        Self { limits: prepare(&plan.limits), apis: prepare_by_api(&plan.apis) }
    }
}

impl Prepared {
    fn new(limit: &Arc<Limit>) -> Self {
        let algorithm = match limit.algorithm {
            Algorithm::SlidingWindow => "sliding_window",
            Algorithm::TokenBucket { .. } => "token_bucket",
            Algorithm::FixedWindow => "fixed_window",
        };
        // The rate is left out: a limit whose rate changes keeps what it counted.
        let by: Vec<String> = limit.by.iter().map(ToString::to_string).collect();
        let identity = format!("{}\n{}\n{algorithm}\n{}", limit.name, limit.rate.window.secs(), by.join("\n"));
        Self {
            limit: Arc::clone(limit),
            identity: identity.into(),
            by_keys: limit.by.iter().map(Dimension::descriptor_key).collect(),
            cost_key: limit.cost.descriptor_key(),
        }
    }

    fn apply<'a>(&'a self, tier: Tier, key: &KeyHasher, request: &Request<'_>) -> Applied<'a> {
        let key = key.clone().part(self.identity.as_bytes());
        let by = self.limit.by.iter().zip(&self.by_keys);
        // What a request lacks is the empty value, in one counter for all such requests.
        let value_of = |key| value(request.entries, key).unwrap_or_default();
        let key = by.fold(key, |hasher, (dimension, key)| add_value(hasher, dimension, value_of(key)));
        let charge = Charge {
            key: key.finish(),
            rate: self.limit.rate,
            algorithm: self.limit.algorithm,
            mode: self.limit.mode,
            hits: self.cost(request.entries).saturating_mul(request.hits),
        };
        Applied { limit: &self.limit, tier, charge }
    }

    fn cost(&self, entries: &Entries<'_>) -> u32 {
        let named = || value(entries, self.cost_key.as_deref()?)?.trim().parse::<u32>().ok().filter(|hits| *hits > 0);
        match self.limit.cost {
            Cost::Hits(hits) => hits.get(),
            Cost::Header(_) => named().unwrap_or(1),
        }
    }
}

fn prepare(limits: &[Arc<Limit>]) -> Vec<Prepared> {
    limits.iter().map(Prepared::new).collect()
}

fn prepare_by_api(apis: &LimitsByApi) -> HashMap<Name, Vec<Prepared>> {
    apis.iter().map(|(api, limits)| (api.clone(), prepare(limits))).collect()
}

fn rate_limits_of(policies: &PolicySet, gateway: &Name) -> HashMap<String, Prepared> {
    let lists = policies.rate_limits.values();
    let entries = lists.filter(|list| list.is_for(gateway)).flat_map(|list| {
        let id = |index| descriptor::rate_limits_id(&list.name, index);
        list.limited().map(move |(index, _, limit)| (id(index), Prepared::new(limit)))
    });
    entries.collect()
}

fn value<'a>(entries: &Entries<'a>, key: &str) -> Option<&'a str> {
    entries.iter().find(|(own, _)| *own == key).map(|(_, value)| *value)
}

fn add_value(hasher: KeyHasher, dimension: &Dimension, value: &str) -> KeyHasher {
    match dimension {
        Dimension::ClientIp { prefix: Some(bits) } => hasher.part(&network(value, *bits)),
        Dimension::Path => hasher.part(without_query(value).as_bytes()),
        Dimension::Host => hasher.part(host_name(value).as_bytes()),
        _ => hasher.part(value.as_bytes()),
    }
}

/// The network that an address is in: `bits` of an IPv4 address, 64 of an IPv6 address, which is what one
/// subscriber has.
fn network(address: &str, bits: u8) -> SmallVec<[u8; 16]> {
    match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            SmallVec::from_slice(&(address.to_bits() & mask).to_be_bytes())
        }
        Ok(IpAddr::V6(address)) => SmallVec::from_slice(&(address.to_bits() >> 64).to_be_bytes()),
        Err(_) => SmallVec::from_slice(address.as_bytes()),
    }
}

fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// The name of a host as all its spellings have it: in lower case, without the port.
fn host_name(host: &str) -> String {
    host.get(..name_length(host.as_bytes())).unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::split;
    use crate::policy::parse::parse;

    const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {header: x-tenant-id}, missing: anonymous, default_plan: standard}}
---
{kind: Gateway, name: strict, nodes: {clusters: [strict]}, listen: '127.0.0.1:2', limiter: {on_error: deny},
 tenant: {from: {header: x-tenant-id}, missing: reject, default_plan: deny}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order,
 limits: [{rate: 10/s}, {name: client, rate: 5/s, by: [client_ip/24, {header: x-a}]}, {name: bulk, rate: 9/m, cost: {header: x-items}}]}
---
{kind: Api, name: closed, gateway: strict, match: {path: /closed}, service: order}
---
{kind: Plan, name: standard, limits: [{rate: 600/m}], apis: {create: [{rate: 100/m}]}}
---
{kind: Tenant, name: acme, plan: standard, apis: {create: [{rate: 800/m}]}}
---
{kind: Tenant, name: solo, limits: [{rate: 7/m}]}
---
{kind: Tenant, name: bad, plan: standard, status: suspended}
---
{name: list, gateway: shop, rate_limits: [{actions: [{request_headers: {header_name: ':path', descriptor_key: api_path}}], limit: {unit: MINUTE, requests_per_unit: 3}}]}
";

    fn matcher(text: &str) -> Matcher {
        let documents = split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new);
        let parsed = documents.map(|document| Arc::new(parse(&document).unwrap()));
        let (policies, ids) = PolicySet::of_all(parsed).unwrap();
        Matcher::empty([3; 16]).next(&policies, &ids)
    }

    /// The limits that a request meets, as `tier:name=rate`, and the keys of their counters.
    fn ask(matcher: &Matcher, gateway: &str, entries: &[(&str, &str)]) -> Result<Vec<(String, Charge)>, String> {
        let asked = Asked { gateway, descriptors: &[entries], hits: 1 };
        let found = matcher.find(&asked).ok_or("nothing")?;
        let limits = found.limits.map_err(|denial| format!("{denial:?}"))?;
        let shown = |applied: &Applied<'_>| {
            (format!("{}:{}={}", applied.tier.as_str(), applied.limit.name, applied.limit.rate), applied.charge)
        };
        Ok(limits.iter().map(shown).collect())
    }

    fn names(matcher: &Matcher, gateway: &str, entries: &[(&str, &str)]) -> Result<Vec<String>, String> {
        ask(matcher, gateway, entries).map(|limits| limits.into_iter().map(|(name, _)| name).collect())
    }

    fn keys(matcher: &Matcher, entries: &[(&str, &str)]) -> Vec<u128> {
        ask(matcher, "shop", entries).unwrap().into_iter().map(|(_, charge)| charge.key.as_u128()).collect()
    }

    const API: [&str; 3] = ["api:api-second=10/second", "api:client=5/second", "api:bulk=9/minute"];

    #[test]
    fn a_tenant_meets_its_own_limits_where_it_has_them_and_its_plans_where_not() {
        let matcher = matcher(SHOP);
        let of_tenant = |tenant| names(&matcher, "shop", &[("api", "create"), ("tenant", tenant)]).unwrap();
        let with = |tenant: [&'static str; 2]| API.into_iter().chain(tenant).collect::<Vec<_>>();
        assert_eq!(of_tenant("acme"), with(["tenant:tenant-minute=600/minute", "tenant:tenant-api-minute=800/minute"]));
        assert_eq!(of_tenant("solo"), with(["tenant:tenant-minute=7/minute", "tenant:tenant-api-minute=100/minute"]));
        assert_eq!(of_tenant("new"), with(["tenant:tenant-minute=600/minute", "tenant:tenant-api-minute=100/minute"]));
    }

    #[test]
    fn a_request_without_a_tenant_is_all_anonymous() {
        let matcher = matcher(SHOP);
        let missing = keys(&matcher, &[("api", "create")]);
        assert_eq!(missing, keys(&matcher, &[("api", "create"), ("tenant", "")]));
        assert_eq!(missing, keys(&matcher, &[("api", "create"), ("tenant", "anonymous")]));
        assert_ne!(missing, keys(&matcher, &[("api", "create"), ("tenant", "other")]));
    }

    #[test]
    fn tenants_that_are_not_served_are_denied() {
        let matcher = matcher(SHOP);
        assert_eq!(names(&matcher, "shop", &[("api", "create"), ("tenant", "bad")]), Err("Suspended".to_owned()));
        assert_eq!(names(&matcher, "strict", &[("api", "closed")]), Err("Missing".to_owned()));
        assert_eq!(names(&matcher, "strict", &[("api", "closed"), ("tenant", "new")]), Err("Unknown".to_owned()));
        assert!(names(&matcher, "strict", &[("api", "closed"), ("tenant", "acme")]).is_ok());
    }

    #[test]
    fn what_is_not_known_is_nothing() {
        let matcher = matcher(SHOP);
        assert_eq!(names(&matcher, "nowhere", &[("api", "create")]), Err("nothing".to_owned()));
        assert_eq!(names(&matcher, "shop", &[("api", "closed")]), Err("nothing".to_owned()), "of another gateway");
    }

    #[test]
    fn a_network_shares_a_counter_and_what_is_missing_is_one_value() {
        let matcher = matcher(SHOP);
        let client = |entries: &[(&str, &str)]| keys(&matcher, &[&[("api", "create")], entries].concat())[1];
        let ip = |address| ("remote_address", address);
        assert_eq!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.0.200")]));
        assert_eq!(client(&[ip("10.0.0.7")]), client(&[ip("::ffff:10.0.0.9")]));
        assert_ne!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.1.7")]));
        assert_eq!(client(&[ip("2001:db8::1")]), client(&[ip("2001:db8::2:1")]));
        assert_ne!(client(&[ip("2001:db8::1")]), client(&[ip("2001:db8:0:1::1")]));
        assert_eq!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.0.7"), ("header:x-a", "")]));
        assert_ne!(client(&[ip("10.0.0.7")]), client(&[ip("10.0.0.7"), ("header:x-a", "1")]));
    }

    #[test]
    fn a_request_says_its_cost_and_costs_one_where_it_says_nonsense() {
        let matcher = matcher(SHOP);
        let cost =
            |items: &str| ask(&matcher, "shop", &[("api", "create"), ("header:x-items", items)]).unwrap()[2].1.hits;
        assert_eq!((cost("5"), cost(" 12 ")), (5, 12));
        for nonsense in ["", "0", "-3", "many", "99999999999"] {
            assert_eq!(cost(nonsense), 1, "{nonsense:?}");
        }
    }

    #[test]
    fn an_entry_of_a_list_counts_by_what_was_reported_and_a_path_without_its_query() {
        let matcher = matcher(SHOP);
        let key = |path| keys(&matcher, &[("rate_limits", "list/0"), ("api_path", path)]);
        assert_eq!(key("/a"), key("/a?x=1"));
        assert_ne!(key("/a"), key("/b"));
    }

    #[test]
    fn a_changed_rate_keeps_its_counter_and_a_changed_window_starts_a_new_one() {
        let before = keys(&matcher(SHOP), &[("api", "create")]);
        let rate = keys(&matcher(&SHOP.replace("rate: 10/s", "rate: 20/s")), &[("api", "create")]);
        assert_eq!(before, rate);
        let window =
            keys(&matcher(&SHOP.replace("{rate: 10/s}", "{name: api-second, rate: 10/m}")), &[("api", "create")]);
        assert_ne!(before[0], window[0]);
        let algorithm = SHOP.replace("{rate: 10/s}", "{rate: 10/s, algorithm: fixed_window}");
        assert_ne!(before[0], keys(&matcher(&algorithm), &[("api", "create")])[0]);
    }

    #[test]
    fn ports_and_queries_are_no_way_round_a_limit() {
        assert_eq!(host_name("Shop.example:8080"), "shop.example");
        assert_eq!(host_name("shop.example:x"), "shop.example");
        assert_eq!(host_name("[::1]:80"), "[::1]");
        assert_eq!(without_query("/a?b#c"), "/a");
    }
}
