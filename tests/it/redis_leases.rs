//! Replicas that take hits of counters in a real Redis in advance.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tierflow::clock::{Clock, Timestamp};
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::counters::redis::script::{self, Question, Wants};
use tierflow::counters::redis::{Redis, RedisSettings};
use tierflow::counters::{Admission, OnError, Outcome};
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::{Charge, Verdict};
use tierflow::metrics::Metrics;
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::harness::eventually;
use crate::redis_script::{Store, give_time, one_of, random_charge, with_time_given};
use crate::redis_store::{Server, is_there, settings};
use crate::seed::Seed;

/// A store of one replica, in this process.
pub(crate) struct Replica {
    pub(crate) store: Arc<Redis>,
    pub(crate) metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    keep: JoinHandle<()>,
}

impl Replica {
    pub(crate) async fn start(server: &Server) -> Self {
        Self::start_with(RedisSettings { leases: true, ..settings(&server.url()) }).await
    }

    async fn start_with(settings: RedisSettings) -> Self {
        let metrics = Arc::new(Metrics::default());
        let store = Arc::new(Redis::new(settings, Clock::start(), Arc::clone(&metrics)));
        let (kept, shutdown) = (Arc::clone(&store), CancellationToken::new());
        let token = shutdown.clone();
        let keep = tokio::spawn(async move { kept.keep(token).await });
        is_there(&store).await;
        Self { store, metrics, shutdown, keep }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.keep.await.unwrap();
    }

    /// Ends it as SIGKILL does: nothing is given back.
    pub(crate) async fn kill(self) {
        self.keep.abort();
        assert!(self.keep.await.unwrap_err().is_cancelled());
    }

    pub(crate) async fn admit(&self, charges: &[Charge]) -> Admission {
        self.store.admit(charges).await.unwrap()
    }

    pub(crate) fn by_lease(&self) -> u64 {
        self.metrics.leases.decisions_by_lease.get()
    }

    /// All hits that it has ever leased.
    pub(crate) fn leased(&self) -> u64 {
        self.metrics.leases.hits_leased.get()
    }

    /// Waits until it knows how many replicas there are.
    pub(crate) async fn knows(&self, count: u32) {
        eventually("the replicas know how many they are", async || {
            (self.store.peers().count.get() == count).then_some(())
        })
        .await;
    }
}

pub(crate) fn charge(name: &str, rate: &str) -> Charge {
    let key = KeyHasher::seeded([8; 16]).part(name.as_bytes()).finish();
    let rate = Rate::parse(rate).unwrap();
    Charge { key, rate, algorithm: Algorithm::SlidingWindow, mode: Mode::Enforce, hits: 1, is_exact: false }
}

fn verdict(outcome: Outcome) -> Verdict {
    let Outcome::Judged(verdict) = outcome else { panic!("{outcome:?}") };
    verdict
}

pub(crate) fn remaining(admission: &Admission) -> u32 {
    verdict(admission.outcomes[0]).remaining
}

/// What the store has left, which nobody has leased.
pub(crate) async fn left(server: &Server, charge: &Charge) -> u32 {
    let store = server.store().await;
    let look = [Charge { hits: 0, is_exact: true, ..*charge }];
    remaining(&store.admit(&look).await.unwrap())
}

