//! The only place that reads a clock. Everything else takes a [`Timestamp`] as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since the Unix epoch (good until the year 2554).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    #[must_use]
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    #[must_use]
    pub const fn minus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_sub(nanos))
    }

    /// The nanoseconds from `earlier` to here; 0 where `earlier` is not earlier.
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.plus_nanos(saturating_nanos(duration))
    }
}

/// Reads wall time once and counts on with the monotonic clock. So a window that is aligned to UTC is
/// aligned to UTC, and yet no step of the wall clock (an operator, NTP, a leap second) hands out a refund.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    wall_at_start: Timestamp,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "this is the module that the ban on clock reads points to")]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), wall_at_start: Timestamp(saturating_nanos(wall)) }
    }

    pub fn now(&self) -> Timestamp {
        self.wall_at_start.plus_nanos(saturating_nanos(self.started.elapsed()))
    }
}

/// The wall clock as it stands now, whoever set it: what the ends of certificates are compared with.
#[expect(clippy::disallowed_methods, reason = "this is the module that the ban on clock reads points to")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// One that starts now.
impl Default for Clock {
    fn default() -> Self {
        Self::start()
    }
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_runs_backwards() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert_eq!(Timestamp::from_nanos(3).nanos_since(Timestamp::from_nanos(5)), 0);
    }
}
