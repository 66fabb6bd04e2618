//! Ports all of whose places are taken, so that connections are sent away for others: noted by who takes connections in, read by
//! who tells of it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;

use crate::clock::{Clock, Timestamp};
use crate::metrics::{Metrics, PortLabels};

/// How long it is told of after it was so last, and the shortest time from one line of the log to the next.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// Of one port.
#[derive(Debug)]
pub struct Crowding {
    pub port: &'static str,
    clock: Clock,
    sent_away: Counter,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    full_at: Option<Timestamp>,
    logged_at: Option<Timestamp>,
}

impl Crowding {
    /// Of the ports for xDS, for decisions and of the admin API.
    pub fn of_ports(metrics: &Metrics, clock: Clock) -> [Arc<Self>; 3] {
        ["xds", "rls", "admin"].map(|port| {
            let sent_away = metrics.connections_sent_away.get_or_create_owned(&PortLabels { port });
            Arc::new(Self { port, clock, sent_away, state: Mutex::default() })
        })
    }

    /// All of so many places are taken, and somebody waits for one.
    pub fn is_full(&self, places: usize) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.full_at = Some(now);
        if state.logged_at.is_none_or(|logged_at| now.since(logged_at) >= TOLD_FOR) {
            state.logged_at = Some(now);
            tracing::warn!(
                port = self.port,
                places,
                "all places of a port are taken: connections that ask for nothing are sent away for others"
            );
        }
    }

    /// A connection was closed for another one.
    pub fn sent_away(&self) {
        self.sent_away.inc();
    }

    /// Whether all places were taken within the last minute.
    pub fn was_full(&self, now: Timestamp) -> bool {
        self.state.lock().full_at.is_some_and(|full_at| now.since(full_at) < TOLD_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_full_is_told_of_for_a_minute() {
        let clock = Clock::start();
        let [xds, rls, _admin] = Crowding::of_ports(&Metrics::default(), clock);
        assert!(!rls.was_full(clock.now()));
        rls.is_full(7);
        let now = clock.now();
        assert!(rls.was_full(now) && !xds.was_full(now));
        assert!(!rls.was_full(now + TOLD_FOR));
    }
}
