//! State of the world: what a DiscoveryRequest says.
//!
//! It says everything that is wanted of a type. A response is all of it for clusters and listeners, where what is
//! absent is deleted, and may be a part of it for the other types (xDS protocol, "Grouping Resources into Responses").

use super::one_type::OneType;
use super::session::{Answer, Session, Step};
use crate::snapshot::OfType;
use crate::snapshot::resource::ResourceType;

/// A DiscoveryRequest, without what only matters to the stream.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) names: Vec<String>,
    pub(super) nonce: String,
    /// The message of `error_detail`.
    pub(super) error: Option<String>,
}

pub(super) fn on_request(session: &mut Session, resource_type: ResourceType, request: Request) -> Step {
    let mut step = Step::default();
    let last_nonce = session.get(resource_type).map_or(0, |one| one.nonce);
    // Before the first response any nonce is one of an earlier stream, and says nothing (xDS rule 10).
    let was_answered = last_nonce != 0;
    // The Envoy had not seen the newest response yet. It repeats what it wants once it has (xDS rule 17).
    if was_answered && request.nonce != last_nonce.to_string() {
        step.is_stale = true;
        return step;
    }
    if session.get(resource_type).is_some_and(OneType::is_pending) {
        let answer = Answer::of(request.error);
        step.answered = session.on_answer(resource_type, &answer);
        step.answer = Some(answer);
    }
    let (one, set) = session.request(resource_type);
    subscribe(one, resource_type, &request.names, set);
    step
}

fn subscribe(one: &mut OneType, resource_type: ResourceType, names: &[String], set: &OfType) {
    if one.subscription.turns_to_all(resource_type, names) {
        one.known.keep_named(&one.subscription);
    }
    let wanted_all = one.subscription.wants_all();
    let added = one.subscription.replace(resource_type, names, set);
    // What is no longer wanted is forgotten by the Envoy. If it is wanted again it is sent again (xDS rule 20).
    if !wanted_all && !one.subscription.wants_all() {
        added.iter().for_each(|name| one.known.set(name, None));
    }
    one.forget_unsubscribed();
}
