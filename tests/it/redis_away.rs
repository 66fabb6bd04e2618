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

use crate::harness::{Setup, Tierflow, any_addresses, eventually, free_address, gateway};
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

/// The first that is back would be let in by what the other has not handed over yet. Whether the other is back in time is
/// up to the machine, so there is more than one try.
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
        let before = [first, second].map(Replica::handed_over);
        assert_eq!(second.spend_all(&charge).await, LIMIT / 2);
        let mut spent = 10;
        assert!(first.store.admit_or_decide(&[Charge { hits: spent, ..charge }]).await.admitted);
        proxies[0].set(Fault::None);
        eventually("the first is back", async || (first.handed_over() > before[0]).then_some(())).await;
        proxies[1].set(Fault::None);
        let mut is_second_in_time = false;
        eventually("the first asks the store", async || {
            let has_handed_over = second.handed_over() > before[1];
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

/// What is wrong with a store, and what the counter has left when it is well again. One replica alone has all of what was
/// left.
async fn limit_holds(
    replica: &Replica,
    number: usize,
    fault: &str,
    breaks: impl AsyncFnOnce(),
    mends: impl AsyncFnOnce(),
) -> u32 {
    let charge = counter(number, Algorithm::SlidingWindow);
    assert!(replica.store.admit_or_decide(&[Charge { hits: 40, ..charge }]).await.admitted);
    assert_eq!(replica.look(&charge).await, 60);
    breaks().await;
    eventually("the store is away", async || {
        replica.store.admit_or_decide(&[Charge { hits: 0, ..charge }]).await;
        replica.counts_alone().then_some(())
    })
    .await;
    assert_eq!(replica.spend_all(&charge).await, 60, "{fault}");
    mends().await;
    eventually("the store is asked again", async || (!replica.counts_alone()).then_some(())).await;
    replica.look(&charge).await
}

#[tokio::test]
async fn whatever_is_wrong_with_the_store_the_limit_holds() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.redis.address).await;
    let replica = &fleet(&[format!("redis://{}", proxy.address)]).await[0];
    let nobody = free_address().port().to_string();
    let say = async |words: &[&str]| server.say(words).await;

    let hangs = limit_holds(replica, 200, "it hangs", async || server.signal("STOP"), async || server.signal("CONT"));
    assert_eq!(hangs.await, 0);
    let [blackhole, none] = [Fault::Blackhole, Fault::None];
    let cut_off =
        limit_holds(replica, 201, "nothing comes through", async || proxy.set(blackhole), async || proxy.set(none));
    assert_eq!(cut_off.await, 0);
    let read_only = limit_holds(
        replica,
        202,
        "it is a replica",
        async || say(&["REPLICAOF", "127.0.0.1", &nobody]).await,
        async || say(&["REPLICAOF", "NO", "ONE"]).await,
    );
    assert_eq!(read_only.await, 0);
    let full = limit_holds(
        replica,
        203,
        "it is full",
        async || say(&["CONFIG", "SET", "maxmemory", "1"]).await,
        async || say(&["CONFIG", "SET", "maxmemory", "0"]).await,
    );
    assert_eq!(full.await, 0);
    say(&["CONFIG", "SET", "busy-reply-threshold", "1"]).await;
    let (mut killer, mut busy) = (server.connection().await, server.connection().await);
    let is_busy = limit_holds(
        replica,
        204,
        "it is busy",
        async || {
            tokio::spawn(async move {
                redis::cmd("EVAL").arg("while true do end").arg(0).query_async::<redis::Value>(&mut busy).await
            });
        },
        async || {
            let _: redis::Value = redis::cmd("SCRIPT").arg("KILL").query_async(&mut killer).await.unwrap();
        },
    );
    assert_eq!(is_busy.await, 0);
}

