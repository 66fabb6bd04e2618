//! One xDS resource, encoded once.

use std::fmt;
use std::sync::Arc;

use prost::bytes::Bytes;

use crate::names::Version;

/// The types of resources, in the order in which they are sent: what is referred to goes before what refers
/// to it (xDS protocol, "Eventual consistency considerations").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Cluster,
    Endpoint,
    Secret,
    /// Configurations of single filters (ECDS).
    Extension,
    /// Layers of runtime keys (RTDS).
    Runtime,
    Listener,
    Route,
}

impl ResourceType {
    pub const ALL: [Self; 7] =
        [Self::Cluster, Self::Endpoint, Self::Secret, Self::Extension, Self::Runtime, Self::Listener, Self::Route];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub fn from_type_url(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource_type| resource_type.type_url() == type_url)
    }

    /// Short and in lower case, for labels and lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Secret => "secret",
            Self::Extension => "extension",
            Self::Runtime => "runtime",
            Self::Listener => "listener",
            Self::Route => "route",
        }
    }

    /// True if an Envoy may ask for all resources of the type without naming them (xDS rule 60). Of the others it
    /// names what its bootstrap, listeners and clusters refer to.
    pub fn has_wildcard(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl ResourceType {
    /// True if each resource has a response of its own. Envoy refuses a response as a whole, and its files may be missing
    /// for one secret and there for another (xDS rule 51).
    pub fn is_sent_alone(self) -> bool {
        matches!(self, Self::Secret)
    }

    /// True if an Envoy is ever told that a resource is gone. A listener that drains still uses what it named, and
    /// answers 5xx without it; an empty layer of runtime keys is refused (xDS rules 23, 53 and 85).
    pub fn is_removed(self) -> bool {
        !matches!(self, Self::Extension | Self::Runtime)
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: Arc<str>,
    /// The hash of `body`.
    pub version: Version,
    /// The encoded message, without the `Any` around it. Shared by all streams that send it.
    pub body: Bytes,
}

impl Resource {
    pub fn new(name: &str, body: Vec<u8>) -> Self {
        Self { name: name.into(), version: Version::of(&body), body: body.into() }
    }
}
