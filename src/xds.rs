//! The aggregated discovery service: streams every Envoy the resources of the gateways that select it.
//!
//! ```text
//! live -> pace -> rollout --Offer--> stream <--> session (pure: request or new offer in, responses out)
//!                    ^                  |
//!                    +--- refused ------+-> nodes (sent, acknowledged, refused)
//! ```
//!
//! A stream keeps what its Envoy subscribed to and was sent, and nothing that grows with changes: a new offer is compared
//! with that, so a slow Envoy misses steps in between and never the last one.
//!
//! docs/xds.md has the rules of the protocol, by number; tests carry them in their names.

mod admission;
mod delta;
mod known;
mod one_type;
mod pace;
mod response;
#[cfg(test)]
mod rules;
mod service;
mod session;
mod sotw;
mod stream;
mod subscription;
mod unread;
mod variant;
#[cfg(test)]
mod wakes;
mod wire;

use std::sync::Arc;

use prost::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::denials::Denials;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::rollout::Rollout;

pub use admission::{Admission, AdmissionLimits};
pub use service::AdsServer;
pub use stream::Connection;
pub use unread::{UNREAD_BYTES_MAX, Unread};

/// Everything that a stream reads and writes besides its Envoy.
#[derive(Clone, Debug)]
pub struct Xds {
    pub live: Arc<Live>,
    pub rollout: Arc<Rollout>,
    pub nodes: Arc<Nodes>,
    pub denials: Arc<Denials>,
    pub metrics: Arc<Metrics>,
    pub admission: Arc<Admission>,
    pub unread: Arc<Unread>,
    pub clock: Clock,
    /// Tells replicas apart in `control_plane.identifier`.
    pub identifier: Bytes,
    /// Ends the offering. Streams end with their connections.
    pub shutdown: CancellationToken,
}

impl Xds {
    pub fn into_service(self) -> AdsServer {
        AdsServer(self)
    }

    /// Offers Envoys what is served, for as long as Tierflow runs.
    pub async fn follow(self) {
        pace::follow(self.live, self.rollout, self.nodes, self.shutdown).await;
    }
}
