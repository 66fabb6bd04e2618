//! What a group is kept from: the documents behind what an Envoy refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{GroupOffer, Nack};
use crate::clock::Timestamp;
use crate::live::{Generation, Group, Parsed};
use crate::names::{DocumentId, Name, Version};
use crate::snapshot::resource::ResourceType;

/// The most reasons that are kept of one hold: the first ones say what is wrong.
const REASONS_MAX: usize = 8;

/// The documents of a group that stay what they were.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The generation that was refused first.
    pub generation: u64,
    /// In the versions that lead to what was refused. `None`: that it is gone.
    pub documents: BTreeMap<DocumentId, Option<Arc<Parsed>>>,
    pub reasons: Vec<Reason>,
    /// True if the group stays as it was altogether: no document of its own is behind what was refused.
    pub is_whole: bool,
    refused: BTreeSet<(ResourceType, Arc<str>, [u8; 16])>,
}

/// A refusal, as operators are told of it.
#[derive(Clone, Debug)]
pub struct Reason {
    pub node: String,
    pub resource_type: ResourceType,
    pub resources: Vec<Arc<str>>,
    /// Envoy's words.
    pub message: String,
    pub since: Timestamp,
}

impl Hold {
    pub(super) fn has_refused(&self, resource_type: ResourceType, name: &Arc<str>, version: Version) -> bool {
        self.refused.contains(&(resource_type, Arc::clone(name), version.to_bytes()))
    }

    /// The part of it that still stands in the group's newest version. What changed is given another chance.
    pub(super) fn still_held(&self, newest: &Group) -> Option<Self> {
        let mut held = self.clone();
        held.documents.retain(|id, refused| newest.document(id) == refused.as_ref());
        held.refused.retain(|refused| has(newest, refused));
        held.is_whole = self.is_whole && !held.refused.is_empty();
        (held.is_whole || !held.documents.is_empty()).then_some(held)
    }
}

/// The hold of a group, with what follows from one more refusal.
pub(super) fn extended(
    group: &GroupOffer,
    proven: &Group,
    nack: &Nack,
    blamed: &[(Arc<str>, Version)],
    generation: u64,
) -> Hold {
    let mut hold = match &group.hold {
        Some(hold) => Hold::clone(hold),
        None => Hold {
            generation,
            documents: BTreeMap::new(),
            reasons: Vec::new(),
            is_whole: false,
            refused: BTreeSet::new(),
        },
    };
    let behind = blamed
        .iter()
        .flat_map(|(name, _)| group.group().changed_behind(group.gateway.as_str(), (nack.resource_type, name), proven));
    let documents: BTreeMap<_, _> = behind.map(|id| (id.clone(), group.group().document(&id).cloned())).collect();
    hold.is_whole |= documents.is_empty();
    hold.documents.extend(documents);
    hold.refused
        .extend(blamed.iter().map(|(name, version)| (nack.resource_type, Arc::clone(name), version.to_bytes())));
    if hold.reasons.len() < REASONS_MAX {
        hold.reasons.push(Reason {
            node: nack.node.clone(),
            resource_type: nack.resource_type,
            resources: blamed.iter().map(|(name, _)| Arc::clone(name)).collect(),
            message: nack.message.clone(),
            since: nack.at,
        });
    }
    hold
}

/// The group with what is held as it was; wholly as it was, where these do not fit together.
pub(super) fn apply(generation: &Generation, gateway: &Name, hold: &Hold, proven: &Group) -> Group {
    let ids = hold.documents.keys().cloned().collect();
    let partly = || generation.group_with_earlier(gateway.as_str(), &ids, proven);
    let group = if hold.is_whole { None } else { partly() };
    group.unwrap_or_else(|| proven.clone())
}

/// A response is refused as a whole, but Envoy names what is wrong in it. Where it does not, all of it is to blame. Names
/// are all that is read from its message, which is for people and changes with its versions (xDS rule 65).
pub(super) fn blamed(nack: &Nack) -> Vec<(Arc<str>, Version)> {
    let is_named = |(name, _): &&(Arc<str>, Version)| names(&nack.message, name);
    let named: Vec<_> = nack.resources.iter().filter(is_named).cloned().collect();
    if named.is_empty() { nack.resources.clone() } else { named }
}

/// True if a name stands in a text, not as a part of a longer one.
fn names(text: &str, name: &str) -> bool {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/');
    text.match_indices(name).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        let after = text.get(at + name.len()..).and_then(|after| after.chars().next());
        !before.is_some_and(is_of_name) && !after.is_some_and(is_of_name)
    })
}

fn has(group: &Group, (resource_type, name, version): &(ResourceType, Arc<str>, [u8; 16])) -> bool {
    let resource = group.resources.of_type(*resource_type).by_name.get(name);
    resource.is_some_and(|resource| resource.version.to_bytes() == *version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xds_rule_70_the_resource_that_the_message_names_is_to_blame() {
        let message = "Error adding/updating listener(s) edge: cannot bind '192.0.2.1:1'";
        let nack = |names: &[&str]| Nack {
            node: "n".to_owned(),
            resource_type: ResourceType::Listener,
            resources: names.iter().map(|name| ((*name).into(), Version::of(name.as_bytes()))).collect(),
            message: message.to_owned(),
            at: Timestamp::default(),
        };
        let blamed =
            |names: &[&str]| blamed(&nack(names)).into_iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
        assert_eq!(blamed(&["edge", "edge-inner", "ed"]), ["edge"]);
        assert_eq!(blamed(&["shop", "side"]), ["shop", "side"], "none is named, so it may be each of them");
    }
}
