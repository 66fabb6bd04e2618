//! Counters in Redis or Valkey, shared by all replicas.
//!
//! ```text
//! admit --Question--> Node --> Link (one of a few connections, pipelined) --EVALSHA--> admit.lua in the store
//!       <--Answer---                                                      <---------
//! ```
//!
//! The node is one server, the master that [`sentinel`]s know, or one of a [`cluster`], where a request may have to ask two.
//! One round trip decides a request over all its limits, on the store's clock. A question has a deadline, and one that
//! comes to the store later is refused there: what waited in a store that hung charges nothing when it goes on.
//! After several failures in a row all links of a node are closed; while they are, requests are told at once that the store
//! is away.

mod back;
mod cluster;
mod failure;
pub mod keys;
mod lease;
mod leased;
mod leases;
mod link;
pub mod local;
mod node;
mod roll;
pub mod script;
mod seen;
mod sentinel;
mod settings;
pub mod settle;
mod slots;
mod store_clock;
mod topology;
mod url;

use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{Admission, StoreAway, Trip};
use crate::clock::Clock;
use crate::limiter::Charge;
use crate::limiter::kept::Kept;
use crate::limiter::key::CounterKey;
use crate::limiter::peers::Peers;
use crate::metrics::Metrics;
use back::AsksFrom;
use cluster::Cluster;
use leases::{Leases, Take};
use link::{Follow, Place, Way};
use local::Local;
use node::Node;
use roll::{Entry, Errand, Roll};
use script::{Answer, Question};
use sentinel::Sentinels;

pub use failure::Failure;
pub use node::NodeReport;
pub use settings::{RedisSettings, RedisTls, RedisUser};
pub use settle::Settlement;
pub use url::{RedisForm, RedisUrl, ServerAddress};

/// A store of counters in Redis.
#[derive(Debug)]
pub struct Redis {
    settings: Arc<RedisSettings>,
    servers: Servers,
    /// The counters of gateways that go on counting without the store.
    local: Local,
    roll: Roll,
    asks_from: AsksFrom,
    /// `None`: the store is asked about each request.
    leases: Option<Leases>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

#[derive(Debug)]
enum Servers {
    One(Arc<Node>),
    /// The one that is master.
    Sentinel(Arc<Sentinels>, Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// The state of the store, for people.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Redis)]
pub struct Report {
    pub address: String,
    pub connections: usize,
    pub connections_open: usize,
    /// The last failure of a connection that is not open.
    pub trouble: Option<String>,
    /// The servers that keep counters: one, or the masters of a Cluster.
    pub nodes: Vec<NodeReport>,
    /// The number of replicas when the store was last there, this one included. None before it ever was.
    pub replicas: Option<u32>,
    /// Gateways with `on_error: local` do not ask the store now.
    pub counts_alone: bool,
}

impl Report {
    /// True where all counters are there.
    pub fn is_whole(&self) -> bool {
        !self.nodes.is_empty() && self.nodes.iter().all(|node| node.connections_open > 0)
    }
}

impl Redis {
    /// A store that is away until [`Redis::keep`] runs and has opened a connection.
    pub fn new(settings: impl Into<Arc<RedisSettings>>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let settings = settings.into();
        let node = |place: &Place| Arc::new(Node::new(&settings, place, clock, &metrics));
        let servers = match settings.url.form.clone() {
            RedisForm::One(server) => Servers::One(node(&Place::Fixed(server))),
            RedisForm::Sentinel { sentinels, master } => {
                let sentinels = Arc::new(Sentinels::new(Arc::clone(&settings), sentinels, master));
                let node = node(&Place::Master(Arc::clone(&sentinels)));
                Servers::Sentinel(sentinels, node)
            }
            RedisForm::Cluster { .. } => Servers::Cluster(Arc::new(Cluster::new(&settings, clock, &metrics))),
        };
        let local = Local::new(settings.local_keys_max);
        let (roll, asks_from) = (Roll::new(), AsksFrom::default());
        // The nodes of a Cluster have clocks of their own, and no lease would know by which it ends.
        let is_leased = settings.leases && !matches!(servers, Servers::Cluster(_));
        let leases = is_leased.then(|| Leases::new(metrics.leases.clone()));
        Self { settings, servers, local, roll, asks_from, leases, metrics, clock }
    }

    /// Opens the connections, and again whenever one is lost, until shutdown; then gives back what is leased.
    pub async fn keep(&self, shutdown: CancellationToken) {
        let keep = async {
            match &self.servers {
                Servers::One(node) => node.keep().await,
                Servers::Sentinel(sentinels, node) => {
                    tokio::join!(node.keep(), sentinels.watch(node.links()));
                }
                Servers::Cluster(cluster) => cluster.topology.keep().await,
            }
        };
        let give_back = async {
            if let Some(leases) = &self.leases {
                self.give_back(leases).await;
            }
        };
        tokio::select! {
            _ = futures_util::future::join(keep, give_back) => {}
            () = self.tend(shutdown) => {}
        }
        if let Some(leases) = &self.leases {
            self.give_all_back(leases).await;
        }
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.topology.close();
        }
    }

    /// As [`super::Counters::admit`].
    pub async fn admit(&self, charges: &[Charge]) -> Result<Admission, StoreAway> {
        self.admit_traced(charges, None).await
    }

    /// As [`super::Counters::admit_traced`].
    pub(super) async fn admit_traced(
        &self,
        charges: &[Charge],
        trip: Option<&mut Option<Trip>>,
    ) -> Result<Admission, StoreAway> {
        self.ask(charges, &|_, _, _| {}, trip).await
    }

    /// The same where this replica decides by itself while the store gives no answer.
    pub async fn admit_or_decide(&self, charges: &[Charge]) -> Admission {
        self.admit_or_decide_traced(charges, None).await
    }

    pub(super) async fn admit_or_decide_traced(
        &self,
        charges: &[Charge],
        trip: Option<&mut Option<Trip>>,
    ) -> Admission {
        if self.asks_from.is_reached(self.clock.now()) {
            let follow = |charge: &Charge, kept: &Kept, at| self.local.follow(charge, kept, at);
            if let Ok(admission) = self.ask(charges, &follow, trip).await {
                return admission;
            }
            if !self.is_there() {
                self.asks_from.unset();
            }
        }
        self.metrics.counter_store_decided_alone.inc();
        self.local.admit(charges, self.peers(), self.roll.at_store(self.clock.now()))
    }

    /// The replicas that share this store, as of when it was last there.
    pub fn peers(&self) -> Peers {
        self.roll.peers()
    }

    /// The counters that this replica keeps in case that the store goes away.
    pub fn local_keys(&self) -> usize {
        self.local.mirror.len()
    }

    /// The most of them.
    pub fn local_keys_max(&self) -> usize {
        self.settings.local_keys_max
    }

    /// Drops some counters that this replica keeps in case that the store goes away, and that count nothing any more.
    pub fn sweep(&self) {
        self.local.mirror.sweep(self.roll.at_store(self.clock.now()));
    }

    /// As [`Memory::sweeps_per_round`](super::memory::Memory::sweeps_per_round).
    pub fn sweeps_per_round(&self) -> usize {
        self.local.mirror.sweeps_per_round()
    }

    async fn ask(
        &self,
        charges: &[Charge],
        follow: Follow<'_>,
        trip: Option<&mut Option<Trip>>,
    ) -> Result<Admission, StoreAway> {
        let asked = trip.is_some().then(|| self.clock.now());
        let decided = match self.leases.as_ref().map(|leases| leases.take(charges, self.clock.now())) {
            Some(Take::Admitted(admission)) => {
                self.metrics.leases.decisions_by_lease.inc();
                return Ok(admission);
            }
            Some(Take::Denied(admission)) => {
                self.metrics.leases.denials_from_memory.inc();
                return Ok(admission);
            }
            // What a question takes is put on the heap, so that a request which leases answer does without it.
            Some(Take::Ask(asking)) => Box::pin(self.ask_for_rest(asking, follow)).await,
            None => Box::pin(self.decide(charges, follow)).await,
        };
        self.metrics.leases.decisions_by_store.inc();
        if let Some((trip, asked)) = trip.zip(asked) {
            let failure = decided.as_ref().err().map(Failure::reason);
            *trip = Some(Trip { asked, answered: self.clock.now(), failure });
        }
        decided.map_err(|failure| {
            failure.count(&self.metrics);
            StoreAway
        })
    }

    async fn decide(&self, charges: &[Charge], follow: Follow<'_>) -> Result<Admission, Failure> {
        match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => {
                self.ask_node(node, &Question::new(charges), follow).await?.admission.ok_or(Failure::Late)
            }
            Servers::Cluster(cluster) => cluster.admit(charges, follow).await,
        }
    }

