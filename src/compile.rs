//! From policies to xDS: the only place that knows how Envoy wants things expressed.
//!
//! ```text
//! Gateway -> Listener (HTTP connection manager, rate limit filter) and, for TLS, Secret; for traces, Cluster
//! Api     -> routes of the gateway's RouteConfiguration, with the actions that report to the rate limit service
//! Service -> Cluster, ClusterLoadAssignment where its endpoints are listed, and, for TLS, Secrets
//! ```
//!
//! It is total: what could fail was refused before. It is deterministic: equal policies give equal bytes on
//! every replica. Protobuf maps have no order, so none that is filled here may hold more than one entry.
//! A limit's rate is in none of these bytes; routes only say what a request is to be counted by.

mod access_log;
mod cluster;
mod cors;
mod endpoint;
pub mod features;
mod filters;
mod listener;
mod local_replies;
mod pb;
mod rate_limit;
mod route;
pub mod server;
mod spans;
mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name as MessageName};

use crate::document::Registered;
use crate::names::{Name, secret};
use crate::policy::gateway::Gateway;
use crate::policy::service::Discovery;
use crate::policy::set::PolicySet;
use crate::snapshot::resource::{Resource, ResourceType};
use crate::snapshot::{Resources, Snapshot};

/// The addresses under which Envoys reach the rate limit service, and the TLS that its port asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimitService {
    pub addresses: Vec<HostPort>,
    /// True where addresses come and go, with replicas of Tierflow. They are apart from the cluster then, whose connections
    /// stay when another address comes.
    pub has_replicas: bool,
    pub tls: ServerTls,
}

/// The TLS that the ports of Tierflow ask of an Envoy. Where its files are only its bootstrap knows, which has them as
/// secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerTls {
    #[default]
    None,
    /// That it trusts the authority in [`AUTHORITY_SECRET`].
    Server,
    /// That it shows the certificate in [`IDENTITY_SECRET`] as well.
    Mutual,
}

pub const AUTHORITY_SECRET: &str = "tierflow:ca";
pub const IDENTITY_SECRET: &str = "tierflow:identity";

/// Where an Envoy has these secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets<'a> {
    /// In its bootstrap, which is read once.
    Bootstrap,
    /// In files of this folder, which it watches.
    Folder(&'a str),
}

impl<'a> Secrets<'a> {
    pub fn of(sds_dir: Option<&'a str>) -> Self {
        sds_dir.map_or(Self::Bootstrap, Self::Folder)
    }
}

/// The name of the file in such a folder that has the secret.
pub fn secret_file(secret: &str) -> String {
    format!("{}.yaml", secret.replace(':', "_"))
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl RateLimitService {
    /// With the addresses of other replicas, in the same order on each: this one is asked whether it is registered or not, by
    /// Envoys that reach it.
    #[must_use]
    pub fn with_replicas(&self, addresses: &[Arc<str>]) -> Self {
        if !self.has_replicas {
            return self.clone();
        }
        let others = addresses.iter().filter_map(|address| HostPort::parse(address));
        let all: BTreeSet<HostPort> = self.addresses.iter().cloned().chain(others).collect();
        Self { addresses: all.into_iter().collect(), ..self.clone() }
    }

    /// True where an Envoy asks for the addresses (EDS), which are IP addresses then: names are looked up by the cluster.
    fn is_discovered(&self) -> bool {
        self.has_replicas && self.addresses.iter().all(HostPort::is_address)
    }
}

impl HostPort {
    /// Reads what people write, as in `10.0.0.7:8081` or `[::1]:8081`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse::<u16>().ok().filter(|port| *port != 0)?;
        let is_well_formed =
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'@' | b'/' | b'?' | b'#'));
        is_well_formed.then(|| Self { host: host.to_owned(), port })
    }

    fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The resources of all gateways: `before`, with those of the `affected` gateways compiled anew. What of these comes out
/// equal is the same object as before.
pub fn compile(
    policies: &PolicySet,
    registered: &Registered,
    rate_limit_service: &RateLimitService,
    before: &Snapshot,
    affected: &BTreeSet<Name>,
) -> Snapshot {
    let mut groups = before.groups.clone();
    for name in affected {
        let known = groups.remove(name);
        let Some(gateway) = policies.gateways.get(name) else { continue };
        let compiled = compile_gateway(policies, registered, gateway, rate_limit_service);
        let resources = match known {
            Some(known) => compiled.sharing_with(&known),
            None => Arc::new(compiled),
        };
        groups.insert(name.clone(), resources);
    }
    Snapshot { groups }
}

