//! What a replica knows of one counter in the store: how often it is asked for, the hits that it has of it in advance, and
//! what the store said last.
//!
//! **A lease is never over.** Its hits are charged in the store to the sub-bucket (or the fixed window) that is current when
//! they are given, and it ends with that on the store's clock. So whatever is admitted from it falls into the very sub-bucket that it
//! was charged to, as if the store had been asked; and a ring counts a sub-bucket until all of it has left the window.
//! A log and a token bucket know no such span, and are not leased.
//!
//! Times are this replica's, but where it says that they are the store's.

use std::time::Duration;

use super::Settlement;
use crate::clock::Timestamp;
use crate::limiter::key::CounterKey;
use crate::limiter::{Algorithm, Charge, Rate, Verdict, kept};

/// The longest lease: what is not used comes back to the others soon.
const LEASE_MAX: Duration = Duration::from_secs(1);
/// The shortest span to lease within: several round trips.
const SPAN_MIN: Duration = Duration::from_millis(50);
/// Clocks tick differently, by a few hundred parts in a million at the most; a lease ends this part earlier.
const DRIFT: u32 = 1000;
/// Hits within a lease's length that make a counter worth a lease.
const HOT_HITS: u32 = 3;
/// The time for which the store's last word is taken for true: hits that are given back may change it.
const KNOWN_MAX: Duration = Duration::from_millis(100);
/// The time after which nobody is waiting any more for an answer with a lease in it.
const ASKING_MAX: Duration = Duration::from_millis(20);

/// The span of time that a lease has to stay within: a sub-bucket or a fixed window. `None`: it cannot be leased.
pub(super) fn span(rate: Rate, algorithm: Algorithm) -> Option<Duration> {
    let span = match algorithm {
        Algorithm::SlidingWindow => kept::sub_bucket(rate.window),
        Algorithm::FixedWindow => Duration::from_nanos(rate.window.nanos()),
        Algorithm::TokenBucket { .. } => return None,
    };
    (span >= SPAN_MIN).then_some(span)
}

/// The answer of the store about one counter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) verdict: Verdict,
    /// The hits given in advance.
    pub(super) given: u32,
    /// When it was asked and answered, and the store's time in between.
    pub(super) sent: Timestamp,
    pub(super) received: Timestamp,
    pub(super) at: Timestamp,
    /// The time on the store's clock that its hits are counted at.
    pub(super) counted_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct Counter {
    pub(super) key: CounterKey,
    rate: Rate,
    algorithm: Algorithm,
    use_of: Use,
    lease: Option<Lease>,
    standing: Option<Standing>,
    /// Somebody asks for a lease until then.
    asking_until: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    /// The time on the store's clock that its hits are counted at.
    at: Timestamp,
    /// The end of the span on the store's clock.
    span_ends: Timestamp,
    ends: Timestamp,
    given: u32,
    left: u32,
}

/// What the store said last.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// The hits that it was asked for.
    hits: u32,
    /// `remaining` is without what is leased.
    verdict: Verdict,
    at: Timestamp,
    /// Nothing like it passes before that.
    denies_until: Timestamp,
}

/// The hits of a period and of the one before.
#[derive(Clone, Copy, Debug)]
struct Use {
    began: Timestamp,
    hits: u32,
    before: u32,
}

/// Hits that were taken from a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct TakenHits {
    /// The lease.
    pub(super) at: Timestamp,
    pub(super) hits: u32,
    pub(super) verdict: Verdict,
}

impl TakenHits {
    /// The verdict after the hits are put back.
    pub(super) fn verdict_put_back(&self) -> Verdict {
        Verdict { remaining: self.verdict.remaining.saturating_add(self.hits), ..self.verdict }
    }
}

/// What became of a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) used: u32,
    /// None where all was used.
    pub(super) rest: Option<Settlement>,
}

impl Counter {
    pub(super) fn new(charge: &Charge, now: Timestamp) -> Self {
        Self {
            key: charge.key,
            rate: charge.rate,
            algorithm: charge.algorithm,
            use_of: Use { began: now, hits: charge.hits, before: 0 },
            lease: None,
            standing: None,
            asking_until: Timestamp::default(),
        }
    }

    /// True for a charge to this counter as it is known. After a change of its rate the store has to say anew.
    pub(super) fn is_of(&self, charge: &Charge) -> bool {
        self.key == charge.key && self.rate == charge.rate && self.algorithm == charge.algorithm
    }

    /// Notes that it is asked for.
    pub(super) fn used(&mut self, hits: u32, now: Timestamp) {
        let period = LEASE_MAX.min(span(self.rate, self.algorithm).unwrap_or(LEASE_MAX));
        self.use_of.add(hits, period, now);
    }

