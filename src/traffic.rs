//! The last minutes, second by second: how much was decided, how much of it denied, and how fast. The metrics count, as they
//! do anyway; here their difference from one second to the next is kept.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Timestamp;
use crate::metrics::totals::Totals;

/// The seconds that are kept.
pub const SECONDS_MAX: usize = 300;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Traffic(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    seconds: VecDeque<Second>,
    /// What was counted when, the last time. `None` before the first.
    last: Option<(Timestamp, Totals)>,
}

/// What was decided within a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Second {
    /// Its beginning.
    pub at: Timestamp,
    pub decisions: u64,
    pub denied: u64,
    pub failed: u64,
    /// `None`: there was no decision.
    pub p99: Option<Duration>,
}

impl Traffic {
    /// Takes what is counted by now, and gives the second that is over with it. Where it is called late, a second has what came
    /// in those before, which are left out.
    pub fn take(&self, totals: Totals, now: Timestamp) -> Option<Second> {
        let mut kept = self.0.lock();
        let kept = &mut *kept;
        let second = match &kept.last {
            // Nothing was taken before: there is no telling of when it is.
            None => None,
            // What it has is told with the next.
            Some((last, _)) if last.as_secs() >= now.as_secs() => return None,
            Some((_, before)) => Some(Second::between(before, &totals, now)),
        };
        kept.last = Some((now, totals));
        if let Some(second) = second {
            if kept.seconds.len() >= SECONDS_MAX {
                kept.seconds.pop_front();
            }
            kept.seconds.push_back(second);
        }
        second
    }

    /// The oldest first.
    pub fn seconds(&self) -> Vec<Second> {
        self.0.lock().seconds.iter().copied().collect()
    }
}

impl Second {
    /// The second that is over at this moment.
    fn between(before: &Totals, after: &Totals, now: Timestamp) -> Self {
        let since = after.since(before);
        let begin = Duration::from_secs(now.as_secs()).saturating_sub(SECOND);
        let Totals { decisions, denied, failed, .. } = since;
        Self { at: Timestamp::default() + begin, decisions, denied, failed, p99: since.quantile(990) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Decided, Metrics};
    use crate::names::Name;

    fn count(metrics: &Metrics, result: &'static str) {
        let gateway = Name::parse("shop");
        metrics.decisions.count(&Decided { gateway: gateway.as_ref(), api: None, tier: "", limit: None, result });
        metrics.decision_seconds.observe(Duration::from_micros(2));
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_second_has_what_came_since_the_one_before() {
        let (metrics, traffic) = (Metrics::default(), Traffic::default());
        count(&metrics, "ok");
        assert_eq!(traffic.take(metrics.totals(), at(10_500)), None, "when that was decided, nobody knows");
        (0..3).for_each(|_| count(&metrics, "ok"));
        count(&metrics, "denied");
        let p99 = Some(Duration::from_micros(2));
        let first = Second { at: at(10_000), decisions: 4, denied: 1, failed: 0, p99 };
        assert_eq!(traffic.take(metrics.totals(), at(11_003)), Some(first));
        count(&metrics, "store_away");
        // Woken twice in one second.
        assert_eq!(traffic.take(metrics.totals(), at(11_999)), None);
        let second = Second { at: at(11_000), decisions: 1, denied: 0, failed: 1, p99 };
        assert_eq!(traffic.take(metrics.totals(), at(12_001)), Some(second));
        let quiet = Second { at: at(19_000), decisions: 0, denied: 0, failed: 0, p99: None };
        assert_eq!(traffic.take(metrics.totals(), at(20_000)), Some(quiet));
        assert_eq!(traffic.seconds(), [first, second, quiet]);
    }

    #[test]
    fn only_the_last_seconds_are_kept() {
        let (metrics, traffic) = (Metrics::default(), Traffic::default());
        for second in 1..1000 {
            traffic.take(metrics.totals(), at(second * 1000));
        }
        let seconds = traffic.seconds();
        assert_eq!((seconds.len(), seconds[0].at), (SECONDS_MAX, at(1000 * (998 - SECONDS_MAX as u64 + 1))));
    }
}
