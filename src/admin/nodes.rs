//! The connected Envoys and what each has.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::ProblemDetails;
use super::extract::{OfPath, OfQuery};
use super::openapi::{Problem, Tagged};
use super::tagged::{Known, tagged};
use super::{Admin, in_background, page, rfc3339};
use crate::clock::Timestamp;
use crate::names::certificate::ClientCertificate;
use crate::names::{Name, StreamId, has_part};
use crate::nodes::state::{Condition, Newest, NodeState, condition};
use crate::nodes::{Node, Place, Refused, Sent, TypeStatus};
use crate::snapshot::feature::Need;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeQuery {
    /// A gateway that selects them.
    gateway: Option<String>,
    #[param(inline)]
    state: Option<NodeState>,
    /// A part of the id, in any case.
    search: Option<String>,
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct NodePage {
    /// In the order of their ids.
    nodes: Vec<ListedNode>,
    /// The `after` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// The streams of one Envoy.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeStreams {
    nodes: Vec<ListedNode>,
}

/// An Envoy as seen from one of its streams, or from its last.
#[derive(Serialize, ToSchema)]
pub(super) struct ListedNode {
    id: String,
    cluster: String,
    /// The text values of its metadata.
    metadata: BTreeMap<String, String>,
    /// The names in its certificate, URIs and DNS names; null where it had to show none.
    #[schema(required = true)]
    certificate: Option<NodeCertificate>,
    /// Its version, as it says.
    envoy: String,
    /// The features that its gateways need and it does not know.
    too_old_for: Vec<NeededFeature>,
    /// `sotw` or `delta`.
    protocol: &'static str,
    #[schema(format = DateTime)]
    connected_at: String,
    /// The gateways that select it.
    groups: Vec<String>,
    state: NodeState,
    reason: String,
    /// The moment since which it is in that state.
    #[schema(format = DateTime)]
    since: String,
    /// `live`, `pending`, `refusing` or `held`.
    standing: &'static str,
    /// The newest generation that is live on it; 0 if none is yet.
    generation: u64,
    /// By type of resources.
    types: BTreeMap<String, ResourcesOfType>,
}

/// What its certificate says of an Envoy.
#[derive(Serialize, ToSchema)]
struct NodeCertificate {
    /// URIs and DNS names of its subjectAltName.
    names: Vec<String>,
    #[schema(required = true, format = DateTime)]
    not_after: Option<String>,
}

/// A feature of Envoy's that documents lead to.
#[derive(Serialize, ToSchema)]
pub(super) struct NeededFeature {
    feature: &'static str,
    /// The first version of Envoy that knows it.
    since: String,
    /// What older ones do with it: `refuses` or `ignores`.
    older: &'static str,
    /// The first documents that lead to it.
    documents: Vec<String>,
    /// The number of further ones.
    others: usize,
}

#[derive(Serialize, ToSchema)]
struct ResourcesOfType {
    subscribed: Subscription,
    #[schema(required = true)]
    sent: Option<SentResources>,
    #[schema(required = true)]
    acknowledged: Option<SentResources>,
    #[schema(required = true)]
    refused: Option<RefusedResources>,
    /// Since when an answer to what was sent last is waited for.
    #[schema(required = true, format = DateTime)]
    pending_since: Option<String>,
    /// True where that takes more than 15 s.
    late: bool,
}

#[derive(Serialize, ToSchema)]
struct Subscription {
    all: bool,
    /// The number of resources that are subscribed to by name.
    names: usize,
}

#[derive(Serialize, ToSchema)]
struct SentResources {
    generation: u64,
    /// A hash of the content.
    version: String,
    #[schema(format = DateTime)]
    at: String,
}

#[derive(Serialize, ToSchema)]
struct RefusedResources {
    #[schema(required = true)]
    sent: Option<SentResources>,
    /// What was new in it.
    #[schema(value_type = Vec<String>)]
    resources: Vec<Arc<str>>,
    /// Envoy's own words.
    message: String,
    #[schema(format = DateTime)]
    since: String,
}

/// The Envoys that are connected or were within the last hour, and what each was sent and made of it.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    operation_id = "list_nodes",
    params(NodeQuery, Known),
    responses(
        Tagged<NodePage>,
        Problem<400>,
        Problem<404>,
        Problem<503>,
    ),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    OfQuery(query): OfQuery<NodeQuery>,
    headers: HeaderMap,
) -> Result<Response, ProblemDetails> {
    let limit = page::limit(query.limit)?;
    admin.check_names(query.gateway.as_deref(), None)?;
    let after = query.after.as_deref().map(|after| page::key_of("after", after)).transpose()?;
    let after = after.map(|(id, stream): (Arc<str>, u64)| Place { id, stream: StreamId(stream) });
    let answer = in_background(move || {
        let look = Look::of(&admin);
        let nodes = admin.nodes.after(after.as_ref()).filter(|(_, node)| query.is_met(node, look));
        let (nodes, next) =
            page::of(nodes.take(limit + 1).collect(), limit, |(place, _)| (Arc::clone(&place.id), place.stream.0));
        tagged(&headers, &NodePage { nodes: nodes.iter().map(|(_, node)| ListedNode::of(node, look)).collect(), next })
    });
    Ok(answer.await)
}

