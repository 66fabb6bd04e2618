//! From a source's documents to a set that can be served: every document in its new version where that fits,
//! in its last good version where not.
//!
//! A problem among documents is blamed on what changed. If `Api pay` refers to `Service pay` and the service is
//! deleted, the deletion changed, so the service stays; if the Api is new, the Api is refused. Reverting what
//! changed can only end at the set that was served, which has no problems, so it always ends.
//!
//! What is refused is tried again when a document changes that has a part in its problems, and not before: a change
//! costs what it touches, however many other documents are refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Generation;
use super::offered::{Offered, Updated, remove_of};
use super::refusals::{Place, Refusal, Refusals};
use super::waiting::Waiting;
use crate::clock::Timestamp;
use crate::document::{Document, Documents, Origin};
use crate::names::DocumentId;
use crate::policy::parse::{Parsed, Refused};
use crate::policy::problem::{PROBLEMS_MAX, Problem};
use crate::policy::set::{ParsedById, PolicySet, doubled};

/// State from one set of the source to the next.
#[derive(Debug, Default)]
pub(super) struct Adopter {
    offered: Offered,
    /// Documents to be compared with the source whether it says that they changed or not.
    open: BTreeSet<DocumentId>,
    /// Documents that do not fit the others.
    waiting: Waiting,
    /// Documents that are served although the source has nothing of them, by the file or key that they were in, and by
    /// each folder above it.
    kept: HashMap<Arc<str>, BTreeSet<DocumentId>>,
    refusals: Arc<Refusals>,
    /// How many documents the last change was a reason to look at.
    #[cfg(test)]
    tried: usize,
}

/// The set that can be served, in which the changed documents differ from the one before.
pub(super) struct Adoption {
    pub(super) documents: ParsedById,
    pub(super) policies: PolicySet,
    pub(super) changed: BTreeSet<DocumentId>,
    pub(super) refusals: Arc<Refusals>,
}

impl Adopter {
    /// Begins with a set that did not come from the source: whether the source has each of its documents is open.
    pub(super) fn after(restored: &Generation) -> Self {
        Self { open: restored.documents.keys().cloned().collect(), ..Self::default() }
    }

    /// Adopts as much of the set as fits together. A document that is served or `announced` with the same content is not
    /// parsed again.
    pub(super) fn adopt(
        &mut self,
        base: &Generation,
        documents: &Documents,
        announced: &[Arc<Parsed>],
        now: Timestamp,
    ) -> Adoption {
        let mut known = base.documents.clone();
        announced.iter().for_each(|parsed| drop(known.insert(parsed.id.clone(), Arc::clone(parsed))));
        let updated = self.offered.update(&documents.documents, &known);
        let tried = self.affected(&updated);
        let mut attempt = Attempt {
            base,
            offered: &self.offered,
            candidate: base.documents.clone(),
            tried,
            reverted: BTreeMap::new(),
            problems: Vec::new(),
        };
        attempt.take_what_is_offered();
        let (policies, changed) = attempt.link(documents.instances.is_some());
        let broken = attempt.refusals_of_broken(&updated);
        let unfit = attempt.refusals_of_unfit();
        let Attempt { candidate, tried, .. } = attempt;
        for (id, served) in tried.iter().filter_map(|id| Some((id, base.documents.get(id)?))) {
            let is_kept = self.offered.of(id).is_empty() && candidate.contains_key(id);
            for container in served.document.origin.containers() {
                remove_of(&mut self.kept, container, id);
                if is_kept {
                    self.kept.entry(container.into()).or_default().insert(id.clone());
                }
            }
        }
        tried.iter().for_each(|id| self.waiting.no_longer(id));
        let mut refusals = broken;
        for Unfit { id, refusal, awaits } in unfit {
            self.waiting.wait(&id, awaits);
            refusals.push((Place::Unfit(id), refusal));
        }
        let gone = updated.no_longer_broken.into_iter().map(Place::Broken);
        self.replace_refusals(gone.chain(tried.iter().cloned().map(Place::Unfit)), refusals, now);
        let refusals = Arc::clone(&self.refusals);
        #[cfg(test)]
        {
            self.tried = tried.len();
        }
        Adoption { documents: candidate, policies, changed, refusals }
    }

    /// Documents whose served version may change: the changed ones, and those that are refused or kept because of them.
    fn affected(&mut self, updated: &Updated) -> BTreeSet<DocumentId> {
        let mut ids = std::mem::take(&mut self.open);
        ids.extend(updated.ids.iter().cloned());
        let claims = ids.iter().flat_map(|id| self.offered.broken_claims(id));
        let origins = updated.no_longer_broken.iter().chain(&updated.newly_broken).chain(claims);
        let containers: HashSet<Arc<str>> = origins.map(|origin| Arc::clone(origin.container())).collect();
        ids.extend(containers.iter().filter_map(|container| self.kept.get(container)).flatten().cloned());
        self.waiting.with_waiters(ids)
    }

