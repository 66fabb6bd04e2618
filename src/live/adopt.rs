//! From a source's documents to a set that can be served: every document in its new version where that fits,
//! in its last good version where not.
//!
//! A problem among documents is blamed on what changed. If `Api pay` refers to `Service pay` and the service is
//! deleted, the deletion changed, so the service stays; if the Api is new, the Api is refused. Reverting what
//! changed can only end at the set that was served, which has no problems, so it always ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Generation;
use super::offered::Offered;
use crate::clock::Timestamp;
use crate::document::{Document, Documents, Origin};
use crate::names::{DocumentId, Revision};
use crate::policy::parse::{Parsed, Refused};
use crate::policy::problem::{Path, Problem};
use crate::policy::set::{ParsedById, PolicySet, doubled};

/// A document that is not served as it stands in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `None` where not even that can be told.
    pub id: Option<DocumentId>,
    pub origin: Origin,
    /// Of the document that is refused, where the source keeps that.
    pub revision: Option<Revision>,
    pub problems: Vec<Problem>,
    /// When it was refused first.
    pub since: Timestamp,
    /// Whether an earlier version of it is served.
    pub is_served: bool,
}

/// What is kept from one set of the source to the next.
#[derive(Debug, Default)]
pub(super) struct Adopter {
    offered: Offered,
    /// Documents that are not served as the source holds them. Whatever changes next may mend them.
    unsettled: BTreeSet<DocumentId>,
}

/// The set that can be served, in which the changed documents differ from the one before.
pub(super) struct Adoption {
    pub(super) documents: ParsedById,
    pub(super) policies: PolicySet,
    pub(super) changed: BTreeSet<DocumentId>,
    pub(super) refused: Vec<Refusal>,
}

impl Adopter {
    /// Begins with a set that did not come from the source: whether the source has each of its documents is open.
    pub(super) fn after(restored: &Generation) -> Self {
        Self { offered: Offered::default(), unsettled: restored.documents.keys().cloned().collect() }
    }

    pub(super) fn adopt(
        &mut self,
        base: &Generation,
        documents: &Documents,
        refused_before: &[Refusal],
        now: Timestamp,
    ) -> Adoption {
        let mut touched = self.offered.update(&documents.documents, &base.documents);
        touched.extend(std::mem::take(&mut self.unsettled));
        let mut attempt = Attempt {
            base,
            offered: &self.offered,
            candidate: base.documents.clone(),
            touched,
            reverted: BTreeSet::new(),
            held: BTreeSet::new(),
            problems: Vec::new(),
        };
        attempt.take_what_is_offered();
        attempt.hold_broken();
        let (policies, changed) = attempt.link(documents.instances.is_some());
        let mut refused: Vec<Refusal> =
            attempt.offered.broken().map(|broken| attempt.refusal_of_broken(broken)).collect();
        refused.extend(attempt.reverted.iter().filter_map(|id| attempt.refusal_of_reverted(id)));
        for refusal in &mut refused {
            let is_same =
                |before: &&Refusal| before.id == refusal.id && before.origin.container() == refusal.origin.container();
            refusal.since = refused_before.iter().find(is_same).map_or(now, |before| before.since);
        }
        let Attempt { candidate, reverted, held, .. } = attempt;
        self.unsettled = reverted;
        self.unsettled.extend(held);
        Adoption { documents: candidate, policies, changed, refused }
    }
}

struct Attempt<'a> {
    /// What is served: the last good version of everything.
    base: &'a Generation,
    offered: &'a Offered,
    /// What is to be served.
    candidate: ParsedById,
    /// Everybody who could be served in another version than before.
    touched: BTreeSet<DocumentId>,
    /// Whose change is not taken.
    reverted: BTreeSet<DocumentId>,
    /// Who stays although the source has nothing of it that could be read.
    held: BTreeSet<DocumentId>,
    problems: Vec<Problem>,
}

