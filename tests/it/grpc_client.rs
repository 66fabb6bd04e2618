//! A consumer of xDS as those of gRPC are: tonic's `xds-client` speaks the protocol, and what is here decodes what
//! comes, follows it from a listener to endpoints, and keeps what its watchers are told.
//!
//! It shares the generated messages with Tierflow, and nothing of its streams. It speaks state of the world, names what
//! it wants, and takes resources one by one: a bad one in a response is refused, those beside it are taken (gRFC A46).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::address::Address::SocketAddress;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, ConfigSource};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
};
use envoy_types::pb::google::protobuf::Any;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use prost::{Message, Name};
use serde_json::Value;
use tierflow::snapshot::render::to_any_json;
use tierflow::snapshot::resource::{Resource, ResourceType};
use xds_client::resource::TypeUrl;
use xds_client::{
    ClientConfig, Error, Node, ProstCodec, ResourceEvent, ResourceWatcher, RetryPolicy, TokioRuntime,
    TonicTransportBuilder, XdsClient,
};

use crate::harness::eventually;

/// A resource that another one refers to.
pub(crate) type Reference = (ResourceType, String);

/// What a watcher is told: a resource, or why there is none.
pub(crate) type Event = Result<Seen, String>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) name: String,
    /// As protobuf JSON, made from what was decoded.
    pub(crate) json: Value,
    refers_to: Vec<Reference>,
}

/// Everything that one watcher was told, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Event>>>);

impl Told {
    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().clone()
    }

    /// What holds now.
    pub(crate) fn latest(&self) -> Option<Event> {
        self.0.lock().last().cloned()
    }

    /// Waits until something of a kind holds.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Event) -> bool) -> Event {
        eventually(what, async || self.latest().filter(&is_so)).await
    }

    /// Waits for a resource with this text in it.
    pub(crate) async fn shows(&self, text: &str) {
        let has_text = |event: &Event| event.as_ref().is_ok_and(|seen| seen.json.to_string().contains(text));
        self.until(&format!("a resource shows {text}"), has_text).await.unwrap();
    }

    /// Waits for word that there is no such resource.
    pub(crate) async fn is_absent(&self) {
        let absent = Err(Error::ResourceDoesNotExist.to_string());
        self.until("a resource is absent", |event| *event == absent).await.unwrap_err();
    }
}

pub(crate) struct GrpcClient(XdsClient);

impl GrpcClient {
    /// `patience` is how long a resource may stay away before it counts as one that does not exist.
    pub(crate) fn start(xds: SocketAddr, id: &str, patience: Duration) -> Self {
        let node = Node::new("grpc-rust", "0.1.0").with_id(id).with_cluster("edge");
        let retry = RetryPolicy::new(Duration::from_millis(20), Duration::from_millis(200), 2.0).unwrap();
        let config = ClientConfig::new(node, format!("http://{xds}"))
            .with_retry_policy(retry)
            .with_resource_initial_timeout(Some(patience));
        Self(XdsClient::builder(config, TonicTransportBuilder::new(), ProstCodec, TokioRuntime).build())
    }

    /// An empty name is for all resources of the type.
    pub(crate) async fn watch(&self, resource_type: ResourceType, name: &str) -> Told {
        match resource_type {
            ResourceType::Cluster => self.watch_kind::<Cluster>(name).await,
            ResourceType::Endpoint => self.watch_kind::<ClusterLoadAssignment>(name).await,
            ResourceType::Listener => self.watch_kind::<Listener>(name).await,
            ResourceType::Route => self.watch_kind::<RouteConfiguration>(name).await,
            other => panic!("gRPC does not ask for a {other}"),
        }
    }

    async fn watch_kind<K: Kind>(&self, name: &str) -> Told {
        let told = Told::default();
        tokio::spawn(keep::<K>(self.0.watch(name).await, told.clone()));
        told
    }