    /// A refusal is as old as its mistake, also where the document has moved within its container.
    fn replace_refusals(&mut self, gone: impl Iterator<Item = Place>, new: Vec<(Place, Refusal)>, now: Timestamp) {
        let gone: Vec<Place> = gone.filter(|place| self.refusals.has(place)).collect();
        if gone.is_empty() && new.is_empty() {
            return;
        }
        let refusals = Arc::make_mut(&mut self.refusals);
        let replaced = gone.iter().chain(new.iter().map(|(place, _)| place));
        let replaced = replaced.filter_map(|place| refusals.remove(place));
        let mistake = |refusal: &Refusal| (refusal.id.clone(), Arc::clone(refusal.origin.container()));
        let since: HashMap<_, _> = replaced.map(|refusal| (mistake(&refusal), refusal.since)).collect();
        for (place, mut refusal) in new {
            refusal.since = since.get(&mistake(&refusal)).copied().unwrap_or(now);
            refusals.insert(place, refusal);
        }
    }
}

struct Attempt<'a> {
    /// The served generation: the last good version of everything.
    base: &'a Generation,
    offered: &'a Offered,
    /// The documents to be served.
    candidate: ParsedById,
    /// Documents whose served version may change.
    tried: BTreeSet<DocumentId>,
    /// Documents left at their served version because the change does not fit, each with the problems that were reason to
    /// leave it there, by their places among all. What else its served version has a part in later is no reason.
    reverted: BTreeMap<DocumentId, BTreeSet<usize>>,
    problems: Vec<Problem>,
}

/// A document that does not fit the others.
struct Unfit {
    id: DocumentId,
    refusal: Refusal,
    /// The other documents that have a part in its problems.
    awaits: BTreeSet<DocumentId>,
}

