//! From a source's documents to a set that can be served: every document in its new version where that fits,
//! in its last good version where not.
//!
//! A problem among documents is blamed on what changed. If `Api pay` refers to `Service pay` and the service is
//! deleted, the deletion changed, so the service stays; if the Api is new, the Api is refused. Reverting what
//! changed can only end at the set that was served, which has no problems, so it always ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Generation;
use crate::clock::Timestamp;
use crate::document::{Documents, Origin};
use crate::names::DocumentId;
use crate::policy::parse::{Parsed, Refused, parse};
use crate::policy::problem::{Path, Problem};
use crate::policy::set::{ParsedById, PolicySet, index};

/// A document that is not served as it stands in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `None` where not even that can be told.
    pub id: Option<DocumentId>,
    pub origin: Origin,
    pub problems: Vec<Problem>,
    /// When it was refused first.
    pub since: Timestamp,
    /// Whether an earlier version of it is served.
    pub is_served: bool,
}

pub(super) struct Adoption {
    pub(super) documents: ParsedById,
    pub(super) policies: PolicySet,
    pub(super) refused: Vec<Refusal>,
}

pub(super) fn adopt(
    served: Option<&Generation>,
    documents: &Documents,
    refused_before: &[Refusal],
    now: Timestamp,
) -> Adoption {
    let nothing = ParsedById::new();
    let last_good = served.map_or(&nothing, |served| &served.documents);
    let (parsed, broken) = parse_all(documents, last_good);
    let (offered, problems) = index(parsed);
    let mut adopter = Adopter { last_good, candidate: offered.clone(), offered, reverted: BTreeSet::new(), problems };
    adopter.revert_doubled();
    adopter.hold_broken(&broken);
    let policies = adopter.link();
    let mut refused: Vec<Refusal> = broken.into_iter().map(|broken| adopter.refusal_of_broken(broken)).collect();
    refused.extend(adopter.reverted.iter().filter_map(|id| adopter.refusal_of_reverted(id)));
    for refusal in &mut refused {
        let is_same =
            |before: &&Refusal| before.id == refusal.id && before.origin.container() == refusal.origin.container();
        refusal.since = refused_before.iter().find(is_same).map_or(now, |before| before.since);
    }
    Adoption { documents: adopter.candidate, policies, refused }
}

/// Parses what is new; a document that did not change was parsed before.
fn parse_all(documents: &Documents, last_good: &ParsedById) -> (Vec<Arc<Parsed>>, Vec<Refused>) {
    let known: HashMap<&Origin, &Arc<Parsed>> = last_good.values().map(|p| (&p.document.origin, p)).collect();
    let mut parsed = Vec::with_capacity(documents.documents.len());
    let mut broken = Vec::new();
    for document in &documents.documents {
        match known.get(&document.origin) {
            Some(known) if known.document.content == document.content => parsed.push(Arc::clone(known)),
            _ => match parse(document) {
                Ok(new) => parsed.push(Arc::new(new)),
                Err(refused) => broken.push(refused),
            },
        }
    }
    (parsed, broken)
}

struct Adopter<'a> {
    last_good: &'a ParsedById,
    /// What the source holds, as far as it can be parsed.
    offered: ParsedById,
    /// What is to be served.
    candidate: ParsedById,
    /// Whose change is not taken.
    reverted: BTreeSet<DocumentId>,
    problems: Vec<Problem>,
}

