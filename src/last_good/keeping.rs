//! Whether what is served is on disk: written by whoever keeps it, read by whoever tells of it.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Timestamp;

/// What is not on disk within this time is trouble: the largest sets take a second.
pub const LAG_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Keeping(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when something has been served that is not known to be on disk.
    since: Option<Timestamp>,
    failure: Option<String>,
}

/// As of a moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// For how long what is served has not been on disk.
    pub lag: Duration,
    pub trouble: Option<String>,
}

impl Keeping {
    /// Something is to be kept, or it is looked at whether it still is.
    pub fn begins(&self, now: Timestamp) {
        self.0.lock().since.get_or_insert(now);
    }

    /// What was begun is on disk.
    pub fn succeeded(&self) {
        *self.0.lock() = State::default();
    }

    /// What was begun is not on disk. True where this was not known.
    pub fn failed(&self, why: String) -> bool {
        self.0.lock().failure.replace(why).is_none()
    }

    pub fn report(&self, now: Timestamp) -> Report {
        let state = self.0.lock();
        let lag = state.since.map(|since| now.since(since)).unwrap_or_default();
        let hangs = || (lag > LAG_MAX).then(|| format!("it has been written for {} s", lag.as_secs()));
        Report { lag, trouble: state.failure.clone().or_else(hangs) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_trouble_at_once_and_what_hangs_is_after_a_while() {
        let at = |seconds: u64| Timestamp::from_nanos(seconds * 1_000_000_000);
        let keeping = Keeping::default();
        let told = |seconds| {
            let Report { lag, trouble } = keeping.report(at(seconds));
            (lag.as_secs(), trouble)
        };
        assert_eq!(told(100), (0, None), "there is nothing to keep");
        keeping.begins(at(100));
        assert_eq!(told(110), (10, None));
        assert_eq!(told(111), (11, Some("it has been written for 11 s".to_owned())));
        assert!(keeping.failed("full".to_owned()));
        keeping.begins(at(115));
        assert!(!keeping.failed("full".to_owned()), "it is known");
        assert_eq!(told(116), (16, Some("full".to_owned())), "since it was to be kept first");
        keeping.succeeded();
        assert_eq!(told(117), (0, None));
    }
}
