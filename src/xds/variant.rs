//! The two variants of the protocol on the wire: protobuf messages to the sessions' values and back.

use prost::bytes::Bytes;

use super::response::Response;
use super::session::{Outgoing, Session, Step};
use super::wire::{
    ControlPlane, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
    UserAgentVersion,
};
use super::{delta, sotw};
use crate::nodes::Protocol;
use crate::snapshot::resource::ResourceType;

/// A variant of the protocol, as the stream speaks it.
pub(super) trait Variant: Send + Sync + 'static {
    type Request: prost::Message + Default + 'static;
    const PROTOCOL: Protocol;

    fn node(request: &mut Self::Request) -> Option<Node>;
    fn type_url(request: &Self::Request) -> &str;
    /// Every name in the request.
    fn names(request: &Self::Request) -> impl Iterator<Item = &String>;
    fn on_request(session: &mut Session, resource_type: ResourceType, request: Self::Request) -> Step;
    fn encode(response: Outgoing, identifier: &Bytes) -> Response;
    /// The response to a request for a type that is not served, under a nonce of its own (xDS rule 6).
    fn not_served(request: Self::Request, nonce: u64, identifier: &Bytes) -> Option<Response>;
}

#[derive(Debug)]
pub(super) struct Sotw;

impl Variant for Sotw {
    type Request = DiscoveryRequest;
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn node(request: &mut DiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn type_url(request: &DiscoveryRequest) -> &str {
        &request.type_url
    }

    fn names(request: &DiscoveryRequest) -> impl Iterator<Item = &String> {
        request.resource_names.iter()
    }

    fn on_request(session: &mut Session, resource_type: ResourceType, request: DiscoveryRequest) -> Step {
        let request = sotw::Request {
            names: request.resource_names,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        };
        sotw::on_request(session, resource_type, request)
    }

    fn encode(response: Outgoing, identifier: &Bytes) -> Response {
        let type_url = response.resource_type.type_url();
        let head = DiscoveryResponse {
            version_info: response.version.to_string(),
            type_url: Bytes::from_static(type_url.as_bytes()),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(identifier),
        };
        Response::new(Self::PROTOCOL, &head, type_url, response.resources, Vec::new())
    }

    fn not_served(_: DiscoveryRequest, _: u64, _: &Bytes) -> Option<Response> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Delta;

impl Variant for Delta {
    type Request = DeltaDiscoveryRequest;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(request: &mut DeltaDiscoveryRequest) -> Option<Node> {
        request.node.take()
    }

    fn type_url(request: &DeltaDiscoveryRequest) -> &str {
        &request.type_url
    }

    fn names(request: &DeltaDiscoveryRequest) -> impl Iterator<Item = &String> {
        let lists = request.resource_names_subscribe.iter().chain(&request.resource_names_unsubscribe);
        lists.chain(request.initial_resource_versions.keys())
    }

    fn on_request(session: &mut Session, resource_type: ResourceType, request: DeltaDiscoveryRequest) -> Step {
        let request = delta::Request {
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        };
        delta::on_request(session, resource_type, request)
    }

    fn encode(response: Outgoing, identifier: &Bytes) -> Response {
        let type_url = response.resource_type.type_url();
        let head = DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            type_url: Bytes::from_static(type_url.as_bytes()),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(identifier),
        };
        Response::new(Self::PROTOCOL, &head, type_url, response.resources, response.removed)
    }

    fn not_served(request: DeltaDiscoveryRequest, nonce: u64, identifier: &Bytes) -> Option<Response> {
        let names = request.resource_names_subscribe.iter().filter(|name| *name != "*");
        let removed: Vec<_> = names.map(|name| name.as_str().into()).collect();
        if removed.is_empty() {
            return None;
        }
        let head = DeltaDiscoveryResponse {
            type_url: request.type_url.into(),
            nonce: nonce.to_string(),
            control_plane: control_plane(identifier),
            ..Default::default()
        };
        Some(Response::new(Self::PROTOCOL, &head, "", Vec::new(), removed))
    }
}

fn control_plane(identifier: &Bytes) -> Option<ControlPlane> {
    Some(ControlPlane { identifier: identifier.clone() })
}

/// `1.40.0`, or what the node calls itself.
pub(super) fn version(node: &Node) -> String {
    match &node.user_agent_version {
        Some(UserAgentVersion::Text(version)) => version.clone(),
        Some(UserAgentVersion::Build(build)) => {
            let version = build.version.as_ref();
            version.map(|v| format!("{}.{}.{}", v.major, v.minor, v.patch)).unwrap_or_default()
        }
        None => String::new(),
    }
}
