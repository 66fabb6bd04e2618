//! Hits that are counted after the fact: the store counts them where they belong in time, and never too few.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use fastrand::Rng;
use tierflow::clock::Timestamp;
use tierflow::counters::redis::script;
use tierflow::counters::redis::settle::{self, Settlement};
use tierflow::counters::{Admission, Outcome};
use tierflow::limiter::Charge;
use tierflow::limiter::key::KeyHasher;
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::{Rate, Window};

use crate::redis_script::{Store, give_time, one_of, with_time_given};
use crate::redis_store::{Server, left, longest, spend};
use crate::seed::Seed;

const START: Timestamp = Timestamp::from_nanos(1_759_999_999_123_456_000);

/// A store that is told the time, and one counter in it.
struct Counter {
    store: Store,
    admit: String,
    settle: String,
    charge: Charge,
}

impl Counter {
    async fn start(rate: &str, algorithm: Algorithm) -> Self {
        let mut store = Store::start().await;
        let admit = store.load(&with_time_given(script::TEXT, "expiries[i]")).await;
        let settle = store.load(&settling_with_time_given()).await;
        Self { store, admit, settle, charge: charge(0, Rate::parse(rate).unwrap(), algorithm) }
    }

    async fn spend(&mut self, hits: u32, now: Timestamp) -> Admission {
        let charge = Charge { hits, ..self.charge };
        self.store.admit(&self.admit, &[charge], Some(now)).await.admission.unwrap()
    }

    async fn remaining(&mut self, now: Timestamp) -> u32 {
        remaining(&self.spend(0, now).await)
    }

    async fn settle(&mut self, hits: i64, at: Timestamp, now: Timestamp) {
        let Charge { key, rate, algorithm, .. } = self.charge;
        let settlement = Settlement { key, rate, algorithm, at, hits };
        let latest = Timestamp::from_nanos(u64::MAX);
        let mut command = settle::command("EVALSHA", &self.settle, "test:", &[settlement], latest, 0);
        give_time(&mut command, now);
        let answer: Vec<u8> = command.query_async(&mut self.store.connection).await.unwrap();
        assert_eq!(settle::read(&answer), Some(true));
    }
}

/// The script that settles, as [`with_time_given`] has it.
pub(crate) fn settling_with_time_given() -> String {
    with_time_given(settle::TEXT, "ceil((micros + window / SLOTS + JUMP_MAX) / 1000)")
}

fn charge(name: usize, rate: Rate, algorithm: Algorithm) -> Charge {
    let key = KeyHasher::seeded([5; 16]).part(&name.to_le_bytes()).finish();
    Charge { key, rate, algorithm, mode: Mode::Enforce, hits: 1, is_exact: false }
}

fn remaining(admission: &Admission) -> u32 {
    let Outcome::Judged(verdict) = admission.outcomes[0] else { panic!("{admission:?}") };
    verdict.remaining
}

fn secs(secs: f64) -> Timestamp {
    START + Duration::from_secs_f64(secs)
}

fn bucket(burst: u32) -> Algorithm {
    Algorithm::TokenBucket { burst: NonZeroU32::new(burst).unwrap() }
}

/// Hits by the time that they were admitted at, in microseconds.
#[derive(Default)]
struct Model {
    hits: Vec<(u64, u32)>,
}

impl Model {
    fn add(&mut self, at: u64, hits: u32) {
        self.hits.push((at, hits));
    }

    /// As many of the hits of a time as there are.
    fn take(&mut self, place: usize, hits: u32) {
        let (_, present) = &mut self.hits[place];
        *present = present.saturating_sub(hits);
    }

    fn sum(&self, counts: impl Fn(u64) -> bool) -> u32 {
        self.hits.iter().filter(|(at, _)| counts(*at)).map(|(_, hits)| hits).sum()
    }

