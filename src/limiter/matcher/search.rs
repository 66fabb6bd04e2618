//! The limits of one request, descriptor by descriptor.

use std::sync::Arc;

use super::pick::{Tenancy, TenantLists, pick};
use super::prepared::Prepared;
use super::{Age, Described, Found, GatewayLimits, LastLimits, Matcher, Tier, at_api, keys_at_api, keys_of_tenant};
use crate::limiter::key::{KeyHasher, KeyPart};
use crate::limiter::older::OlderForms;
use crate::names::{FormId, Name, Reported, descriptor};

/// The search for the limits of one request.
pub(super) struct Search<'a, 'f> {
    pub(super) matcher: &'a Matcher,
    pub(super) older: &'a OlderForms,
    /// The name that the request gives the gateway.
    pub(super) name: &'a str,
    /// `None`: the newest policies know no such gateway.
    pub(super) gateway: Option<&'a Arc<GatewayLimits>>,
    /// Where the caller has it: it is large, and a copy would be felt.
    pub(super) found: &'f mut Option<Found<'a>>,
}

impl<'a> Search<'a, '_> {
    /// `None` where the descriptor is none of ours.
    pub(super) fn describe(&mut self, described: &Described<'a>) -> Option<()> {
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
        found.add(api.limits.iter().map(|prepared| prepared.apply(Tier::Api, &api.keys, described)));
        if let Some(rule) = &gateway.tenant {
            let tenancy = self.matcher.tenancy(rule);
            let lists = tenancy.tenant(described.entries).and_then(|tenant| {
                let lists = tenancy.limits(&tenant, Some(&api.name))?;
                Ok((tenant, lists))
            });
            match lists {
                Ok((tenant, TenantLists { over_all, for_api })) => {
                    let keys = keys_of_tenant(&gateway.tenant_keys, &tenant);
                    self.add_tenant(keys, &api.at_api, over_all.iter(), for_api.iter(), described);
                }
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
        let key = self.matcher.keys_of_api(self.name, name);
        let picked = pick(newest.map(|api| &api.limits[..]), last.as_ref().map(|(api, _)| &api.limits[..]), &form);
        found.add(picked.limits.iter().map(|prepared| prepared.apply(Tier::Api, &key, described)));
        let mut is_short = picked.is_short;
        if form.has(Reported::TENANT) {
            let last = last.as_ref().and_then(|(api, tenancy)| Some((&api.name, tenancy.as_ref()?)));
            is_short |= self.describe_older_tenant(name, newest.map(|api| &api.name), last, &form, described);
        }
        if is_short && let Some(found) = self.found.as_mut() {
            found.miss();
        }
        Some(())
    }

    /// True where there are limits that the form does not allow for, and no last ones instead.
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
                let keys = keys_of_tenant(&self.matcher.keys_of_tenants(self.name), &tenant);
                let at_api = at_api(&self.matcher.keys, api);
                let (all, of_api) = (over_all.limits.iter().copied(), for_api.limits.iter().copied());
                self.add_tenant(keys, &at_api, all, of_api, described);
                over_all.is_short || for_api.is_short
            }
            Err(denial) => {
                if let Some(found) = self.found.as_mut() {
                    found.deny(denial);
                }
                false
            }
        }
    }

    fn add_tenant(
        &mut self,
        keys: KeyHasher,
        at_api: &[KeyPart; 2],
        over_all: impl Iterator<Item = &'a Prepared>,
        for_api: impl ExactSizeIterator<Item = &'a Prepared>,
        described: &Described<'a>,
    ) {
        let Some(found) = self.found.as_mut() else { return };
        found.add(over_all.map(|prepared| prepared.apply(Tier::Tenant, &keys, described)));
        if for_api.len() > 0 {
            let keys = keys_at_api(keys, at_api);
            found.add(for_api.map(|prepared| prepared.apply(Tier::Tenant, &keys, described)));
        }
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
                let keys = match self.gateway {
                    Some(gateway) => gateway.list_keys.clone(),
                    None => self.matcher.keys_of_lists(self.name),
                };
                let key = prepared.add_entries(keys, described.entries);
                found.add([prepared.apply(Tier::RateLimits, &key, described)]);
            }
            None => found.miss(),
        }
        Some(())
    }

    /// The limits that the id was last counted by. A gateway that is gone is known by it.
    fn last_limits(&mut self, id: &str) -> Option<&'a LastLimits> {
        let older = self.older.get(self.name, id)?;
        self.found.get_or_insert_with(|| Found::new(older.gateway(), older.on_error()));
        Some(older.last_limits())
    }
}
