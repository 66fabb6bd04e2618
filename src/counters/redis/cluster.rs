//! A Redis Cluster: which node a counter is at, and requests whose counters are at several.
//!
//! ```text
//! charges --by slot--> parts --one after the other, narrowest first--> Node --EVALSHA--> admit.lua
//!                        \-- where a later one denies or fails, what was charged is given back
//! ```
//!
//! The counters of an API have one slot, and so have those of a tenant ([`CounterKey::home`]). So a request meets two slots
//! at most, but for lists of Envoy actions, whose counters are each by themselves. The tenant's are asked first: what a tenant
//! is denied charges the API nothing, not even for a moment. After a denial the others are only looked at, for what the answer
//! says of them; limits in shadow are charged, as always.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, ServerErrorKind};
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::keys;
use super::link::{Follow, Way};
use super::node::Node;
use super::roll::{self, Entry, Errand, Roll};
use super::script::{Answer, Question};
use super::settings::RedisSettings;
use super::settle::{SETTLEMENTS_MAX, Settlement};
use super::slots;
use super::topology::Topology;
use super::url::ServerAddress;
use crate::clock::Clock;
use crate::counters::{Admission, Outcome};
use crate::limiter::Charge;
use crate::limiter::key::CounterKey;
use crate::metrics::Metrics;

/// How often a question is sent on.
const REDIRECTS_MAX: usize = 3;
/// The pause before a question is asked again whose keys are just being moved.
const TRY_AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Cluster {
    settings: Arc<RedisSettings>,
    pub(super) topology: Topology,
    metrics: Arc<Metrics>,
}

/// The charges of a request that are in one slot.
#[derive(Debug)]
struct Part {
    slot: u16,
    charges: SmallVec<[Charge; 4]>,
    /// The place of each in the request.
    places: SmallVec<[usize; 4]>,
}

impl Cluster {
    pub(super) fn new(settings: &Arc<RedisSettings>, clock: Clock, metrics: &Arc<Metrics>) -> Self {
        let topology = Topology::new(Arc::clone(settings), clock, Arc::clone(metrics));
        Self { settings: Arc::clone(settings), topology, metrics: Arc::clone(metrics) }
    }

    /// Decides a request over all its counters, wherever they are.
    pub(super) async fn admit(self: &Arc<Self>, charges: &[Charge], follow: Follow<'_>) -> Result<Admission, Failure> {
        let by = Instant::now() + self.settings.deadline;
        let parts = self.parts(charges);
        if let [part] = &parts[..] {
            return self.ask(part.slot, &Question::new(charges), by, follow).await?.admission.ok_or(Failure::Late);
        }
        let is_there = |part: &Part| self.topology.node(part.slot).is_some_and(|node| node.is_there());
        if !parts.iter().all(is_there) {
            self.topology.doubt();
            return Err(Failure::Away);
        }
        self.admit_in_turn(&parts, charges, by, follow).await
    }

    /// The charges by slot: those of the last limit first, which is the narrowest tier.
    fn parts(&self, charges: &[Charge]) -> SmallVec<[Part; 2]> {
        let mut parts: SmallVec<[Part; 2]> = SmallVec::new();
        for (place, charge) in charges.iter().enumerate().rev() {
            let slot = keys::slot(&self.settings.prefix, charge.key);
            match parts.iter_mut().find(|part| part.slot == slot) {
                Some(part) => part.add(place, charge),
                None => {
                    let mut part = Part { slot, charges: SmallVec::new(), places: SmallVec::new() };
                    part.add(place, charge);
                    parts.push(part);
                }
            }
        }
        parts
    }

    async fn admit_in_turn(
        self: &Arc<Self>,
        parts: &[Part],
        charges: &[Charge],
        by: Instant,
        follow: Follow<'_>,
    ) -> Result<Admission, Failure> {
        let mut charged = Charged { cluster: self, refunds: SmallVec::new() };
        let mut admission = Admission { admitted: true, outcomes: SmallVec::from_elem(Outcome::NoRoom, charges.len()) };
        for part in parts {
            let question = match admission.admitted {
                true => Question::new(&part.charges),
                false => Question::of_look(&part.charges),
            };
            let answer = self.ask(part.slot, &question, by, follow).await?;
            let told = answer.admission.as_ref().ok_or(Failure::Late)?;
            for (place, outcome) in part.places.iter().zip(&told.outcomes) {
                if let Some(to) = admission.outcomes.get_mut(*place) {
                    *to = *outcome;
                }
            }
            if admission.admitted && told.admitted {
                charged.refunds.extend(question.refund(&answer));
            }
            admission.admitted &= told.admitted;
        }
        if admission.admitted {
            charged.refunds.clear();
        } else {
            charged.refunds.iter().for_each(|refund| restore(&mut admission, charges, refund));
        }
        Ok(admission)
    }