    /// What counts at the least and at the most: the hits of the window, and those of all sub-buckets that it touches.
    fn bounds(&self, algorithm: Algorithm, window: u64, now: u64) -> (u32, u32) {
        let step = window.div_ceil(60);
        match algorithm {
            Algorithm::FixedWindow => {
                let present = self.sum(|at| at / window == now / window);
                (present, present)
            }
            _ => (self.sum(|at| now - at < window), self.sum(|at| at / step + 60 >= now / step)),
        }
    }
}

#[tokio::test]
async fn a_counter_counts_what_was_admitted_elsewhere_and_not_what_was_given_back() {
    const HISTORIES: usize = 60;
    const STEPS: usize = 150;
    let seed = Seed::of("REDIS_SEED");
    let mut dice = Rng::with_seed(seed.number);
    let mut counter = Counter::start("1/s", Algorithm::SlidingWindow).await;
    let (mut exact, mut largest) = (0, 0);
    for history in 0..HISTORIES {
        let algorithm =
            one_of(&mut dice, &[Algorithm::SlidingWindow, Algorithm::SlidingWindow, Algorithm::FixedWindow]);
        let window = Window::from_secs(one_of(&mut dice, &[1, 7, 60, 61, 3600])).unwrap();
        counter.charge = charge(history, Rate { limit: 1_000_000, window }, algorithm);
        let window = window.nanos() / 1000;
        let most = one_of(&mut dice, &[3, 40]);
        let mut model = Model::default();
        let mut now = START.as_nanos() / 1000 + dice.u64(..100_000_000);
        for step in 0..STEPS {
            now += match dice.usize(..20) {
                0 => dice.u64(..2 * window),
                1..8 => dice.u64(..window / 10),
                _ => dice.u64(..1000),
            };
            let present = Timestamp::from_nanos(now * 1000);
            let hits = dice.u32(1..most);
            match dice.usize(..4) {
                0 | 1 => {
                    counter.spend(hits, present).await;
                    model.add(now, hits);
                }
                2 => {
                    let at = now - dice.u64(..window + window / 20).min(now);
                    counter.settle(hits.into(), Timestamp::from_nanos(at * 1000), present).await;
                    model.add(at, hits);
                }
                // What is given back was taken then, so that a log may be a ring, or a ring a log by now.
                _ if !model.hits.is_empty() => {
                    let place = model.hits.len() - 1 - dice.usize(..model.hits.len().min(10));
                    let (at, taken) = model.hits[place];
                    let hits = hits.min(taken);
                    counter.settle(-i64::from(hits), Timestamp::from_nanos(at * 1000), present).await;
                    model.take(place, hits);
                }
                _ => {}
            }
            let used = 1_000_000 - counter.remaining(present).await;
            let (least, most) = model.bounds(algorithm, window, now);
            assert!(
                (least..=most).contains(&used),
                "history {history}, step {step}: {used} of {least} to {most}, {algorithm:?} {window}"
            );
            exact += usize::from(used == least);
            largest = largest.max(used);
        }
    }
    assert!(exact > HISTORIES * STEPS / 10 && largest > 500, "{exact}, {largest}: these histories show too little");
}

#[tokio::test]
async fn a_hit_that_is_handed_in_late_counts_no_longer_than_one_that_was_admitted_in_time() {
    let mut counter = Counter::start("100/m", Algorithm::SlidingWindow).await;
    counter.spend(20, secs(50.0)).await;
    counter.settle(30, secs(10.0), secs(50.0)).await;
    assert_eq!(counter.remaining(secs(69.0)).await, 50);
    assert_eq!(counter.remaining(secs(71.5)).await, 80);
    counter.settle(30, secs(10.0), secs(72.0)).await;
    assert_eq!(counter.remaining(secs(72.0)).await, 80, "what has left the window is not counted");
}

