//! Small worlds for the tests of both variants.

use std::sync::Arc;

use super::session::Outgoing;
use crate::snapshot::Resources;
use crate::snapshot::resource::{Resource, ResourceType};

/// Resources written as `cluster:a=1`: a type, a name and a content.
pub(super) fn world(resources: &[&str]) -> Resources {
    let resource = |text: &&str| {
        let (resource_type, rest) = text.split_once(':').unwrap();
        let (name, content) = rest.split_once('=').unwrap();
        (type_of(resource_type), Arc::new(Resource::new(name, content.as_bytes().to_vec())))
    };
    Resources::new(resources.iter().map(resource))
}

pub(super) fn type_of(name: &str) -> ResourceType {
    ResourceType::ALL.into_iter().find(|resource_type| resource_type.as_str() == name).unwrap()
}

/// Responses as `cluster a b -c`: the type, what is sent, and what is removed.
pub(super) fn shown(responses: &[Outgoing]) -> Vec<String> {
    let show = |response: &Outgoing| {
        let sent = response.resources.iter().map(|resource| resource.name.to_string());
        let removed = response.removed.iter().map(|name| format!("-{name}"));
        let words: Vec<String> =
            std::iter::once(response.resource_type.to_string()).chain(sent).chain(removed).collect();
        words.join(" ")
    };
    responses.iter().map(show).collect()
}
