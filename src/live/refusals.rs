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
