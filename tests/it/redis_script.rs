//! The script that decides in Redis: with the same histories it says what the counters in memory say.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use fastrand::Rng;
use redis::Cmd;
use redis::aio::MultiplexedConnection;
use tierflow::clock::Timestamp;
use tierflow::counters::memory::{Memory, MemoryLimits};
use tierflow::counters::redis::script::{self, Answer, Question};
use tierflow::counters::{Admission, OnError, Outcome};
use tierflow::limiter::Charge;
use tierflow::limiter::key::KeyHasher;
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::{Rate, WINDOW_SECS_MAX, Window};

use crate::redis_store::Server;
use crate::seed::Seed;

const HISTORIES: usize = 150;
const STEPS: usize = 120;

pub(crate) struct Store {
    _server: Server,
    pub(crate) connection: MultiplexedConnection,
}

impl Store {
    pub(crate) async fn start() -> Self {
        let server = Server::start(&[]);
        let connection = server.connection().await;
        Self { _server: server, connection }
    }

    pub(crate) async fn load(&mut self, text: &str) -> String {
        redis::cmd("SCRIPT").arg("LOAD").arg(text).query_async(&mut self.connection).await.unwrap()
    }

    /// Asks the script; with a time of its own where it was loaded for that.
    pub(crate) async fn admit(&mut self, script: &str, charges: &[Charge], at: Option<Timestamp>) -> Answer {
        let question = Question::new(charges);
        let mut command = question.command("EVALSHA", script, "test:", Timestamp::from_nanos(u64::MAX), 0);
        if let Some(at) = at {
            give_time(&mut command, at);
        }
        let answer: Vec<u8> = command.query_async(&mut self.connection).await.unwrap();
        question.read(&answer).unwrap_or_else(|| panic!("{answer:?}"))
    }
}

/// A script with the time as an argument, and keys that outlive a history however slowly it is played.
pub(crate) fn with_time_given(script: &str, expiry: &str) -> String {
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let text = replaced(script, "call('TIME')", "{ ARGV[2], ARGV[3] }");
    replaced(&text, &format!("'PX', {expiry}"), &format!("'PX', {expiry} + 3600000"))
}

pub(crate) fn give_time(command: &mut Cmd, at: Timestamp) {
    let micros = at.as_nanos() / 1000;
    command.arg(micros / 1_000_000).arg(micros % 1_000_000);
}

pub(crate) fn one_of<T: Copy>(dice: &mut Rng, values: &[T]) -> T {
    values[dice.usize(..values.len())]
}

pub(crate) fn random_charge(dice: &mut Rng, history: usize, name: usize) -> Charge {
    let window = one_of(dice, &[1, 7, 60, 61, 3600, WINDOW_SECS_MAX]);
    let limit = one_of(dice, &[0, 1, 3, 14, 15, 40, 1000, 70_000, 1_000_000_000]);
    let burst = NonZeroU32::new(one_of(dice, &[1, 5, 50, 100_000, u32::MAX])).unwrap();
    let algorithm = match dice.usize(..5) {
        0 => Algorithm::FixedWindow,
        1 => Algorithm::TokenBucket { burst },
        _ => Algorithm::SlidingWindow,
    };
    let key = KeyHasher::seeded([3; 16]).part(&history.to_le_bytes()).part(&name.to_le_bytes()).finish();
    let rate = Rate { limit, window: Window::from_secs(window).unwrap() };
    let mode = if dice.usize(..4) == 0 { Mode::Shadow } else { Mode::Enforce };
    Charge { key, rate, algorithm, mode, hits: 1, is_exact: false }
}

/// What one request meets: some of the counters, now and then one of them twice, at limits that change at times.
fn random_request(dice: &mut Rng, counters: &mut [Charge]) -> Vec<Charge> {
    if dice.usize(..10) == 0 {
        let place = dice.usize(..counters.len());
        let changed = random_charge(dice, 0, 0);
        counters[place].rate.limit = changed.rate.limit;
        if let (Algorithm::TokenBucket { .. }, Algorithm::TokenBucket { .. }) =
            (counters[place].algorithm, changed.algorithm)
        {
            counters[place].algorithm = changed.algorithm;
        }
    }
    let mut charges: Vec<_> = counters.iter().copied().filter(|_| dice.usize(..4) > 0).collect();
    for charge in &mut charges {
        let room = charge.rate.limit.saturating_add(2).min(2_000_000_000);
        charge.hits = match dice.usize(..8) {
            0 => 0,
            1 => 2,
            2 => dice.usize(..room as usize) as u32,
            3 => one_of(dice, &[13, 14, 15, u32::MAX]),
            _ => 1,
        };
    }
    if dice.usize(..20) == 0 && !charges.is_empty() {
        charges.push(charges[dice.usize(..charges.len())]);
    }
    charges
}

/// From the same microsecond to more than the largest window.
fn random_pause(dice: &mut Rng, counters: &[Charge]) -> u64 {
    let window = counters[dice.usize(..counters.len())].rate.window.nanos() / 1000;
    let most = match dice.usize(..8) {
        0 | 1 => 1,
        2 => window / 100,
        3 | 4 => window / 20,
        5 => window / 2,
        6 => window + window / 50,
        _ => 1000,
    };
    dice.usize(..most.max(1) as usize + 1) as u64
}

/// What was said of each counter. Memory charges one by one where a counter is charged twice, so the last has it all.
fn last_of_each(charges: &[Charge], admission: &Admission) -> BTreeMap<u128, Outcome> {
    charges.iter().map(|charge| charge.key.as_u128()).zip(admission.outcomes.iter().copied()).collect()
}

#[tokio::test]
async fn redis_says_to_every_request_what_memory_says() {
    let seed = Seed::of("REDIS_SEED");
    let mut dice = Rng::with_seed(seed.number);
    let mut store = Store::start().await;
    let script = store.load(&with_time_given(script::TEXT, "expiries[i]")).await;
    let (mut denied, mut waits) = (0, 0);
    for history in 0..HISTORIES {
        let memory = Memory::new(MemoryLimits::default());
        let count = 1 + dice.usize(..4);
        let mut counters: Vec<_> = (0..count).map(|name| random_charge(&mut dice, history, name)).collect();
        let mut micros = 1_759_999_999_123_456 + dice.usize(..100_000_000) as u64;
        for step in 0..STEPS {
            micros += random_pause(&mut dice, &counters);
            let now = Timestamp::from_nanos(micros * 1000);
            let charges = random_request(&mut dice, &mut counters);
            if charges.is_empty() {
                continue;
            }
            let expected = memory.admit(&charges, now, OnError::Deny);
            let answer = store.admit(&script, &charges, Some(now)).await;
            assert_eq!(answer.at, now);
            let admission = answer.admission.unwrap();
            assert_eq!(
                (admission.admitted, last_of_each(&charges, &admission)),
                (expected.admitted, last_of_each(&charges, &expected)),
                "history {history}, step {step}: {charges:#?}"
            );
            denied += usize::from(!expected.admitted);
            waits +=
                expected.outcomes.iter().filter(|outcome| format!("{outcome:?}").contains("retry_after: Some")).count();
        }
    }
    assert!(denied > 1000 && waits > 10_000, "{denied} denied, {waits} waits: these histories show too little");
}
