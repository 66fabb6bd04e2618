//! The board of connected Envoys: what each was sent, acknowledged or refused, and where that leaves it. `xds` writes it,
//! `admin` reads it.

mod convergence;
pub mod state;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::names::{Name, NodeIdentity, StreamId, Version};
use crate::snapshot::feature::Need;
use crate::snapshot::resource::ResourceType;
use convergence::Convergence;
use streams::Streams;

pub use streams::Place;

/// An Envoy that has not answered for longer is slow, stuck, or waits for what never gets ready (xDS rule 68).
const LATE: Duration = Duration::from_secs(15);
/// The longest message of an Envoy that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 4096;

#[derive(Debug, Default)]
pub struct Nodes {
    clock: Clock,
    next_stream: AtomicU64,
    streams: Mutex<Streams>,
    /// Its lock is taken after that of a node.
    convergence: Mutex<Convergence>,
}

/// An Envoy as seen from one of its streams.
#[derive(Clone, Debug)]
pub struct Node {
    pub identity: Arc<NodeIdentity>,
    pub envoy_version: String,
    /// The features that its gateways need and this Envoy does not know.
    pub too_old_for: Vec<Arc<Need>>,
    pub protocol: Protocol,
    pub connected_at: Timestamp,
    /// The end of its stream, where the Envoy has no other. It is remembered for a while.
    pub gone_at: Option<Timestamp>,
    /// The gateways that select the node.
    pub groups: Vec<Name>,
    pub position: Position,
    /// Boxed: a node of the map has room for eleven, of which an Envoy asks for five.
    pub types: BTreeMap<ResourceType, Box<TypeStatus>>,
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

/// A node's state in regard to what it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub standing: Standing,
    /// The newest generation that is live on it; 0 if none is yet. One that does not reach it is live on it without its
    /// having been told anything.
    pub live: u64,
    /// The moment since which the node stands so.
    pub since: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything that the node is to have is acknowledged.
    Live,
    /// An answer of the node is awaited.
    Pending,
    /// Something is refused by the node, which goes on with what it had.
    Refusing,
    /// Everything that the node is offered is acknowledged, which is not the whole generation: another Envoy of its
    /// group refused something in it.
    Held,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Pending => "pending",
            Self::Refusing => "refusing",
            Self::Held => "held",
        }
    }
}

/// The state of one type of resources.
#[derive(Clone, Debug, Default)]
pub struct TypeStatus {
    pub subscribed: Subscribed,
    pub sent: Option<Sent>,
    pub acknowledged: Option<Sent>,
    pub refused: Option<Refused>,
    /// Since when an answer to what was sent last is waited for.
    pub pending_since: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribed {
    pub all: bool,
    /// The number of them that are subscribed to by name.
    pub names: usize,
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
    /// The resources that were new in it.
    pub resources: Vec<Arc<str>>,
    /// Envoy's own words.
    pub message: String,
    pub since: Timestamp,
}

impl Node {
    /// True where the answer takes its time.
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.types.values().any(|status| status.is_late(now))
    }
}

impl TypeStatus {
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.pending_since.is_some_and(|since| now.since(since) >= LATE)
    }
}

impl Nodes {
    pub fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    /// Puts a node on the board for as long as its stream lives.
    pub fn join(self: &Arc<Self>, node: Node) -> Seat {
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let place = Place { id: node.identity.id.as_str().into(), stream };
        let node = Arc::new(Mutex::new(node));
        self.streams.lock().join(place.clone(), Arc::clone(&node));
        self.convergence.lock().join(stream);
        Seat { nodes: Arc::clone(self), place, node }
    }

    /// The connected ones.
    pub fn all(&self) -> Vec<Node> {
        self.after(None).map(|(_, node)| node).filter(|node| node.gone_at.is_none()).collect()
    }

    /// The nodes behind a place, in the order of their ids; also those that are gone.
    pub fn after(&self, place: Option<&Place>) -> impl Iterator<Item = (Place, Node)> {
        let nodes = self.streams.lock().after(place, self.clock.now());
        nodes.into_iter().map(|(place, node)| {
            let node = self.now(place.stream, &node.lock());
            (place, node)
        })
    }

    /// The streams of an Envoy: while it reconnects there are two.
    pub fn of_id(&self, id: &str) -> Vec<Node> {
        let nodes = self.streams.lock().of_id(id, self.clock.now());
        nodes.iter().map(|(place, node)| self.now(place.stream, &node.lock())).collect()
    }

