//! What a fleet has done so far: how many of its Envoys hold which version, and when they acknowledged it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tierflow::snapshot::per_type::PerType;
use tierflow::snapshot::resource::ResourceType;
use tokio::sync::watch;

use crate::envoy::Response;
use crate::store;

/// Longer than anything here takes on a slow machine.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Board {
    pub(crate) envoys: usize,
    /// How often an Envoy had to open its connection again.
    pub(crate) retries: AtomicU64,
    types: Mutex<PerType<OneType>>,
    milestones: watch::Sender<Milestones>,
}

#[derive(Default)]
struct OneType {
    /// Which Envoys have acknowledged a version. None comes back here, for every change is another one.
    holders: HashMap<String, HashSet<usize>>,
    /// Which change of the store a version came with.
    changes: HashMap<String, u32>,
    acknowledged: Vec<Acknowledged>,
    responses: u64,
    bytes: usize,
}

pub(crate) struct Acknowledged {
    pub(crate) envoy: usize,
    pub(crate) change: u32,
    pub(crate) at: Instant,
}

/// What is worth waking up for.
#[derive(Default)]
struct Milestones {
    /// By type: how many versions all Envoys have come to hold.
    rounds: PerType<u64>,
    /// The latest change whose routes all Envoys have come to hold.
    change: u32,
    lost: Option<String>,
}

impl Board {
    pub(crate) fn new(envoys: usize) -> Self {
        Self { envoys, retries: AtomicU64::new(0), types: Mutex::default(), milestones: watch::Sender::default() }
    }

    /// Notes a response, whatever becomes of it.
    pub(crate) fn received(&self, response: &Response) {
        let one = &mut self.types.lock()[response.resource_type];
        one.responses += 1;
        one.bytes = response.bodies.iter().map(|body| body.value.len()).sum();
    }

    pub(crate) fn acknowledged(&self, envoy: usize, response: &Response) {
        let at = Instant::now();
        let one = &mut self.types.lock()[response.resource_type];
        let change = *one.changes.entry(response.version.clone()).or_insert_with(|| change_in(response));
        one.acknowledged.push(Acknowledged { envoy, change, at });
        let holders = one.holders.entry(response.version.clone()).or_default();
        if holders.insert(envoy) && holders.len() == self.envoys {
            self.milestones.send_modify(|milestones| {
                milestones.rounds[response.resource_type] += 1;
                milestones.change = milestones.change.max(change);
            });
        }
    }

    pub(crate) fn lost(&self, envoy: usize, reason: &str) {
        self.milestones.send_modify(|milestones| milestones.lost = Some(format!("edge-{envoy}: {reason}")));
    }

    /// How many responses of the type there were.
    pub(crate) fn responses(&self, resource_type: ResourceType) -> u64 {
        self.types.lock()[resource_type].responses
    }

    /// How large the resources of the last response of the type were.
    pub(crate) fn bytes(&self, resource_type: ResourceType) -> usize {
        self.types.lock()[resource_type].bytes
    }

    pub(crate) fn take_acknowledged(&self, resource_type: ResourceType) -> Vec<Acknowledged> {
        std::mem::take(&mut self.types.lock()[resource_type].acknowledged)
    }

    pub(crate) fn rounds(&self, resource_type: ResourceType) -> u64 {
        self.milestones.borrow().rounds[resource_type]
    }

    /// Waits until all Envoys hold a version that is newer than the last of so many rounds.
    pub(crate) async fn after_rounds(&self, resource_type: ResourceType, rounds: u64) {
        let what = || format!("{} Envoys hold no new version of type {resource_type} in common", self.envoys);
        self.until(what, |now| now.rounds[resource_type] > rounds).await;
    }

    /// Waits until all Envoys hold the routes of a change, or of a later one.
    pub(crate) async fn after_change(&self, change: u32) {
        let what = || format!("{} Envoys do not all hold the routes of change {change}", self.envoys);
        self.until(what, |now| now.change >= change).await;
    }

    async fn until(&self, what: impl Fn() -> String, is_reached: impl Fn(&Milestones) -> bool) {
        let mut milestones = self.milestones.subscribe();
        let reached = milestones.wait_for(|now| now.lost.is_some() || is_reached(now));
        let reached = within(what, reached).await.expect("the board has the sender");
        if let Some(lost) = &reached.lost {
            panic!("an Envoy lost its stream: {lost}");
        }
    }
}

/// Panics with what is late.
pub(crate) async fn within<T>(what: impl Fn() -> String, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("{} after {DEADLINE:?}", what()))
}

fn change_in(response: &Response) -> u32 {
    response.bodies.iter().filter_map(|body| store::change_in(&body.value)).max().unwrap_or(0)
}