    async fn ask_node(&self, node: &Node, question: &Question<'_>, follow: Follow<'_>) -> Result<Answer, Failure> {
        let by = Instant::now() + self.settings.deadline;
        node.ask(question, by, Way::Usual, follow).await
    }

    /// Has the store count hits after the fact, in the order given for each counter. Not for a request's path: it may take
    /// half a second.
    ///
    /// Of what failed, nobody knows whether it was settled, but for [`Failure::Away`] and [`Failure::Late`]: then it was
    /// not. There are up to [`settle::SETTLEMENTS_MAX`] in one call of the script, and none are settled after those that failed.
    pub async fn settle(&self, settlements: &[Settlement]) -> Result<(), Failure> {
        match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => {
                for some in settlements.chunks(settle::SETTLEMENTS_MAX) {
                    node.settle(some, Way::Usual).await?;
                }
                Ok(())
            }
            Servers::Cluster(cluster) => cluster.settle(settlements).await,
        }
    }

    /// Goes to the roll of replicas.
    async fn go_to_roll(&self, errand: Errand) -> Result<Entry, Failure> {
        match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => node.call_roll(&self.roll, errand, Way::Usual).await,
            Servers::Cluster(cluster) => cluster.call_roll(&self.roll, errand).await,
        }
    }

    /// What can be settled together: a slot of a Cluster.
    fn slot(&self, key: CounterKey) -> u16 {
        match &self.servers {
            Servers::One(_) | Servers::Sentinel(..) => 0,
            Servers::Cluster(_) => keys::slot(&self.settings.prefix, key),
        }
    }

    /// True where a question would be asked at all, of some counters at least.
    pub fn is_there(&self) -> bool {
        match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => node.is_there(),
            Servers::Cluster(cluster) => cluster.topology.map().nodes().iter().any(|node| node.is_there()),
        }
    }

    pub fn report(&self) -> Report {
        let (nodes, trouble) = match &self.servers {
            Servers::One(node) | Servers::Sentinel(_, node) => (vec![node.report()], None),
            Servers::Cluster(cluster) => (cluster.topology.reports(), cluster.topology.trouble()),
        };
        Report {
            address: self.settings.url.to_string(),
            connections: nodes.iter().map(|node| node.connections).sum(),
            connections_open: nodes.iter().map(|node| node.connections_open).sum(),
            trouble: trouble.or_else(|| nodes.iter().find_map(|node| node.trouble.clone())),
            nodes,
            replicas: self.roll.is_met().then(|| self.peers().count.get()),
            counts_alone: !self.is_there() || !self.asks_from.is_reached(self.clock.now()),
        }
    }
}