#[tokio::test]
async fn a_store_that_was_killed_counts_what_passed_without_it() {
    // Loading takes long enough to be met.
    let slow = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let mut server = Server::start(&slow);
    let replica = &fleet(&[server.url()]).await[0];
    let charge = counter(300, Algorithm::SlidingWindow);
    assert!(replica.store.admit_or_decide(&[Charge { hits: 40, ..charge }]).await.admitted);
    let is_away = async || {
        replica.store.admit_or_decide(&[Charge { hits: 0, ..charge }]).await;
        replica.counts_alone().then_some(())
    };
    server.redis.kill();
    eventually("the store is away", is_away).await;
    assert_eq!(replica.spend_all(&charge).await, 60);
    server.redis.restart().unwrap();
    eventually("the store is asked again", async || (!replica.counts_alone()).then_some(())).await;
    assert_eq!(replica.look(&charge).await, 40, "it came back empty, and counts what was admitted without it");

    let mut connection = server.connection().await;
    let fill = "for i = 1, 6000 do redis.call('SET', 'filler' .. i, string.rep('x', 100)) end";
    let _: redis::Value = redis::cmd("EVAL").arg(fill).arg(0).query_async(&mut connection).await.unwrap();
    server.say(&["SAVE"]).await;
    server.redis.kill();
    eventually("the store is away", is_away).await;
    assert_eq!(replica.spend_all(&charge).await, 40);
    server.redis.restart().unwrap();
    let trouble = async || replica.store.report().trouble.filter(|trouble| trouble.to_lowercase().contains("loading"));
    eventually("it is said that the store is loading", trouble).await;
    assert_eq!(replica.spend_all(&charge).await, 0);
    eventually("the store is asked again", async || (!replica.counts_alone()).then_some(())).await;
    assert_eq!(replica.look(&charge).await, 0, "it has what was saved, and what was admitted since");
}

#[tokio::test]
async fn a_store_that_forgets_its_scripts_is_not_away() {
    let server = Server::start(&[]);
    let replica = &fleet(&[server.url()]).await[0];
    let charge = counter(400, Algorithm::SlidingWindow);
    for _ in 0..LIMIT {
        server.say(&["SCRIPT", "FLUSH"]).await;
        assert!(replica.store.admit_or_decide(&[charge]).await.admitted);
    }
    assert_eq!(replica.spend_all(&charge).await, 0);
}

/// Files and threads of a process, and its memory in KiB. Of its files only root is told (`PR_SET_DUMPABLE` is 0).
fn held_by(process: u32) -> (usize, usize, usize) {
    let entries = |folder: &str| std::fs::read_dir(format!("/proc/{process}/{folder}")).map_or(0, Iterator::count);
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (entries("fd"), entries("task"), resident.trim().trim_end_matches(" kB").parse().unwrap())
}

#[tokio::test]
async fn nothing_is_left_behind_by_a_store_that_goes_and_comes_fifty_times() {
    const CYCLES: usize = 50;
    const KIB_MORE_MAX: usize = 8 * 1024;
    let server = Server::start(&[]);
    server.connection().await;
    let proxy = Proxy::start(server.redis.address).await;
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let gateway = gateway(&Setup { on_error: "local", ..Default::default() }, free_address(), free_address());
    std::fs::write(policies.join("gateway.yaml"), gateway).unwrap();
    let source = vec![format!("--policies={}", policies.display())];
    let store = [format!("--counters=redis://{}", proxy.address), "--counters-timeout=1s".to_owned()];
    let tierflow = Tierflow::serve(&folder.path().join("tierflow.log"), source, &store, any_addresses()).await;
    let connections_are = async |open: usize| {
        let is_so = async || {
            let status = tierflow.status().await;
            (status["counters"]["redis"]["connections_open"] == open).then_some(())
        };
        eventually("connections come and go", is_so).await;
    };
    let mut before = None;
    for cycle in 0..CYCLES {
        connections_are(4).await;
        // What a process takes once it has.
        if cycle == CYCLES / 5 {
            before = Some(held_by(tierflow.process()));
        }
        proxy.set(Fault::Cut);
        connections_are(0).await;
        proxy.set(Fault::None);
    }
    connections_are(4).await;
    let (files, threads, memory) = before.unwrap();
    let least = async || {
        let (files_now, threads_now, _) = held_by(tierflow.process());
        (files_now <= files && threads_now <= threads).then_some(())
    };
    eventually("no more files and threads than before", least).await;
    let (_, _, memory_now) = held_by(tierflow.process());
    assert!(memory_now <= memory + KIB_MORE_MAX, "{memory} KiB, then {memory_now}");
    let clients: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut server.connection().await).await.unwrap();
    assert!(clients.lines().count() <= 5, "four of Tierflow's, and one that asks:\n{clients}");
}
