//! Replicas whose gateways are `on_error: local`, and a store that goes away and comes back.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures_util::future::join_all;
use tierflow::clock::Clock;
use tierflow::counters::redis::{Redis, RedisSettings};
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::{Algorithm, Charge};
use tierflow::metrics::Metrics;
use tierflow::policy::rate::Rate;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::eventually;
use crate::proxy::{Fault, Proxy};
use crate::redis_store::{Server, algorithms, charge, is_there, remaining, settings};

const LIMIT: u32 = 100;

/// One of the replicas that share a store.
struct Replica {
    store: Arc<Redis>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Replica {
    fn start(settings: RedisSettings) -> Self {
        let metrics = Arc::new(Metrics::default());
        let store = Arc::new(Redis::new(settings, Clock::start(), Arc::clone(&metrics)));
        let shutdown = CancellationToken::new();
        let (keep, until) = (Arc::clone(&store), shutdown.clone());
        Self { store, metrics, shutdown, task: tokio::spawn(async move { keep.keep(until).await }) }
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    fn handed_over(&self) -> u64 {
        self.metrics.counter_store_hits_handed_over.get()
    }

    fn counts_alone(&self) -> bool {
        self.store.report().counts_alone
    }

    /// Asks until it is denied. Tells how many hits passed.
    async fn spend_all(&self, charge: &Charge) -> u32 {
        let mut spent = 0;
        while self.store.admit_or_decide(std::slice::from_ref(charge)).await.admitted {
            spent += charge.hits;
        }
        spent
    }

    /// What the store says is left, which it knows from then on.
    async fn look(&self, charge: &Charge) -> u32 {
        let look = [Charge { hits: 0, ..*charge }];
        let answer = eventually("the store answers", async || {
            let before = self.metrics.counter_store_decided_alone.get();
            let answer = self.store.admit_or_decide(&look).await;
            (self.metrics.counter_store_decided_alone.get() == before).then_some(answer)
        })
        .await;
        remaining(&answer)
    }
}

async fn fleet(urls: &[String]) -> Vec<Replica> {
    let replicas: Vec<_> = urls.iter().map(|url| Replica::start(settings(url))).collect();
    for replica in &replicas {
        is_there(&replica.store).await;
    }
    know_each_other(&replicas, replicas.len()).await;
    replicas
}

async fn know_each_other(replicas: &[Replica], count: usize) {
    let places = async || {
        let peers: Vec<_> = replicas.iter().map(|replica| replica.store.peers()).collect();
        let mut ranks: Vec<_> = peers.iter().map(|peers| peers.rank as usize).collect();
        ranks.sort_unstable();
        let is_known = peers.iter().all(|peers| peers.count.get() as usize == count);
        (is_known && ranks.iter().enumerate().all(|(rank, found)| rank == *found)).then_some(())
    };
    eventually("the replicas know how many they are", places).await;
}

/// A counter of its own for each number, whose window outlasts the test.
fn counter(number: usize, algorithm: Algorithm) -> Charge {
    let key = KeyHasher::seeded([9; 16]).part(&number.to_le_bytes()).finish();
    let algorithm = match algorithm {
        Algorithm::TokenBucket { .. } => Algorithm::TokenBucket { burst: NonZeroU32::new(LIMIT).unwrap() },
        algorithm => algorithm,
    };
    Charge { key, algorithm, rate: Rate::parse("100/day").unwrap(), ..charge(1) }
}

#[tokio::test]
async fn replicas_know_how_many_they_are_also_while_the_store_is_away() {
    let mut server = Server::start(&[]);
    let urls = [(); 3].map(|()| server.url());
    let mut replicas = fleet(&urls).await;
    replicas.pop().unwrap().end().await;
    know_each_other(&replicas, 2).await;
    server.redis.kill();
    for replica in &replicas {
        eventually("the store is away", async || {
            replica.spend_all(&counter(0, Algorithm::SlidingWindow)).await;
            (!replica.store.is_there()).then_some(())
        })
        .await;
        assert_eq!(replica.store.report().replicas, Some(2));
    }
    let stranger = Replica::start(settings(&server.url()));
    assert_eq!((stranger.store.peers().count.get(), stranger.store.report().replicas), (1, None));
}

#[tokio::test]
async fn replicas_admit_together_what_the_store_had_left_and_it_knows_of_it_when_it_is_back() {
    let server = Server::start(&[]);
    let urls = [(); 3].map(|()| server.url());
    let replicas = fleet(&urls).await;
    let counters: Vec<_> = algorithms().into_iter().enumerate().map(|(number, of)| counter(number, of)).collect();
    for charge in &counters {
        let spent = Charge { hits: 41, ..*charge };
        assert!(replicas[0].store.admit_or_decide(&[spent]).await.admitted);
        for replica in &replicas {
            assert_eq!(replica.look(charge).await, 59);
        }
    }
    server.signal("STOP");
    for charge in &counters {
        let spent = join_all(replicas.iter().map(|replica| replica.spend_all(charge))).await;
        assert_eq!(spent.iter().sum::<u32>(), 59, "{:?}: {spent:?}", charge.algorithm);
        assert!(spent.iter().all(|spent| (19..=20).contains(spent)), "{spent:?}");
    }
    server.signal("CONT");
    // They ask on and on: not one request passes on the way back.
    eventually("the store is asked again", async || {
        for charge in &counters {
            let spent = join_all(replicas.iter().map(|replica| replica.spend_all(charge))).await;
            assert_eq!(spent, [0; 3], "{:?}", charge.algorithm);
        }
        replicas.iter().all(|replica| !replica.counts_alone()).then_some(())
    })
    .await;
    for charge in &counters {
        assert_eq!(replicas[0].look(charge).await, 0, "{:?}", charge.algorithm);
    }
}

/// The first that is back would be let in by what the other has not handed over yet. What it takes for the other to be
/// back in time is up to the machine, so there is more than one try.
#[tokio::test]
async fn who_is_back_first_waits_for_what_the_others_admitted() {
    let server = Server::start(&[]);
    let mut proxies = Vec::new();
    for _ in 0..2 {
        proxies.push(Proxy::start(server.redis.address).await);
    }
    let urls: Vec<_> = proxies.iter().map(|proxy| format!("redis://{}", proxy.address)).collect();
    let replicas = fleet(&urls).await;
    let (first, second) = (&replicas[0], &replicas[1]);
    for attempt in 0..10 {
        let charge = counter(100 + attempt, Algorithm::SlidingWindow);
        for replica in &replicas {
            assert_eq!(replica.look(&charge).await, LIMIT);
        }
        proxies.iter().for_each(|proxy| proxy.set(Fault::Cut));
        for replica in &replicas {
            eventually("the store is away", async || {
                replica.store.admit_or_decide(&[Charge { hits: 0, ..charge }]).await;
                (!replica.store.is_there()).then_some(())
            })
            .await;
        }
        let before = second.handed_over();
        assert_eq!(second.spend_all(&charge).await, LIMIT / 2);
        proxies[0].set(Fault::None);
        is_there(&first.store).await;
        proxies[1].set(Fault::None);
        let mut spent = 0;
        let mut is_second_in_time = false;
        eventually("the first asks the store", async || {
            let has_handed_over = second.handed_over() > before;
            spent += first.spend_all(&charge).await;
            let asks = !first.counts_alone();
            is_second_in_time |= has_handed_over && !asks;
            asks.then_some(())
        })
        .await;
        eventually("the second asks the store", async || (!second.counts_alone()).then_some(())).await;
        spent += first.spend_all(&charge).await;
        if is_second_in_time {
            assert_eq!(spent, LIMIT / 2);
            return;
        }
    }
    panic!("the first never waited for the second");
}
