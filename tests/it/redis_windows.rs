//! What passes in each window where the store goes away and comes back, in a time of the test's own: three replicas whose
//! requests come in turn, half as many again as may pass.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use tierflow::clock::Timestamp;
use tierflow::counters::redis::local::Local;
use tierflow::counters::redis::script::{self, Question};
use tierflow::counters::redis::settle::{self, SETTLEMENTS_MAX, Settlement};
use tierflow::limiter::Charge;
use tierflow::limiter::algorithm::Cell;
use tierflow::limiter::key::KeyHasher;
use tierflow::limiter::peers::Peers;
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;

use crate::redis_script::{Store, give_time, with_time_given};
use crate::redis_settle::settling_with_time_given;
use crate::seed::Seed;

const START: Timestamp = Timestamp::from_nanos(1_759_999_980_000_000_000);
const WINDOW: Duration = Duration::from_secs(60);
const REPLICAS: usize = 3;
/// Windows of the whole history.
const WINDOWS: u32 = 16;
/// What others were let through since a replica last asked for the counter; and what is left over where whole hits are
/// divided among replicas.
const REST: usize = REPLICAS - 1;

struct World {
    store: Store,
    admit: String,
    settle: String,
    replicas: Vec<Local>,
}

impl World {
    async fn start() -> Self {
        let mut store = Store::start().await;
        let admit = store.load(&with_time_given(script::TEXT, "expiries[i]")).await;
        let settle = store.load(&settling_with_time_given()).await;
        Self { store, admit, settle, replicas: Vec::new() }
    }

    /// Tells when requests passed, while the store is away for some times.
    async fn play(&mut self, charge: Charge, away: &[Range<Duration>]) -> Vec<Timestamp> {
        self.replicas = (0..REPLICAS).map(|_| Local::new(1024)).collect();
        let pause = WINDOW * 2 / 3 / charge.rate.limit;
        let mut admitted = Vec::new();
        let mut is_away = false;
        for number in 0..(WINDOW * WINDOWS).div_duration_f64(pause) as u32 {
            let since = pause * number;
            let now = START + since;
            let was_away = std::mem::replace(&mut is_away, away.iter().any(|away| away.contains(&since)));
            if was_away && !is_away {
                self.hand_over(now).await;
            }
            let rank = number as usize % REPLICAS;
            let passes = if is_away { self.decide(rank, charge, now) } else { self.ask(rank, charge, now).await };
            admitted.extend(passes.then_some(now));
        }
        admitted
    }

    async fn ask(&mut self, rank: usize, charge: Charge, now: Timestamp) -> bool {
        let charges = [charge];
        let question = Question::new(&charges);
        let mut command = question.command("EVALSHA", &self.admit, "test:", Timestamp::from_nanos(u64::MAX), 0);
        give_time(&mut command, now);
        let answer: Vec<u8> = command.query_async(&mut self.store.connection).await.unwrap();
        let replica = &self.replicas[rank];
        let answer = question.read_and(&answer, |charge, kept, at| replica.follow(charge, kept, at));
        answer.unwrap().admission.unwrap().admitted
    }

    fn decide(&self, rank: usize, charge: Charge, now: Timestamp) -> bool {
        let peers = Peers { rank: rank as u32, count: NonZeroU32::new(REPLICAS as u32).unwrap() };
        self.replicas[rank].admit(&[charge], peers, now).admitted
    }

    async fn hand_over(&mut self, now: Timestamp) {
        let debts = self.replicas.iter().flat_map(|replica| replica.owed.take().flatten().collect::<Vec<_>>());
        let settlements: Vec<Settlement> =
            debts.flat_map(|mut debt| debt.settlements(now).collect::<Vec<_>>()).collect();
        for some in settlements.chunks(SETTLEMENTS_MAX) {
            let mut command =
                settle::command("EVALSHA", &self.settle, "test:", some, Timestamp::from_nanos(u64::MAX), 0);
            give_time(&mut command, now);
            let answer: Vec<u8> = command.query_async(&mut self.store.connection).await.unwrap();
            assert_eq!(settle::read(&answer), Some(true));
        }
    }
}

