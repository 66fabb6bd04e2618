//! A limit among replicas that cannot ask each other.
//!
//! Each of k replicas takes every hit of its own for k, because the others admit about as many meanwhile. So its counter
//! is an estimate of what all count together, and it needs no share that somebody would have to hand out. Whole hits leave
//! a rest of the room that k does not divide: the replica of rank r has k - 1 - r more. With N hits of room, each admits
//! ⌊(N + k - 1 - r) / k⌋ of them, **which is N in sum over all ranks** (Hermite's identity).

use std::num::NonZeroU32;
use std::time::Duration;

use super::{Algorithm, Charge, Verdict};

/// The replicas that share counters, and this one among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peers {
    /// The number of replicas before this one: less than `count`, and another one on each.
    pub rank: u32,
    pub count: NonZeroU32,
}

impl Peers {
    /// One replica and no other.
    pub const ALONE: Self = Self { rank: 0, count: NonZeroU32::MIN };

    /// The charge of this replica to its estimate of the counter that all share.
    pub fn charge(self, charge: &Charge) -> Charge {
        let mut charge = Charge { hits: self.times(charge.hits), ..*charge };
        match &mut charge.algorithm {
            // A limit of 0 lets nothing pass, not even the rest of a division.
            _ if charge.rate.limit == 0 => {}
            Algorithm::TokenBucket { burst } => *burst = burst.saturating_add(self.rest()),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => {
                charge.rate.limit = charge.rate.limit.saturating_add(self.rest());
            }
        }
        charge
    }

    /// What such a charge was told, in hits of this replica.
    pub fn verdict(self, charge: &Charge, verdict: Verdict) -> Verdict {
        let remaining = verdict.remaining / self.count;
        // What costs more than this part of the limit passes when the store is back: it is not told that it never will.
        let passes_ever = charge.hits.max(1) <= charge.capacity();
        let window = || Duration::from_secs(charge.rate.window.secs().into());
        let retry_after = verdict.retry_after.or_else(|| passes_ever.then(window));
        Verdict { remaining, retry_after, ..verdict }
    }

    /// Hits of this replica, in hits of all.
    pub fn times(self, hits: u32) -> u32 {
        hits.saturating_mul(self.count.get())
    }

    /// The room of this replica beyond the room of all.
    fn rest(self) -> u32 {
        self.count.get().saturating_sub(1).saturating_sub(self.rank)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Timestamp;
    use crate::limiter::algorithm::Cell;
    use crate::limiter::fixture::charge;

    const NOW: Timestamp = Timestamp::from_nanos(1_759_999_999_123_456_789);

    /// The hits that all replicas admit of as many as come, one by one, where each knows what was used before.
    fn admitted(of_all: Charge, used: u32, count: u32) -> u32 {
        let replica = |rank| {
            let peers = Peers { rank, count: NonZeroU32::new(count).unwrap() };
            let charge = peers.charge(&of_all);
            let mut cell = Cell::new(of_all.rate, of_all.algorithm, NOW);
            cell.charge(used, NOW);
            let mut admitted = 0;
            while cell.judge(charge.rate.limit, charge.algorithm, charge.hits, NOW).allowed {
                cell.charge(charge.hits, NOW);
                admitted += of_all.hits;
            }
            admitted
        };
        (0..count).map(replica).sum()
    }

    fn algorithm() -> impl Strategy<Value = Algorithm> {
        let bursts = (1..200_u32).prop_map(|burst| Algorithm::TokenBucket { burst: NonZeroU32::new(burst).unwrap() });
        prop_oneof![Just(Algorithm::SlidingWindow), Just(Algorithm::FixedWindow), bursts]
    }

    proptest! {
        #[test]
        fn all_replicas_together_admit_what_is_left_and_no_more(
            limit in 0..200_u32, used in 0..250_u32, count in 1..20_u32, algorithm in algorithm()
        ) {
            let mut charge = Charge { algorithm, ..charge(1, "1/hour") };
            charge.rate.limit = limit;
            prop_assert_eq!(admitted(charge, used, count), charge.capacity().saturating_sub(used));
        }

        /// With a cost they cannot put together what is left on each.
        #[test]
        fn costly_requests_are_never_admitted_beyond_what_is_left(
            limit in 0..200_u32, used in 0..250_u32, count in 1..20_u32, hits in 1..50_u32, algorithm in algorithm()
        ) {
            let mut charge = Charge { algorithm, hits, ..charge(1, "1/hour") };
            charge.rate.limit = limit;
            let (admitted, left) = (admitted(charge, used, count), charge.capacity().saturating_sub(used));
            prop_assert!(admitted <= left && left - admitted <= count * hits, "{admitted} of {left}");
        }
    }

    #[test]
    fn a_replica_alone_has_the_whole_limit() {
        let charge = charge(1, "5/minute").hits(2);
        let alone = Peers::ALONE.charge(&charge);
        assert_eq!((alone.hits, alone.rate), (charge.hits, charge.rate));
    }

    #[test]
    fn clients_are_told_of_this_replicas_part() {
        let peers = Peers { rank: 2, count: NonZeroU32::new(3).unwrap() };
        let told = |hits, remaining, retry_after| {
            let of_all = Verdict { allowed: false, remaining, retry_after, grows_after: Duration::ZERO };
            let verdict = peers.verdict(&charge(1, "10/minute").hits(hits), of_all);
            (verdict.remaining, verdict.retry_after)
        };
        let [second, minute] = [1, 60].map(Duration::from_secs);
        assert_eq!(told(1, 7, Some(second)), (2, Some(second)));
        assert_eq!(told(10, 10, None), (3, Some(minute)), "it fits into the limit of all");
        assert_eq!(told(11, 10, None), (3, None));
    }
}
