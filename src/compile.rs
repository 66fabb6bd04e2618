//! From policies to xDS: the only place that knows how Envoy wants things expressed.
//!
//! ```text
//! Gateway -> Listener (HTTP connection manager, rate limit filter) and, for TLS, Secret
//! Api     -> routes of the gateway's RouteConfiguration, with the actions that report to the rate limit service
//! Service -> Cluster, and ClusterLoadAssignment where its endpoints are listed
//! ```
//!
//! It is total: what could fail was refused before. It is deterministic: equal policies give equal bytes on
//! every replica. Protobuf maps have no order, so none that is filled here may hold more than one entry.
//! A limit's rate is in none of these bytes; routes only say what a request is to be counted by.

mod cluster;
mod endpoint;
mod filters;
mod listener;
mod pb;
mod rate_limit;
mod route;

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name as MessageName};

use crate::policy::gateway::Gateway;
use crate::policy::service::Discovery;
use crate::policy::set::PolicySet;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{Resources, Snapshot};

/// How Envoys reach the rate limit service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitService {
    pub addresses: Vec<HostPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

pub fn compile(policies: &PolicySet, rate_limit_service: &RateLimitService) -> Snapshot {
    let group = |gateway: &Arc<Gateway>| {
        let resources = compile_gateway(policies, gateway, rate_limit_service);
        (gateway.name.clone(), Arc::new(Resources::new(resources)))
    };
    Snapshot { groups: policies.gateways.values().map(group).collect() }
}

fn compile_gateway(
    policies: &PolicySet,
    gateway: &Gateway,
    rate_limit_service: &RateLimitService,
) -> Vec<(ResourceType, Arc<Resource>)> {
    let mut resources = vec![
        encode(ResourceType::Cluster, cluster::RATE_LIMIT_CLUSTER, &cluster::rate_limit_service(rate_limit_service)),
        encode(ResourceType::Listener, gateway.name.as_str(), &listener::listener(gateway)),
        encode(ResourceType::Route, gateway.name.as_str(), &route::route_configuration(policies, gateway)),
    ];
    if let Some(tls) = &gateway.tls {
        let secret = listener::secret(gateway, tls);
        resources.push(encode(ResourceType::Secret, &listener::secret_name(gateway), &secret));
    }
    let services: BTreeSet<_> = policies.apis_of(&gateway.name).map(|api| &api.service).collect();
    for service in services.into_iter().filter_map(|name| policies.services.get(name)) {
        let name = service.name.as_str();
        resources.push(encode(ResourceType::Cluster, name, &cluster::service(service)));
        if let Discovery::Endpoints(addresses) = &service.discovery {
            resources.push(encode(ResourceType::Endpoint, name, &endpoint::assignment(name, addresses)));
        }
    }
    resources
}

fn encode(resource_type: ResourceType, name: &str, message: &impl Message) -> (ResourceType, Arc<Resource>) {
    (resource_type, Arc::new(Resource::new(name, message.encode_to_vec())))
}

fn any<M: Message + MessageName>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
