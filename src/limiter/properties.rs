//! Random requests against every algorithm, with an oracle that remembers every admitted hit.

use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::Verdict;
use super::algorithm::Cell;
use crate::clock::Timestamp;
use crate::policy::limit::Algorithm;
use crate::policy::rate::{Rate, WINDOW_SECS_MAX, Window};

/// 2025-10-09, at no round time of any unit.
const START_NANOS: u64 = 1_759_999_999_123_456_789;

/// One request, and what changed before it.
#[derive(Clone, Debug)]
struct Step {
    /// Time since the step before, in sub-buckets and nanoseconds. Negative: the clock ran backwards.
    sub_buckets: i64,
    nanos: i64,
    hits: u32,
    /// The limit from here on, if it changes.
    limit: Option<u32>,
    /// The burst of a token bucket from here on, if it changes.
    burst: Option<u32>,
}

#[derive(Clone, Debug)]
struct Scenario {
    rate: Rate,
    phase_nanos: u64,
    steps: Vec<Step>,
}

/// Hits that passed, and the limit they passed under.
struct Admitted {
    at: Timestamp,
    hits: u32,
    limit: u32,
    drained: u128,
}

/// A request, and what the oracle needs to answer it.
struct Question<'a> {
    history: &'a [Admitted],
    rate: Rate,
    algorithm: Algorithm,
    /// The newest time seen.
    now: Timestamp,
    /// The hits that have to fit: a request of 0 asks for one.
    asked: u32,
    /// The debt that has drained since the beginning, in hits times nanoseconds of the window.
    drained: u128,
}

impl Question<'_> {
    /// The hits that an exact log of this length would hold.
    fn admitted_within(&self, nanos: u64) -> u64 {
        let recent = self.history.iter().rev().take_while(|hit| self.now.nanos_since(hit.at) < nanos);
        recent.map(|hit| u64::from(hit.hits)).sum()
    }

    fn fits_beside(&self, used: u64) -> bool {
        used + u64::from(self.asked) <= u64::from(self.rate.limit)
    }

    fn fits_within(&self, nanos: u64) -> bool {
        self.fits_beside(self.admitted_within(nanos))
    }
}

