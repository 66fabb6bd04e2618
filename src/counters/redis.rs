//! Counters in Redis or Valkey, shared by all replicas.
//!
//! ```text
//! admit --Question--> Link (one of a few connections, pipelined) --EVALSHA--> admit.lua in the store
//!       <--Answer---                                             <---------
//! ```
//!
//! One round trip decides a request over all its limits, on the store's clock. A question has a deadline, and one that
//! comes to the store later is refused there: what waited in a store that hung charges nothing when it goes on.
//! After several failures in a row all links are closed; while they are, requests are told at once that the store is away.

mod failure;
mod link;
mod node;
pub mod script;
mod seen;
mod sentinel;
mod settings;
pub mod settle;
mod url;

use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Admission, StoreAway};
use crate::clock::Clock;
use crate::limiter::Charge;
use crate::metrics::{Metrics, ReasonLabels};
use link::Place;
use node::Node;
use script::Question;
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
    node: Node,
    /// `None`: the server is a fixed one.
    sentinels: Option<Arc<Sentinels>>,
    metrics: Arc<Metrics>,
}

/// The state of the store, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub address: String,
    pub connections: usize,
    pub connections_open: usize,
    /// The last failure of a connection that is not open.
    pub trouble: Option<String>,
    pub nodes: Vec<NodeReport>,
}

impl Redis {
    /// A store that is away until [`Redis::keep`] runs and has opened a connection.
    pub fn new(settings: impl Into<Arc<RedisSettings>>, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let settings = settings.into();
        let (place, sentinels) = match settings.url.form.clone() {
            RedisForm::One(server) => (Place::Fixed(server), None),
            RedisForm::Sentinel { sentinels, master } => {
                let sentinels = Arc::new(Sentinels::new(Arc::clone(&settings), sentinels, master));
                (Place::Master(Arc::clone(&sentinels)), Some(sentinels))
            }
        };
        let node = Node::new(&settings, &place, clock, &metrics);
        Self { settings, node, sentinels, metrics }
    }

    /// Opens the connections, and again whenever one is lost, until shutdown.
    pub async fn keep(&self, shutdown: CancellationToken) {
        let watch = async {
            if let Some(sentinels) = &self.sentinels {
                sentinels.watch(self.node.links()).await;
            }
        };
        shutdown.run_until_cancelled(futures_util::future::join(self.node.keep(), watch)).await;
    }

    /// As [`super::Counters::admit`].
    pub async fn admit(&self, charges: &[Charge]) -> Result<Admission, StoreAway> {
        self.node.ask(&Question::new(charges)).await.map_err(|failure| {
            self.metrics.counter_store_errors.get_or_create(&ReasonLabels { reason: failure.reason() }).inc();
            StoreAway
        })
    }

    /// Has the store count hits after the fact, in the order given. Not for a request's path: it may take half a second.
    ///
    /// Of what failed, nobody knows whether it was settled, but for [`Failure::Away`] and [`Failure::Late`]: then it was
    /// not. There are up to [`settle::SETTLEMENTS_MAX`] in one call of the script, and none are settled after those that failed.
    pub async fn settle(&self, settlements: &[Settlement]) -> Result<(), Failure> {
        for some in settlements.chunks(settle::SETTLEMENTS_MAX) {
            self.node.settle(some).await?;
        }
        Ok(())
    }

    /// True where a question would be asked at all.
    pub fn is_there(&self) -> bool {
        self.node.is_there()
    }

    pub fn report(&self) -> Report {
        let nodes = vec![self.node.report()];
        Report {
            address: self.settings.url.to_string(),
            connections: nodes.iter().map(|node| node.connections).sum(),
            connections_open: nodes.iter().map(|node| node.connections_open).sum(),
            trouble: nodes.iter().find_map(|node| node.trouble.clone()),
            nodes,
        }
    }
}
