//! Forms that are not the newest, for as long as an Envoy may have a route that reports in them.
//!
//! ```text
//! a generation takes the place of another -> what only the old one has is remembered, before the new one decides
//! a group is offered something held back  -> what only that has is remembered, before it is offered
//! no Envoy has such a route any more      -> an hour later it is forgotten
//! ```
//!
//! Whoever has routes keeps them in memory: offers, and the streams of Envoys that acknowledged them. So a form is had by
//! an Envoy of this replica while one of its routes is. Envoys that nobody here hears of show by their requests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::{Generation, Group};
use crate::clock::Timestamp;
use crate::limiter::matcher::{GatewayForms, Matcher};
use crate::limiter::older::OlderForms;
use crate::names::Name;
use crate::snapshot::Resources;
use crate::snapshot::resource::{Resource, ResourceType};

/// How long a form is remembered after the last sign that an Envoy has it.
const KEPT: Duration = Duration::from_secs(3600);
/// How many forms are remembered. Beyond that those go first whose last sign is the longest ago; their requests are then
/// counted by the newest limits that fit.
const FORMS_MAX: usize = 4096;

#[derive(Debug, Default)]
pub struct Forms {
    older: ArcSwap<OlderForms>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Every route configuration that is kept by somebody.
    routes: Vec<Routes>,
    /// The last sign of each older form.
    seen: HashMap<(Name, Box<str>), Timestamp>,
}

#[derive(Debug)]
struct Routes {
    resource: Weak<Resource>,
    gateway: Name,
    forms: GatewayForms,
}

impl Forms {
    pub fn older(&self) -> Guard<Arc<OlderForms>> {
        self.older.load()
    }

    /// Remembers what only the generation before has. To be called before the next one decides.
    pub(super) fn advance(&self, before: &Generation, next: &Generation, now: Timestamp) {
        let mut state = self.state.lock();
        for (gateway, resources) in &next.snapshot.groups {
            state.note_routes(gateway, &next.matcher, resources);
        }
        if !before.matcher.shares_gateways_with(&next.matcher) {
            let mut older = OlderForms::clone(&self.older.load());
            for (gateway, forms) in before.matcher.all_forms() {
                for id in forms.ids().filter(|id| !next.matcher.has(gateway, id)) {
                    state.remember(&mut older, &before.matcher, gateway, id, now);
                }
            }
            self.replace(&mut state, older, now, |_, _| false);
        }
    }

    /// Remembers what only a group has that is held back. To be called before it is offered.
    pub fn offer(&self, current: &Matcher, gateway: &Name, offered: &Group, now: Timestamp) {
        let Group { matcher: offered, resources, .. } = offered;
        let mut state = self.state.lock();
        state.note_routes(gateway, offered, resources);
        let Some(forms) = offered.forms(gateway) else { return };
        let mut older = OlderForms::clone(&self.older.load());
        for id in forms.ids().filter(|id| !current.has(gateway, id)) {
            state.remember(&mut older, offered, gateway, id, now);
        }
        self.replace(&mut state, older, now, |_, _| false);
    }

    /// Forgets what no Envoy has had for long. `has_elsewhere` tells of the Envoys of other replicas. To be called every
    /// few minutes at least: from one call to the next nobody looks whether an Envoy is gone.
    pub fn tend(&self, now: Timestamp, has_elsewhere: impl Fn(&Name, &str) -> bool) {
        let mut state = self.state.lock();
        let older = OlderForms::clone(&self.older.load());
        self.replace(&mut state, older, now, has_elsewhere);
    }

    /// The older forms that an Envoy of this replica has or is offered, as `gateway/id`.
    pub fn had(&self) -> Vec<String> {
        let mut state = self.state.lock();
        let had = state.had();
        let older = self.older.load();
        let had = had.into_iter().filter(|(gateway, id)| older.has(gateway, id));
        let mut had: Vec<_> = had.map(|(gateway, id)| format!("{gateway}/{id}")).collect();
        had.sort();
        had
    }

    fn replace(
        &self,
        state: &mut State,
        mut older: OlderForms,
        now: Timestamp,
        has_elsewhere: impl Fn(&Name, &str) -> bool,
    ) {
        state.forget(&mut older, now, has_elsewhere);
        self.older.store(Arc::new(older));
    }
}

impl State {
    fn note_routes(&mut self, gateway: &Name, matcher: &Matcher, resources: &Resources) {
        let Some(forms) = matcher.forms(gateway) else { return };
        for resource in resources.of_type(ResourceType::Route).by_name.values() {
            let resource = Arc::downgrade(resource);
            if !self.routes.iter().any(|routes| routes.resource.ptr_eq(&resource)) {
                self.routes.push(Routes { resource, gateway: gateway.clone(), forms: forms.clone() });
            }
        }
    }

    fn remember(&mut self, older: &mut OlderForms, matcher: &Matcher, gateway: &Name, id: &str, now: Timestamp) {
        older.remember(matcher, gateway, id);
        self.seen.insert((gateway.clone(), id.into()), now);
    }

    fn had(&mut self) -> HashSet<(Name, Box<str>)> {
        self.routes.retain(|routes| routes.resource.strong_count() > 0);
        let ids = |routes: &Routes| -> Vec<_> {
            routes.forms.ids().map(|id| (routes.gateway.clone(), Box::from(id))).collect()
        };
        self.routes.iter().flat_map(ids).collect()
    }

    fn forget(&mut self, older: &mut OlderForms, now: Timestamp, has_elsewhere: impl Fn(&Name, &str) -> bool) {
        let had = self.had();
        let seen = &mut self.seen;
        older.retain(|gateway, id, is_used| {
            let key = (gateway.clone(), Box::from(id));
            if is_used || had.contains(&key) || has_elsewhere(gateway, id) {
                seen.insert(key, now);
                return true;
            }
            seen.get(&key).is_some_and(|at| now.since(*at) < KEPT)
        });
        if older.len() > FORMS_MAX {
            let mut all: Vec<_> = seen.values().copied().collect();
            all.sort_unstable();
            let excess = older.len() - FORMS_MAX;
            let newest_to_go = all.get(excess.saturating_sub(1)).copied().unwrap_or_default();
            older.retain(|gateway, id, _| {
                seen.get(&(gateway.clone(), Box::from(id))).is_some_and(|at| *at > newest_to_go)
            });
        }
        seen.retain(|(gateway, id), _| older.has(gateway, id));
    }
}
