//! A fake Envoy's side of an ADS stream, as values in, values out: what it asks for, in which order, and how it
//! answers. It subscribes as Envoy does at its start: clusters, then the endpoints of those that want them, then
//! listeners, then the routes that these name. What it asked for once it asks for again on every later stream.

use std::collections::HashMap;
use std::sync::LazyLock;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::{Extension, Node};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc::Status;
use prost::Message;
use prost::bytes::Bytes;
use tierflow::bootstrap::XdsVariant;
use tierflow::snapshot::per_type::PerType;
use tierflow::snapshot::resource::ResourceType;

use crate::store::GATEWAY;
use crate::wire::Wire;

/// INVALID_ARGUMENT, which Envoy refuses with.
const INVALID: i32 = 3;
/// What an Envoy 1.40 is built with, about. TIERFLOW_BENCH_EXTENSIONS is for clients that have less to tell.
const EXTENSIONS: usize = 510;

pub(crate) struct Envoy {
    pub(crate) number: usize,
    pub(crate) variant: XdsVariant,
    gateway: String,
    types: PerType<OneType>,
}

#[derive(Default)]
struct OneType {
    is_subscribed: bool,
    names: Vec<String>,
    /// Of the last response that was not refused.
    version: String,
    nonce: String,
    /// Delta: what it has, by name.
    versions: HashMap<String, String>,
}

/// A response of either variant.
pub(crate) struct Response {
    pub(crate) resource_type: ResourceType,
    pub(crate) version: String,
    pub(crate) bodies: Vec<Any>,
    /// Delta: the names of the resources with their versions.
    versions: Vec<(String, String)>,
    removed: Vec<String>,
    nonce: String,
}

impl Envoy {
    /// One that takes all that its gateway has.
    pub(crate) fn new(number: usize, variant: XdsVariant) -> Self {
        Self::of_gateway(number, variant, GATEWAY)
    }

    /// The same of another gateway.
    pub(crate) fn of_gateway(number: usize, variant: XdsVariant, gateway: &str) -> Self {
        let mut envoy = Self { number, variant, gateway: gateway.to_owned(), types: Default::default() };
        envoy.of(ResourceType::Cluster).is_subscribed = true;
        envoy
    }

    /// One that wants nothing but routes.
    pub(crate) fn of_routes(number: usize) -> Self {
        let (variant, gateway) = (XdsVariant::Delta, GATEWAY.to_owned());
        let mut envoy = Self { number, variant, gateway, types: Default::default() };
        envoy.subscribe(ResourceType::Route, vec![GATEWAY.to_owned()]);
        envoy
    }

    pub(crate) fn path(&self) -> &'static str {
        match self.variant {
            XdsVariant::Delta => "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
            XdsVariant::Sotw => "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        }
    }

    /// The first requests of a stream: all that it is subscribed to. Nonces are those of one stream.
    pub(crate) fn greet(&mut self, wire: &mut Wire) -> Result<(), String> {
        let cluster = self.gateway.clone();
        let id = format!("{cluster}-{}", self.number);
        let mut node = Some(Node { id, cluster, extensions: extensions(), ..Default::default() });
        for resource_type in ResourceType::ALL {
            self.of(resource_type).nonce.clear();
            if self.of(resource_type).is_subscribed {
                self.ask(wire, resource_type, node.take())?;
            }
        }
        Ok(())
    }

    /// Takes a response in and acknowledges it. What it refers to is asked for, if that is the first that is heard
    /// of it: clusters and listeners do not change here.
    pub(crate) fn accept(&mut self, wire: &mut Wire, response: &Response) -> Result<(), String> {
        let resource_type = response.resource_type;
        let one = self.of(resource_type);
        one.version.clone_from(&response.version);
        one.nonce.clone_from(&response.nonce);
        one.versions.extend(response.versions.iter().cloned());
        one.versions.retain(|name, _| !response.removed.contains(name));
        self.answer(wire, resource_type, None)?;
        let (next, names) = match resource_type {
            ResourceType::Cluster => (ResourceType::Endpoint, response.names_of_eds_clusters()),
            ResourceType::Endpoint => (ResourceType::Listener, Vec::new()),
            ResourceType::Listener => (ResourceType::Route, response.names_of_listeners()),
            _ => return Ok(()),
        };
        if self.of(next).is_subscribed {
            return Ok(());
        }
        self.subscribe(next, names);
        self.ask(wire, next, None)
    }

    /// Keeps what it has, and says so.
    pub(crate) fn refuse(&mut self, wire: &mut Wire, response: &Response) -> Result<(), String> {
        self.of(response.resource_type).nonce.clone_from(&response.nonce);
        let status = Status { code: INVALID, message: "refused by the benchmark".to_owned(), ..Default::default() };
        self.answer(wire, response.resource_type, Some(status))
    }