    /// The node as it is now, which may be long after it was told anything.
    fn now(&self, stream: StreamId, node: &Node) -> Node {
        let mut node = node.clone();
        if node.gone_at.is_none()
            && node.position.standing == Standing::Live
            && let Some(newest) = self.convergence.lock().newest_of(stream)
        {
            node.position.live = newest;
        }
        node
    }

    /// From here on it is counted who of those that it reaches has a generation. The others have it.
    pub fn offered(&self, generation: u64, read_at: Timestamp, reached: &[StreamId]) {
        self.convergence.lock().offered(generation, read_at, reached);
    }
}

/// A stream's place on the board; dropping it takes the node off.
#[derive(Debug)]
pub struct Seat {
    nodes: Arc<Nodes>,
    place: Place,
    node: Arc<Mutex<Node>>,
}

impl Seat {
    pub fn stream(&self) -> StreamId {
        self.place.stream
    }

    pub fn set_groups(&self, groups: Vec<Name>) {
        self.node.lock().groups = groups;
    }

    pub fn set_too_old_for(&self, needs: Vec<Arc<Need>>) {
        self.node.lock().too_old_for = needs;
    }

    pub fn subscribed(&self, resource_type: ResourceType, subscribed: Subscribed) {
        self.change(resource_type, |status| status.subscribed = subscribed);
    }

    pub fn sent(&self, resource_type: ResourceType, sent: Sent) {
        self.change(resource_type, |status| {
            status.sent = Some(sent);
            status.pending_since = Some(sent.at);
        });
    }

    pub fn acknowledged(&self, resource_type: ResourceType) {
        self.change(resource_type, |status| {
            status.acknowledged = status.sent;
            status.pending_since = None;
        });
    }

    /// Forgets a refusal: the refused resources were sent in another version, and the node took that.
    pub fn no_longer_refuses(&self, resource_type: ResourceType) {
        self.change(resource_type, |status| status.refused = None);
    }

    pub fn refused(&self, resource_type: ResourceType, resources: Vec<Arc<str>>, message: &str, now: Timestamp) {
        let end = (0..=message.len().min(MESSAGE_BYTES_MAX)).rev().find(|end| message.is_char_boundary(*end));
        let message = message.get(..end.unwrap_or(0)).unwrap_or_default().to_owned();
        self.change(resource_type, |status| {
            // It is as old as the first of a row.
            let since = status.refused.as_ref().map_or(now, |refused| refused.since);
            status.refused = Some(Refused { sent: status.sent, resources, message, since });
            status.pending_since = None;
        });
    }

    /// Sets the node's standing. Gives how long ago the changes were read that every Envoy has acknowledged by this.
    pub fn stands(&self, standing: Standing, generation: u64, now: Timestamp) -> Vec<Duration> {
        let mut node = self.node.lock();
        if standing == Standing::Live {
            // It has what it is to have, even if it was never told so: what it refused is not wanted any more.
            node.types.values_mut().for_each(|status| status.refused = None);
        }
        let is_refusing = node.types.values().any(|status| status.refused.is_some());
        let standing = if is_refusing && standing != Standing::Pending { Standing::Refusing } else { standing };
        let position = node.position;
        let mut convergence = self.nodes.convergence.lock();
        let has_newest = convergence.newest_of(self.place.stream).is_some();
        let is_same = position.standing == standing && (standing != Standing::Live || has_newest);
        node.position = Position {
            standing,
            live: if standing == Standing::Live { generation } else { position.live },
            since: if is_same { position.since } else { now },
        };
        match standing {
            Standing::Pending => Vec::new(),
            _ => convergence.answered(self.place.stream, generation, now),
        }
    }

    fn change(&self, resource_type: ResourceType, change: impl FnOnce(&mut TypeStatus)) {
        change(self.node.lock().types.entry(resource_type).or_default());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = {
            let mut node = self.node.lock();
            // What it has now is what it had.
            *node = self.nodes.now(self.place.stream, &node);
            node.types.values_mut().for_each(|status| status.pending_since = None);
            let now = self.nodes.clock.now();
            node.gone_at = Some(now);
            now
        };
        self.nodes.streams.lock().leave(&self.place, left);
        self.nodes.convergence.lock().leave(self.place.stream);
    }
}