    /// Watches a listener and all that it leads to, each as soon as it is known from what refers to it.
    pub(crate) async fn follow(&self, listener: &str) -> BTreeMap<Reference, Told> {
        let mut followed = BTreeMap::new();
        let mut wanted = vec![(ResourceType::Listener, listener.to_owned())];
        while let Some((resource_type, name)) = wanted.pop() {
            if followed.contains_key(&(resource_type, name.clone())) {
                continue;
            }
            let told = self.watch(resource_type, &name).await;
            let seen = told.until(&format!("{resource_type} {name} arrives"), Result::is_ok).await.unwrap();
            assert_eq!(seen.name, name);
            wanted.extend(seen.refers_to);
            followed.insert((resource_type, name), told);
        }
        followed
    }
}

/// The client reads no further response before all its watchers are done with one. So all of them are read at all
/// times, whatever a test is waiting for.
async fn keep<K: Kind>(mut watcher: ResourceWatcher<Accepted<K>>, told: Told) {
    while let Some(event) = watcher.next().await {
        let event = match event {
            ResourceEvent::ResourceChanged { result, .. } => result.map(|accepted| accepted.seen()),
            ResourceEvent::AmbientError { error, .. } => Err(error),
        };
        told.0.lock().push(event.map_err(|error| error.to_string()));
    }
}

/// A type of resources, and what has to be right in one for this client.
trait Kind: Message + Default + 'static {
    const TYPE: ResourceType;
    const TYPE_URL: &'static str;
    /// Whether a response holds all that was asked for, so that what is absent is gone (gRFC A53).
    const IS_COMPLETE: bool;

    fn name(&self) -> &str;
    /// What it refers to, or what is wrong with it.
    fn check(&self) -> Result<Vec<Reference>, String>;
}

/// A message that was found right.
#[derive(Debug)]
struct Accepted<K> {
    message: K,
    refers_to: Vec<Reference>,
}

impl<K: Kind> Accepted<K> {
    fn seen(&self) -> Seen {
        let name = self.message.name();
        let json = to_any_json(K::TYPE, &Resource::new(name, self.message.encode_to_vec()));
        Seen { name: name.to_owned(), json, refers_to: self.refers_to.clone() }
    }
}

impl<K: Kind> xds_client::Resource for Accepted<K> {
    type Message = K;
    const TYPE_URL: TypeUrl = TypeUrl::new(K::TYPE_URL);
    const ALL_RESOURCES_REQUIRED_IN_SOTW: bool = K::IS_COMPLETE;

    fn deserialize(bytes: Bytes) -> xds_client::Result<K> {
        Ok(K::decode(bytes)?)
    }

    fn name(message: &K) -> &str {
        message.name()
    }

    fn validate(message: K) -> xds_client::Result<Self> {
        let refers_to = message.check().map_err(Error::Validation)?;
        Ok(Self { message, refers_to })
    }
}

impl Kind for Listener {
    const TYPE: ResourceType = ResourceType::Listener;
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    const IS_COMPLETE: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    /// To its routes, and to the clusters that its filters call.
    fn check(&self) -> Result<Vec<Reference>, String> {
        socket_address(self.address.as_ref())?;
        let mut filters = self.filter_chains.iter().flat_map(|chain| &chain.filters);
        let manager = filters.find_map(|filter| match &filter.config_type {
            Some(filter::ConfigType::TypedConfig(config)) => unpack::<HttpConnectionManager>(config),
            _ => None,
        });
        let manager = manager.ok_or("it has no HTTP connection manager")?;
        let filters: Vec<&Any> = manager.http_filters.iter().filter_map(typed_config).collect();
        filters.last().and_then(|last| unpack::<Router>(last)).ok_or("its last HTTP filter is no router")?;
        let limiters = filters.iter().filter_map(|filter| unpack::<RateLimit>(filter));
        let mut references = limiters.map(|limiter| called_cluster(&limiter)).collect::<Result<Vec<_>, _>>()?;
        let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier else {
            return Err("its routes do not come by RDS".to_owned());
        };
        comes_by_ads(rds.config_source.as_ref())?;
        references.push((ResourceType::Route, rds.route_config_name));
        Ok(references)
    }
}

impl Kind for RouteConfiguration {
    const TYPE: ResourceType = ResourceType::Route;
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    const IS_COMPLETE: bool = false;

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self) -> Result<Vec<Reference>, String> {
        if let Some(host) = self.virtual_hosts.iter().find(|host| host.domains.is_empty()) {
            return Err(format!("virtual host {:?} has no domains", host.name));
        }
        let routes = self.virtual_hosts.iter().flat_map(|host| &host.routes);
        let referred =
            |route| referred_cluster(route).ok_or_else(|| format!("a route matches or leads nowhere: {route:?}"));
        routes.map(referred).collect()
    }
}