    /// How much it is worth to be known: nothing where it was not asked for of late.
    pub(super) fn worth(&self, now: Timestamp) -> u32 {
        match self.lease {
            Some(_) => u32::MAX,
            None if now.since(self.use_of.began) > 2 * LEASE_MAX => 0,
            None => self.use_of.expected(),
        }
    }

    /// The hits that it would be good to have in advance, beside those that are asked for now. None where it has some left,
    /// though too few for a request: more and more of them would be kept from the others.
    pub(super) fn wants(&mut self, now: Timestamp, at_store: Timestamp) -> u32 {
        let Some(span) = span(self.rate, self.algorithm) else { return 0 };
        let expected = self.use_of.expected();
        if expected < HOT_HITS || now < self.asking_until || self.leased(now) > 0 {
            return 0;
        }
        self.asking_until = now + ASKING_MAX;
        let period = LEASE_MAX.min(span);
        let lasts = period.min(end_of(span, at_store).since(at_store));
        // Somewhat more than in the last period.
        let hits = u128::from(expected) * 5 / 4 * lasts.as_nanos() / period.as_nanos().max(1);
        u32::try_from(hits).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Hits that its lease has, and what that leaves. Nothing is taken yet.
    pub(super) fn offers(&self, hits: u32, now: Timestamp) -> Option<TakenHits> {
        let lease = self.lease.filter(|lease| now < lease.ends && lease.left >= hits.max(1))?;
        let verdict = self.verdict(hits, hits, now)?;
        Some(TakenHits { at: lease.at, hits, verdict: Verdict { allowed: true, ..verdict } })
    }

    pub(super) fn take(&mut self, hits: u32) {
        if let Some(lease) = &mut self.lease {
            lease.left = lease.left.saturating_sub(hits);
        }
    }

    /// Puts hits back that were taken. Where the lease they are of is gone, they are to be given back.
    pub(super) fn put_back(&mut self, taken: &TakenHits) -> Option<Settlement> {
        match &mut self.lease {
            Some(lease) if lease.at == taken.at => {
                lease.left = lease.left.saturating_add(taken.hits);
                None
            }
            _ => settlement(self.key, self.rate, self.algorithm, taken.at, taken.hits),
        }
    }

    /// The verdict that denies such a request, where the store would say no other.
    pub(super) fn denies(&self, hits: u32, now: Timestamp) -> Option<Verdict> {
        let standing = self.standing?;
        let is_same = standing.hits == hits && !standing.verdict.allowed && now < standing.denies_until;
        if is_same { self.verdict(hits, 0, now) } else { None }
    }

    /// The verdict on a request that is not charged here, where that is known.
    pub(super) fn known(&self, hits: u32, now: Timestamp) -> Option<Verdict> {
        let is_leased = self.lease.is_some_and(|lease| now < lease.ends);
        let is_known = is_leased || self.standing.is_some_and(|standing| now.since(standing.at) < KNOWN_MAX);
        if is_known { self.verdict(hits, 0, now) } else { None }
    }

    /// The hits that its lease has.
    pub(super) fn leased(&self, now: Timestamp) -> u32 {
        self.lease.filter(|lease| now < lease.ends).map_or(0, |lease| lease.left)
    }

    /// What the store said last, less what was taken since.
    fn verdict(&self, hits: u32, taken: u32, now: Timestamp) -> Option<Verdict> {
        let Standing { verdict, at, .. } = self.standing?;
        let remaining = verdict.remaining.saturating_add(self.leased(now)).saturating_sub(taken);
        let allowed = remaining >= hits.max(1);
        let passed = now.since(at);
        let grows_after = verdict.grows_after.saturating_sub(passed);
        let retry_after = match verdict.retry_after {
            _ if allowed => Some(Duration::ZERO),
            Some(Duration::ZERO) => Some(grows_after),
            Some(wait) => Some(wait.saturating_sub(passed)),
            None => None,
        };
        Some(Verdict { allowed, remaining, retry_after, grows_after })
    }

    /// Takes what the store said. What was leased before and cannot be joined with it ends.
    pub(super) fn told(&mut self, charge: &Charge, told: &Told) -> Option<Ended> {
        let ended = if self.is_of(charge) { None } else { self.end() };
        (self.rate, self.algorithm) = (charge.rate, charge.algorithm);
        if told.given > 0 {
            self.asking_until = Timestamp::default();
        }
        let verdict = told.verdict;
        let never_passes = !verdict.allowed && verdict.retry_after.is_none();
        let grows = if never_passes { KNOWN_MAX } else { verdict.grows_after.min(KNOWN_MAX) };
        self.standing =
            Some(Standing { hits: charge.hits, verdict, at: told.received, denies_until: told.sent + grows });
        ended.or_else(|| self.given(told))
    }

    fn given(&mut self, told: &Told) -> Option<Ended> {
        let span = span(self.rate, self.algorithm)?;
        if told.given == 0 {
            return None;
        }
        let span_ends = end_of(span, told.at);
        // At a time x of ours, the store's clock shows no more than `at + (x - sent)`.
        let lasts = span_ends.since(told.at).min(LEASE_MAX);
        let ends = told.sent + (lasts - lasts / DRIFT);
        match &mut self.lease {
            Some(lease) if lease.span_ends == span_ends => {
                lease.ends = lease.ends.max(ends);
                lease.given = lease.given.saturating_add(told.given);
                lease.left = lease.left.saturating_add(told.given);
                None
            }
            _ => {
                let ended = self.end();
                self.lease = Some(Lease { at: told.counted_at, span_ends, ends, given: told.given, left: told.given });
                ended
            }
        }
    }

    pub(super) fn end_if_over(&mut self, now: Timestamp) -> Option<Ended> {
        if self.lease.is_some_and(|lease| lease.ends <= now) { self.end() } else { None }
    }

    /// Ends the lease, whatever is left of it.
    pub(super) fn end(&mut self) -> Option<Ended> {
        let lease = self.lease.take()?;
        let rest = settlement(self.key, self.rate, self.algorithm, lease.at, lease.left);
        Some(Ended { used: lease.given.saturating_sub(lease.left), rest })
    }
}

impl Use {
    fn add(&mut self, hits: u32, period: Duration, now: Timestamp) {
        let passed = now.since(self.began);
        if passed >= period {
            self.before = if passed < 2 * period { self.hits } else { 0 };
            self.hits = 0;
            self.began = now;
        }
        self.hits = self.hits.saturating_add(hits);
    }

