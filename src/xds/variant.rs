//! The two variants of the protocol on the wire: protobuf messages to the sessions' values and back.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node as NodePb};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as ResourcePb,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::protobuf::value::Kind;

use super::delta::{self, Delta};
use super::session::{Outgoing, Step};
use super::sotw::{self, Sotw};
use crate::names::NodeIdentity;
use crate::nodes::Protocol;
use crate::snapshot::Resources;
use crate::snapshot::resource::{Resource, ResourceType};

/// What the stream needs of a variant.
pub(super) trait Variant: Default + Send + Sync + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;
    const PROTOCOL: Protocol;

    fn node(request: &Self::Request) -> Option<&NodePb>;
    fn type_url(request: &Self::Request) -> &str;
    fn on_request(
        &mut self,
        resource_type: ResourceType,
        request: Self::Request,
        resources: Option<&Resources>,
    ) -> Step;
    fn on_change(&mut self, resources: &Resources) -> Vec<Outgoing>;
    fn on_quiet(&mut self, resources: &Resources) -> Vec<Outgoing>;
    fn encode(response: &Outgoing, identifier: &str) -> Self::Response;
}

impl Variant for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;

    fn node(request: &DiscoveryRequest) -> Option<&NodePb> {
        request.node.as_ref()
    }

    fn type_url(request: &DiscoveryRequest) -> &str {
        &request.type_url
    }

    fn on_request(
        &mut self,
        resource_type: ResourceType,
        request: DiscoveryRequest,
        resources: Option<&Resources>,
    ) -> Step {
        let request = sotw::Request {
            resource_type,
            names: request.resource_names,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        };
        Self::on_request(self, request, resources)
    }

    fn on_change(&mut self, resources: &Resources) -> Vec<Outgoing> {
        Self::on_change(self, resources)
    }

    fn on_quiet(&mut self, resources: &Resources) -> Vec<Outgoing> {
        Self::on_quiet(self, resources)
    }

    fn encode(response: &Outgoing, identifier: &str) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: response.resources.iter().map(|resource| any(response.resource_type, resource)).collect(),
            type_url: response.resource_type.type_url().to_owned(),
            nonce: response.nonce.clone(),
            control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
            ..Default::default()
        }
    }
}

impl Variant for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PROTOCOL: Protocol = Protocol::Delta;

    fn node(request: &DeltaDiscoveryRequest) -> Option<&NodePb> {
        request.node.as_ref()
    }

    fn type_url(request: &DeltaDiscoveryRequest) -> &str {
        &request.type_url
    }

    fn on_request(
        &mut self,
        resource_type: ResourceType,
        request: DeltaDiscoveryRequest,
        resources: Option<&Resources>,
    ) -> Step {
        let request = delta::Request {
            resource_type,
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            initial_versions: request.initial_resource_versions,
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
        };
        Self::on_request(self, request, resources)
    }

    fn on_change(&mut self, resources: &Resources) -> Vec<Outgoing> {
        Self::on_change(self, resources)
    }

    fn on_quiet(&mut self, resources: &Resources) -> Vec<Outgoing> {
        Self::on_quiet(self, resources)
    }

    fn encode(response: &Outgoing, identifier: &str) -> DeltaDiscoveryResponse {
        let resource = |resource: &Arc<Resource>| ResourcePb {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(response.resource_type, resource)),
            ..Default::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            resources: response.resources.iter().map(resource).collect(),
            removed_resources: response.removed.clone(),
            type_url: response.resource_type.type_url().to_owned(),
            nonce: response.nonce.clone(),
            control_plane: Some(ControlPlane { identifier: identifier.to_owned() }),
            ..Default::default()
        }
    }
}

fn any(resource_type: ResourceType, resource: &Resource) -> Any {
    Any { type_url: resource_type.type_url().to_owned(), value: resource.body.to_vec() }
}

/// Who an Envoy says it is.
pub(super) fn identity(node: &NodePb) -> NodeIdentity {
    let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
    let text = |(key, value): (&String, &envoy_types::pb::google::protobuf::Value)| match &value.kind {
        Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
        _ => None,
    };
    NodeIdentity {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        metadata: fields.into_iter().flatten().filter_map(text).collect(),
    }
}

/// `1.40.0`, or what the node calls itself.
pub(super) fn version(node: &NodePb) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let version = build.version.as_ref();
            version.map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch)).unwrap_or_default()
        }
        None => String::new(),
    }
}
