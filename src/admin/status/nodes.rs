//! Of all Envoys: how many have what, and why some do not.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::first;
use crate::admin::nodes::{Look, NeededFeature};
use crate::admin::{Admin, rfc3339};
use crate::names::Name;
use crate::nodes::state::{Condition, NodeState};
use crate::nodes::{Node, Standing};

/// Of so many Envoys that do not have the newest generation it is told why. `/v1/nodes` has all.
const BEHIND_MAX: usize = 20;

/// How many Envoys have what, and the first of those that do not have the newest generation.
#[derive(Serialize, ToSchema)]
pub(super) struct NodesStatus {
    /// The number of Envoys in each state.
    states: BTreeMap<NodeState, usize>,
    connected: usize,
    live: usize,
    refusing: usize,
    held: usize,
    pending: usize,
    /// Those that have not answered for more than 15 s.
    late: usize,
    selected_by_no_gateway: usize,
    /// Those that are not SYNCED, the first 20 in the order of states; of one state those that are in it for the longest.
    behind: Vec<NodeBehind>,
    /// Those that are offered what they do not know, the first 20.
    too_old: Vec<NodeTooOld>,
    too_old_more: usize,
}

#[derive(Serialize, ToSchema)]
struct NodeBehind {
    id: String,
    groups: Vec<String>,
    state: NodeState,
    reason: String,
    /// The moment since which it is in that state.
    #[schema(format = DateTime)]
    since: String,
    /// `live`, `pending`, `refusing` or `held`.
    standing: &'static str,
    late: bool,
    /// The newest generation that is live on it; 0 if none is yet.
    generation: u64,
    refused: Vec<RefusedType>,
}

/// What an Envoy refuses.
#[derive(Serialize, ToSchema)]
struct RefusedType {
    #[serde(rename = "type")]
    resource_type: &'static str,
    /// Envoy's own words.
    message: String,
    #[schema(format = DateTime)]
    since: String,
}

/// An Envoy that is offered what it does not know.
#[derive(Serialize, ToSchema)]
struct NodeTooOld {
    id: String,
    /// Its version, as it says.
    envoy: String,
    too_old_for: Vec<NeededFeature>,
}

impl NodesStatus {
    pub(super) fn of(admin: &Admin) -> Self {
        let look = Look::of(admin);
        let (gone, nodes): (Vec<Node>, Vec<Node>) =
            admin.nodes.after(None).map(|(_, node)| node).partition(|node| node.gone_at.is_some());
        let conditions: Vec<(Condition, &Node)> = nodes.iter().chain(&gone).map(|node| (look.at(node), node)).collect();
        let mut states: BTreeMap<NodeState, usize> = NodeState::ALL.into_iter().map(|state| (state, 0)).collect();
        for (condition, _) in &conditions {
            *states.entry(condition.state).or_default() += 1;
        }
        let mut behind: Vec<_> =
            conditions.into_iter().filter(|(condition, _)| condition.state != NodeState::Synced).collect();
        behind.sort_by_key(|(condition, _)| (condition.state, condition.since));
        let is_current =
            |node: &Node| node.position.standing == Standing::Live && node.position.live >= look.newest.generation;
        let count = |condition: &dyn Fn(&Node) -> bool| nodes.iter().filter(|node| condition(node)).count();
        let standing = |standing| count(&|node: &Node| node.position.standing == standing);
        let (live, refusing, held) = (count(&is_current), standing(Standing::Refusing), standing(Standing::Held));
        let behind = behind.into_iter().take(BEHIND_MAX);
        let too_old: Vec<&Node> = nodes.iter().filter(|node| !node.too_old_for.is_empty()).collect();
        let (too_old, too_old_more) = first(too_old.into_iter(), BEHIND_MAX, NodeTooOld::of);
        Self {
            states,
            connected: nodes.len(),
            live,
            refusing,
            held,
            pending: nodes.len() - live - refusing - held,
            late: count(&|node: &Node| node.is_late(look.now)),
            selected_by_no_gateway: count(&|node: &Node| node.groups.is_empty()),
            behind: behind.map(|(condition, node)| NodeBehind::of(node, condition, node.is_late(look.now))).collect(),
            too_old,
            too_old_more,
        }
    }
}

impl NodeBehind {
    fn of(node: &Node, condition: Condition, late: bool) -> Self {
        let Condition { state, reason, since } = condition;
        let refused =
            node.types.iter().filter_map(|(resource_type, status)| Some((resource_type, status.refused.as_ref()?)));
        let refused = refused.map(|(resource_type, refused)| RefusedType {
            resource_type: resource_type.as_str(),
            message: refused.message.clone(),
            since: rfc3339(refused.since),
        });
        Self {
            id: node.identity.id.clone(),
            groups: node.groups.iter().map(Name::to_string).collect(),
            state,
            reason,
            since: rfc3339(since),
            standing: node.position.standing.as_str(),
            late,
            generation: node.position.live,
            refused: refused.collect(),
        }
    }
}

impl NodeTooOld {
    fn of(node: &Node) -> Self {
        Self {
            id: node.identity.id.clone(),
            envoy: node.envoy_version.clone(),
            too_old_for: NeededFeature::all_of(node),
        }
    }
}
