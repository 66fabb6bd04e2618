//! The time that a server's counters go by: its own clock less a *skew*, so that a jump of the clock is none of theirs.
//!
//! The skew is the sum of the jumps so far. It stands in the store, where whoever sees a jump first changes it and all
//! others take it from: they would not agree on a jump to the microsecond, and those who begin later did not see it.
//! For as long as two replicas go by different ones, a counter takes the later of their times, as it always does.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use redis::{Cmd, Script};
use tokio::sync::Mutex;

use super::script::micros;
use crate::clock::{Clock, Timestamp};

pub(super) const TEXT: &str = include_str!("skew.lua");

/// The name that Redis gives the script.
pub(super) fn hash() -> &'static str {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));
    SCRIPT.get_hash()
}

/// A clock that is this far from where it should be has jumped, in microseconds. Clocks that are slewed never are.
const JUMP_MIN: i64 = 1_000_000;
/// The most that a clock may fall behind ours between two probes of it, in microseconds.
const DRIFT: i64 = 1000;
/// The time that the skew is kept for after all replicas have gone: longer than any counter.
const KEPT: Duration = Duration::from_secs(400 * 86_400);
const UNKNOWN: i64 = i64::MIN;

#[derive(Debug)]
pub(super) struct StoreClock {
    clock: Clock,
    /// In microseconds.
    skew: AtomicI64,
    /// The counters' time less ours, in microseconds; at least that.
    ahead: AtomicI64,
    /// One link at a time asks for the skew.
    pub(super) turn: Mutex<()>,
}

/// What the store told of its clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Its own time, in microseconds.
    pub(super) at: i64,
    /// The skew that stands there.
    pub(super) skew: i64,
}

impl StoreClock {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, skew: AtomicI64::new(0), ahead: AtomicI64::new(UNKNOWN), turn: Mutex::new(()) }
    }

    pub(super) fn skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }

    /// The counters' time after which a question that is asked now is not waited for. The store is given as long again,
    /// because what is known of its clock is only that it is not behind.
    pub(super) fn latest(&self, patience: Duration) -> Timestamp {
        let ahead = Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != UNKNOWN);
        match ahead {
            Some(ahead) => {
                let now = whole_micros(self.clock.now()).saturating_add(ahead);
                Timestamp::from_nanos(u64::try_from(now).unwrap_or(0).saturating_mul(1000)) + 2 * patience
            }
            None => Timestamp::from_nanos(u64::MAX),
        }
    }

    /// Learns from a decision that the store made at `at`, by `skew`.
    pub(super) fn learn(&self, at: Timestamp, skew: i64) {
        let at = whole_micros(at).saturating_add(skew).saturating_sub(self.skew());
        let least = at.saturating_sub(whole_micros(self.clock.now()));
        let ahead = self.ahead.load(Ordering::Relaxed);
        // What looks like a jump is for the next probe to find.
        if ahead != UNKNOWN && least < ahead.saturating_add(JUMP_MIN) {
            self.ahead.fetch_max(least, Ordering::Relaxed);
        }
    }

    /// Our time, for [`Self::jump`].
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// By how much the clock has jumped, where it did before it told this, which it was asked for at `asked`.
    pub(super) fn jump(&self, told: Told, asked: Timestamp) -> Option<i64> {
        let at = told.at.saturating_sub(told.skew);
        let ahead = self.ahead.load(Ordering::Relaxed);
        if ahead == UNKNOWN || told.skew != self.skew() {
            return None;
        }
        let least = at.saturating_sub(whole_micros(self.clock.now())).saturating_sub(ahead);
        let most = at.saturating_sub(whole_micros(asked)).saturating_sub(ahead);
        match (least > JUMP_MIN, most < -JUMP_MIN) {
            (true, _) => Some(least),
            (_, true) => Some(most),
            _ => None,
        }
    }

    /// Goes by the skew that stands in the store from here on.
    pub(super) fn adopt(&self, told: Told) {
        let least = told.at.saturating_sub(told.skew).saturating_sub(whole_micros(self.clock.now()));
        let is_new = self.skew.swap(told.skew, Ordering::Relaxed) != told.skew;
        let ahead = self.ahead.load(Ordering::Relaxed);
        let ahead = if is_new || ahead == UNKNOWN { least } else { least.max(ahead.saturating_sub(DRIFT)) };
        self.ahead.store(ahead, Ordering::Relaxed);
    }
}

/// The command that reads the skew under a key; and changes it to `wanted` where it is `known`, or where none is there.
pub(super) fn command(verb: &'static str, script: &str, key: &str, known: i64, wanted: i64) -> Cmd {
    let mut command = redis::cmd(verb);
    command.arg(script).arg(1).arg(key).arg(known).arg(wanted).arg(KEPT.as_millis().to_string());
    command
}

/// Reads the script's answer. None where it is none.
pub(super) fn read(answer: &[u8]) -> Option<Told> {
    let (at, skew) = answer.split_first_chunk()?;
    let whole = |bytes: [u8; 8]| f64::from_le_bytes(bytes) as i64;
    Some(Told { at: whole(*at), skew: whole(skew.try_into().ok()?) })
}

fn whole_micros(at: Timestamp) -> i64 {
    micros(at) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn told(clock: &StoreClock, ahead: i64, skew: i64) -> Told {
        Told { at: whole_micros(clock.now()) + ahead + skew, skew }
    }

    #[test]
    fn a_jump_is_told_from_an_answer_that_took_long_and_from_a_skew_that_another_replica_set() {
        let clock = StoreClock::new(Clock::start());
        let jump = |ahead, skew, asked_secs_ago: u64| {
            let asked = Timestamp::from_nanos(clock.now().as_nanos() - asked_secs_ago * 1_000_000_000);
            // To the tenth of a second: this test takes some time as well.
            clock.jump(told(&clock, ahead, skew), asked).map(|jump| (jump as f64 / 1e5).round() as i64)
        };
        assert_eq!(jump(77 * SECOND, 0, 0), None, "nothing is known of it yet");
        clock.adopt(told(&clock, 7 * SECOND, 0));
        assert_eq!(jump(7 * SECOND + SECOND / 2, 0, 0), None);
        assert_eq!(jump(12 * SECOND, 0, 0), Some(50));
        assert_eq!(jump(2 * SECOND, 0, 0), Some(-50));
        assert_eq!(jump(2 * SECOND, 0, 6), None, "the answer was on its way for up to 6 s");
        assert_eq!(jump(12 * SECOND, 3 * SECOND, 0), None);
        clock.adopt(told(&clock, 7 * SECOND, 5 * SECOND));
        assert_eq!(clock.skew(), 5 * SECOND);
        assert_eq!(jump(7 * SECOND, 5 * SECOND, 0), None);
    }

    #[test]
    fn a_clock_that_is_slow_is_followed_and_one_that_jumps_is_not() {
        let clock = StoreClock::new(Clock::start());
        let ahead = || clock.ahead.load(Ordering::Relaxed);
        clock.adopt(told(&clock, 7 * SECOND, 0));
        let first = ahead();
        clock.adopt(told(&clock, 6 * SECOND, 0));
        assert_eq!(ahead(), first - DRIFT);
        let at = |micros: i64| clock.now() + Duration::from_micros(micros.unsigned_abs());
        clock.learn(at(9 * SECOND), 0);
        assert_eq!(ahead(), first - DRIFT);
        clock.learn(at(7 * SECOND + SECOND / 2), 0);
        assert!(ahead() > first);
        let latest = clock.latest(Duration::from_secs(1));
        assert!(latest > at(9 * SECOND) && latest < at(10 * SECOND));
    }
}
