//! Where the instances of a service are.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Address;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};

use super::pb;

pub(super) fn assignment(cluster: &str, addresses: &[SocketAddr]) -> ClusterLoadAssignment {
    assignment_of(cluster, addresses.iter().map(|address| pb::socket_address(*address)))
}

pub(super) fn assignment_of(cluster: &str, addresses: impl Iterator<Item = Option<Address>>) -> ClusterLoadAssignment {
    let endpoint = |address| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address, ..Default::default() })),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: addresses.map(endpoint).collect(), ..Default::default() }],
        ..Default::default()
    }
}
