//! One policy set with everything that is made from it.

use std::sync::Arc;

use crate::compile::{RateLimitService, compile};
use crate::document::Documents;
use crate::limiter::matcher::Matcher;
use crate::names::{NodeIdentity, Revision};
use crate::policy::parse::parse;
use crate::policy::problem::Problem;
use crate::policy::set::{ParsedById, PolicySet, index};
use crate::snapshot::{Resources, Snapshot};

/// What generations are made with besides documents.
#[derive(Clone, Debug)]
pub struct Settings {
    pub rate_limit_service: RateLimitService,
    /// Makes counters' keys unforgeable; the same for as long as the counters live.
    pub counter_seed: [u8; 16],
    /// Whether a source without any document is taken at its word.
    pub allow_empty: bool,
}

#[derive(Debug)]
pub struct Generation {
    /// Rises by one with each set that is served.
    pub number: u64,
    /// What the source calls the state that the set was read at.
    pub revision: Revision,
    pub policies: PolicySet,
    pub snapshot: Snapshot,
    pub matcher: Matcher,
    /// What the policies were made from.
    pub documents: ParsedById,
}

impl Generation {
    /// All documents or none: what `check` does, and everything else that is asked about a set as a whole.
    pub fn build(documents: &Documents, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let (parsed, refused): (Vec<_>, Vec<_>) = documents.documents.iter().map(parse).partition(Result::is_ok);
        let (documents_by_id, mut problems) = index(parsed.into_iter().flatten().map(Arc::new));
        problems.extend(refused.into_iter().filter_map(Result::err).flat_map(|refused| refused.problems));
        // Documents that make no sense would only be reported again by those that refer to them.
        match PolicySet::link(&documents_by_id) {
            Ok(policies) if problems.is_empty() => {
                Ok(Self::new(1, documents.revision, documents_by_id, policies, settings))
            }
            Err(linking) if problems.is_empty() => Err(linking),
            _ => Err(problems),
        }
    }

    pub(super) fn new(
        number: u64,
        revision: Revision,
        documents: ParsedById,
        policies: PolicySet,
        settings: &Settings,
    ) -> Self {
        let snapshot = compile(&policies, &settings.rate_limit_service);
        let matcher = Matcher::new(&policies, settings.counter_seed);
        Self { number, revision, policies, snapshot, matcher, documents }
    }

    /// Whether these documents are the ones that are served, wherever they stand.
    pub(super) fn has_documents(&self, documents: &ParsedById) -> bool {
        self.documents.len() == documents.len()
            && self
                .documents
                .iter()
                .zip(documents)
                .all(|((own_id, own), (id, other))| own_id == id && own.document.content == other.document.content)
    }

    /// The gateways whose Envoy the node is, in the order of their names.
    pub fn gateways_of(&self, node: &NodeIdentity) -> Vec<&str> {
        let gateways = self.policies.gateways.values();
        let selecting = gateways.filter(|gateway| gateway.nodes.selects(&node.id, &node.cluster, &node.metadata));
        selecting.map(|gateway| gateway.name.as_str()).collect()
    }

    /// Everything that the node is to have.
    pub fn resources_of(&self, node: &NodeIdentity) -> Arc<Resources> {
        let groups = self.gateways_of(node).into_iter().filter_map(|gateway| self.snapshot.groups.get(gateway));
        Resources::union(groups)
    }
}
