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
    refused.extend(adopter.reverted.iter().map(|id| adopter.refusal_of_reverted(id)));
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

    /// A document that can no longer be parsed was not taken away. Where it does not say who it is, nobody who
    /// came from the same place is taken for deleted.
    fn hold_broken(&mut self, broken: &[Refused]) {
        for refused in broken {
            let container = refused.document.origin.container();
            let is_meant = |parsed: &&Arc<Parsed>| match &refused.id {
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

    fn refusal_of_reverted(&self, id: &DocumentId) -> Refusal {
        let involving = || self.problems.iter().filter(|problem| problem.involves.contains(id));
        let own: Vec<Problem> = involving().filter(|problem| problem.document.as_ref() == Some(id)).cloned().collect();
        let problems = match self.offered.contains_key(id) {
            true if !own.is_empty() => own,
            true => involving().cloned().collect(),
            false => involving().filter_map(|problem| self.kept_for(id, problem)).take(1).collect(),
        };
        let document = self.offered.get(id).or_else(|| self.last_good.get(id));
        let origin = document.map(|parsed| parsed.document.origin.clone());
        let origin = origin.or_else(|| problems.first().map(|problem| problem.origin.clone()));
        Refusal {
            id: Some(id.clone()),
            origin: origin.unwrap_or(Origin::File { path: "".into(), line: 0, number: 0 }),
            problems,
            since: Timestamp::default(),
            is_served: self.candidate.contains_key(id),
        }
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