#[tokio::test]
async fn what_is_given_back_twice_or_to_a_counter_that_was_lost_refunds_nobody_else() {
    let mut counter = Counter::start("100/m", Algorithm::SlidingWindow).await;
    counter.settle(-20, secs(0.0), secs(0.0)).await;
    assert_eq!(counter.remaining(secs(0.0)).await, 100);
    counter.spend(20, secs(0.0)).await;
    counter.spend(30, secs(5.0)).await;
    for _ in 0..3 {
        counter.settle(-15, secs(0.0), secs(10.0)).await;
    }
    assert_eq!(counter.remaining(secs(10.0)).await, 70, "hits of another time stay");
    let mut counter = Counter::start("100/m", Algorithm::FixedWindow).await;
    counter.spend(30, secs(60.0)).await;
    counter.settle(-20, secs(0.0), secs(60.0)).await;
    assert_eq!(counter.remaining(secs(60.0)).await, 70, "hits of another window stay");
    counter.settle(-50, secs(60.0), secs(60.0)).await;
    assert_eq!(counter.remaining(secs(60.0)).await, 100);
}

#[tokio::test]
async fn a_token_bucket_is_given_back_only_what_it_cannot_have_drained() {
    let mut counter = Counter::start("60/m", bucket(100)).await;
    counter.spend(50, secs(0.0)).await;
    // After 10 s it may be that 10 of these hits are drained: they would be given back twice.
    counter.settle(-40, secs(0.0), secs(10.0)).await;
    assert_eq!(counter.remaining(secs(10.0)).await, 90);
    counter.settle(80, secs(0.0), secs(10.0)).await;
    assert_eq!(counter.remaining(secs(10.0)).await, 10, "a debt that is handed in is owed from now on");
    assert_eq!(counter.remaining(secs(40.0)).await, 40);
    counter.settle(-100, secs(40.0), secs(40.0)).await;
    assert_eq!(counter.remaining(secs(40.0)).await, 100);
}

#[tokio::test]
async fn no_settlement_makes_a_key_that_stays_for_ever() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let mut connection = server.connection().await;
    assert_eq!(spend(&store, 1).await, 99);
    let mut names = BTreeSet::new();
    for hits in [1, 40, -1, -60] {
        for (number, algorithm) in
            [Algorithm::SlidingWindow, Algorithm::FixedWindow, bucket(90)].into_iter().enumerate()
        {
            let Charge { key, rate, algorithm, .. } = charge(number, Rate::parse("100/hour").unwrap(), algorithm);
            // The store's clock is this machine's.
            let at = tierflow::clock::Clock::start().now();
            store.settle(&[Settlement { key, rate, algorithm, at, hits }]).await.unwrap();
        }
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        // The roll of replicas is no counter.
        for key in keys.into_iter().filter(|key| key != "tierflow:replicas") {
            let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
            assert!(left > 0 && left < longest(&key), "{key}: {left} ms");
            names.insert(key);
        }
    }
    // Replicas stand on their roll sooner or later.
    names.remove("tierflow:replicas");
    // Those of the probe, of the clock's skew, and of the counter above; three heads and a ring.
    assert_eq!(names.len(), 7, "{names:?}");
}

#[tokio::test]
async fn many_settlements_are_done_in_order_and_none_by_a_store_that_comes_to_them_too_late() {
    let server = Server::start(&[]);
    let store = server.store().await;
    assert_eq!(spend(&store, 1).await, 99);
    let Charge { key, rate, algorithm, .. } = crate::redis_store::charge(1);
    let at = tierflow::clock::Clock::start().now();
    let one = |hits| Settlement { key, rate, algorithm, at, hits };
    let many: Vec<_> = (0..3 * settle::SETTLEMENTS_MAX).map(|number| one([7, -7][number % 2])).collect();
    server.say(&["SCRIPT", "FLUSH"]).await;
    store.settle(&many).await.unwrap();
    assert_eq!(left(&store).await, 99);
    store.settle(&[one(10)]).await.unwrap();
    assert_eq!(left(&store).await, 89);
    let late = settle::command("EVAL", settle::TEXT, "tierflow:", &[one(10)], at, 0);
    let answer: Vec<u8> = late.query_async(&mut server.connection().await).await.unwrap();
    assert_eq!(settle::read(&answer), Some(false));
    assert_eq!(left(&store).await, 89);
}