#[tokio::test]
async fn hits_in_advance_are_a_share_of_what_is_left_and_charged_with_the_request_or_not_at_all() {
    const HISTORIES: usize = 100;
    const STEPS: usize = 80;
    let seed = Seed::of("REDIS_SEED");
    let mut dice = Rng::with_seed(seed.number);
    let mut store = Store::start().await;
    let script = store.load(&with_time_given(script::TEXT, "expiries[i]")).await;
    let mut in_advance = 0_u64;
    for history in 0..HISTORIES {
        let memory = Memory::new(MemoryLimits::default());
        let counters: Vec<_> = (0..1 + dice.usize(..3))
            .map(|name| {
                let charge = random_charge(&mut dice, history, name);
                Charge { hits: one_of(&mut dice, &[0, 1, 1, 2, 20]), ..charge }
            })
            .collect();
        let mut micros = 1_759_999_999_123_456 + dice.u64(..100_000_000);
        for step in 0..STEPS {
            let part = one_of(&mut dice, &[2, 50, 1000]);
            micros += dice.u64(..counters[0].rate.window.nanos() / 1000 / part);
            let now = Timestamp::from_nanos(micros * 1000);
            let hits: Vec<_> = counters.iter().map(|_| one_of(&mut dice, &[0, 1, 30, 1000, u32::MAX])).collect();
            let divisor = one_of(&mut dice, &[2, 6]);
            let question = Question::new(&counters).wanting(Wants { hits: &hits, divisor });
            let mut command = question.command("EVALSHA", &script, "test:", Timestamp::from_nanos(u64::MAX), 0);
            give_time(&mut command, now);
            let answer: Vec<u8> = command.query_async(&mut store.connection).await.unwrap();
            let answer = question.read(&answer).unwrap();
            let admission = answer.admission.unwrap();
            let expected = memory.admit(&counters, now, OnError::Deny);
            let place = format!("history {history}, step {step}: {counters:#?} want {hits:?} of 1/{divisor}");
            assert_eq!(admission.admitted, expected.admitted, "{place}");
            for (number, charge) in counters.iter().enumerate() {
                let (told, expected) = (verdict(admission.outcomes[number]), verdict(expected.outcomes[number]));
                let given = answer.given[number];
                let is_charged = charge.hits > 0
                    && told.allowed
                    && (expected.allowed && admission.admitted || !charge.is_enforced());
                assert!(given == 0 || is_charged, "{given} were given for nothing; {place}");
                assert!(given <= hits[number].min(expected.remaining / divisor), "{given} are too many; {place}");
                assert_eq!((told.allowed, told.remaining), (expected.allowed, expected.remaining - given), "{place}");
                if given > 0 {
                    assert!(!matches!(charge.algorithm, Algorithm::TokenBucket { .. }), "{place}");
                    let advance = Charge { hits: given, mode: Mode::Enforce, ..*charge };
                    assert!(memory.admit(&[advance], now, OnError::Deny).admitted);
                }
                in_advance += u64::from(given > 0);
            }
        }
    }
    assert!(in_advance > 1000, "{in_advance}: these histories show too little");
}

#[tokio::test]
async fn most_requests_of_a_hot_counter_need_no_store_and_what_is_not_used_comes_back() {
    let server = Server::start(&[]);
    let replica = Replica::start(&server).await;
    let hot = charge("hot", "100000/h");
    for spent in 1..=2000 {
        let admission = replica.admit(&[hot]).await;
        assert!(admission.admitted);
        let (remaining, left) = (remaining(&admission), 100_000 - spent);
        assert!(remaining <= left, "{remaining} of {left}");
        // What a lease has at its end is nobody's until the store has it back.
        let is_any_ended = replica.metrics.leases.hits_used.get() > 0;
        assert!(remaining == left || is_any_ended, "what is leased is left to this replica: {remaining} of {left}");
    }
    assert!(replica.by_lease() > 1500, "{} of 2000", replica.by_lease());
    eventually("the rest comes back", async || (left(&server, &hot).await == 98_000).then_some(())).await;
    let metrics = replica.metrics.render();
    for name in [
        "counter_leases_total ",
        "counter_lease_hits_total{hits=\"given_back\"} ",
        "counter_decisions_total{by=\"lease\"} ",
    ] {
        assert!(metrics.contains(&format!("tierflow_{name}")), "{name} in {metrics}");
    }
}

#[tokio::test]
async fn a_replica_that_ends_gives_back_what_it_has_leased() {
    let server = Server::start(&[]);
    let replica = Replica::start(&server).await;
    let hot = charge("hot", "100000/h");
    let mut admitted = 0;
    // At the end of a sub-bucket a lease is for hardly any time, and so for hardly any hits.
    eventually("something is leased", async || {
        for _ in 0..500 {
            assert!(replica.admit(&[hot]).await.admitted);
        }
        admitted += 500;
        (left(&server, &hot).await < 100_000 - admitted).then_some(())
    })
    .await;
    replica.stop().await;
    assert_eq!(left(&server, &hot).await, 100_000 - admitted);
}

#[tokio::test]
async fn an_exact_limit_is_asked_for_each_request() {
    let server = Server::start(&[]);
    let replica = Replica::start(&server).await;
    let exact = Charge { is_exact: true, ..charge("exact", "100/m") };
    let mut admitted = 0;
    for _ in 0..300 {
        admitted += u32::from(replica.admit(&[exact, charge("hot", "100000/m")]).await.admitted);
    }
    assert_eq!((admitted, replica.by_lease(), replica.metrics.leases.denials_from_memory.get()), (100, 0, 0));
    let hot = charge("hot", "100000/m");
    eventually("the other limit is charged as often", async || (left(&server, &hot).await == 99_900).then_some(()))
        .await;
}

#[tokio::test]
async fn without_leases_the_store_decides_each_request() {
    let server = Server::start(&[]);
    let replica = Replica::start_with(settings(&server.url())).await;
    let hot = charge("hot", "100000/h");
    for _ in 0..500 {
        assert!(replica.admit(&[hot]).await.admitted);
    }
    assert_eq!(left(&server, &hot).await, 99_500);
    let leases = &replica.metrics.leases;
    assert_eq!((leases.decisions_by_store.get(), replica.by_lease(), replica.leased()), (500, 0, 0));
}