impl Kind for Cluster {
    const TYPE: ResourceType = ResourceType::Cluster;
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    const IS_COMPLETE: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    /// As with gRPC, a policy of load balancing that the client does not have is no cluster for it.
    fn check(&self) -> Result<Vec<Reference>, String> {
        if !matches!(self.lb_policy(), LbPolicy::RoundRobin | LbPolicy::LeastRequest) {
            return Err(format!("the client has no load balancing {}", self.lb_policy().as_str_name()));
        }
        let Some(ClusterDiscoveryType::Type(discovery)) = self.cluster_discovery_type else {
            return Err("it has no discovery type".to_owned());
        };
        if discovery == DiscoveryType::Static as i32 {
            return self.load_assignment.as_ref().ok_or("it is static and has no endpoints")?.check();
        }
        let eds = self.eds_cluster_config.as_ref().ok_or("its endpoints do not come by EDS")?;
        comes_by_ads(eds.eds_config.as_ref())?;
        let name = if eds.service_name.is_empty() { &self.name } else { &eds.service_name };
        Ok(vec![(ResourceType::Endpoint, name.clone())])
    }
}

impl Kind for ClusterLoadAssignment {
    const TYPE: ResourceType = ResourceType::Endpoint;
    const TYPE_URL: &'static str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    const IS_COMPLETE: bool = false;

    fn name(&self) -> &str {
        &self.cluster_name
    }

    fn check(&self) -> Result<Vec<Reference>, String> {
        let endpoints = self.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let address = |endpoint: &LbEndpoint| match &endpoint.host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => socket_address(endpoint.address.as_ref()),
            other => Err(format!("{other:?} is no endpoint")),
        };
        endpoints.map(address).collect::<Result<Vec<_>, _>>()?;
        Ok(Vec::new())
    }
}

fn referred_cluster(route: &Route) -> Option<Reference> {
    route.r#match.as_ref()?.path_specifier.as_ref()?;
    let Some(Action::Route(action)) = &route.action else { return None };
    let Some(ClusterSpecifier::Cluster(name)) = &action.cluster_specifier else { return None };
    Some((ResourceType::Cluster, name.clone()))
}

/// Where the rate limit service is.
fn called_cluster(limiter: &RateLimit) -> Result<Reference, String> {
    let service = limiter.rate_limit_service.as_ref().and_then(|service| service.grpc_service.as_ref());
    match service.and_then(|service| service.target_specifier.as_ref()) {
        Some(TargetSpecifier::EnvoyGrpc(envoy)) => Ok((ResourceType::Cluster, envoy.cluster_name.clone())),
        other => Err(format!("{other:?} is no cluster to call")),
    }
}

fn typed_config(filter: &HttpFilter) -> Option<&Any> {
    match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    }
}

fn comes_by_ads(source: Option<&ConfigSource>) -> Result<(), String> {
    match source.and_then(|source| source.config_source_specifier.as_ref()) {
        Some(ConfigSourceSpecifier::Ads(_)) => Ok(()),
        other => Err(format!("{other:?} is not the stream that it came by")),
    }
}

fn socket_address(address: Option<&Address>) -> Result<SocketAddr, String> {
    let socket = match address.and_then(|address| address.address.as_ref()) {
        Some(SocketAddress(socket)) => socket,
        other => return Err(format!("{other:?} is no socket address")),
    };
    let ip: IpAddr = socket.address.parse().map_err(|_| format!("{:?} is no IP address", socket.address))?;
    match socket.port_specifier {
        Some(PortSpecifier::PortValue(port @ 1..)) => match u16::try_from(port) {
            Ok(port) => Ok(SocketAddr::from((ip, port))),
            Err(_) => Err(format!("{port} is no port")),
        },
        ref other => Err(format!("{other:?} is no port")),
    }
}

fn unpack<M: Message + Name + Default>(any: &Any) -> Option<M> {
    (any.type_url == M::type_url()).then(|| M::decode(&*any.value).ok())?
}