impl NodeQuery {
    /// What is cheap to see comes first: a state is made of much.
    fn is_met(&self, node: &Node, look: Look) -> bool {
        let is_in = |gateway: &String| node.groups.iter().any(|group| group.as_str() == gateway);
        self.gateway.as_ref().is_none_or(is_in)
            && self.search.as_ref().is_none_or(|search| has_part(&node.identity.id, search))
            && self.state.is_none_or(|state| look.at(node).state == state)
    }
}

/// The Envoy with a node id.
///
/// While it reconnects it has two streams, so there may be several.
#[utoipa::path(
    get,
    path = "/v1/nodes/{id}",
    operation_id = "get_node",
    params(("id" = String, Path, description = "The id of its bootstrap's `node`.")),
    responses((status = 200, description = "The Envoy.", body = NodeStreams), Problem<400>, Problem<404>),
)]
pub(super) async fn one(
    State(admin): State<Admin>,
    OfPath(id): OfPath<String>,
) -> Result<Json<NodeStreams>, ProblemDetails> {
    let look = Look::of(&admin);
    let nodes: Vec<ListedNode> = admin.nodes.of_id(&id).iter().map(|node| ListedNode::of(node, look)).collect();
    if nodes.is_empty() {
        return Err(ProblemDetails::not_found(&format!("no Envoy with the node id {id:?} is connected")));
    }
    Ok(Json(NodeStreams { nodes }))
}

/// What is known at the moment when nodes are looked at.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub(super) newest: Newest,
    pub(super) now: Timestamp,
}

impl Look {
    /// What nodes have is known before it is offered to others, so this comes before the look at the nodes.
    pub(super) fn of(admin: &Admin) -> Self {
        let offer = admin.rollout.offer();
        let newest = Newest { generation: offer.number, read_at: offer.served.read_at };
        Self { newest, now: admin.clock.now() }
    }

    pub(super) fn at(self, node: &Node) -> Condition {
        condition(node, self.newest, self.now)
    }
}

impl ListedNode {
    fn of(node: &Node, look: Look) -> Self {
        let types = node.types.iter();
        let types =
            types.map(|(resource_type, status)| (resource_type.to_string(), ResourcesOfType::of(status, look.now)));
        let Condition { state, reason, since } = look.at(node);
        Self {
            id: node.identity.id.clone(),
            cluster: node.identity.cluster.clone(),
            metadata: node.identity.metadata.clone(),
            certificate: node.identity.certificate.as_deref().map(NodeCertificate::of),
            envoy: node.envoy_version.clone(),
            too_old_for: NeededFeature::all_of(node),
            protocol: node.protocol.as_str(),
            connected_at: rfc3339(node.connected_at),
            groups: node.groups.iter().map(Name::to_string).collect(),
            state,
            reason,
            since: rfc3339(since),
            standing: node.position.standing.as_str(),
            generation: node.position.live,
            types: types.collect(),
        }
    }
}

impl NodeCertificate {
    fn of(certificate: &ClientCertificate) -> Self {
        let not_after = certificate.not_after.map(|end| humantime::format_rfc3339_seconds(end).to_string());
        Self { names: certificate.sans.iter().map(ToString::to_string).collect(), not_after }
    }
}

impl NeededFeature {
    pub(super) fn all_of(node: &Node) -> Vec<Self> {
        node.too_old_for.iter().map(|need| Self::of(need)).collect()
    }

    fn of(need: &Need) -> Self {
        Self {
            feature: need.feature.name,
            since: need.feature.since.to_string(),
            older: need.feature.older.as_str(),
            documents: need.documents.clone(),
            others: need.others,
        }
    }
}

impl ResourcesOfType {
    fn of(status: &TypeStatus, now: Timestamp) -> Self {
        Self {
            subscribed: Subscription { all: status.subscribed.all, names: status.subscribed.names },
            sent: status.sent.map(SentResources::of),
            acknowledged: status.acknowledged.map(SentResources::of),
            refused: status.refused.as_ref().map(RefusedResources::of),
            pending_since: status.pending_since.map(rfc3339),
            late: status.is_late(now),
        }
    }
}

impl SentResources {
    fn of(sent: Sent) -> Self {
        Self { generation: sent.generation, version: sent.version.to_string(), at: rfc3339(sent.at) }
    }
}

impl RefusedResources {
    fn of(refused: &Refused) -> Self {
        Self {
            sent: refused.sent.map(SentResources::of),
            resources: refused.resources.clone(),
            message: refused.message.clone(),
            since: rfc3339(refused.since),
        }
    }
}