    async fn ask(
        &self,
        slot: u16,
        question: &Question<'_>,
        by: Instant,
        follow: Follow<'_>,
    ) -> Result<Answer, Failure> {
        let mut route = self.route(slot)?;
        loop {
            match route.node.ask(question, by, route.way, follow).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.redirect(&mut route, failure).await?,
            }
        }
    }

    /// As [`super::Redis::settle`]; each slot by itself.
    pub(super) async fn settle(&self, settlements: &[Settlement]) -> Result<(), Failure> {
        let mut by_slot = BTreeMap::<u16, Vec<Settlement>>::new();
        for settlement in settlements {
            by_slot.entry(keys::slot(&self.settings.prefix, settlement.key)).or_default().push(*settlement);
        }
        for (slot, settlements) in by_slot {
            for some in settlements.chunks(SETTLEMENTS_MAX) {
                self.settle_in(slot, some).await?;
            }
        }
        Ok(())
    }

    async fn settle_in(&self, slot: u16, settlements: &[Settlement]) -> Result<(), Failure> {
        let mut route = self.route(slot)?;
        loop {
            match route.node.settle(settlements, route.way).await {
                Ok(()) => return Ok(()),
                Err(failure) => self.redirect(&mut route, failure).await?,
            }
        }
    }

    pub(super) async fn call_roll(&self, roll: &Roll, errand: Errand) -> Result<Entry, Failure> {
        let mut route = self.route(slots::slot_of(roll::key(&self.settings.prefix).as_bytes()))?;
        loop {
            match route.node.call_roll(roll, errand, route.way).await {
                Ok(entry) => return Ok(entry),
                Err(failure) => self.redirect(&mut route, failure).await?,
            }
        }
    }

    /// As [`Node::query`], of the node that keeps a counter.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        key: CounterKey,
        command: &Cmd,
        patience: Duration,
    ) -> Result<T, Failure> {
        let mut route = self.route(keys::slot(&self.settings.prefix, key))?;
        loop {
            match route.node.query(command, patience, route.way).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.redirect(&mut route, failure).await?,
            }
        }
    }

    /// The skew of the clock that a counter goes by.
    pub(super) fn skew(&self, key: CounterKey) -> i64 {
        let node = self.topology.node(keys::slot(&self.settings.prefix, key));
        node.map_or(0, |node| node.skew())
    }

    /// Once: where the answer is lost, it may have been done, and is not tried again.
    async fn give_back(&self, charged: &[Settlement]) {
        if let Err(failure) = self.settle(charged).await {
            failure.count(&self.metrics);
        }
    }

    /// The way to the node that serves a slot.
    fn route(&self, slot: u16) -> Result<Route, Failure> {
        let node = self.topology.node(slot).ok_or_else(|| {
            self.topology.doubt();
            Failure::Unserved
        })?;
        Ok(Route { slot, node, way: Way::Usual, redirects: 0 })
    }

    /// Changes the route to where the failure of a node says. What failed was not done then, and can be asked again.
    async fn redirect(&self, route: &mut Route, failure: Failure) -> Result<(), Failure> {
        let redirect = Redirect::of(&failure, &route.node).filter(|_| route.redirects < REDIRECTS_MAX);
        route.redirects += 1;
        match redirect {
            Some(Redirect::Moved(address)) => {
                (route.node, route.way) = (self.topology.node_at(&address), Way::Usual);
                self.topology.moved(route.slot, &route.node);
            }
            Some(Redirect::Ask(address)) => (route.node, route.way) = (self.topology.node_at(&address), Way::Asking),
            Some(Redirect::TryAgain) => sleep(TRY_AGAIN).await,
            None => {
                if matches!(failure, Failure::Away) || failure.is_the_stores() {
                    self.topology.doubt();
                }
                return Err(failure);
            }
        }
        Ok(())
    }
}

/// The way of one question through the Cluster.
struct Route {
    slot: u16,
    node: Arc<Node>,
    way: Way,
    redirects: usize,
}

/// The verdicts on a counter are those from before the charge, where that is given back.
fn restore(admission: &mut Admission, charges: &[Charge], refund: &Settlement) {
    for (charge, outcome) in charges.iter().zip(&mut admission.outcomes) {
        if let Outcome::Judged(verdict) = outcome
            && charge.key == refund.key
        {
            let hits = u32::try_from(refund.hits.unsigned_abs()).unwrap_or(u32::MAX);
            verdict.remaining = verdict.remaining.saturating_add(hits);
        }
    }
}

impl Part {
    fn add(&mut self, place: usize, charge: &Charge) {
        self.charges.push(*charge);
        self.places.push(place);
    }
}

/// Where a node sends a question that it does not answer. Nothing was charged then.
enum Redirect {
    /// The slot is another node's.
    Moved(ServerAddress),
    /// The slot is on its way to another node, and so are the keys.
    Ask(ServerAddress),
    /// The slot is on its way to another node, and only some of the keys are there.
    TryAgain,
}

impl Redirect {
    fn of(failure: &Failure, asked: &Node) -> Option<Self> {
        let Failure::Refused(error) = failure else { return None };
        let ErrorKind::Server(kind) = error.kind() else { return None };
        let named = || {
            let (named, _slot) = error.redirect_node()?;
            let (host, port) = named.rsplit_once(':')?;
            // A node that does not know the other one's name means its own.
            let host = if host.is_empty() { asked.address()?.host.clone() } else { host.to_owned() };
            Some(ServerAddress { host, port: port.parse().ok()? })
        };
        match kind {
            ServerErrorKind::Moved => named().map(Self::Moved),
            ServerErrorKind::Ask => named().map(Self::Ask),
            ServerErrorKind::TryAgain => Some(Self::TryAgain),
            _ => None,
        }
    }
}

/// What a request was charged so far. It is given back when this is dropped, whyever the request is not admitted: a later
/// part denies it or does not answer, or whoever asked has gone.
struct Charged<'a> {
    cluster: &'a Arc<Cluster>,
    refunds: SmallVec<[Settlement; 4]>,
}

impl Drop for Charged<'_> {
    fn drop(&mut self) {
        if self.refunds.is_empty() {
            return;
        }
        let (cluster, refunds) = (Arc::clone(self.cluster), std::mem::take(&mut self.refunds));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { cluster.give_back(&refunds).await });
        }
    }
}
