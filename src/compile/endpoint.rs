//! Where the instances of a service are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{Address, Locality};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};

use super::{HostPort, pb};
use crate::document::Instance;

/// Of instances that registered themselves, by their zones.
pub(super) fn registered(cluster: &str, instances: &[Instance]) -> ClusterLoadAssignment {
    let mut by_zone: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for instance in instances {
        let endpoints = by_zone.entry(instance.zone.as_deref().unwrap_or_default()).or_default();
        let weight = Some(instance.weight).filter(|weight| *weight != 1).and_then(pb::uint32);
        endpoints.push(LbEndpoint { load_balancing_weight: weight, ..endpoint(pb::socket_address(instance.address)) });
    }
    let locality = |(zone, lb_endpoints): (&str, _)| LocalityLbEndpoints {
        locality: (!zone.is_empty()).then(|| Locality { zone: zone.to_owned(), ..Default::default() }),
        lb_endpoints,
        ..Default::default()
    };
    let endpoints = by_zone.into_iter().map(locality).collect();
    ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints, ..Default::default() }
}

pub(super) fn assignment(cluster: &str, addresses: &[SocketAddr]) -> ClusterLoadAssignment {
    assignment_of(cluster, addresses.iter().map(|address| pb::socket_address(*address)))
}

pub(super) fn of_hosts(cluster: &str, hosts: &[HostPort]) -> ClusterLoadAssignment {
    assignment_of(cluster, hosts.iter().map(|host| pb::host_port(&host.host, host.port)))
}

pub(super) fn assignment_of(cluster: &str, addresses: impl Iterator<Item = Option<Address>>) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: addresses.map(endpoint).collect(), ..Default::default() }],
        ..Default::default()
    }
}

fn endpoint(address: Option<Address>) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address, ..Default::default() })),
        ..Default::default()
    }
}