impl Attempt<'_> {
    fn take_what_is_offered(&mut self) {
        let mut has_strangers = HashMap::new();
        for id in std::mem::take(&mut self.tried) {
            match self.offered.of(&id) {
                [] => self.take_away(&id, &mut has_strangers),
                [only] => drop(self.candidate.insert(id.clone(), Arc::clone(only))),
                several => {
                    let first = several.get(..PROBLEMS_MAX).unwrap_or(several);
                    let known = self.problems.len();
                    self.problems.extend(doubled(first));
                    self.revert(id.clone(), (known..self.problems.len()).collect());
                }
            }
            self.tried.insert(id);
        }
    }

    /// A document that cannot be parsed is not a deletion: its last good version stays. Where it does not say who it is,
    /// or names somebody unknown because its name was cut off, it may be any document that its container held.
    fn take_away(&mut self, id: &DocumentId, has_strangers: &mut HashMap<Arc<str>, bool>) {
        let Some(served) = self.base.documents.get(id) else {
            self.candidate.remove(id);
            return;
        };
        if self.offered.broken_claims(id).next().is_some() {
            return;
        }
        let origin = &served.document.origin;
        let is_kept = match has_strangers.get(origin.container()) {
            Some(is_kept) => *is_kept,
            None => *has_strangers.entry(Arc::clone(origin.container())).or_insert(self.has_strangers(origin)),
        };
        if !is_kept {
            self.candidate.remove(id);
        }
    }

    fn has_strangers(&self, origin: &Origin) -> bool {
        let is_known = |id: &DocumentId| self.base.documents.contains_key(id) || !self.offered.of(id).is_empty();
        let is_stranger =
            |broken: &Refused| broken.document.origin.id().is_none() && !broken.id.as_ref().is_some_and(is_known);
        origin.containers().flat_map(|container| self.offered.broken_in(container)).any(is_stranger)
    }

    fn link(&mut self, has_registry: bool) -> (PolicySet, BTreeSet<DocumentId>) {
        loop {
            let changed = self.tried.iter().filter(|id| self.is_changed(id)).cloned().collect();
            let linked = PolicySet::link(&self.base.policies, &self.candidate, &changed);
            let checked = linked.and_then(|policies| {
                let problems = if has_registry { Vec::new() } else { policies.registry_problems(&self.candidate) };
                if problems.is_empty() { Ok(policies) } else { Err(problems) }
            });
            match checked {
                Ok(policies) => return (policies, changed),
                Err(problems) => self.revert_what_changed(problems),
            }
        }
    }

    fn revert_what_changed(&mut self, problems: Vec<Problem>) {
        let places = || self.problems.len()..;
        let mut to_blame: BTreeMap<DocumentId, BTreeSet<usize>> = BTreeMap::new();
        for (place, problem) in places().zip(&problems) {
            for id in problem.involves.iter().filter(|id| self.is_changed(id)) {
                to_blame.entry(id.clone()).or_default().insert(place);
            }
        }
        if to_blame.is_empty() {
            // Documents that were served together have no problems with each other. Should they have one after
            // all, they go, before this could go on for ever.
            for (place, id) in places().zip(&problems).filter_map(|(at, problem)| Some((at, problem.document.clone()?)))
            {
                to_blame.entry(id).or_default().insert(place);
            }
            to_blame.keys().for_each(|id| drop(self.candidate.remove(id)));
            self.tried.extend(to_blame.keys().cloned());
            self.reverted.extend(to_blame);
        } else {
            to_blame.into_iter().for_each(|(id, reasons)| self.revert(id, reasons));
        }
        let problems: Vec<_> = problems.into_iter().map(|problem| self.because_of_broken(problem)).collect();
        self.problems.extend(problems);
    }

    /// The problem in other words where it says that a document is missing which is there and makes no sense.
    fn because_of_broken(&self, problem: Problem) -> Problem {
        let is_broken = |id: &&DocumentId| self.offered.broken_claims(id).next().is_some();
        let is_other = |id: &&DocumentId| problem.document.as_ref() != Some(*id) && !self.candidate.contains_key(*id);
        match problem.involves.iter().filter(is_other).find(is_broken) {
            Some(id) => Problem {
                message: format!("{id} is refused, and no earlier version of it is served"),
                help: None,
                ..problem
            },
            None => problem,
        }
    }

    /// Where a document stands makes no difference.
    fn is_changed(&self, id: &DocumentId) -> bool {
        match (self.candidate.get(id), self.base.documents.get(id)) {
            (Some(new), Some(old)) => {
                let (new, old) = (&new.document, &old.document);
                (new.revision, &new.content) != (old.revision, &old.content)
            }
            (new, old) => new.is_some() != old.is_some(),
        }
    }

    fn revert(&mut self, id: DocumentId, reasons: BTreeSet<usize>) {
        match self.base.documents.get(&id) {
            Some(parsed) => drop(self.candidate.insert(id.clone(), Arc::clone(parsed))),
            None => drop(self.candidate.remove(&id)),
        }
        self.reverted.insert(id, reasons);
    }

    /// Of the documents that are broken now and were not, and of those that claim to be somebody who was tried: an earlier
    /// version may be served by now, or none any more.
    fn refusals_of_broken(&self, updated: &Updated) -> Vec<(Place, Refusal)> {
        let claims = self.tried.iter().flat_map(|id| self.offered.broken_claims(id));
        let origins: BTreeSet<_> = updated.newly_broken.iter().chain(claims).collect();
        let broken = origins.into_iter().filter_map(|origin| Some((origin, self.offered.broken_at(origin)?)));
        let refusal = |broken: &Refused| {
            let is_served = broken.id.as_ref().is_some_and(|id| self.candidate.contains_key(id));
            refusal(broken.id.clone(), &broken.document, broken.problems.clone(), is_served)
        };
        broken.map(|(origin, broken)| (Place::Broken(origin.clone()), refusal(broken))).collect()
    }

    fn refusals_of_unfit(&self) -> Vec<Unfit> {
        let problems = |reasons: &BTreeSet<usize>| -> Vec<&Problem> {
            reasons.iter().filter_map(|place| self.problems.get(*place)).collect()
        };
        self.reverted.iter().filter_map(|(id, reasons)| self.refusal_of_unfit(id, &problems(reasons))).collect()
    }

    /// `None` for a document that neither the source nor the served set knows: nothing of it is refused.
    fn refusal_of_unfit(&self, id: &DocumentId, problems: &[&Problem]) -> Option<Unfit> {
        let offered = self.offered.of(id).first();
        let document = &offered.or_else(|| self.base.documents.get(id))?.document;
        let is_own = |problem: &&&Problem| problem.document.as_ref() == Some(id);
        let own: Vec<&Problem> = problems.iter().filter(is_own).take(PROBLEMS_MAX).copied().collect();
        let reasons = match offered {
            Some(_) if own.is_empty() => problems.iter().take(PROBLEMS_MAX).copied().collect(),
            Some(_) => own,
            None => problems.iter().filter(|problem| problem.document.is_some()).take(1).copied().collect(),
        };
        let told = match offered {
            Some(_) => reasons.iter().copied().cloned().collect(),
            None => reasons.iter().filter_map(|problem| self.kept_for(id, problem)).collect(),
        };
        let awaits = reasons.iter().flat_map(|problem| problem.involves.iter().chain(&problem.document));
        let awaits = awaits.filter(|other| *other != id).cloned().collect();
        let refusal = refusal(Some(id.clone()), document, told, self.candidate.contains_key(id));
        Some(Unfit { id: id.clone(), refusal, awaits })
    }

    /// The problem of a document that was taken away while another still needs it.
    fn kept_for(&self, id: &DocumentId, problem: &Problem) -> Option<Problem> {
        let user = problem.document.as_ref()?;
        Some(Problem {
            origin: self.base.documents.get(id)?.document.origin.clone(),
            document: Some(id.clone()),
            path: String::new(),
            message: format!("is gone from the source, but {user} still refers to it; its last version stays"),
            help: None,
            involves: vec![id.clone()],
            place: None,
        })
    }
}

