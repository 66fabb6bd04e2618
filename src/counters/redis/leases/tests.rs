//! Replicas with clocks of their own that lease from one store, simulated: who is admitted when, in true time.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

use super::*;
use crate::limiter::fixture::charge;
use crate::limiter::{Algorithm, Rate};

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_759_999_999 * SECOND;

/// The rules of the script, for a sliding window of one counter.
struct Store {
    rate: Rate,
    counts: BTreeMap<u64, u32>,
}

impl Store {
    fn span(&self) -> u64 {
        lease::span(self.rate, Algorithm::SlidingWindow).unwrap().as_nanos() as u64
    }

    fn used(&self, at: u64) -> u32 {
        self.counts.range((at / self.span()).saturating_sub(60)..).map(|(_, hits)| hits).sum()
    }

    fn ask(&mut self, charge: &Charge, wants: u32, at: u64) -> Answer {
        let left = self.rate.limit - self.used(at);
        let admitted = charge.hits <= left;
        let mut given = 0;
        if admitted {
            given = wants.min((left - charge.hits) / 2);
            *self.counts.entry(at / self.span()).or_default() += charge.hits + given;
        }
        let remaining = self.rate.limit - self.used(at);
        let oldest = self.counts.iter().find(|(index, hits)| **index + 60 >= at / self.span() && **hits > 0);
        let grows_after = oldest.map_or(0, |(index, _)| (index + 61) * self.span() - at);
        let grows_after = Duration::from_nanos(grows_after);
        let retry_after = Some(if admitted { Duration::ZERO } else { grows_after });
        let verdict = Verdict { allowed: admitted, remaining, retry_after, grows_after };
        let outcomes = SmallVec::from_slice(&[Outcome::Judged(verdict)]);
        let admission = Some(Admission { admitted, outcomes });
        let at = Timestamp::from_nanos(at);
        Answer { at, admission, charged: SmallVec::new(), given: SmallVec::from_slice(&[given]) }
    }

    fn settle(&mut self, settlements: &[Settlement]) {
        for settlement in settlements {
            let index = settlement.at.as_nanos() / self.span();
            let count = self.counts.get_mut(&index).expect("only what was charged is given back");
            *count = count.checked_sub(settlement.hits.unsigned_abs() as u32).expect("no more than was charged");
        }
    }
}

struct Replica {
    leases: Leases,
    /// How far its clock is ahead of true time, and how much faster it ticks.
    ahead: i64,
    rate: f64,
}

impl Replica {
    fn local(&self, now: u64) -> Timestamp {
        let ticked = START + ((now - START) as f64 * self.rate) as u64;
        Timestamp::from_nanos(ticked.saturating_add_signed(self.ahead))
    }
}

/// Plays requests of random times, and gives the true times of those that were admitted, with their hits.
fn play(dice: &mut Rng, rate: &str, steps: usize) -> (Vec<(u64, u32)>, Store, LeaseMetrics) {
    let charge = charge(1, rate);
    let mut store = Store { rate: charge.rate, counts: BTreeMap::new() };
    let metrics = LeaseMetrics::default();
    let mut replicas: Vec<_> = (0..3)
        .map(|_| Replica {
            leases: Leases::new(metrics.clone()),
            ahead: dice.i64(-3_600_000_000_000..3_600_000_000_000),
            rate: 1.0 + (dice.f64() - 0.5) / 2000.0,
        })
        .collect();
    let pause = charge.rate.window.nanos() / u64::from(charge.rate.limit) / 3;
    let mut admitted = Vec::new();
    let mut now = START;
    let (mut number, mut busy) = (0, 1.0);
    for _ in 0..steps {
        // Bursts come to one replica, and then to another, so that a lease is large when it is used late.
        if dice.usize(..30) == 0 {
            number = dice.usize(..3);
            busy = [0.1, 1.0, 10.0][dice.usize(..3)];
        }
        now += (dice.u64(1..2 * pause) as f64 / busy) as u64;
        if dice.usize(..1000) == 0 {
            now += dice.u64(..2 * charge.rate.window.nanos());
        }
        let replica = &mut replicas[number];
        let charges = [charge.hits(if dice.usize(..4) == 0 { dice.u32(1..5) } else { 1 })];
        if dice.usize(..50) == 0 {
            replica.leases.sweep(replica.local(now));
            store.settle(&replica.leases.settlements(usize::MAX));
        }
        match replica.leases.take(&charges, replica.local(now)) {
            Take::Admitted(admission) => {
                assert!(admission.admitted);
                admitted.push((now, charges[0].hits));
            }
            Take::Denied(admission) => assert!(!admission.admitted),
            Take::Ask(asking) => {
                let sent = replica.local(now);
                now += dice.u64(..2_000_000);
                let wants = asking.wants.first().copied().unwrap_or_default();
                let at = now;
                let answer = store.ask(&charges[0], wants, at);
                now += dice.u64(..2_000_000);
                // Now and then the answer is lost.
                if dice.usize(..100) == 0 {
                    drop(asking);
                } else if asking.told(&answer, sent, replica.local(now)).unwrap().admitted {
                    admitted.push((at, charges[0].hits));
                }
            }
        }
    }
    for replica in &replicas {
        replica.leases.close();
        store.settle(&replica.leases.settlements(usize::MAX));
    }
    (admitted, store, metrics)
}

#[test]
fn no_interval_of_the_windows_length_holds_more_than_the_limit_of_replicas_that_lease() {
    let seed = fastrand::u64(..);
    let mut dice = Rng::with_seed(seed);
    for rate in ["1000/3s", "500/7s", "300/m", "20000/m"] {
        let limit = Rate::parse(rate).unwrap();
        let (admitted, _, metrics) = play(&mut dice, rate, 20_000);
        let (mut first, mut sum) = (0, 0);
        for (at, hits) in &admitted {
            sum += hits;
            while at - admitted[first].0 >= limit.window.nanos() {
                sum -= admitted[first].1;
                first += 1;
            }
            assert!(sum <= limit.limit, "seed {seed}: {sum} within a window of {rate}");
        }
        let leased = metrics.hits_leased.get();
        let all: u32 = admitted.iter().map(|(_, hits)| hits).sum();
        assert!(leased > u64::from(all) / 20, "seed {seed}: {leased} of {all} leased at {rate} shows too little");
    }
}