/// The resources of one gateway's Envoys.
pub fn compile_gateway(
    policies: &PolicySet,
    registered: &Registered,
    gateway: &Gateway,
    rate_limit_service: &RateLimitService,
) -> Resources {
    let limiter = server::rate_limit_service(rate_limit_service, Secrets::of(gateway.sds_dir.as_deref()));
    let mut resources = vec![
        encode(ResourceType::Cluster, server::RATE_LIMIT_CLUSTER, &limiter),
        encode(ResourceType::Listener, gateway.name.as_str(), &listener::listener(gateway)),
        encode(ResourceType::Route, gateway.name.as_str(), &route::route_configuration(policies, gateway)),
    ];
    if rate_limit_service.is_discovered() {
        let addresses = endpoint::of_hosts(server::RATE_LIMIT_CLUSTER, &rate_limit_service.addresses);
        resources.push(encode(ResourceType::Endpoint, server::RATE_LIMIT_CLUSTER, &addresses));
    }
    let collector = gateway.tracing.as_ref().map(server::collector);
    resources.extend(collector.map(|cluster| encode(ResourceType::Cluster, server::COLLECTOR_CLUSTER, &cluster)));
    let certificate = gateway.tls.as_ref().map(|files| tls::identity(secret::of_gateway(&gateway.name), files));
    resources.extend(certificate.map(|secret| encode(ResourceType::Secret, &secret.name, &secret)));
    let services: BTreeSet<_> = policies.apis.of_gateway(&gateway.name).map(|api| &api.service).collect();
    for service in services.into_iter().filter_map(|name| policies.services.get(name.as_str())) {
        let name = service.name.as_str();
        resources.push(encode(ResourceType::Cluster, name, &cluster::service(service)));
        let secrets = cluster::secrets(service);
        resources.extend(secrets.iter().map(|secret| encode(ResourceType::Secret, &secret.name, secret)));
        let assignment = match &service.discovery {
            Discovery::Endpoints(addresses) => endpoint::assignment(name, addresses),
            Discovery::Registry { .. } => {
                let instances = registered.get(&service.name);
                endpoint::registered(name, instances.map_or(&[], |instances| instances))
            }
            Discovery::Dns { .. } => continue,
        };
        resources.push(encode(ResourceType::Endpoint, name, &assignment));
    }
    Resources::new(resources).with_needs(features::needs(policies, gateway))
}

/// The cluster that an Envoy gets all the others from.
pub fn xds_cluster(server: &HostPort, tls: ServerTls, secrets: Secrets<'_>) -> Arc<Resource> {
    encode(ResourceType::Cluster, server::XDS_CLUSTER, &server::xds(server, tls, secrets)).1
}

fn encode(resource_type: ResourceType, name: &str, message: &impl Message) -> (ResourceType, Arc<Resource>) {
    (resource_type, Arc::new(Resource::new(name, message.encode_to_vec())))
}

fn any<M: Message + MessageName>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::split;
    use crate::policy::parse::parse;

    const SHOP: &str = "\
{kind: Gateway, name: shop, nodes: {clusters: [edge]}, listen: '127.0.0.1:1',
 tenant: {from: {cookie: tenant}, default_plan: standard}, cors: {allow_origins: ['https://*.a.b', 'https://c.d']}}