    pub(crate) fn read(&self, message: Bytes) -> Result<Response, String> {
        match self.variant {
            XdsVariant::Delta => Response::of_delta(message),
            XdsVariant::Sotw => Response::of_sotw(message),
        }
    }

    fn subscribe(&mut self, resource_type: ResourceType, names: Vec<String>) {
        let one = self.of(resource_type);
        one.is_subscribed = true;
        one.names = names;
    }

    /// The first request of a type on a stream.
    fn ask(&mut self, wire: &mut Wire, resource_type: ResourceType, node: Option<Node>) -> Result<(), String> {
        let variant = self.variant;
        let one = self.of(resource_type);
        match variant {
            XdsVariant::Delta => wire.send(&DeltaDiscoveryRequest {
                node,
                type_url: resource_type.type_url().to_owned(),
                resource_names_subscribe: one.names.clone(),
                initial_resource_versions: one.versions.clone(),
                ..Default::default()
            }),
            XdsVariant::Sotw => wire.send(&DiscoveryRequest { node, ..one.sotw_request(resource_type) }),
        }
    }

    fn answer(&mut self, wire: &mut Wire, resource_type: ResourceType, error: Option<Status>) -> Result<(), String> {
        let variant = self.variant;
        let one = self.of(resource_type);
        match variant {
            XdsVariant::Delta => wire.send(&DeltaDiscoveryRequest {
                type_url: resource_type.type_url().to_owned(),
                response_nonce: one.nonce.clone(),
                error_detail: error,
                ..Default::default()
            }),
            XdsVariant::Sotw => wire.send(&DiscoveryRequest { error_detail: error, ..one.sotw_request(resource_type) }),
        }
    }

    fn of(&mut self, resource_type: ResourceType) -> &mut OneType {
        &mut self.types[resource_type]
    }
}

impl OneType {
    fn sotw_request(&self, resource_type: ResourceType) -> DiscoveryRequest {
        DiscoveryRequest {
            version_info: self.version.clone(),
            resource_names: self.names.clone(),
            type_url: resource_type.type_url().to_owned(),
            response_nonce: self.nonce.clone(),
            ..Default::default()
        }
    }
}

impl Response {
    fn of_delta(message: Bytes) -> Result<Self, String> {
        let response = DeltaDiscoveryResponse::decode(message).map_err(|error| error.to_string())?;
        let mut versions = Vec::new();
        let mut bodies = Vec::new();
        for resource in response.resources {
            versions.push((resource.name, resource.version));
            bodies.extend(resource.resource);
        }
        Ok(Self {
            resource_type: known(&response.type_url)?,
            version: response.system_version_info,
            bodies,
            versions,
            removed: response.removed_resources,
            nonce: response.nonce,
        })
    }

    fn of_sotw(message: Bytes) -> Result<Self, String> {
        let response = DiscoveryResponse::decode(message).map_err(|error| error.to_string())?;
        Ok(Self {
            resource_type: known(&response.type_url)?,
            version: response.version_info,
            bodies: response.resources,
            versions: Vec::new(),
            removed: Vec::new(),
            nonce: response.nonce,
        })
    }

    fn names_of_eds_clusters(&self) -> Vec<String> {
        let eds = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
        let clusters = self.bodies.iter().filter_map(|body| Cluster::decode(body.value.as_slice()).ok());
        clusters.filter(|cluster| cluster.cluster_discovery_type == eds).map(|cluster| cluster.name).collect()
    }

    /// A listener and its routes are both called as the gateway.
    fn names_of_listeners(&self) -> Vec<String> {
        let listeners = self.bodies.iter().filter_map(|body| Listener::decode(body.value.as_slice()).ok());
        listeners.map(|listener| listener.name).collect()
    }
}

fn known(type_url: &str) -> Result<ResourceType, String> {
    ResourceType::from_type_url(type_url).ok_or_else(|| format!("a response of type {type_url:?}"))
}

/// An Envoy tells of everything that it was built with, in its first request: 61 KB.
fn extensions() -> Vec<Extension> {
    let extension = |number: usize| Extension {
        name: format!("envoy.filters.http.some_filter_{number}"),
        category: "envoy.filters.http".to_owned(),
        type_urls: vec![format!("envoy.extensions.filters.http.some_filter_{number}.v3.SomeFilter")],
        ..Default::default()
    };
    static COUNT: LazyLock<usize> = LazyLock::new(|| {
        let wanted = std::env::var("TIERFLOW_BENCH_EXTENSIONS");
        wanted.map_or(EXTENSIONS, |count| count.parse().expect("TIERFLOW_BENCH_EXTENSIONS is a number"))
    });
    (0..*COUNT).map(extension).collect()
}