/// Plays a scenario and checks what holds for every algorithm; `check` says whether the decision was right.
fn play(
    mut algorithm: Algorithm,
    scenario: &Scenario,
    check: impl Fn(&Question<'_>, Verdict) -> bool,
) -> Vec<Admitted> {
    let Scenario { mut rate, phase_nanos, ref steps } = *scenario;
    let sub_bucket_nanos = rate.window.nanos().div_ceil(60) as i64;
    let mut clock = Timestamp::from_nanos(START_NANOS + phase_nanos);
    let mut newest = clock;
    let mut drained = 0;
    let mut cell = Cell::new(rate, algorithm, clock);
    let mut history = Vec::new();
    for step in steps {
        clock = Timestamp::from_nanos(
            clock.as_nanos().saturating_add_signed(step.sub_buckets * sub_bucket_nanos + step.nanos),
        );
        drained += u128::from(clock.nanos_since(newest)) * u128::from(rate.limit);
        newest = newest.max(clock);
        rate.limit = step.limit.unwrap_or(rate.limit);
        if let (Algorithm::TokenBucket { burst }, Some(changed)) = (&mut algorithm, step.burst) {
            *burst = NonZeroU32::new(changed).unwrap();
        }
        let question = Question { history: &history, rate, algorithm, now: newest, asked: step.hits.max(1), drained };

        let verdict = cell.judge(rate.limit, algorithm, step.hits, clock);
        assert!(check(&question, verdict), "{verdict:?} for {step:?} at {clock:?}");
        let judge = |hits, at| cell.clone().judge(rate.limit, algorithm, hits, at);
        assert_eq!(judge(step.hits, clock), verdict, "to judge changes nothing");
        assert_retry_is_exact(|at| judge(step.hits, at), clock, verdict);
        assert_growth_is_exact(|at| judge(1, at).remaining, clock, verdict);
        if verdict.allowed && step.hits > 0 {
            let after = cell.charge(step.hits, clock);
            assert!(after.remaining <= verdict.remaining - step.hits);
            history.push(Admitted { at: newest, hits: step.hits, limit: rate.limit, drained });
        }
    }
    history
}

fn assert_retry_is_exact(judge: impl Fn(Timestamp) -> Verdict, now: Timestamp, verdict: Verdict) {
    let allowed_after = |nanos| judge(now.plus_nanos(nanos)).allowed;
    match verdict.retry_after {
        Some(Duration::ZERO) => assert!(verdict.allowed),
        Some(wait) => {
            let nanos = wait.as_nanos() as u64;
            assert!(!verdict.allowed);
            assert!(allowed_after(nanos), "{wait:?} is too early");
            assert!(!allowed_after(nanos - 1), "{wait:?} is too late");
        }
        None => assert!(!verdict.allowed && !allowed_after(100 * u64::from(WINDOW_SECS_MAX) * 1_000_000_000)),
    }
}

fn assert_growth_is_exact(remaining: impl Fn(Timestamp) -> u32, now: Timestamp, verdict: Verdict) {
    let nanos = verdict.grows_after.as_nanos() as u64;
    if nanos > 0 {
        assert!(remaining(now.plus_nanos(nanos)) > verdict.remaining, "{verdict:?} grows too early");
        assert_eq!(remaining(now.plus_nanos(nanos - 1)), verdict.remaining, "{verdict:?} grows too late");
    }
}

/// No interval of a window's length holds more than the limit. An interval is seen at the last hit in it,
/// and the limit is the one that let this hit in.
#[track_caller]
fn assert_never_over(history: &[Admitted], window: Window) {
    for (i, last) in history.iter().enumerate() {
        let inside = history[..=i].iter().rev().take_while(|hit| last.at.nanos_since(hit.at) < window.nanos());
        let total = inside.map(|hit| u64::from(hit.hits)).sum::<u64>();
        assert!(total <= u64::from(last.limit), "{total} of {} until {:?}", last.limit, last.at);
    }
}

fn scenarios(limits: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Scenario> {
    let windows = prop_oneof![Just(1), Just(7), Just(60), Just(3600), Just(WINDOW_SECS_MAX)];
    (limits.clone(), windows).prop_flat_map(move |(limit, secs)| {
        let rate = Rate { limit, window: Window::from_secs(secs).unwrap() };
        let steps = prop::collection::vec(steps(limit, limits.clone(), rate.window), 1..200);
        (0..rate.window.nanos(), steps).prop_map(move |(phase_nanos, steps)| Scenario { rate, phase_nanos, steps })
    })
}

fn steps(limit: u32, limits: std::ops::RangeInclusive<u32>, window: Window) -> impl Strategy<Value = Step> {
    let sub_bucket_nanos = window.nanos().div_ceil(60) as i64;
    let sub_buckets = prop_oneof![8 => Just(0), 6 => 0..4i64, 2 => 50..70i64, 1 => -70..0i64, 1 => 100..200i64];
    let nanos = prop_oneof![2 => Just(0), 4 => -1..=1i64, 4 => 0..sub_bucket_nanos];
    let hits = prop_oneof![
        8 => Just(1),
        8 => 0..=limit.div_ceil(4),
        1 => Just(limit),
        1 => Just(limit.saturating_add(1)),
        1 => Just(u32::MAX),
    ];
    let limit = prop_oneof![12 => Just(None), 2 => limits.prop_map(Some), 1 => Just(Some(0)), 2 => Just(Some(limit))];
    let burst = prop_oneof![8 => Just(None), 1 => (1..200u32).prop_map(Some)];
    (sub_buckets, nanos, hits, limit, burst).prop_map(|(sub_buckets, nanos, hits, limit, burst)| Step {
        sub_buckets,
        nanos,
        hits,
        limit,
        burst,
    })
}

/// Never over the limit, and no later than a window that is longer by one sub-bucket.
fn check_sliding_window(scenario: &Scenario) {
    let window = scenario.rate.window;
    let late_nanos = 61 * window.nanos().div_ceil(60);
    let history = play(Algorithm::SlidingWindow, scenario, |question, verdict| {
        let may_pass = question.fits_within(window.nanos());
        let must_pass = question.fits_within(late_nanos);
        (may_pass || !verdict.allowed) && (verdict.allowed || !must_pass)
    });
    assert_never_over(&history, window);
}

proptest! {
    #[test]
    fn a_sliding_window_of_a_low_limit_decides_as_an_exact_log(scenario in scenarios(0..=14)) {
        let window = scenario.rate.window;
        let history = play(Algorithm::SlidingWindow, &scenario, |question, verdict| {
            verdict.allowed == question.fits_within(window.nanos())
        });
        assert_never_over(&history, window);
    }

    #[test]
    fn a_sliding_window_is_never_over_and_hardly_late(scenario in scenarios(1..=200)) {
        check_sliding_window(&scenario);
    }

    #[test]
    fn a_sliding_window_of_a_high_limit_is_never_over_and_hardly_late(scenario in scenarios(50_000..=80_000)) {
        check_sliding_window(&scenario);
    }

    #[test]
    fn a_sliding_window_of_any_limit_is_never_over_and_hardly_late(scenario in scenarios(0..=u32::MAX)) {
        check_sliding_window(&scenario);
    }

    #[test]
    fn a_sliding_window_of_the_highest_limits_is_never_over(scenario in scenarios(u32::MAX - 9..=u32::MAX)) {
        check_sliding_window(&scenario);
    }

    #[test]
    fn a_fixed_window_counts_from_edge_to_edge(scenario in scenarios(0..=100)) {
        let nanos = scenario.rate.window.nanos();
        play(Algorithm::FixedWindow, &scenario, |question, verdict| {
            let since_edge = question.now.as_nanos() % nanos + 1;
            let used = question.admitted_within(since_edge);
            verdict.allowed == question.fits_beside(used)
                && verdict.remaining == question.rate.limit.saturating_sub(used as u32)
        });
    }

    /// In whatever interval, at most the burst and what drained in it: whole numbers over one denominator.
    #[test]
    fn a_token_bucket_admits_the_burst_and_the_rate_and_no_less(
        scenario in scenarios(0..=100),
        burst in 1..200u32,
    ) {
        let nanos = u128::from(scenario.rate.window.nanos());
        play(Algorithm::TokenBucket { burst: NonZeroU32::new(burst).unwrap() }, &scenario, |question, verdict| {
            let Algorithm::TokenBucket { burst } = question.algorithm else { unreachable!() };
            let burst = burst.get();
            let mut hits = u128::from(question.asked);
            let mut fits = question.rate.limit > 0 && question.asked <= burst;
            for hit in question.history.iter().rev() {
                hits += u128::from(hit.hits);
                fits &= hits * nanos <= u128::from(burst) * nanos + question.drained - hit.drained;
            }
            verdict.allowed == fits
        });
    }
}

/// The attack that lets a window of two buckets admit twice its limit: a burst at one phase, and knocking
/// ever after.
#[test]
fn a_burst_at_any_phase_followed_by_knocking_is_never_over() {
    for limit in [1, 14, 15, 100] {
        for phase in 0..=61 {
            for offset in [-1, 0, 1] {
                let burst = Step { sub_buckets: phase, nanos: offset, hits: limit, limit: None, burst: None };
                let knock = Step { sub_buckets: 0, nanos: 333_333_333, hits: 1, limit: None, burst: None };
                let steps = std::iter::once(burst).chain(std::iter::repeat_n(knock, 400)).collect();
                let rate = Rate { limit, window: Window::from_secs(60).unwrap() };
                check_sliding_window(&Scenario { rate, phase_nanos: 876_543_211, steps });
            }
        }
    }
}

/// A counter that is asked by one algorithm.
struct Counter(Cell, Algorithm);

impl Counter {
    fn judge(&mut self, limit: u32, hits: u32, now: Timestamp) -> Verdict {
        self.0.judge(limit, self.1, hits, now)
    }
}

impl std::ops::Deref for Counter {
    type Target = Cell;

    fn deref(&self) -> &Cell {
        &self.0
    }
}

impl std::ops::DerefMut for Counter {
    fn deref_mut(&mut self) -> &mut Cell {
        &mut self.0
    }
}

fn cell(rate: &str, algorithm: Algorithm) -> Counter {
    Counter(Cell::new(Rate::parse(rate).unwrap(), algorithm, Timestamp::from_nanos(START_NANOS)), algorithm)
}

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket { burst: NonZeroU32::new(10).unwrap() }];

#[test]
fn a_request_of_no_hits_asks_for_one_and_is_charged_nothing() {
    let now = Timestamp::from_nanos(START_NANOS);
    for algorithm in ALGORITHMS {
        let mut cell = cell("10/minute", algorithm);
        assert_eq!(
            cell.judge(10, 0, now),
            Verdict { allowed: true, remaining: 10, retry_after: Some(Duration::ZERO), grows_after: Duration::ZERO }
        );
        assert_eq!(cell.charge(0, now).remaining, 10);
        cell.charge(10, now);
        let full = cell.judge(10, 0, now);
        assert_eq!((full.allowed, full.remaining), (false, 0));
        assert_eq!(full, cell.judge(10, 1, now));
    }
}

#[test]
fn what_can_never_pass_says_so() {
    let now = Timestamp::from_nanos(START_NANOS);
    for algorithm in ALGORITHMS {
        let mut cell = cell("10/minute", algorithm);
        assert_eq!(
            cell.judge(10, 11, now),
            Verdict { allowed: false, remaining: 10, retry_after: None, grows_after: Duration::ZERO }
        );
        for hits in [0, 1, u32::MAX] {
            assert_eq!(
                cell.judge(0, hits, now),
                Verdict { allowed: false, remaining: 0, retry_after: None, grows_after: Duration::ZERO }
            );
        }
    }
}

#[test]
fn a_changed_limit_keeps_what_was_counted() {
    let now = Timestamp::from_nanos(START_NANOS);
    for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let mut cell = cell("10/minute", algorithm);
        cell.charge(10, now);
        assert_eq!(cell.judge(100_000, 1, now).remaining, 99_990);
        cell.charge(90_000, now);
        assert_eq!(cell.judge(5, 1, now).remaining, 0);
        assert_eq!(cell.judge(0, 1, now).retry_after, None);
        assert_eq!(cell.judge(90_011, 1, now).remaining, 1);
    }
}

#[test]
fn a_cell_is_idle_as_soon_as_a_new_one_would_decide_the_same() {
    let now = Timestamp::from_nanos(START_NANOS);
    for algorithm in ALGORITHMS {
        let mut cell = cell("10/minute", algorithm);
        assert!(cell.is_idle(now));
        cell.charge(1, now);
        assert!(!cell.is_idle(now));
        let all_back = cell.judge(10, 10, now).retry_after.unwrap().as_nanos() as u64;
        assert!(!cell.is_idle(now.plus_nanos(all_back - 1)));
        assert!(cell.is_idle(now.plus_nanos(all_back)));
    }
}

#[test]
fn fullness_is_the_share_of_the_limit_in_force() {
    let now = Timestamp::from_nanos(START_NANOS);
    for algorithm in ALGORITHMS {
        let mut cell = cell("10/minute", algorithm);
        cell.charge(5, now);
        assert_eq!(cell.fullness(now), 0.5);
        cell.judge(0, 1, now);
        assert_eq!(cell.fullness(now), 0.0, "a limit of 0 denies without the counter");
    }
}
