//! So many a second, spread over it: whoever comes first in each second would else be all that is seen (the generic cell rate
//! algorithm, ITU-T I.371).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;

/// What may come at once, in nanoseconds' worth.
const BURST_NANOS: u64 = 100_000_000;

#[derive(Debug)]
pub(super) struct Pace {
    interval_nanos: u64,
    /// When the next one would come if all came evenly, in nanoseconds.
    next: AtomicU64,
}

impl Pace {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self { interval_nanos: 1_000_000_000 / u64::from(per_second.get()), next: AtomicU64::new(0) }
    }

    /// Takes one more, or has it left out.
    pub(super) fn takes(&self, now: Timestamp) -> bool {
        let now = now.as_nanos();
        let take = |next: u64| (next <= now + BURST_NANOS).then(|| next.max(now) + self.interval_nanos);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(per_second: u32, millis: impl Iterator<Item = u64>) -> usize {
        let pace = Pace::new(NonZeroU32::new(per_second).unwrap());
        millis.filter(|millis| pace.takes(Timestamp::from_nanos((1_000_000 + millis) * 1_000_000))).count()
    }

    #[test]
    fn a_flood_has_its_share_of_each_second_and_no_more() {
        let flood = || (0..10_000).flat_map(|millis| [millis; 5]);
        for per_second in [1, 10, 100, 1000] {
            let taken = taken(per_second, flood());
            let share = 10 * per_second as usize;
            assert!((share..=share + per_second as usize / 10 + 1).contains(&taken), "{per_second}: {taken}");
        }
        assert_eq!(taken(100, (0..1000).step_by(10)), 100, "what comes evenly is not left out");
        assert_eq!(taken(1, [0, 999, 1000].into_iter()), 2);
    }
}
