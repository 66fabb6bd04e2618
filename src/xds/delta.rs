//! Delta: what a DeltaDiscoveryRequest says.
//!
//! It says what is wanted in addition or no longer; a response says what changed or is gone.

use std::collections::HashMap;

use super::known::Known;
use super::one_type::OneType;
use super::session::{Answer, Session, Step};
use crate::snapshot::OfType;
use crate::snapshot::resource::ResourceType;

/// A DeltaDiscoveryRequest, without what only matters to the stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
    /// Versions that a reconnecting Envoy has, by name.
    pub(super) initial_versions: HashMap<String, String>,
    pub(super) nonce: String,
    /// The message of `error_detail`.
    pub(super) error: Option<String>,
}

pub(super) fn on_request(session: &mut Session, resource_type: ResourceType, mut request: Request) -> Step {
    let mut step = Step::default();
    let is_first = session.get(resource_type).is_none();
    let pending = session.get(resource_type).filter(|one| one.is_pending());
    let is_answer = pending.is_some_and(|one| one.nonce.to_string() == request.nonce);
    // A stale nonce only means that the answer is to an earlier response; what is wanted holds all the same
    // (xDS rule 34).
    step.is_stale = !is_first && !is_answer && !request.nonce.is_empty();
    if is_answer {
        let answer = Answer::of(request.error.take());
        step.answered = session.on_answer(resource_type, &answer);
        step.answer = Some(answer);
    }
    let (one, set) = session.request(resource_type);
    match is_first {
        true => start(one, resource_type, &mut request, set),
        false => subscribe(one, resource_type, &request, set),
    }
    unsubscribe(one, &request.unsubscribe);
    step
}

fn start(one: &mut OneType, resource_type: ResourceType, request: &mut Request, set: &OfType) {
    one.subscription.start(resource_type, &request.subscribe, set);
    let initial = std::mem::take(&mut request.initial_versions);
    // What it already has in the right version is no question (xDS rule 48).
    one.owed = one.subscription.names().filter(|name| !initial.contains_key(&***name)).cloned().collect();
    one.known = Known::of_versions(initial);
}

fn subscribe(one: &mut OneType, resource_type: ResourceType, request: &Request, set: &OfType) {
    if one.subscription.turns_to_all(resource_type, &request.subscribe) {
        one.known.keep_named(&one.subscription);
    }
    let added = one.subscription.subscribe(resource_type, &request.subscribe, set);
    added.iter().for_each(|name| one.known.set(name, None));
    // Asked for by name: answered, whatever is thought to be known (xDS rules 36 and 37).
    let asked = request.subscribe.iter().filter(|name| *name != "*");
    one.owed.extend(asked.map(|name| name.as_str().into()));
}

fn unsubscribe(one: &mut OneType, names: &[String]) {
    if names.is_empty() {
        return;
    }
    one.subscription.unsubscribe(names);
    for name in names {
        one.owed.remove(name.as_str());
        if name != "*" && one.subscription.wants_all() {
            // Still wanted with all the others, or gone: the Envoy cannot know which without being told (xDS rule 40).
            one.owed.insert(name.as_str().into());
        }
    }
    one.forget_unsubscribed();
}