impl Attempt<'_> {
    fn take_what_is_offered(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            match self.offered.of(&id) {
                [] => drop(self.candidate.remove(&id)),
                [only] => drop(self.candidate.insert(id.clone(), Arc::clone(only))),
                several => {
                    self.problems.extend(doubled(several));
                    self.revert(id.clone());
                }
            }
            self.touched.insert(id);
        }
    }

    /// A document that can no longer be parsed was not taken away. Where it does not say who it is, or names
    /// somebody unknown because its name was cut off, nobody who came from the same place is taken for deleted.
    fn hold_broken(&mut self) {
        for refused in self.offered.broken() {
            let known = refused.id.as_ref().and_then(|id| self.base.documents.get(id));
            match (known, refused.document.origin.id()) {
                (Some(parsed), _) => self.hold(parsed),
                (None, Some(_)) => {}
                (None, None) => {
                    let container = refused.document.origin.container();
                    let is_meant = |parsed: &&Arc<Parsed>| parsed.document.origin.container() == container;
                    self.base.documents.values().filter(is_meant).for_each(|parsed| self.hold(parsed));
                }
            }
        }
    }

    fn hold(&mut self, parsed: &Arc<Parsed>) {
        if self.offered.of(&parsed.id).is_empty() {
            self.candidate.insert(parsed.id.clone(), Arc::clone(parsed));
            self.held.insert(parsed.id.clone());
        }
    }

    fn link(&mut self, has_registry: bool) -> (PolicySet, BTreeSet<DocumentId>) {
        loop {
            let changed = self.touched.iter().filter(|id| self.is_changed(id)).cloned().collect();
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
        let involved: BTreeSet<&DocumentId> = problems.iter().flat_map(|problem| &problem.involves).collect();
        let mut to_blame: Vec<_> = involved.into_iter().filter(|id| self.is_changed(id)).cloned().collect();
        if to_blame.is_empty() {
            // Documents that were served together have no problems with each other. Should they have one after
            // all, they go, before this could go on for ever.
            to_blame.extend(problems.iter().filter_map(|problem| problem.document.clone()));
            to_blame.iter().for_each(|id| drop(self.candidate.remove(id)));
            self.touched.extend(to_blame.iter().cloned());
            self.reverted.extend(to_blame);
        } else {
            to_blame.into_iter().for_each(|id| self.revert(id));
        }
        let problems: Vec<_> = problems.into_iter().map(|problem| self.because_of_broken(problem)).collect();
        self.problems.extend(problems);
    }

    /// What is referred to and makes no sense is there all the same.
    fn because_of_broken(&self, problem: Problem) -> Problem {
        let broken = |id: &&DocumentId| self.offered.broken().any(|refused| refused.id.as_ref() == Some(*id));
        let is_other = |id: &&DocumentId| problem.document.as_ref() != Some(*id) && !self.candidate.contains_key(*id);
        match problem.involves.iter().filter(is_other).find(broken) {
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

    fn revert(&mut self, id: DocumentId) {
        match self.base.documents.get(&id) {
            Some(parsed) => drop(self.candidate.insert(id.clone(), Arc::clone(parsed))),
            None => drop(self.candidate.remove(&id)),
        }
        self.reverted.insert(id);
    }

    fn refusal_of_broken(&self, broken: &Refused) -> Refusal {
        let is_served = broken.id.as_ref().is_some_and(|id| self.candidate.contains_key(id));
        refusal(broken.id.clone(), &broken.document, broken.problems.clone(), is_served)
    }

    /// `None` for a document that neither the source nor the served set knows: nothing of it is refused.
    fn refusal_of_reverted(&self, id: &DocumentId) -> Option<Refusal> {
        let offered = self.offered.of(id).first();
        let document = &offered.or_else(|| self.base.documents.get(id))?.document;
        let involving = || self.problems.iter().filter(|problem| problem.involves.contains(id));
        let own: Vec<Problem> = involving().filter(|problem| problem.document.as_ref() == Some(id)).cloned().collect();
        let problems = match offered.is_some() {
            true if !own.is_empty() => own,
            true => involving().cloned().collect(),
            false => involving().filter_map(|problem| self.kept_for(id, problem)).take(1).collect(),
        };
        Some(refusal(Some(id.clone()), document, problems, self.candidate.contains_key(id)))
    }

    /// What is said of a document that was taken away while another still needs it.
    fn kept_for(&self, id: &DocumentId, problem: &Problem) -> Option<Problem> {
        let user = problem.document.as_ref()?;
        Some(Problem {
            origin: self.base.documents.get(id)?.document.origin.clone(),
            document: Some(id.clone()),
            path: Path::default(),
            message: format!("is gone from the source, but {user} still refers to it; its last version stays"),
            help: None,
            involves: vec![id.clone()],
            place: None,
        })
    }
}

fn refusal(id: Option<DocumentId>, document: &Document, problems: Vec<Problem>, is_served: bool) -> Refusal {
    let (origin, revision) = (document.origin.clone(), document.revision);
    Refusal { id, origin, revision, problems, since: Timestamp::default(), is_served }
}

#[cfg(test)]
mod tests {
    use super::super::{Adopted, Live, Settings, Writer};
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::{Registered, split};

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
            let (live, writer) = Live::new(Settings { rate_limit_service, counter_seed: [0; 16], allow_empty: false });
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

        /// Who is refused, and `!` where nothing of it is served.
        fn refused(&self) -> Vec<String> {
            let refused = self.live.refused();
            let show = |refusal: &Refusal| {
                assert!(!refusal.problems.is_empty(), "{refusal:?} has no reason");
                let id = refusal.id.as_ref().map_or_else(|| refusal.origin.to_string(), ToString::to_string);
                if refusal.is_served { id } else { format!("{id}!") }
            };
            refused.iter().map(show).collect()
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
        assert_eq!(world.refused(), ["Service pay!", "Api pay!"]);
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
        assert!(world.live.generation().unwrap().policies.services.contains_key("pay"));
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
        assert!(refused[0].problems[0].message.contains("Api create still refers to it"), "{refused:?}");
        assert!(world.live.generation().unwrap().policies.services.contains_key("order"));
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
        assert_eq!(world.live.refused()[0].since, Timestamp::from_nanos(1));
    }

    #[test]
    fn what_was_restored_is_the_last_good_version_of_what_the_source_has_broken() {
        let mut world = World::new();
        let other = "kind: Service\nname: gone\nendpoints: [127.0.0.1:1]\n";
        let restored = split(&"a.yaml".into(), format!("{SHOP}---\n{other}").as_bytes());
        let refused =
            world.writer.restore(&Documents::new(Revision(7), restored), Registered::new(), Timestamp::default());
        assert_eq!((refused, world.generation()), (vec![], 0), "not served yet");
        assert_eq!(world.adopt(&[("a.yaml", &SHOP.replace("10/minute", "10/minit"))]), Adopted::Served);
        assert_eq!((world.rate().as_str(), world.refused()), ("10/minute", vec!["Api create".to_owned()]));
        assert!(
            !world.live.generation().unwrap().policies.services.contains_key("gone"),
            "the source does not have it"
        );
    }

    #[test]
    fn what_was_restored_is_served_as_it_is_where_the_source_says_nothing() {
        let mut world = World::new();
        assert!(!world.writer.serve_restored(Timestamp::default()));
        let restored = Documents::new(Revision(7), split(&"a.yaml".into(), SHOP.as_bytes()));
        world.writer.restore(&restored, Registered::new(), Timestamp::default());
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
}