/// Some times without the store, of less than a sub-bucket up to more than two windows.
fn random_times(dice: &mut Rng) -> Vec<Range<Duration>> {
    let mut at = Duration::ZERO;
    let mut times = Vec::new();
    loop {
        let begin = at + WINDOW.mul_f64(0.2 + 2.0 * dice.f64());
        at = begin + WINDOW.mul_f64([0.01, 0.3, 1.0, 2.5][dice.usize(..4)] * (0.5 + dice.f64()));
        if at + WINDOW > WINDOW * WINDOWS {
            return times;
        }
        times.push(begin..at);
    }
}

fn charge(name: usize, limit: u32, algorithm: Algorithm) -> Charge {
    let key = KeyHasher::seeded([8; 16]).part(&name.to_le_bytes()).finish();
    let rate = Rate { limit, window: Rate::parse("1/minute").unwrap().window };
    Charge { key, rate, algorithm, mode: Mode::Enforce, hits: 1, is_exact: false }
}

/// The fewest and the most that passed in any window that lies inside the history. It begins and ends anywhere.
fn in_any_window(admitted: &[Timestamp]) -> (usize, usize) {
    let (mut least, mut most) = (usize::MAX, 0);
    let mut within: VecDeque<Timestamp> = VecDeque::new();
    for &now in admitted {
        while within.front().is_some_and(|first| now.since(*first) >= WINDOW) {
            let first = within.pop_front().unwrap();
            // The window that begins just after a hit, and ends before the next one.
            let held = within.iter().take_while(|at| at.since(first) <= WINDOW).count();
            least = least.min(held);
        }
        within.push_back(now);
        most = most.max(within.len());
    }
    (least, most)
}

/// The fewest and the most that passed between two edges.
fn between_edges(admitted: &[Timestamp]) -> (usize, usize) {
    let number = |at: &Timestamp| at.as_secs() / WINDOW.as_secs();
    let counts = (number(&START) + 1..number(&START) + u64::from(WINDOWS) - 1)
        .map(|window| admitted.iter().filter(|at| number(at) == window).count());
    counts.fold((usize::MAX, 0), |(least, most), count| (least.min(count), most.max(count)))
}

#[tokio::test]
async fn every_window_holds_the_limit_and_hardly_less_whenever_the_store_goes_and_comes() {
    let seed = Seed::of("REDIS_WINDOWS_SEED");
    let mut dice = Rng::with_seed(seed.number);
    let mut world = World::start().await;
    for history in 0..12 {
        let limit = [10, 40, 150, 400][history % 4];
        let away = random_times(&mut dice);
        for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            let charge = charge(2 * history + usize::from(algorithm == Algorithm::FixedWindow), limit, algorithm);
            let admitted = world.play(charge, &away).await;
            let (least, most) = match algorithm {
                Algorithm::FixedWindow => between_edges(&admitted),
                _ => in_any_window(&admitted),
            };
            let limit = limit as usize;
            println!("{algorithm:?} of {limit}: {least} to {most}");
            assert!(
                most <= limit + REST && least + REST >= limit * 4 / 5,
                "{least} to {most} of {limit}; away at {away:?}"
            );
        }
    }
}

/// The oracle is a bucket that is told of every hit.
#[tokio::test]
async fn a_token_bucket_never_owes_more_than_its_burst_whenever_the_store_goes_and_comes() {
    let seed = Seed::of("REDIS_WINDOWS_SEED");
    let mut dice = Rng::with_seed(seed.number);
    let mut world = World::start().await;
    for history in 0..8 {
        let limit = [10, 40, 150, 400][history % 4];
        let burst = NonZeroU32::new(1 + limit / [1, 4][history / 4]).unwrap();
        let away = random_times(&mut dice);
        let charge = charge(1000 + history, limit, Algorithm::TokenBucket { burst });
        let admitted = world.play(charge, &away).await;
        let generous = burst.saturating_add(REST as u32);
        let mut bucket = Cell::new(charge.rate, charge.algorithm, START);
        for &at in &admitted {
            let verdict = bucket.judge(limit, Algorithm::TokenBucket { burst: generous }, 1, at);
            assert!(verdict.allowed, "at {:?}, of {limit} with {burst}; away at {away:?}", at.since(START));
            bucket.charge(1, at);
        }
        let may_pass = f64::from(burst.get() + limit * WINDOWS);
        println!("{burst} and {limit}: {} of {may_pass}", admitted.len());
        assert!(admitted.len() as f64 >= 0.8 * may_pass, "{} of {may_pass}; away at {away:?}", admitted.len());
    }
}
