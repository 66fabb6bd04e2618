//! Many Envoys that do not read: each has asked for large routes, and takes none of them.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tierflow::snapshot::resource::ResourceType;

use crate::fleet::address_of;
use crate::process::Process;
use crate::store::LARGE_GATEWAY;
use crate::wire::{STREAM_WINDOW_BYTES, Wire};

/// So little fits into the window of a stream that a response never does.
const WINDOW_BYTES: u32 = 16;
/// Until the server has answered all of them; before it closes their connections.
const IDLE: Duration = Duration::from_secs(5);

/// What so many of them cost the server.
pub(crate) struct Slow {
    pub(crate) rss_per_stream: u64,
    /// Of the response that each of them is sent.
    pub(crate) bytes: usize,
}

pub(crate) async fn measure(server: &Process, streams: usize) -> Slow {
    let mut reader = connect(server, 0, STREAM_WINDOW_BYTES).await;
    let bytes = reader.message().await.unwrap().len();
    tokio::time::sleep(IDLE).await;
    let rss = server.rss();
    for number in 1..=streams {
        let mut slow = connect(server, number, WINDOW_BYTES).await;
        // It stays connected for as long as this program runs.
        tokio::spawn(async move { slow.message().await });
    }
    tokio::time::sleep(IDLE).await;
    Slow { rss_per_stream: server.rss().saturating_sub(rss) / streams as u64, bytes }
}

async fn connect(server: &Process, number: usize, window_bytes: u32) -> Wire {
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let mut wire = Wire::connect_with(server.address, address_of(number), path, window_bytes).await.unwrap();
    let (id, cluster) = (format!("{LARGE_GATEWAY}-{number}"), LARGE_GATEWAY.to_owned());
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id, cluster, ..Default::default() }),
        type_url: ResourceType::Route.type_url().to_owned(),
        resource_names_subscribe: vec![LARGE_GATEWAY.to_owned()],
        ..Default::default()
    };
    wire.send(&request).unwrap();
    wire
}
