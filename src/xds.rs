//! The aggregated discovery service: streams every Envoy the resources of the gateways that select it.
//!
//! ```text
//! stream <--> sotw | delta (pure: request or new generation in, responses out) <-- live
//!                \-> nodes (sent, acknowledged, refused)
//! ```
//!
//! A stream keeps what its Envoy subscribed to and was sent, and nothing that grows with changes: a new generation
//! is compared with that, so a slow Envoy misses steps in between and never the last one.

mod delta;
#[cfg(test)]
mod fixture;
mod session;
mod sotw;
mod stream;
mod subscription;
mod variant;

use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::clock::Clock;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::nodes::Nodes;

/// The largest request, in bytes: a reconnecting Envoy names every resource it has.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Everything that a stream reads and writes besides its Envoy.
#[derive(Clone, Debug)]
pub struct Xds {
    pub live: Arc<Live>,
    pub nodes: Arc<Nodes>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    /// Tells replicas apart in `control_plane.identifier`.
    pub identifier: Arc<str>,
    /// Streams never end by themselves: this ends them.
    pub shutdown: CancellationToken,
}

impl Xds {
    pub fn into_service(self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Xds {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(stream::open::<sotw::Sotw>(self.clone(), request.into_inner())))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(stream::open::<delta::Delta>(self.clone(), request.into_inner())))
    }
}