#[tokio::test]
async fn of_two_replicas_neither_withholds_more_than_a_quarter_of_what_was_left() {
    const LIMIT: u32 = 10_000;
    let server = Server::start(&[]);
    let [one, other] = [Replica::start(&server).await, Replica::start(&server).await];
    one.knows(2).await;
    let mut withheld_most = 0;
    for round in 0..5 {
        let hot = charge(&round.to_string(), "10000/h");
        let left = async || remaining(&other.admit(&[Charge { hits: 0, is_exact: true, ..hot }]).await);
        let mut spent = 0;
        // Requests of more hits than a lease has ask the store, beside the lease.
        for hits in [1000, 1, 1, 2000, 2, 1000, 1, 1500, 1, 500, 1, 1] {
            let (leased, left_before) = (one.leased(), left().await);
            assert!(one.admit(&[Charge { hits, ..hot }]).await.admitted);
            spent += hits;
            let withheld = LIMIT - spent - left().await;
            // Of a lease that has just ended the store may have nothing back yet.
            if one.leased() > leased {
                assert!(withheld <= left_before / 4, "round {round}: {withheld} of {left_before} after {spent}");
            }
            withheld_most = withheld_most.max(withheld);
        }
    }
    assert!(withheld_most > 500, "{withheld_most}: that shows too little");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_denied_takes_nothing_from_leases() {
    const TENANTS: usize = 6;
    let server = Server::start(&[]);
    let replicas = Arc::new([Replica::start(&server).await, Replica::start(&server).await]);
    let api = charge("api", "100000/m");
    let shadow = Charge { mode: Mode::Shadow, ..charge("shadow", "100000/m") };
    let tenants: Arc<Vec<_>> = Arc::new((0..TENANTS).map(|name| charge(&name.to_string(), "200/h")).collect());
    let admitted: Arc<Vec<AtomicU32>> = Arc::new((0..TENANTS).map(|_| AtomicU32::new(0)).collect());
    let mut clients = JoinSet::new();
    for client in 0..16 {
        let (replicas, tenants, admitted) = (Arc::clone(&replicas), Arc::clone(&tenants), Arc::clone(&admitted));
        clients.spawn(async move {
            for step in 0..300 {
                let tenant = (client + step) % TENANTS;
                let cost = 1 + (step as u32) % 3;
                let charges = [api, tenants[tenant], shadow].map(|charge| Charge { hits: cost, ..charge });
                if replicas[client % 2].admit(&charges).await.admitted {
                    admitted[tenant].fetch_add(cost, Ordering::Relaxed);
                }
            }
        });
    }
    clients.join_all().await;
    assert!(replicas.iter().all(|replica| replica.by_lease() > 0));
    let admitted: Vec<u32> = admitted.iter().map(|hits| hits.load(Ordering::Relaxed)).collect();
    assert!(admitted.iter().all(|hits| (1..=200).contains(hits)), "{admitted:?}");
    for (tenant, admitted) in tenants.iter().zip(&admitted) {
        eventually("a tenant is charged what was admitted", async || {
            (left(&server, tenant).await == 200 - admitted).then_some(())
        })
        .await;
    }
    let sum: u32 = admitted.iter().sum();
    eventually("the API is charged what was admitted", async || {
        (left(&server, &api).await == 100_000 - sum).then_some(())
    })
    .await;
    let asked: u32 = 16 * (0..300).map(|step| 1 + step % 3).sum::<u32>();
    eventually("a limit in shadow is charged all", async || {
        (left(&server, &shadow).await == 100_000 - asked).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_denied_requests_does_not_come_to_the_store() {
    let server = Server::start(&[]);
    let replica = Replica::start(&server).await;
    let charges = [charge("api", "100000/m"), charge("tenant", "20/h")];
    let mut denied = 0;
    while denied < 2000 {
        let admission = replica.admit(&charges).await;
        if admission.admitted {
            continue;
        }
        denied += 1;
        let [api, tenant] = [0, 1].map(|number| verdict(admission.outcomes[number]));
        assert!(api.allowed && api.remaining > 99_000 && !tenant.allowed && tenant.remaining == 0);
        let hour = Duration::from_secs(3600);
        let wait = tenant.retry_after.unwrap();
        assert!(wait > hour - Duration::from_secs(60) && wait < hour + Duration::from_secs(70), "{wait:?}");
    }
    let asked = replica.metrics.leases.decisions_by_store.get();
    assert!(asked < 500, "{asked} of {denied} came to the store");
    eventually("nothing was charged for the denied", async || {
        (left(&server, &charges[0]).await == 99_980).then_some(())
    })
    .await;
}
