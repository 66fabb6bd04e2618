//! Envoys that behave badly, one at a time: one that refuses, and one that does not read.

use std::time::{Duration, Instant};

use tierflow::bootstrap::XdsVariant;
use tierflow::snapshot::resource::ResourceType;

use crate::board::{Acknowledged, within};
use crate::envoy::Envoy;
use crate::fleet::{Behaviour, Fleet};
use crate::process::Process;
use crate::store::Store;

const REFUSED_CHANGES: u32 = 10;
const UPDATES: u32 = 1000;
const TURNS: usize = 3;
const OTHERS: usize = 100;
/// After so long without a response there is none under way.
const QUIET: Duration = Duration::from_secs(1);

/// How many responses an Envoy gets that refuses all routes, and of how many changes, one a second.
pub(crate) async fn refusing(store: &Store, server: &Process, variant: XdsVariant) -> (u64, u32) {
    let fleet = Fleet::connect(server.address, vec![Envoy::new(0, variant)], 1);
    fleet.all_are_current().await;
    fleet.behave(Behaviour::Refuses(ResourceType::Route));
    let before = fleet.board.responses(ResourceType::Route);
    for _ in 0..REFUSED_CHANGES {
        store.change_route().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let responses = fleet.board.responses(ResourceType::Route) - before;
    fleet.disconnect().await;
    (responses, REFUSED_CHANGES)
}

/// One Envoy reads and does not read in turns, while there are many updates for it and for others.
#[derive(Default)]
pub(crate) struct Stopped {
    pub(crate) without: Updates,
    pub(crate) with: Updates,
    /// Of routes, from when it reads again until it is quiet, in each turn.
    pub(crate) responses: Vec<u64>,
}

/// What updates do to the Envoys that read, over all turns.
#[derive(Default)]
pub(crate) struct Updates {
    pub(crate) time: Duration,
    /// Of each Envoy and each update, from the call of `put` until it acknowledged that one or a later one.
    pub(crate) times: Vec<Duration>,
    pub(crate) responses: u64,
    pub(crate) rss_growth: u64,
}

pub(crate) async fn stopped(store: &Store, server: &Process, variant: XdsVariant) -> Stopped {
    let others = (1..=OTHERS).map(|number| Envoy::new(number, variant)).collect();
    let others = Fleet::connect(server.address, others, OTHERS);
    others.all_are_current().await;
    let one = Fleet::connect(server.address, vec![Envoy::new(0, variant)], 1);
    one.all_are_current().await;
    // What the server needs for such a load at all is not counted as the stopped one's.
    Updates::default().add(store, server, &others).await;
    let mut stopped = Stopped::default();
    for _ in 0..TURNS {
        stopped.without.add(store, server, &others).await;
        // Its last acknowledgement is to be out before it stops, and it is to have stopped before there is something
        // to read: the server then waits for the answer to one response all the time.
        until_quiet(&one).await;
        one.behave(Behaviour::Stops);
        tokio::time::sleep(QUIET).await;
        stopped.with.add(store, server, &others).await;
        let before = one.board.responses(ResourceType::Route);
        one.behave(Behaviour::Accepts);
        one.board.after_change(store.last_change()).await;
        stopped.responses.push(until_quiet(&one).await - before);
    }
    one.disconnect().await;
    others.disconnect().await;
    stopped
}

impl Updates {
    /// Updates as quickly as etcd takes them, until the last is acknowledged by all.
    async fn add(&mut self, store: &Store, server: &Process, fleet: &Fleet) {
        fleet.board.take_acknowledged(ResourceType::Route);
        let responses = fleet.board.responses(ResourceType::Route);
        let (rss, started) = (server.rss(), Instant::now());
        let mut puts = Vec::new();
        for _ in 0..UPDATES {
            let at = Instant::now();
            puts.push((store.change_route().await, at));
        }
        fleet.board.after_change(store.last_change()).await;
        self.time += started.elapsed();
        self.times.extend(times(&puts, &fleet.board.take_acknowledged(ResourceType::Route)));
        self.responses += fleet.board.responses(ResourceType::Route) - responses;
        self.rss_growth += server.rss().saturating_sub(rss);
    }
}

fn times(puts: &[(u32, Instant)], acknowledged: &[Acknowledged]) -> Vec<Duration> {
    let mut times = Vec::new();
    for envoy in 1..=OTHERS {
        let mut its = acknowledged.iter().filter(|one| one.envoy == envoy).peekable();
        for (change, put) in puts {
            while its.next_if(|one| one.change < *change).is_some() {}
            let at = its.peek().expect("all have acknowledged the last change").at;
            times.push(at - *put);
        }
    }
    times
}

/// Gives how many responses there were by then.
async fn until_quiet(fleet: &Fleet) -> u64 {
    let responses = || fleet.board.responses(ResourceType::Route);
    let quiet = async {
        let mut before = responses();
        loop {
            tokio::time::sleep(QUIET).await;
            match responses() {
                now if now == before => return now,
                now => before = now,
            }
        }
    };
    within(|| "an Envoy is still sent routes that nobody changes".to_owned(), quiet).await
}
