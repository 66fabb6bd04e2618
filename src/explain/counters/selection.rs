//! What is said of the counters that are meant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::limiter::matcher::Tier;
use crate::names::{descriptor, spelling};
use crate::policy::gateway::Gateway;
use crate::policy::problem::nearest;
use crate::policy::set::PolicySet;

/// The beginning of the key of an entry that a list's action adds, where no part of a request says its value.
pub(super) const ENTRY: &str = "entry:";

const TIERS: [Tier; 3] = [Tier::Api, Tier::Tenant, Tier::RateLimits];
/// Parameters that have a name, after a dot.
const NAMED: [&str; 5] = ["header", "query", "cookie", "jwt_claim", "entry"];
const EXPECTED: &str = "gateway, api, tenant, limit, tier, client_ip, path, method, host, header.NAME, query.NAME, \
                        cookie.NAME, jwt_claim.NAME or entry.KEY";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub gateway: Option<String>,
    pub api: Option<String>,
    pub tenant: Option<String>,
    pub limit: Option<String>,
    pub tier: Option<Tier>,
    /// Values by the keys of the entries that would report them. An empty one is that of requests that lack it.
    pub(super) parts: BTreeMap<String, Vec<u8>>,
    pub(super) client_ip: Option<IpAddr>,
}

/// Why a selection names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// There is nothing of that name.
    #[error("{0}")]
    Unknown(String),
    /// It makes no sense.
    #[error("{0}")]
    Unfit(String),
}

impl SelectionError {
    pub(super) fn unknown<'a>(what: &str, name: &str, there: impl Iterator<Item = &'a str>) -> Self {
        let help = nearest(name, there).map(|help| format!("; {help}")).unwrap_or_default();
        Self::Unknown(format!("no {what} is called {name:?}{help}"))
    }
}

impl Selection {
    pub fn of(gateway: Option<&str>, api: Option<&str>) -> Self {
        Self { gateway: gateway.map(str::to_owned), api: api.map(str::to_owned), ..Self::default() }
    }

    /// Reads it from parameters and their values.
    pub fn parse<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, SelectionError> {
        let mut selection = Self::default();
        let mut seen = BTreeSet::new();
        for (name, value) in pairs {
            if !seen.insert(name) {
                return Err(SelectionError::Unfit(format!("{name} stands twice")));
            }
            selection.take(name, value)?;
        }
        Ok(selection)
    }

    /// True where nothing is said that would leave some counters out.
    pub fn is_everything(&self) -> bool {
        [&self.gateway, &self.api, &self.tenant, &self.limit].into_iter().all(Option::is_none)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), SelectionError> {
        let place = match name {
            "gateway" => &mut self.gateway,
            "api" => &mut self.api,
            "tenant" => &mut self.tenant,
            "limit" => &mut self.limit,
            "tier" => {
                let tier = TIERS.into_iter().find(|tier| tier.as_str() == value);
                let expected = || format!("tier: found {value:?}, expected {}", TIERS.map(Tier::as_str).join(" or "));
                self.tier = Some(tier.ok_or_else(|| SelectionError::Unfit(expected()))?);
                return Ok(());
            }
            "client_ip" => {
                let expected = || format!("client_ip: found {value:?}, expected an IP address, as in 10.0.0.7");
                let address: IpAddr = value.parse().map_err(|_| SelectionError::Unfit(expected()))?;
                self.client_ip = Some(address);
                self.parts.insert(descriptor::CLIENT_IP.to_owned(), address.to_string().into_bytes());
                return Ok(());
            }
            _ => {
                self.parts.insert(key(name)?, spelling::read(value).into_owned());
                return Ok(());
            }
        };
        if value.is_empty() {
            return Err(SelectionError::Unfit(format!("{name}: expected a name")));
        }
        *place = Some(value.to_owned());
        Ok(())
    }

    /// Whether there are the Gateway and the Api that are named.
    pub fn check(&self, policies: &PolicySet) -> Result<(), SelectionError> {
        self.gateways(policies).map(drop)
    }

    /// The gateways whose counters may be meant, in the order of their names.
    pub(super) fn gateways<'a>(&self, policies: &'a PolicySet) -> Result<Vec<&'a Gateway>, SelectionError> {
        let gateways: Vec<&Arc<Gateway>> = match &self.gateway {
            Some(name) => {
                let there = policies.gateways.keys().map(|name| name.as_str());
                let gateway = policies.gateways.get(name.as_str());
                vec![gateway.ok_or_else(|| SelectionError::unknown("Gateway", name, there))?]
            }
            None => policies.gateways.sorted().into_iter().map(|(_, gateway)| gateway).collect(),
        };
        let Some(name) = &self.api else { return Ok(gateways.into_iter().map(|gateway| &**gateway).collect()) };
        let there = policies.apis.names().map(|name| name.as_str());
        let api = policies.apis.get(name).ok_or_else(|| SelectionError::unknown("Api", name, there))?;
        let own: Vec<&Gateway> =
            gateways.into_iter().filter(|gateway| gateway.name == api.gateway).map(|gateway| &**gateway).collect();
        if own.is_empty() {
            let why = format!("the Api {name:?} is one of Gateway {}", api.gateway);
            return Err(SelectionError::Unfit(why));
        }
        Ok(own)
    }

    /// What is given, as the entries of a descriptor.
    pub(super) fn entries<'a>(&'a self, tenant: Option<(&'a [u8], &'a [u8])>) -> Vec<(&'a [u8], &'a [u8])> {
        let parts = self.parts.iter().map(|(key, value)| (key.as_bytes(), value.as_slice()));
        tenant.into_iter().chain(parts).collect()
    }
}

/// The key of what a parameter gives the value of.
fn key(name: &str) -> Result<String, SelectionError> {
    if [descriptor::PATH, descriptor::METHOD, descriptor::HOST].contains(&name) {
        return Ok(name.to_owned());
    }
    let named = name.split_once(['.', ':']).filter(|(kind, own)| NAMED.contains(kind) && !own.is_empty());
    match named {
        Some(("header", own)) if own.eq_ignore_ascii_case("host") => Ok(descriptor::HOST.to_owned()),
        Some(("header", own)) => Ok(format!("header:{}", own.to_ascii_lowercase())),
        Some((kind, own)) => Ok(format!("{kind}:{own}")),
        None => {
            let plain = EXPECTED.split([',', ' ']).filter(|word| !word.is_empty() && !word.contains('.'));
            let help = nearest(name, plain).map(|help| format!("; {help}")).unwrap_or_default();
            Err(SelectionError::Unfit(format!("unknown parameter {name:?}{help}; expected {EXPECTED}")))
        }
    }
}

/// The parameter that gives the value of a key.
pub(super) fn parameter(key: &str) -> String {
    match key {
        descriptor::CLIENT_IP => "client_ip".to_owned(),
        key => key.replacen(':', ".", 1),
    }
}
