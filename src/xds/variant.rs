//! The two variants of the protocol on the wire: protobuf messages to the sessions' values and back.

use prost::bytes::Bytes;

use super::session::{Outgoing, Session, Step};
use super::wire::{
    Any, ControlPlane, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
    Resource as ResourceView, UserAgentVersion,
};
use super::{delta, sotw};
use crate::nodes::Protocol;
use crate::snapshot::resource::{Resource, ResourceType};

/// What the stream needs of a variant.
pub(super) trait Variant: Send + Sync + 'static {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    const PROTOCOL: Protocol;

    fn node(request: &mut Self::Request) -> Option<Node>;
    fn type_url(request: &Self::Request) -> &str;
    /// Every name in the request.
    fn names(request: &Self::Request) -> impl Iterator<Item = &String>;
    fn on_request(session: &mut Session, resource_type: ResourceType, request: Self::Request) -> Step;
    fn encode(response: Outgoing, identifier: &Bytes) -> Self::Response;
    /// What is said to a request for a type that is not served, under a nonce of its own (xDS rule 6).
    fn not_served(request: Self::Request, nonce: u64, identifier: &Bytes) -> Option<Self::Response>;
}

#[derive(Debug)]
pub(super) struct Sotw;

impl Variant for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
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

    fn encode(response: Outgoing, identifier: &Bytes) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: response.resources.iter().map(|resource| any(response.resource_type, resource)).collect(),
            type_url: type_url(response.resource_type),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(identifier),
        }
    }

    fn not_served(_: DiscoveryRequest, _: u64, _: &Bytes) -> Option<DiscoveryResponse> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Delta;

impl Variant for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
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

    fn encode(response: Outgoing, identifier: &Bytes) -> DeltaDiscoveryResponse {
        let resource = |resource: &std::sync::Arc<Resource>| ResourceView {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(response.resource_type, resource)),
        };
        DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            resources: response.resources.iter().map(resource).collect(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            type_url: type_url(response.resource_type),
            nonce: response.nonce.to_string(),
            control_plane: control_plane(identifier),
        }
    }

    fn not_served(request: DeltaDiscoveryRequest, nonce: u64, identifier: &Bytes) -> Option<DeltaDiscoveryResponse> {
        let mut names = request.resource_names_subscribe;
        names.retain(|name| name != "*");
        (!names.is_empty()).then(|| DeltaDiscoveryResponse {
            removed_resources: names,
            type_url: request.type_url.into(),
            nonce: nonce.to_string(),
            control_plane: control_plane(identifier),
            ..Default::default()
        })
    }
}

fn any(resource_type: ResourceType, resource: &Resource) -> Any {
    Any { type_url: type_url(resource_type), value: resource.body.clone() }
}

fn type_url(resource_type: ResourceType) -> Bytes {
    Bytes::from_static(resource_type.type_url().as_bytes())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::names::Version;

    #[test]
    fn xds_rule_96_the_bytes_of_a_resource_are_there_once_for_all_streams() {
        let resource = Arc::new(Resource::new("a", vec![1, 2, 3]));
        let response = || Outgoing {
            resource_type: ResourceType::Cluster,
            version: Version::of(b""),
            resources: vec![Arc::clone(&resource)],
            changed: Vec::new(),
            removed: Vec::new(),
            nonce: 1,
        };
        let sotw = Sotw::encode(response(), &Bytes::new());
        let delta = Delta::encode(response(), &Bytes::new());
        let bodies = [&sotw.resources[0].value, &delta.resources[0].resource.as_ref().unwrap().value];
        assert!(bodies.into_iter().all(|body| body.as_ptr() == resource.body.as_ptr()));
    }
}
