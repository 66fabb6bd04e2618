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
    /// Every route configuration that is kept by somebody, by its gateway.
    routes: HashMap<Name, Vec<Routes>>,
    /// The last sign of each older form.
    seen: HashMap<(Name, Box<str>), Timestamp>,
}

#[derive(Debug)]
struct Routes {
    resource: Weak<Resource>,
    forms: GatewayForms,
}

impl Forms {
    pub fn older(&self) -> Guard<Arc<OlderForms>> {
        self.older.load()
    }

    /// Remembers what only the generation before has. To be called before the next one decides. The routes of the `served`
    /// one are known.
    pub(super) fn advance(&self, served: &Generation, before: &Generation, next: &Generation, now: Timestamp) {
        let mut state = self.state.lock();
        let (known, groups) = (&served.snapshot.groups, &next.snapshot.groups);
        for (gateway, resources) in groups.differing(known, Arc::ptr_eq).filter_map(|name| groups.get_key_value(name)) {
            state.note_routes(gateway, &next.matcher, resources);
        }
        let mut lost = before.matcher.forms_lost_in(&next.matcher).peekable();
        let has = |generation: &Generation, gateway: &Name| generation.matcher.forms(gateway).is_some();
        let is_gone = |gateway: &&Name| has(before, gateway) && !has(next, gateway);
        let gone: Vec<Name> = self.older.load().gateways().filter(is_gone).cloned().collect();
        if lost.peek().is_some() || !gone.is_empty() {
            let mut older = OlderForms::clone(&self.older.load());
            lost.for_each(|(gateway, id)| state.remember(&mut older, &before.matcher, gateway, id, now));
            gone.iter().for_each(|gateway| older.remember_identities(&before.matcher, gateway));
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
        state.forget_routes();
        let older = state.seen.keys().filter(|(gateway, id)| state.is_had(gateway, id));
        let mut had: Vec<_> = older.map(|(gateway, id)| format!("{gateway}/{id}")).collect();
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

impl Routes {
    fn are_kept(&self) -> bool {
        self.resource.strong_count() > 0
    }
}

impl State {
    fn note_routes(&mut self, gateway: &Name, matcher: &Matcher, resources: &Resources) {
        let Some(forms) = matcher.forms(gateway) else { return };
        let known = self.routes.entry(gateway.clone()).or_default();
        known.retain(Routes::are_kept);
        for resource in resources.of_type(ResourceType::Route).by_name.values() {
            let resource = Arc::downgrade(resource);
            if !known.iter().any(|routes| routes.resource.ptr_eq(&resource)) {
                known.push(Routes { resource, forms: forms.clone() });
            }
        }
    }

    fn remember(&mut self, older: &mut OlderForms, matcher: &Matcher, gateway: &Name, id: &str, now: Timestamp) {
        older.remember(matcher, gateway, id);
        self.seen.insert((gateway.clone(), id.into()), now);
    }

    fn forget_routes(&mut self) {
        self.routes.retain(|_, of_gateway| {
            of_gateway.retain(Routes::are_kept);
            !of_gateway.is_empty()
        });
    }

    /// True where somebody has a route that reports in the form.
    fn is_had(&self, gateway: &Name, id: &str) -> bool {
        self.routes.get(gateway).is_some_and(|of_gateway| of_gateway.iter().any(|routes| routes.forms.has(id)))
    }

    fn forget(&mut self, older: &mut OlderForms, now: Timestamp, has_elsewhere: impl Fn(&Name, &str) -> bool) {
        self.forget_routes();
        older.retain(|gateway, id, is_used| {
            let key = (gateway.clone(), Box::from(id));
            if is_used || self.is_had(gateway, id) || has_elsewhere(gateway, id) {
                self.seen.insert(key, now);
                return true;
            }
            self.seen.get(&key).is_some_and(|at| now.since(*at) < KEPT)
        });
        let excess = older.len().saturating_sub(FORMS_MAX);
        if excess > 0 {
            let mut all: Vec<_> = self.seen.iter().filter(|((gateway, id), _)| older.has(gateway, id)).collect();
            all.sort_unstable_by_key(|(_, at)| **at);
            let longest_ago: HashSet<_> = all.into_iter().take(excess).map(|(key, _)| key).collect();
            older.retain(|gateway, id, _| !longest_ago.contains(&(gateway.clone(), Box::from(id))));
        }
        self.seen.retain(|(gateway, id), _| older.has(gateway, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::{Documents, split};
    use crate::limiter::key::KeyHasher;
    use crate::live::{Live, Settings, Writer};
    use crate::names::Revision;
    use crate::names::certificate::{ClientCertificate, San};

    const HOUR: u64 = 3600;

    /// A writer of one Api, and the routes of each generation.
    struct World {
        live: Arc<Live>,
        writer: Writer,
        now: Timestamp,
    }

    impl World {
        fn new() -> Self {
            let rate_limit_service = RateLimitService::default();
            let (live, writer) = Live::new(Settings {
                rate_limit_service,
                counter_keys: KeyHasher::seeded([5; 16]),
                allow_empty: false,
            });
            Self { live, writer, now: Timestamp::from_nanos(1) }
        }

        /// Serves the Api that counts by a header. Gives its routes, as an Envoy has them.
        fn serve(&mut self, header: &str) -> Arc<Resource> {
            let limits = format!("limits: [{{rate: 5/h, by: [{{header: {header}}}]}}]");
            self.serve_all(&format!(
                "---\n{{kind: Api, name: create, gateway: shop, match: {{path: /}}, service: order, {limits}}}\n"
            ))
        }

        fn serve_all(&mut self, apis: &str) -> Arc<Resource> {
            self.serve_documents(&format!(
                "{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1'}}\n{apis}"
            ));
            let group = self.live.latest().group("shop").unwrap();
            Arc::clone(&group.resources.of_type(ResourceType::Route).by_name["shop"])
        }

        fn serve_documents(&mut self, documents: &str) {
            let service = "{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}";
            let documents = split(&"p.yaml".into(), format!("{service}\n---\n{documents}").as_bytes());
            self.writer.adopt(&Documents::new(Revision::default(), documents), self.now);
            assert!(self.live.refused().is_empty(), "{:?}", self.live.refused());
        }

        /// What becomes of a request with this descriptor, of somebody with this certificate.
        fn ask(&self, id: &str, name: &str) -> Result<bool, ()> {
            let entries = [(&b"api"[..], id.as_bytes())];
            let described = [crate::limiter::matcher::Described { entries: &entries, hits: 1 }];
            let asked = crate::limiter::matcher::Asked { gateway: "shop", descriptors: &described };
            let certificate = ClientCertificate { sans: San::parse(name).into_iter().collect(), not_after: None };
            let (generation, older) = (self.live.latest(), self.live.forms.older());
            let found = generation.matcher.find_for(Some(&certificate), &asked, &older);
            found.map(|found| found.is_some()).map_err(drop)
        }

        fn tend(&mut self, after_secs: u64, elsewhere: &str) -> usize {
            self.now = self.now.plus_nanos(after_secs * 1_000_000_000);
            self.live.forms.tend(self.now, |gateway, id| format!("{gateway}/{id}") == elsewhere);
            self.live.forms.older().len()
        }
    }

    #[test]
    fn an_older_form_is_remembered_while_somebody_has_its_routes_and_for_an_hour_after() {
        let mut world = World::new();
        let routes = world.serve("x-a");
        assert_eq!(world.live.forms.older().len(), 0);
        world.serve("x-b");
        assert_eq!((world.tend(9 * HOUR, ""), world.live.forms.had().len()), (1, 1));
        drop(routes);
        assert_eq!((world.tend(HOUR - 1, ""), world.live.forms.had().len()), (1, 0));
        assert_eq!(world.tend(1, ""), 0);
    }

    #[test]
    fn requests_and_other_replicas_show_that_an_envoy_has_it() {
        let mut world = World::new();
        let gateway = Name::parse("shop").unwrap();
        world.serve("x-a");
        let id = world.live.latest().matcher.forms(&gateway).unwrap().ids().next().unwrap().to_owned();
        world.serve("x-b");
        assert_eq!(world.tend(2 * HOUR, &format!("shop/{id}")), 1);
        let entries = [(&b"api"[..], id.as_bytes())];
        let described = [crate::limiter::matcher::Described { entries: &entries, hits: 1 }];
        let asked = crate::limiter::matcher::Asked { gateway: "shop", descriptors: &described };
        assert!(world.live.latest().matcher.find(&asked, &world.live.forms.older()).is_some());
        assert_eq!(world.tend(2 * HOUR, ""), 1, "a request came");
        assert_eq!(world.tend(2 * HOUR, ""), 0);
    }

    /// Whom a gateway is for is said by the newest policies that have it, whichever its routes are made from.
    #[test]
    fn a_gateway_that_is_gone_stays_for_whom_it_was_last() {
        let gateway = |identities: &str| {
            format!("{{kind: Gateway, name: shop, nodes: {{clusters: [edge]}}, {identities} listen: '127.0.0.1:1'}}\n")
        };
        let api = |header: &str| {
            let limits = format!("limits: [{{rate: 5/h, by: [{{header: {header}}}]}}]");
            format!("---\n{{kind: Api, name: create, gateway: shop, match: {{path: /}}, service: order, {limits}}}\n")
        };
        let of_edge = "identities: [edge.shop],";
        let mut world = World::new();
        world.serve_documents(&(gateway("") + &api("x-a")));
        let id = |world: &World| {
            let forms = world.live.latest().matcher.forms(&Name::parse("shop").unwrap()).unwrap();
            forms.ids().next().unwrap().to_owned()
        };
        let first = id(&world);
        assert_eq!(world.ask(&first, "other.shop"), Ok(true), "it is for all");
        world.serve_documents(&(gateway(of_edge) + &api("x-b")));
        let second = id(&world);
        for id in [&first, &second, "nothing/"] {
            assert_eq!(world.ask(id, "other.shop"), Err(()), "{id}");
            assert_eq!(world.ask(id, "edge.shop"), Ok(true), "{id}");
        }
        // Without Apis it has no form any more that could be remembered with it.
        world.serve_documents(&gateway("identities: [new.shop],"));
        world.serve_documents("{kind: Service, name: pay, endpoints: ['127.0.0.1:9102']}");
        for id in [&first, &second] {
            assert_eq!((world.ask(id, "edge.shop"), world.ask(id, "new.shop")), (Err(()), Ok(true)), "{id}");
        }
        world.tend(2 * HOUR, "");
        world.tend(2 * HOUR, "");
        assert_eq!(world.ask(&first, "edge.shop"), Ok(false), "nobody knows it any more");
    }

    #[test]
    fn a_form_that_is_the_newest_again_is_no_older_one_for_long() {
        let mut world = World::new();
        let _first = world.serve("x-a");
        world.serve("x-b");
        let routes = world.serve("x-a");
        assert_eq!(world.tend(0, ""), 2);
        assert_eq!(world.tend(HOUR, ""), 1, "the form that the first one has is the newest, too");
        drop(routes);
    }

    #[test]
    fn the_number_of_forms_is_bounded() {
        let mut world = World::new();
        let api = |number| {
            format!("---\n{{kind: Api, name: n{number}, gateway: shop, match: {{path: /{number}}}, service: order}}\n")
        };
        world.serve_all(&(0..FORMS_MAX + 10).map(api).collect::<String>());
        world.serve_all("");
        assert_eq!(world.live.forms.older().len(), FORMS_MAX);
    }
}
