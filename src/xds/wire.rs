//! Envoy's discovery messages as far as an ADS server reads and writes them.
//!
//! They are wire-compatible views of `envoy/service/discovery/v3/discovery.proto` and `envoy/config/core/v3/base.proto`.
//! What an Envoy tells of itself that nobody here asks for (its hundreds of extensions) is passed over while it is read;
//! the lists of responses are written by [`Response`](super::response::Response). Tests hold both equal to envoy-types.

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::Struct;
use envoy_types::pb::google::rpc::Status;
use prost::bytes::Bytes;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<Struct>,
    #[prost(oneof = "UserAgentVersion", tags = "7, 8")]
    pub(super) user_agent_version: Option<UserAgentVersion>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum UserAgentVersion {
    #[prost(string, tag = "7")]
    Text(String),
    #[prost(message, tag = "8")]
    Build(BuildVersion),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BuildVersion {
    #[prost(message, optional, tag = "1")]
    pub(super) version: Option<SemanticVersion>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SemanticVersion {
    #[prost(uint32, tag = "1")]
    pub(super) major: u32,
    #[prost(uint32, tag = "2")]
    pub(super) minor: u32,
    #[prost(uint32, tag = "3")]
    pub(super) patch: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DiscoveryRequest {
    #[prost(message, optional, tag = "2")]
    pub(super) node: Option<Node>,
    #[prost(string, repeated, tag = "3")]
    pub(super) resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) type_url: String,
    #[prost(string, tag = "5")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(super) error_detail: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeltaDiscoveryRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) node: Option<Node>,
    #[prost(string, tag = "2")]
    pub(super) type_url: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) resource_names_subscribe: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub(super) resource_names_unsubscribe: Vec<String>,
    #[prost(map = "string, string", tag = "5")]
    pub(super) initial_resource_versions: HashMap<String, String>,
    #[prost(string, tag = "6")]
    pub(super) response_nonce: String,
    #[prost(message, optional, tag = "7")]
    pub(super) error_detail: Option<Status>,
}

/// Without its resources.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub(super) version_info: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) type_url: Bytes,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(super) control_plane: Option<ControlPlane>,
}

/// Without its resources, and without the names of those that are removed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeltaDiscoveryResponse {
    #[prost(string, tag = "1")]
    pub(super) system_version_info: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) type_url: Bytes,
    #[prost(string, tag = "5")]
    pub(super) nonce: String,
    #[prost(message, optional, tag = "7")]
    pub(super) control_plane: Option<ControlPlane>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ControlPlane {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) identifier: Bytes,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use envoy_types::pb::envoy::config::core::v3 as core;
    use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
    use envoy_types::pb::envoy::service::discovery::v3 as pb;
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion as SemanticVersionPb;
    use envoy_types::pb::google::protobuf as google;
    use prost::Message;

    use super::*;

    /// Bytes that the one writes, the other reads, and writes again to the same bytes.
    #[track_caller]
    fn assert_same<A: Message + Default + PartialEq + Debug, B: Message + Default>(full: &A) -> B {
        let view = B::decode(full.encode_to_vec().as_slice()).unwrap();
        assert_eq!(A::decode(view.encode_to_vec().as_slice()).unwrap(), *full);
        view
    }

    fn node() -> core::Node {
        let text = google::Value { kind: Some(google::value::Kind::StringValue("b".into())) };
        let version = SemanticVersionPb { major_number: 1, minor_number: 40, patch: 3 };
        let build = core::BuildVersion { version: Some(version), metadata: None };
        core::Node {
            id: "edge-1".into(),
            cluster: "edge".into(),
            metadata: Some(Struct { fields: [("a".to_owned(), text)].into() }),
            user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
            ..Default::default()
        }
    }

    #[test]
    fn requests_are_read_as_envoy_writes_them() {
        let error_detail = Some(Status { code: 13, message: "no".into(), details: Vec::new() });
        assert_same::<_, DiscoveryRequest>(&pb::DiscoveryRequest {
            node: Some(node()),
            resource_names: vec!["a".into(), "b".into()],
            type_url: "t".into(),
            response_nonce: "7".into(),
            error_detail: error_detail.clone(),
            ..Default::default()
        });
        assert_same::<_, DeltaDiscoveryRequest>(&pb::DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: "t".into(),
            resource_names_subscribe: vec!["a".into()],
            resource_names_unsubscribe: vec!["b".into()],
            initial_resource_versions: [("c".to_owned(), "1".to_owned())].into(),
            response_nonce: "7".into(),
            error_detail,
            ..Default::default()
        });
    }

    #[test]
    fn what_nobody_asks_for_is_passed_over() {
        let extensions = vec![core::Extension { name: "filter".into(), ..Default::default() }; 300];
        let request = pb::DiscoveryRequest {
            version_info: "1".into(),
            node: Some(core::Node { extensions, user_agent_name: "envoy".into(), ..node() }),
            ..Default::default()
        };
        let view = DiscoveryRequest::decode(request.encode_to_vec().as_slice()).unwrap();
        assert_eq!(view.node.unwrap().id, "edge-1");
    }
}