fn refusal(id: Option<DocumentId>, document: &Document, problems: Vec<Problem>, is_served: bool) -> Refusal {
    let (origin, revision, content) = (document.origin.clone(), document.revision, document.content.clone().ok());
    Refusal { id, origin, revision, content, problems, since: Timestamp::default(), is_served }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{Adopted, Live, Settings, Writer};
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::{Origin, Registered, split};
    use crate::limiter::key::KeyHasher;
    use crate::names::{Kind, Revision};
    use crate::policy::tree::parses;

    const SHOP: &str = "\
kind: Gateway
name: shop
nodes: {clusters: [edge]}
listen: 127.0.0.1:10000
---
kind: Service
name: order
endpoints: [127.0.0.1:9101]
---
kind: Api
name: create
gateway: shop
match: {path: /create}
service: order
limits: [{rate: 10/minute}]
";

    struct World {
        live: Arc<Live>,
        writer: Writer,
    }

    impl World {
        fn new() -> Self {
            let rate_limit_service = RateLimitService::default();
            let (live, writer) = Live::new(Settings {
                rate_limit_service,
                counter_keys: KeyHasher::seeded([0; 16]),
                allow_empty: false,
            });
            Self { live, writer }
        }

        fn serving(files: &[(&str, &str)]) -> Self {
            let mut world = Self::new();
            assert_eq!(world.adopt(files), Adopted::Served);
            assert_eq!(world.refused(), [""; 0]);
            world
        }

        fn adopt(&mut self, files: &[(&str, &str)]) -> Adopted {
            let documents = files.iter().flat_map(|(path, text)| split(&(*path).into(), text.as_bytes()));
            self.writer.adopt(&Documents::new(Revision::default(), documents), Timestamp::from_nanos(1))
        }

        /// Names of refused documents, with `!` where nothing of one is served.
        fn refused(&self) -> Vec<String> {
            let refused = self.live.refused();
            let show = |refusal: &Arc<Refusal>| {
                assert!(!refusal.problems.is_empty(), "{refusal:?} has no reason");
                let id = refusal.id.as_ref().map_or_else(|| refusal.origin.to_string(), ToString::to_string);
                if refusal.is_served { id } else { format!("{id}!") }
            };
            refused.sorted().into_iter().map(show).collect()
        }

        fn rate(&self) -> String {
            let generation = self.live.generation().unwrap();
            generation.policies.apis.get("create").unwrap().limits[0].rate.to_string()
        }

        fn generation(&self) -> u64 {
            self.live.generation().map_or(0, |generation| generation.number)
        }
    }

    #[test]
    fn a_good_change_is_served() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        assert_eq!(world.adopt(&[("a.yaml", &SHOP.replace("10/minute", "20/minute"))]), Adopted::Served);
        assert_eq!((world.rate().as_str(), world.generation()), ("20/minute", 2));
    }

    #[test]
    fn what_did_not_change_is_no_new_generation() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let moved = format!("# a comment on top\n---\n{SHOP}");
        assert_eq!(world.adopt(&[("b.yaml", &moved)]), Adopted::Unchanged);
    }

    #[test]
    fn a_typo_keeps_the_last_good_version_until_it_is_mended() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        assert_eq!(world.adopt(&[("a.yaml", &SHOP.replace("10/minute", "10/minit"))]), Adopted::Unchanged);
        assert_eq!((world.rate().as_str(), world.refused()), ("10/minute", vec!["Api create".to_owned()]));
        world.adopt(&[("a.yaml", &SHOP.replace("10/minute", "30/minute"))]);
        assert_eq!((world.rate().as_str(), world.refused()), ("30/minute", vec![]));
    }

    #[test]
    fn what_lacks_a_broken_document_is_told_that_it_is_broken() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let api = "{kind: Api, name: pay, gateway: shop, match: {path: /pay}, service: pay}";
        world.adopt(&[("a.yaml", SHOP), ("b.yaml", api), ("c.yaml", "{kind: Service, name: pay, dns: 7}")]);
        assert_eq!(world.refused(), ["Api pay!", "Service pay!"]);
        let refused = world.live.refused();
        let api = refused.iter().find(|refusal| refusal.origin.container().as_ref() == "b.yaml").unwrap();
        assert_eq!(api.problems[0].message, "Service pay is refused, and no earlier version of it is served");
    }

    #[test]
    fn the_rest_of_the_set_goes_on() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let other = "kind: Service\nname: pay\nendpoints: [127.0.0.1:1]\n";
        let broken = SHOP.replace("10/minute", "10/minit");
        assert_eq!(world.adopt(&[("a.yaml", &broken), ("b.yaml", other)]), Adopted::Served);
        assert!(world.live.generation().unwrap().policies.services.get("pay").is_some());
        assert_eq!(world.refused(), ["Api create"]);
    }

    #[test]
    fn a_document_that_was_cut_off_is_not_taken_for_deleted() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        for end in 1..SHOP.len() {
            world.adopt(&[("a.yaml", SHOP.get(..end).unwrap())]);
            let generation = world.live.generation().unwrap();
            assert!(generation.policies.gateways.contains_key("shop"), "cut at {end}");
        }
    }

    #[test]
    fn a_service_that_is_still_referred_to_stays() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let without = SHOP.replace("kind: Service\nname: order", "kind: Service\nname: other");
        world.adopt(&[("a.yaml", &without)]);
        assert_eq!(world.refused(), ["Service order"]);
        let refused = world.live.refused();
        assert!(refused.sorted()[0].problems[0].message.contains("Api create still refers to it"), "{refused:?}");
        assert!(world.live.generation().unwrap().policies.services.get("order").is_some());
    }

    #[test]
    fn a_new_document_that_refers_to_nothing_is_left_out() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let new = "kind: Api\nname: new\ngateway: shop\nmatch: {path: /new}\nservice: nowhere\n";
        assert_eq!(world.adopt(&[("a.yaml", SHOP), ("b.yaml", new)]), Adopted::Unchanged);
        assert_eq!(world.refused(), ["Api new!"]);
    }

    #[test]
    fn of_two_that_collide_the_newcomer_is_refused() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let new = "kind: Api\nname: another\ngateway: shop\nmatch: {path: /create}\nservice: order\n";
        world.adopt(&[("a.yaml", SHOP), ("b.yaml", new)]);
        assert_eq!(world.refused(), ["Api another!"]);
        assert_eq!(world.rate(), "10/minute");
    }

    #[test]
    fn a_name_that_is_taken_twice_keeps_what_was_served() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let double = "kind: Service\nname: order\nendpoints: [127.0.0.1:2]\n";
        world.adopt(&[("a.yaml", SHOP), ("b.yaml", double)]);
        assert_eq!(world.refused(), ["Service order"]);
        let service = world.live.generation().unwrap().policies.services.get("order").cloned().unwrap();
        assert!(format!("{:?}", service.discovery).contains("9101"));
    }

    #[test]
    fn at_the_start_what_makes_no_sense_is_left_out_and_the_rest_is_served() {
        let mut world = World::new();
        assert_eq!(world.adopt(&[("a.yaml", &SHOP.replace("service: order", "service: ordr"))]), Adopted::Served);
        assert_eq!(world.refused(), ["Api create!"]);
    }

    #[test]
    fn an_empty_folder_changes_nothing() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        assert_eq!(world.adopt(&[]), Adopted::Empty);
        assert_eq!(world.rate(), "10/minute");
        assert_eq!(World::new().adopt(&[]), Adopted::Empty);
    }

    #[test]
    fn a_file_that_cannot_be_read_deletes_nothing() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let origin = Origin::File { path: "a.yaml".into(), line: 1, number: 1 };
        let unreadable = Document { origin, revision: None, content: Err("cannot be read".into()) };
        let documents = Documents::new(Revision::default(), [unreadable]);
        assert_eq!(world.writer.adopt(&documents, Timestamp::default()), Adopted::Unchanged);
        assert_eq!(world.refused(), ["a.yaml:1!"]);
    }

    #[test]
    fn a_refusal_is_as_old_as_its_mistake() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let broken = SHOP.replace("10/minute", "10/minit");
        world.adopt(&[("a.yaml", &broken)]);
        let documents = Documents::new(Revision::default(), split(&"a.yaml".into(), broken.as_bytes()));
        world.writer.adopt(&documents, Timestamp::from_nanos(9));
        assert_eq!(world.live.refused().sorted()[0].since, Timestamp::from_nanos(1));
    }

    #[test]
    fn what_was_restored_is_the_last_good_version_of_what_the_source_has_broken() {
        let mut world = World::new();
        let other = "kind: Service\nname: gone\nendpoints: [127.0.0.1:1]\n";
        let restored = split(&"a.yaml".into(), format!("{SHOP}---\n{other}").as_bytes());
        let refused =
            world.writer.restore(&Documents::new(Revision(7), restored), Registered::default(), Timestamp::default());
        assert_eq!((refused.len(), world.generation()), (0, 0), "not served yet");
        assert_eq!(world.adopt(&[("a.yaml", &SHOP.replace("10/minute", "10/minit"))]), Adopted::Served);
        assert_eq!((world.rate().as_str(), world.refused()), ("10/minute", vec!["Api create".to_owned()]));
        assert!(
            world.live.generation().unwrap().policies.services.get("gone").is_none(),
            "the source does not have it"
        );
    }

    #[test]
    fn what_was_restored_is_served_as_it_is_where_the_source_says_nothing() {
        let mut world = World::new();
        assert!(!world.writer.serve_restored(Timestamp::default()));
        let restored = Documents::new(Revision(7), split(&"a.yaml".into(), SHOP.as_bytes()));
        world.writer.restore(&restored, Registered::default(), Timestamp::default());
        assert!(world.writer.serve_restored(Timestamp::default()));
        assert_eq!((world.rate().as_str(), world.generation()), ("10/minute", 1));
        assert!(!world.writer.serve_restored(Timestamp::default()), "it is served already");
        assert_eq!(world.adopt(&[("b.yaml", SHOP)]), Adopted::Unchanged);
        assert_eq!(world.adopt(&[("b.yaml", &SHOP.replace("10/minute", "9/minute"))]), Adopted::Served);
        assert_eq!((world.rate().as_str(), world.generation()), ("9/minute", 2));
    }

    #[test]
    fn a_first_set_of_which_nothing_makes_sense_is_no_empty_world() {
        let mut world = World::new();
        assert_eq!(world.adopt(&[("a.yaml", "kind: Gateway\nname: shop\n")]), Adopted::Unchanged);
        assert_eq!((world.generation(), world.refused()), (0, vec!["Gateway shop!".to_owned()]));
    }

    #[test]
    fn a_key_says_who_its_document_is() {
        let mut world = World::new();
        let key = |name: &str, revision, text: &str| Document {
            origin: Origin::Key {
                key: format!("/tierflow/policies/Service/{name}").into(),
                id: Some(DocumentId::new(crate::names::Kind::Service, name)),
            },
            revision: Some(Revision(revision)),
            content: Ok(text.as_bytes().into()),
        };
        let service = |name: &str| format!("kind: Service\nname: {name}\nendpoints: [127.0.0.1:1]\n");
        let mut adopt = |documents: Vec<Document>| {
            let adopted = world.writer.adopt(&Documents::new(Revision(9), documents), Timestamp::default());
            let names = |generation: Arc<Generation>| {
                let documents = generation.documents.values();
                let mut names: Vec<_> = documents.map(|p| (p.id.to_string(), p.document.revision.unwrap().0)).collect();
                names.sort();
                names
            };
            (adopted, world.live.generation().map_or_else(Vec::new, names), world.refused())
        };
        let served = |revision| vec![("Service a".to_owned(), revision)];
        assert_eq!(adopt(vec![key("a", 1, &service("a"))]), (Adopted::Served, served(1), vec![]));
        let other = adopt(vec![key("a", 2, &service("b"))]);
        assert_eq!(other, (Adopted::Unchanged, served(1), vec!["Service a".to_owned()]));
        assert_eq!(adopt(vec![key("a", 3, "{")]), (Adopted::Unchanged, served(1), vec!["Service a".to_owned()]));
        assert_eq!(adopt(vec![key("a", 4, &service("a"))]), (Adopted::Served, served(4), vec![]));
    }

    /// A shop with a plan, and as many tenants of each sort: served, broken, and of a plan that is not there.
    fn crowd(each: usize) -> Vec<(String, String)> {
        let gateway = "{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
          tenant: {from: {header: x-tenant-id}, default_plan: gold}}";
        let plan = "{kind: Plan, name: gold, limits: [{rate: 1/m}]}";
        let mut files = vec![("g.yaml".to_owned(), gateway.to_owned()), ("p.yaml".to_owned(), plan.to_owned())];
        let sorts = [("good", "plan: gold"), ("broken", "limits: [{rate: often}]"), ("unfit", "plan: silver")];
        files.extend(sorts.iter().flat_map(|(sort, fields)| {
            (0..each).map(move |n| {
                let text = format!("{{kind: Tenant, name: {sort}-{n}, {fields}}}");
                (format!("{sort}-{n}.yaml"), text)
            })
        }));
        files
    }

    fn adopt_all(world: &mut World, files: &[(String, String)]) -> Adopted {
        world.adopt(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
    }

    #[test]
    fn a_change_among_many_refused_documents_looks_at_itself_alone() {
        let (mut world, mut files) = (World::new(), crowd(100));
        adopt_all(&mut world, &files);
        let before = world.live.refused();
        assert_eq!(before.len(), 200);
        let good = files.iter_mut().find(|(path, _)| path == "good-7.yaml").unwrap();
        good.1 = good.1.replace("plan: gold", "plan: gold, limits: [{rate: 7/m}]");
        let parses = parses::during(|| assert_eq!(adopt_all(&mut world, &files), Adopted::Served));
        assert_eq!((parses, world.writer.adopter.tried), (1, 1));
        assert!(Arc::ptr_eq(&before, &world.live.refused()), "they are not even written down anew");
        // One of them that stays refused, otherwise than before.
        let unfit = files.iter_mut().find(|(path, _)| path == "unfit-7.yaml").unwrap();
        unfit.1 = unfit.1.replace("silver", "bronze");
        let parses = parses::during(|| assert_eq!(adopt_all(&mut world, &files), Adopted::Unchanged));
        assert_eq!(
            (parses, world.writer.adopter.tried),
            (2, 1),
            "it is read, and read again for the place of its problem"
        );
        let now = world.live.refused();
        let same = now.iter().filter(|refusal| before.iter().any(|before| Arc::ptr_eq(before, refusal))).count();
        assert_eq!((now.len(), same, now.new_since(&before).count()), (200, 199, 1));
    }

    #[test]
    fn what_is_refused_for_the_lack_of_something_is_served_when_that_comes() {
        let (mut world, mut files) = (World::new(), crowd(20));
        adopt_all(&mut world, &files);
        let plan = |name: &str| format!("{{kind: Plan, name: {name}, limits: [{{rate: 2/m}}]}}");
        files.push(("other.yaml".to_owned(), plan("copper")));
        adopt_all(&mut world, &files);
        assert_eq!((world.live.refused().len(), world.writer.adopter.tried), (40, 1));
        files.push(("new.yaml".to_owned(), plan("silver")));
        adopt_all(&mut world, &files);
        assert_eq!((world.live.refused().len(), world.writer.adopter.tried), (20, 21));
        assert_eq!(world.live.latest().policies.tenants.len(), 40);
    }

    /// The move of a gateway is refused because of a plan. Where the gateway was, another collides with it, which is no
    /// reason of the refusal: it is over when the plan goes.
    #[test]
    fn what_is_refused_waits_for_the_reasons_and_not_for_what_came_of_the_refusal() {
        let gateway = |name: &str, cluster: &str| {
            format!("{{kind: Gateway, name: {name}, nodes: {{clusters: [{cluster}]}}, listen: '127.0.0.1:1'}}")
        };
        let (side, moved) =
            (gateway("side", "edge"), format!("{}\n---\n{}", gateway("side", "side"), gateway("shop", "edge")));
        let plan = "{kind: Api, name: create, gateway: side, match: {path: /b}, service: order}\n---\n\
          {kind: Service, name: order, endpoints: ['127.0.0.1:1']}\n---\n\
          {kind: Plan, name: gold, apis: {create: [{rate: 1/m}]}}";
        let mut world = World::serving(&[("a.yaml", &side)]);
        world.adopt(&[("a.yaml", &moved), ("b.yaml", plan)]);
        assert_eq!(world.refused(), ["Gateway side", "Gateway shop!", "Api create!", "Plan gold!"]);
        let refused = world.live.refused();
        let side = &refused.of(&DocumentId::new(Kind::Gateway, "side")).unwrap().problems;
        assert!(side.iter().all(|problem| problem.message.starts_with("never acts")), "{side:?}");
        assert_eq!(world.adopt(&[("a.yaml", &moved), ("b.yaml", "")]), Adopted::Served);
        assert_eq!(world.refused(), [""; 0]);
        assert_eq!(world.live.latest().policies.gateways.len(), 2);
    }

    #[test]
    fn a_text_is_read_once_for_the_places_of_all_its_problems() {
        let (mut world, mut files) = (World::new(), crowd(1));
        adopt_all(&mut world, &files);
        let apis = (0..9).map(|n| format!("a{n}: [{{rate: 1/m}}]")).collect::<Vec<_>>().join(", ");
        files.push(("t.yaml".to_owned(), format!("{{kind: Tenant, name: t, apis: {{{apis}}}}}")));
        assert_eq!(parses::during(|| assert_eq!(adopt_all(&mut world, &files), Adopted::Unchanged)), 2);
        let refused = world.live.refused();
        let refusal = refused.of(&DocumentId::new(Kind::Tenant, "t")).unwrap();
        let columns: BTreeSet<_> = refusal.problems.iter().filter_map(Problem::place_in_text).collect();
        assert_eq!((refusal.problems.len(), columns.len()), (9, 9));
    }

    #[test]
    fn of_many_documents_with_one_name_the_first_are_told_of() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let paths: Vec<String> = (0..500).map(|n| format!("p{n}.yaml")).collect();
        let plan = "{kind: Plan, name: same, limits: [{rate: 1/m}]}";
        let mut files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), plan)).collect();
        files.push(("a.yaml", SHOP));
        assert_eq!(world.adopt(&files), Adopted::Unchanged);
        assert_eq!(world.refused(), ["Plan same!"]);
        assert_eq!(world.live.refused().sorted()[0].problems.len(), PROBLEMS_MAX);
    }

    /// Documents in three files, of which each is there in one of several versions, good ones and bad ones.
    fn files_of(choices: &[usize]) -> Vec<(&'static str, String)> {
        const VERSIONS: [(&str, &[&str]); 9] = [
            (
                "a.yaml",
                &[
                    "",
                    "{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}",
                    "{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', tenant: {from: host, default_plan: gold}}",
                    "{kind: Gateway, name: shop, nodes: 7}",
                    "{kind: Gateway, na",
                ],
            ),
            (
                "a.yaml",
                &[
                    "",
                    "{kind: Gateway, name: side, nodes: {clusters: [side]}, listen: '127.0.0.1:1'}",
                    "{kind: Gateway, name: side, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}",
                ],
            ),
            (
                "a.yaml",
                &[
                    "",
                    "{kind: Service, name: order, endpoints: ['127.0.0.1:1']}",
                    "{kind: Service, name: order, endpoints: ['127.0.0.1:1'], protocol: http2}",
                    "kind: Service\nname: orde\n",
                ],
            ),
            (
                "b.yaml",
                &[
                    "",
                    "{kind: Api, name: create, gateway: shop, match: {path: /a}, service: order}",
                    "{kind: Api, name: create, gateway: shop, match: {path: /a}, service: order, upgrades: [websocket]}",
                    "{kind: Api, name: create, gateway: side, match: {path: /b}, service: order}",
                    "{kind: Api, name: create}",
                ],
            ),
            (
                "b.yaml",
                &[
                    "",
                    "{kind: Api, name: read, gateway: shop, match: {path: /a}, service: order}",
                    "{kind: Api, name: read, gateway: side, match: {path: /a}, service: order}",
                ],
            ),
            ("c.yaml", &["", "{kind: Plan, name: gold, limits: [{rate: 1/m}]}", "{kind: Plan, name: gold, limits: 7}"]),
            (
                "c.yaml",
                &["", "{kind: Tenant, name: t, plan: gold}", "{kind: Tenant, name: t, apis: {create: [{rate: 1/m}]}}"],
            ),
            (
                "c.yaml",
                &[
                    "",
                    "{kind: Tenant, name: u, plan: gold}",
                    "{kind: Tenant, name: t, plan: gold}",
                    "kind: Tenant\nname: t\nlimits: [",
                ],
            ),
            ("b.yaml", &["", "{kind: Plan, name: gold, apis: {create: [{rate: 1/m}]}}", "["]),
        ];
        let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for ((path, versions), choice) in VERSIONS.iter().zip(choices) {
            files.entry(path).or_default().push(versions[choice % versions.len()]);
        }
        files.into_iter().map(|(path, texts)| (path, texts.join("\n---\n"))).collect()
    }

    /// The documents that are served, with their texts, and those that are refused.
    fn state(world: &World) -> (BTreeMap<String, String>, Vec<String>) {
        let text = |parsed: &crate::policy::parse::Parsed| {
            String::from_utf8_lossy(parsed.document.content.as_deref().unwrap()).into_owned()
        };
        let generation = world.live.latest();
        let served = generation.documents.values().map(|parsed| (parsed.id.to_string(), text(parsed)));
        (served.collect(), world.refused())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// A document that a change has no part in is not tried again, and that makes no difference.
        #[test]
        fn nothing_waits_that_could_be_served(
            history in prop::collection::vec(prop::collection::vec(0..60_usize, 9), 1..10),
        ) {
            let mut world = World::new();
            for choices in history {
                let files = files_of(&choices);
                let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
                world.adopt(&files);
                let first = state(&world);
                let refused = world.live.refused();
                let may_be_gateway = |id: &DocumentId| id.kind == Kind::Gateway;
                let misses = |refusal: &Arc<Refusal>| {
                    !refusal.is_served && refusal.id.as_ref().is_none_or(may_be_gateway)
                };
                prop_assert_eq!(refused.may_miss_gateways(), refused.iter().any(misses));
                for refusal in refused.iter() {
                    prop_assert!(refusal.id.as_ref().is_none_or(|id| refused.of(id).is_some()));
                }
                let generation = world.live.latest();
                prop_assert!(PolicySet::of_all(generation.documents.values().cloned()).is_ok());
                let adopter = &mut world.writer.adopter;
                adopter.open = generation.documents.keys().cloned().collect();
                adopter.open.extend(refused.iter().filter_map(|refusal| refusal.id.clone()));
                world.adopt(&files);
                prop_assert_eq!(first, state(&world));
            }
        }
    }
}
