//! One of two replicas ends while an Envoy asks both, and denies what nobody decides: so each decision that fails shows.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::{Edge, Load, Tierflow, eventually, free_address};
use crate::kit::upstream::Upstream;
use crate::store::{Store, document, key};

/// Calls that can be under way at once: each client of [`Load`] waits for its answer.
const UNDER_WAY_MAX: usize = 4;

/// How often it is done; `REPLICA_ROUNDS` says how often instead.
fn rounds() -> usize {
    std::env::var("REPLICA_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap())
}

struct Pair {
    replicas: [Tierflow; 2],
    edge: Edge,
    store: Store,
    /// Ends with the pair.
    _upstream: Upstream,
}

impl Pair {
    async fn start() -> Self {
        let store = Store::start().await;
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let listen = free_address();
        // No slow machine is taken for a decision that failed.
        let gateway =
            format!("{{nodes: {{clusters: [edge]}}, listen: '{listen}', limiter: {{timeout: 10s, on_error: deny}}}}");
        let api = "{gateway: edge, match: {path: /sale}, service: upstream, limits: [{rate: 100000000/h}]}";
        let service = format!("{{endpoints: ['{}']}}", upstream.address);
        let documents =
            [("Gateway", "edge", gateway.as_str()), ("Service", "upstream", &service), ("Api", "sale", api)];
        store.put_all(&documents.map(|(kind, name, fields)| (key(kind, name), document(kind, name, fields)))).await;
        let [first, second] = [(), ()].map(|()| [free_address(), free_address(), free_address()]);
        let replicas = [replica(&store, first).await, replica(&store, second).await];
        let edge = Edge::start(store.folder.path(), &replicas[0], "edge-1", "delta", listen);
        edge.ready().await;
        let pair = Self { replicas, edge, store, _upstream: upstream };
        pair.asks(2).await;
        pair
    }

    /// Until the Envoy asks this many replicas, all of which are well.
    async fn asks(&self, replicas: usize) {
        eventually(&format!("{replicas} are asked, and well"), async || {
            let clusters = self.edge.admin("/clusters").await;
            let health =
                clusters.lines().filter(|line| line.starts_with("tierflow:rls::") && line.contains("::health_flags::"));
            let well = health.clone().filter(|line| line.ends_with("::healthy")).count();
            (well == replicas && health.count() == replicas).then_some(())
        })
        .await;
    }

    /// Until the replica has no part in anything any more.
    async fn asks_others_than(&self, gone: SocketAddr) {
        eventually(&format!("{gone} is not asked"), async || {
            let clusters = self.edge.admin("/clusters").await;
            let of_gone = format!("tierflow:rls::{gone}::health_flags::");
            let flags = clusters.lines().find_map(|line| line.strip_prefix(&of_gone));
            flags.is_none_or(|flags| flags.contains("failed")).then_some(())
        })
        .await;
    }

    /// Until each replica has decided more than it had.
    async fn both_decide(&self) {
        let before = self.decided().await;
        eventually("both decide", async || {
            let now = self.decided().await;
            now.iter().zip(before).all(|(now, before)| *now > before).then_some(())
        })
        .await;
    }

    async fn decided(&self) -> [u64; 2] {
        let [first, second] = &self.replicas;
        [decided(first).await, decided(second).await]
    }

    async fn start_again(&mut self, index: usize) {
        let addresses = self.replicas[index].addresses();
        self.replicas[index] = replica(&self.store, addresses).await;
        self.asks(2).await;
    }
}

async fn replica(store: &Store, addresses: [SocketAddr; 3]) -> Tierflow {
    let log = store.path(&format!("{}.log", addresses[0].port()));
    Tierflow::serve(&log, store.endpoint(), &[], addresses).await
}

async fn decided(replica: &Tierflow) -> u64 {
    let metrics = replica.ask("/metrics").await.text();
    let counts = metrics.lines().filter(|line| line.starts_with("tierflow_decisions_total"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn a_replica_that_is_told_to_end_fails_no_decision() {
    let mut pair = Pair::start().await;
    let load = Load::start(pair.edge.url("/sale"));
    // In turn: the one that the Envoy has its configuration from, and the other one.
    for round in 0..rounds() {
        pair.both_decide().await;
        let ending = &pair.replicas[round % 2];
        let process = ending.process();
        ending.signal("TERM");
        pair.asks_others_than(ending.rls).await;
        eventually("it has ended", async || {
            let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            (status.is_empty() || status.contains("State:\tZ")).then_some(())
        })
        .await;
        pair.start_again(round % 2).await;
    }
    assert_eq!(load.stop().await, [""; 0]);
}

#[tokio::test]
async fn a_replica_that_is_killed_fails_no_more_decisions_than_were_under_way() {
    let mut pair = Pair::start().await;
    let mut failed = Vec::new();
    for round in 0..rounds() {
        let load = Load::start(pair.edge.url("/sale"));
        pair.both_decide().await;
        let gone = pair.replicas[round % 2].rls;
        pair.replicas[round % 2].kill();
        pair.asks_others_than(gone).await;
        failed.push(load.stop().await.len());
        pair.start_again(round % 2).await;
    }
    println!("failed decisions of each round: {failed:?}");
    assert!(failed.iter().all(|failed| *failed <= UNDER_WAY_MAX), "{failed:?}");
}