---
{kind: Gateway, name: side, nodes: {clusters: [side]}, listen: '127.0.0.1:2',
 tls: {certificate_chain: /tls.crt, private_key: /tls.key}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101', '127.0.0.1:9102']}
---
{kind: Service, name: pay, dns: 'pay.internal:80', protocol: http2}
---
{kind: Api, name: create, gateway: shop, match: {path: /create}, service: order, limits: [{rate: 10/s, by: [client_ip]}]}
---
{kind: Api, name: read, gateway: shop, match: {path_prefix: /, hosts: [a.b, '*.c.d']}, service: order, retry: {on: [503, connect-failure]}}
---
{kind: Api, name: pay, gateway: side, match: {path_regex: '/p.*'}, service: pay}
---
{kind: Plan, name: standard, limits: [{rate: 600/m}]}
";

    fn snapshot(text: &str) -> Snapshot {
        let documents = split(&"p.yaml".into(), text.as_bytes()).into_iter().map(Arc::new);
        let parsed = documents.map(|document| Arc::new(parse(&document).unwrap()));
        let address = HostPort { host: "127.0.0.1".to_owned(), port: 8081 };
        let policies = PolicySet::of_all(parsed).unwrap().0;
        let rate_limit_service = RateLimitService { addresses: vec![address], ..Default::default() };
        let all = policies.gateways.keys().cloned().collect();
        compile(&policies, &Registered::default(), &rate_limit_service, &Snapshot::default(), &all)
    }

    /// The resources that differ, as `group type name`.
    fn changed(before: &str, after: &str) -> Vec<String> {
        let (before, after) = (snapshot(before), snapshot(after));
        let differing = after.groups.iter().flat_map(|(name, group)| {
            let old = before.groups.get(name);
            let is_new = move |resource_type, resource: &Arc<Resource>| {
                old.and_then(|old| old.of_type(resource_type).by_name.get(&resource.name)) != Some(resource)
            };
            let new = group.iter().filter(move |(resource_type, resource)| is_new(*resource_type, resource));
            new.map(move |(resource_type, resource)| format!("{name} {resource_type} {}", resource.name))
        });
        differing.collect()
    }

    #[test]
    fn the_order_of_documents_makes_no_difference() {
        let mut documents: Vec<&str> = SHOP.split("---\n").collect();
        documents.reverse();
        assert_eq!(changed(SHOP, &documents.join("---\n")), [""; 0]);
    }

    #[test]
    fn xds_rule_30_the_same_policies_give_the_same_bytes_every_time() {
        for _ in 0..1000 {
            assert_eq!(changed(SHOP, SHOP), [""; 0]);
        }
    }

    #[test]
    fn xds_rule_75_a_rate_is_in_no_resource() {
        let other = SHOP.replace("rate: 10/s", "rate: 99/10m, mode: shadow, status: 402, algorithm: fixed_window");
        assert_eq!(changed(SHOP, &other.replace("600/m", "7/s")), [""; 0]);
    }

    #[test]
    fn what_a_limit_counts_by_is_in_its_route_alone() {
        assert_eq!(changed(SHOP, &SHOP.replace("by: [client_ip]", "by: [client_ip, path]")), ["shop route shop"]);
        assert_eq!(changed(SHOP, &SHOP.replace("by: [client_ip]", "by: [client_ip/24]")), [""; 0]);
    }

    #[test]
    fn endpoints_are_apart_from_their_cluster() {
        assert_eq!(changed(SHOP, &SHOP.replace("9102", "9103")), ["shop endpoint order"]);
    }

    #[test]
    fn a_replica_that_comes_or_goes_is_in_the_endpoints_of_its_cluster_alone() {
        let compiled = |addresses: &[&str], tls| {
            let documents = split(&"p.yaml".into(), SHOP.as_bytes()).into_iter().map(Arc::new);
            let policies = PolicySet::of_all(documents.map(|document| Arc::new(parse(&document).unwrap()))).unwrap().0;
            let addresses = addresses.iter().map(|address| HostPort::parse(address).unwrap()).collect();
            let service = RateLimitService { addresses, has_replicas: true, tls };
            compile_gateway(&policies, &Registered::default(), policies.gateways.get("shop").unwrap(), &service)
        };
        let changed = |tls, before: &[&str], after: &[&str]| {
            let (before, after) = (compiled(before, tls), compiled(after, tls));
            let is_other = |(resource_type, resource): &(ResourceType, &Arc<Resource>)| {
                before.of_type(*resource_type).by_name.get(&resource.name) != Some(*resource)
            };
            let others = after.iter().filter(is_other).map(|(kind, resource)| format!("{kind} {}", resource.name));
            others.collect::<Vec<_>>()
        };
        let one = ["10.0.0.1:1"];
        assert_eq!(changed(ServerTls::None, &one, &["10.0.0.1:1", "[::1]:2"]), ["endpoint tierflow:rls"]);
        // The names that certificates may be for stand in the cluster.
        let renewed = changed(ServerTls::Server, &one, &["10.0.0.2:1"]);
        assert_eq!(renewed, ["cluster tierflow:rls", "endpoint tierflow:rls"]);
        assert_eq!(changed(ServerTls::None, &one, &["10.0.0.1:1", "b.internal:2"]), ["cluster tierflow:rls"]);
    }

    #[test]
    fn a_certificate_is_apart_from_its_listener() {
        assert_eq!(changed(SHOP, &SHOP.replace("/tls.crt", "/new.crt")), ["side secret side/tls"]);
    }

    #[test]
    fn a_gateway_has_only_what_its_routes_lead_to() {
        let snapshot = snapshot(SHOP);
        let names = |gateway: &str, resource_type| {
            let group = snapshot.groups.get(gateway).unwrap();
            group.of_type(resource_type).by_name.keys().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("shop", ResourceType::Cluster), ["order", "tierflow:rls"]);
        assert_eq!(names("side", ResourceType::Cluster), ["pay", "tierflow:rls"]);
        assert_eq!(names("shop", ResourceType::Endpoint), ["order"]);
        assert_eq!(names("side", ResourceType::Endpoint), [""; 0]);
    }

    #[test]
    fn xds_rule_77_every_name_that_a_resource_refers_to_is_in_its_group() {
        let snapshot = snapshot(SHOP);
        for group in snapshot.groups.values() {
            let names = |resource_type| group.of_type(resource_type).by_name.keys().map(|name| name.to_string());
            for listener in group.of_type(ResourceType::Listener).by_name.values() {
                let json = crate::snapshot::render::to_json(ResourceType::Listener, listener).to_string();
                let routes = names(ResourceType::Route);
                assert!(routes.map(|name| format!("\"route_config_name\":\"{name}\"")).any(|rds| json.contains(&rds)));
            }
            for routes in group.of_type(ResourceType::Route).by_name.values() {
                let json = crate::snapshot::render::to_json(ResourceType::Route, routes).to_string();
                let referred = json.split("\"cluster\":\"").skip(1).filter_map(|rest| rest.split('"').next());
                for cluster in referred {
                    assert!(names(ResourceType::Cluster).any(|name| name == cluster), "{cluster}");
                }
            }
        }
    }
}
