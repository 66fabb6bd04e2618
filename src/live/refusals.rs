//! The documents that are refused, as readers see them: a set that shares with the one before whatever did not change,
//! so that ten thousand refused documents make no change of another one slow.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::document::Origin;
use crate::names::{DocumentId, Kind, Revision};
use crate::policy::problem::Problem;
use crate::shared_map::SharedMap;

/// A document that is not served as it stands in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `None` where not even that can be told.
    pub id: Option<DocumentId>,
    pub origin: Origin,
    /// Of the document that is refused, where the source keeps that.
    pub revision: Option<Revision>,
    /// Its text, so that the problems can be shown in it. `None` where it could not be read.
    pub content: Option<Arc<[u8]>>,
    pub problems: Vec<Problem>,
    /// When it was refused first.
    pub since: Timestamp,
    /// True where an earlier version of it is served.
    pub is_served: bool,
}

/// All refusals at one moment.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    by_place: SharedMap<Place, Arc<Refusal>>,
    /// The places of refusals whose document says who it is.
    places: SharedMap<DocumentId, BTreeSet<Place>>,
    /// Refusals of which nothing is served, and that may be of a gateway.
    missing_gateways: usize,
}

/// The key of a refusal among others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Place {
    /// A document that makes no sense by itself: where it stands.
    Broken(Origin),
    /// A document that does not fit the others: who it is.
    Unfit(DocumentId),
}

impl Refusals {
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// The refusal of the document; the first, where several claim to be it.
    pub fn of(&self, id: &DocumentId) -> Option<&Arc<Refusal>> {
        self.by_place.get(self.places.get(id)?.first()?)
    }

    /// In no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Refusal>> {
        self.by_place.values()
    }

    /// In the order of their origins, as people look for them.
    pub fn sorted(&self) -> Vec<&Arc<Refusal>> {
        let mut refusals: Vec<_> = self.iter().collect();
        refusals.sort_by(|a, b| (&a.origin, &a.id).cmp(&(&b.origin, &b.id)));
        refusals
    }

    /// The refusals that `before` did not have, or had in other words.
    pub fn new_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Arc<Refusal>> {
        self.by_place.changed_since(&before.by_place).filter_map(|place| self.by_place.get(place))
    }

    /// True where a gateway may be missing from what is served: a document that is one, or does not even say what it is,
    /// makes no sense, and there is no good version of it.
    pub fn may_miss_gateways(&self) -> bool {
        self.missing_gateways > 0
    }

    /// None of them any more. Whether a gateway is missing is known no better than with them: an Envoy that waits for one keeps
    /// what it has.
    pub(super) fn forgotten(&self) -> Self {
        Self { missing_gateways: self.missing_gateways, ..Self::default() }
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.by_place.contains_key(place)
    }

    pub(super) fn insert(&mut self, place: Place, refusal: Refusal) {
        self.remove(&place);
        self.missing_gateways += usize::from(may_be_missing_gateway(&refusal));
        if let Some(id) = &refusal.id {
            match self.places.get_mut(id) {
                Some(places) => drop(places.insert(place.clone())),
                None => drop(self.places.insert(id.clone(), BTreeSet::from([place.clone()]))),
            }
        }
        self.by_place.insert(place, Arc::new(refusal));
    }

    pub(super) fn remove(&mut self, place: &Place) -> Option<Arc<Refusal>> {
        let refusal = self.by_place.remove(place)?;
        self.missing_gateways -= usize::from(may_be_missing_gateway(&refusal));
        if let Some(id) = &refusal.id
            && let Some(places) = self.places.get_mut(id)
        {
            places.remove(place);
            if places.is_empty() {
                self.places.remove(id);
            }
        }
        Some(refusal)
    }
}

