//! Which node of a Cluster serves which slot, as its nodes say; and the links to all of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Value};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::failure::Failure;
use super::keys;
use super::link::Place;
use super::node::{Node, NodeReport};
use super::settings::RedisSettings;
use super::slots::{self, Range, SlotMap};
use super::url::ServerAddress;
use crate::clock::Clock;
use crate::limiter::key::CounterKey;
use crate::metrics::Metrics;

/// The time that one node has to say who serves what.
const ANSWER: Duration = Duration::from_millis(200);
/// The time between two looks at a Cluster that is well, and at one that is not.
const WATCH: Duration = Duration::from_secs(5);
const WATCH_TROUBLE: Duration = Duration::from_millis(500);
/// The time between two looks at least, whatever asks for one.
const PAUSE: Duration = Duration::from_millis(100);
/// A node that serves no slot is kept for so many looks: slots may be on their way to it.
const IDLE_LOOKS_MAX: u32 = 60;

#[derive(Debug)]
pub(super) struct Topology {
    settings: Arc<RedisSettings>,
    clock: Clock,
    metrics: Arc<Metrics>,
    map: ArcSwap<SlotMap>,
    nodes: Mutex<HashMap<ServerAddress, KeptNode>>,
    /// Asks for a look.
    doubt: Notify,
    looks: AtomicUsize,
    trouble: Mutex<Option<String>>,
}

#[derive(Debug)]
struct KeptNode {
    node: Arc<Node>,
    /// The looks since it served a slot or was asked.
    idle_looks: u32,
    _keep: AbortOnDropHandle<()>,
}

impl Topology {
    pub(super) fn new(settings: Arc<RedisSettings>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Self {
            settings,
            clock,
            metrics,
            map: ArcSwap::default(),
            nodes: Mutex::default(),
            doubt: Notify::new(),
            looks: AtomicUsize::new(0),
            trouble: Mutex::default(),
        }
    }

    /// The master of a slot.
    pub(super) fn node(&self, slot: u16) -> Option<Arc<Node>> {
        self.map.load().node(slot).cloned()
    }

    pub(super) fn map(&self) -> Arc<SlotMap> {
        self.map.load_full()
    }

    pub(super) fn reports(&self) -> Vec<NodeReport> {
        let map = self.map();
        let report = |node| NodeReport { slots: Some(map.slots_of(node).count()), ..Node::report(node) };
        map.nodes().iter().map(report).collect()
    }

    /// Why no node says who serves what.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Something was not as the map has it.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The node at an address; a new one where it was not known.
    pub(super) fn node_at(&self, address: &ServerAddress) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        if let Some(known) = nodes.get_mut(address) {
            known.idle_looks = 0;
            return Arc::clone(&known.node);
        }
        let node = Node::new(&self.settings, &Place::Fixed(address.clone()), self.clock, &self.metrics);
        let node = Arc::new(node);
        let keep = Arc::clone(&node);
        let keep = AbortOnDropHandle::new(tokio::spawn(async move { keep.keep().await }));
        nodes.insert(address.clone(), KeptNode { node: Arc::clone(&node), idle_looks: 0, _keep: keep });
        node
    }

    /// A node said that another one serves the slot now.
    pub(super) fn moved(&self, slot: u16, node: &Arc<Node>) {
        self.map.rcu(|map| {
            let mut map = SlotMap::clone(map);
            map.set(slot..=slot, node);
            map
        });
        self.doubt();
    }

    /// Keeps the map current.
    pub(super) async fn keep(&self) {
        loop {
            let trouble = self.look().await.err().map(|failure| failure.to_string());
            let is_new = trouble.is_some() && self.trouble.lock().is_none();
            if let Some(trouble) = trouble.as_ref().filter(|_| is_new) {
                tracing::warn!("no node of the counter store says which one serves what: {trouble}");
            }
            let is_well = trouble.is_none() && self.map.load().nodes().iter().all(|node| node.is_there());
            *self.trouble.lock() = trouble;
            sleep(PAUSE).await;
            let watch = if is_well { WATCH } else { WATCH_TROUBLE };
            let _ = timeout(watch, self.doubt.notified()).await;
        }
    }

    /// Closes all links for good.
    pub(super) fn close(&self) {
        self.map.store(Arc::default());
        self.nodes.lock().clear();
    }

    /// Asks the nodes in turn, another one first each time: one that is cut off from the others says what was.
    async fn look(&self) -> Result<(), Failure> {
        let mut servers: Vec<_> = self.nodes.lock().keys().cloned().collect();
        servers.sort();
        let turns = self.looks.fetch_add(1, Ordering::Relaxed) % servers.len().max(1);
        servers.rotate_left(turns);
        let seeds = self.settings.url.servers().iter();
        servers.extend(seeds.filter(|seed| !servers.contains(seed)).cloned().collect::<Vec<_>>());
        let mut failures = Vec::new();
        for server in servers {
            let answer = timeout(ANSWER, self.ask(&server)).await.unwrap_or(Err(Failure::Unanswered));
            match answer {
                Ok(ranges) if !ranges.is_empty() => {
                    self.adopt(&ranges);
                    return Ok(());
                }
                Ok(_) => failures.push(format!("{server} knows no slots")),
                Err(failure) => failures.push(format!("{server}: {failure}")),
            }
        }
        Err(Failure::NoMap(failures.join("; ")))
    }

    async fn ask(&self, server: &ServerAddress) -> Result<Vec<Range>, Failure> {
        let (settings, to) = (Arc::clone(&self.settings), server.clone());
        // It reads files, which may take long, on a runtime that decides requests.
        let client = spawn_blocking(move || settings.client(&to)).await;
        let client = client.map_err(|error| Failure::File(error.to_string()))??;
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(Failure::Refused)?;
        let answer: Vec<Value> =
            redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await.map_err(Failure::Refused)?;
        slots::ranges(answer, server).map_err(|error| Failure::Refused(error.into()))
    }

    fn adopt(&self, ranges: &[Range]) {
        let mut map = SlotMap::default();
        for range in ranges {
            map.set(range.first..=range.last, &self.node_at(&range.master));
        }
        for node in map.nodes() {
            self.set_probe(node, &map);
        }
        let nodes = map.nodes().to_vec();
        self.map.store(Arc::new(map));
        self.nodes.lock().retain(|_, kept| {
            let serves = nodes.iter().any(|node| Arc::ptr_eq(node, &kept.node));
            kept.idle_looks = if serves { 0 } else { kept.idle_looks + 1 };
            kept.idle_looks <= IDLE_LOOKS_MAX
        });
    }

    /// A node is probed by a key that it serves, and keeps the skew of its clock beside it: all replicas take the same.
    fn set_probe(&self, node: &Arc<Node>, map: &SlotMap) {
        let is_own = |home: &u16| {
            let key = CounterKey::default().at_home(*home);
            let owner = map.node(keys::slot(&self.settings.prefix, key));
            owner.is_some_and(|owner| Arc::ptr_eq(owner, node))
        };
        let home = (0..=u16::MAX).find(is_own);
        // A prefix with braces leaves all nodes but one without keys.
        if let Some(home) = home {
            node.set_probe_home(home);
        }
    }
}
