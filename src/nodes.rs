//! The board of connected Envoys: what each was sent, acknowledged or refused. `xds` writes it, `admin` reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::names::{NodeIdentity, Version};
use crate::snapshot::resource::ResourceType;

#[derive(Debug, Default)]
pub struct Nodes {
    next_stream: AtomicU64,
    /// By stream, not by node id: while an Envoy reconnects it has two streams, and the end of the old one must
    /// not wipe out what is known of the new one.
    streams: Mutex<BTreeMap<u64, Node>>,
}

/// An Envoy as seen from one of its streams.
#[derive(Clone, Debug)]
pub struct Node {
    pub identity: NodeIdentity,
    pub envoy_version: String,
    pub protocol: Protocol,
    pub connected_at: Timestamp,
    /// The gateways that select the node.
    pub groups: Vec<String>,
    pub types: BTreeMap<ResourceType, TypeStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    StateOfTheWorld,
    Delta,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StateOfTheWorld => "sotw",
            Self::Delta => "delta",
        }
    }
}

/// What happened with one type of resources.
#[derive(Clone, Debug, Default)]
pub struct TypeStatus {
    pub sent: Option<Sent>,
    pub acknowledged: Option<Sent>,
    pub refused: Option<Refused>,
}

/// A response: the generation that it was made from and the version of all resources of the type in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub generation: u64,
    pub version: Version,
    pub at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub sent: Option<Sent>,
    /// What Envoy says of it.
    pub message: String,
    pub since: Timestamp,
}

impl Nodes {
    /// Puts a node on the board for as long as its stream lives.
    pub fn join(self: &Arc<Self>, node: Node) -> Seat {
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        self.streams.lock().insert(stream, node);
        Seat { nodes: Arc::clone(self), stream }
    }

    pub fn all(&self) -> Vec<Node> {
        self.streams.lock().values().cloned().collect()
    }
}

/// A stream's place on the board; dropping it takes the node off.
#[derive(Debug)]
pub struct Seat {
    nodes: Arc<Nodes>,
    stream: u64,
}

impl Seat {
    pub fn set_groups(&self, groups: Vec<String>) {
        self.change(|node| node.groups = groups);
    }

    pub fn sent(&self, resource_type: ResourceType, sent: Sent) {
        self.change(|node| node.types.entry(resource_type).or_default().sent = Some(sent));
    }

    pub fn acknowledged(&self, resource_type: ResourceType) {
        self.change(|node| {
            let status = node.types.entry(resource_type).or_default();
            status.acknowledged = status.sent;
            status.refused = None;
        });
    }

    pub fn refused(&self, resource_type: ResourceType, message: String, now: Timestamp) {
        self.change(|node| {
            let status = node.types.entry(resource_type).or_default();
            status.refused = Some(Refused { sent: status.sent, message, since: now });
        });
    }

    fn change(&self, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.streams.lock().get_mut(&self.stream) {
            change(node);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.nodes.streams.lock().remove(&self.stream);
    }
}