fn may_be_missing_gateway(refusal: &Refusal) -> bool {
    !refusal.is_served && refusal.id.as_ref().is_none_or(|id| id.kind == Kind::Gateway)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn origin(number: usize) -> Origin {
        Origin::File { path: "p.yaml".into(), number: number as u32, line: number as u32 }
    }

    fn id(number: usize) -> DocumentId {
        DocumentId::new([Kind::Gateway, Kind::Api][number % 2], &format!("d{}", number / 2))
    }

    fn refusal(place: usize, id: Option<DocumentId>, is_served: bool) -> Refusal {
        let (revision, problems, since) = (None, Vec::new(), Timestamp::default());
        Refusal { id, origin: origin(place), revision, content: None, problems, since, is_served }
    }

    #[test]
    fn nobody_knows_whether_a_gateway_is_missing_where_a_document_may_be_one() {
        let may_miss = |id: Option<DocumentId>, is_served| {
            let mut refusals = Refusals::default();
            refusals.insert(Place::Broken(origin(1)), refusal(1, id, is_served));
            refusals.may_miss_gateways()
        };
        assert!(may_miss(None, false), "it does not say what it is");
        assert!(may_miss(Some(DocumentId::new(Kind::Gateway, "shop")), false));
        assert!(!may_miss(Some(DocumentId::new(Kind::Gateway, "shop")), true), "its last good version is served");
        assert!(!may_miss(Some(DocumentId::new(Kind::Api, "pay")), false));
    }

    #[test]
    fn they_are_sorted_by_where_they_stand_and_the_new_ones_are_known() {
        let mut before = Refusals::default();
        for place in [3, 1, 2] {
            before.insert(Place::Broken(origin(place)), refusal(place, None, false));
        }
        let mut after = before.clone();
        after.insert(Place::Broken(origin(2)), refusal(2, None, true));
        after.insert(Place::Unfit(id(8)), refusal(8, Some(id(8)), false));
        after.remove(&Place::Broken(origin(3)));
        let lines =
            |refusals: Vec<&Arc<Refusal>>| refusals.iter().map(|one| one.origin.first_line()).collect::<Vec<_>>();
        assert_eq!(lines(after.sorted()), [1, 2, 8]);
        let mut new = lines(after.new_since(&before).collect());
        new.sort_unstable();
        assert_eq!(new, [2, 8], "who is gone is not refused any more");
    }

    proptest! {
        /// Against a plain map, after every step of a history.
        #[test]
        fn what_is_refused_is_what_was_put_in_and_not_taken_out(
            history in prop::collection::vec((any::<bool>(), 0..5_usize, prop::option::of(0..4_usize), any::<bool>(), any::<bool>()), 0..40),
        ) {
            let (mut refusals, mut expected) = (Refusals::default(), BTreeMap::new());
            for (is_insert, number, named, is_unfit, is_served) in history {
                let place = if is_unfit { Place::Unfit(id(number)) } else { Place::Broken(origin(number)) };
                if is_insert {
                    let refusal = refusal(number, named.map(id), is_served);
                    refusals.insert(place.clone(), refusal.clone());
                    expected.insert(place, refusal);
                } else {
                    let (removed, known) = (refusals.remove(&place), expected.remove(&place));
                    prop_assert_eq!(removed.as_deref(), known.as_ref());
                }
                prop_assert_eq!((refusals.len(), refusals.is_empty()), (expected.len(), expected.is_empty()));
                let is_missing = |refusal: &Refusal| {
                    !refusal.is_served && refusal.id.as_ref().is_none_or(|id| id.kind == Kind::Gateway)
                };
                prop_assert_eq!(refusals.may_miss_gateways(), expected.values().any(is_missing));
                for number in 0..4 {
                    let of_id = expected.values().filter(|refusal| refusal.id == Some(id(number)));
                    let first = expected.iter().find(|(_, refusal)| refusal.id == Some(id(number))).map(|(_, refusal)| refusal);
                    prop_assert_eq!(refusals.of(&id(number)).map(|refusal| &**refusal), first, "of {}", of_id.count());
                }
                prop_assert!(expected.keys().all(|place| refusals.has(place)));
            }
        }
    }
}