    fn expected(&self) -> u32 {
        self.hits.max(self.before)
    }
}

/// The end of the span that a time is in.
fn end_of(span: Duration, at: Timestamp) -> Timestamp {
    let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
    Timestamp::from_nanos((at.as_nanos() / nanos).saturating_add(1).saturating_mul(nanos))
}

/// Gives hits back that were charged at a time of the store's.
pub(super) fn settlement(
    key: CounterKey,
    rate: Rate,
    algorithm: Algorithm,
    at: Timestamp,
    hits: u32,
) -> Option<Settlement> {
    (hits > 0).then(|| Settlement { key, rate, algorithm, at, hits: -i64::from(hits) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::fixture::charge;

    const MILLI: u64 = 1_000_000;

    /// A counter with a lease that was asked for at 100 ms, and given 40 ms later on this clock.
    fn leased(charge: &Charge, at_millis: u64) -> Counter {
        let received = Timestamp::from_nanos(140 * MILLI);
        let verdict = Verdict { allowed: true, remaining: 50, retry_after: None, grows_after: Duration::ZERO };
        let at = Timestamp::from_nanos(at_millis * MILLI);
        let told = Told { verdict, given: 10, sent: Timestamp::from_nanos(100 * MILLI), received, at, counted_at: at };
        let mut counter = Counter::new(charge, received);
        assert!(counter.told(charge, &told).is_none());
        counter
    }

    fn lasts_until(counter: &Counter) -> u64 {
        let offers = |millis: &u64| counter.offers(1, Timestamp::from_nanos(millis * MILLI)).is_some();
        (140..10_000).take_while(offers).last().unwrap_or_default()
    }

    #[test]
    fn a_lease_ends_before_its_sub_bucket_may_have_ended_on_the_stores_clock() {
        // Sub-buckets of 500 ms: at 77 200 ms of the store, 300 ms are left of one, if it answered at once.
        let charge = charge(1, "100/30s");
        assert_eq!(lasts_until(&leased(&charge, 77_200)), 100 + 299);
        assert_eq!(lasts_until(&leased(&charge, 77_499)), 0, "it was over before it came");
        let fixed = Charge { algorithm: Algorithm::FixedWindow, ..charge };
        assert_eq!(lasts_until(&leased(&fixed, 89_700)), 100 + 299);
        assert_eq!(lasts_until(&leased(&fixed, 77_200)), 100 + 998, "no lease lasts longer than a second");
    }

    #[test]
    fn what_cannot_end_with_its_charge_is_not_leased() {
        for (rate, lasts) in [("1000/2s", false), ("1000/3s", true)] {
            let charge = charge(1, rate);
            assert_eq!(span(charge.rate, charge.algorithm).is_some(), lasts, "{rate}");
        }
        let charge = charge(1, "1000/m");
        assert_eq!(span(charge.rate, Algorithm::TokenBucket { burst: std::num::NonZeroU32::MIN }), None);
    }
}