impl Adopter<'_> {
    fn revert_doubled(&mut self) {
        let doubled: BTreeSet<_> = self.problems.iter().filter_map(|problem| problem.document.clone()).collect();
        doubled.into_iter().for_each(|id| self.revert(id));
    }

    /// A document that can no longer be parsed was not taken away. Where it does not say who it is, or names
    /// somebody unknown because its name was cut off, nobody who came from the same place is taken for deleted.
    fn hold_broken(&mut self, broken: &[Refused]) {
        for refused in broken {
            let container = refused.document.origin.container();
            let known = refused.id.as_ref().filter(|id| self.last_good.contains_key(id));
            let is_meant = |parsed: &&Arc<Parsed>| match known {
                Some(id) => parsed.id == *id,
                None => parsed.document.origin.container() == container,
            };
            for parsed in self.last_good.values().filter(is_meant) {
                self.candidate.entry(parsed.id.clone()).or_insert_with(|| Arc::clone(parsed));
            }
        }
    }

    fn link(&mut self) -> PolicySet {
        loop {
            match PolicySet::link(&self.candidate) {
                Ok(policies) => return policies,
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
            self.reverted.extend(to_blame);
        } else {
            to_blame.into_iter().for_each(|id| self.revert(id));
        }
        self.problems.extend(problems);
    }

    fn is_changed(&self, id: &DocumentId) -> bool {
        let content = |documents: &ParsedById| documents.get(id).map(|parsed| parsed.document.content.clone());
        content(&self.candidate) != content(self.last_good)
    }

    fn revert(&mut self, id: DocumentId) {
        match self.last_good.get(&id) {
            Some(parsed) => drop(self.candidate.insert(id.clone(), Arc::clone(parsed))),
            None => drop(self.candidate.remove(&id)),
        }
        self.reverted.insert(id);
    }

    fn refusal_of_broken(&self, broken: Refused) -> Refusal {
        let is_served = broken.id.as_ref().is_some_and(|id| self.candidate.contains_key(id));
        let origin = broken.document.origin.clone();
        Refusal { id: broken.id, origin, problems: broken.problems, since: Timestamp::default(), is_served }
    }

    /// `None` for a document that neither the source nor the served set knows: nothing of it is refused.
    fn refusal_of_reverted(&self, id: &DocumentId) -> Option<Refusal> {
        let document = &self.offered.get(id).or_else(|| self.last_good.get(id))?.document;
        let involving = || self.problems.iter().filter(|problem| problem.involves.contains(id));
        let own: Vec<Problem> = involving().filter(|problem| problem.document.as_ref() == Some(id)).cloned().collect();
        let problems = match self.offered.contains_key(id) {
            true if !own.is_empty() => own,
            true => involving().cloned().collect(),
            false => involving().filter_map(|problem| self.kept_for(id, problem)).take(1).collect(),
        };
        let is_served = self.candidate.contains_key(id);
        let origin = document.origin.clone();
        Some(Refusal { id: Some(id.clone()), origin, problems, since: Timestamp::default(), is_served })
    }

    /// What is said of a document that was taken away while another still needs it.
    fn kept_for(&self, id: &DocumentId, problem: &Problem) -> Option<Problem> {
        let user = problem.document.as_ref()?;
        Some(Problem {
            origin: self.last_good.get(id)?.document.origin.clone(),
            document: Some(id.clone()),
            path: Path::default(),
            message: format!("is gone from the source, but {user} still refers to it; its last version stays"),
            help: None,
            involves: vec![id.clone()],
            place: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Adopted, Live, Settings, Writer};
    use super::*;
    use crate::compile::RateLimitService;
    use crate::document::split;

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
            let rate_limit_service = RateLimitService { addresses: Vec::new() };
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
            let documents = Documents { documents: documents.map(Arc::new).collect(), ..Default::default() };
            self.writer.adopt(&documents, Timestamp::from_nanos(1))
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
        let unreadable = crate::document::Document { origin, content: Err("cannot be read".into()) };
        let documents = Documents { documents: vec![Arc::new(unreadable)], ..Default::default() };
        assert_eq!(world.writer.adopt(&documents, Timestamp::default()), Adopted::Unchanged);
        assert_eq!(world.refused(), ["a.yaml:1!"]);
    }

    #[test]
    fn a_refusal_is_as_old_as_its_mistake() {
        let mut world = World::serving(&[("a.yaml", SHOP)]);
        let broken = SHOP.replace("10/minute", "10/minit");
        world.adopt(&[("a.yaml", &broken)]);
        let documents = split(&"a.yaml".into(), broken.as_bytes()).into_iter().map(Arc::new).collect();
        world.writer.adopt(&Documents { documents, ..Default::default() }, Timestamp::from_nanos(9));
        assert_eq!(world.live.refused()[0].since, Timestamp::from_nanos(1));
    }
}
