//! Many requests at once, and what became of them.

use std::fmt;
use std::time::Duration;

use tierflow::clock::Timestamp;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::shop::Shop;

/// What became of the requests of one tenant.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) tally: Tally,
    /// When each request that passed was sent and when it was answered. It was decided in between.
    pub(super) passed: Vec<(Timestamp, Timestamp)>,
}

/// Sends at a steady pace, whether answers come or not.
pub(super) async fn send(shop: &Shop, tenant: &'static str, per_second: u32, seconds: u32) -> Load {
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut answers = JoinSet::new();
    for _ in 0..per_second * seconds {
        ticks.tick().await;
        let (customer, clock) = (shop.customer.clone(), shop.clock);
        answers.spawn(async move {
            let sent_at = clock.now();
            let answer = customer.ask("POST", "/order/create", Some(tenant)).await;
            (answer.map_or(0, |answer| answer.status.as_u16()), sent_at, clock.now())
        });
    }
    let mut load = Load::default();
    while let Some(answer) = answers.join_next().await {
        let (status, sent_at, answered_at) = answer.unwrap_or_default();
        load.tally.count(status);
        if status == 200 {
            load.passed.push((sent_at, answered_at));
        }
    }
    load
}

impl Load {
    /// The most requests that passed within one second, wherever it begins.
    pub(super) fn busiest_second(&self) -> usize {
        let within_second = |start: Timestamp| {
            let end = start.plus_nanos(1_000_000_000);
            self.passed.iter().filter(|(sent_at, answered_at)| *sent_at >= start && *answered_at < end).count()
        };
        self.passed.iter().map(|(sent_at, _)| within_second(*sent_at)).max().unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: u64,
    pub(super) denied: u64,
    /// Another answer, or none.
    pub(super) other: u64,
}

impl Tally {
    pub(super) fn count(&mut self, status: u16) {
        match status {
            200 => self.passed += 1,
            429 => self.denied += 1,
            _ => self.other += 1,
        }
    }

    pub(super) fn sent(self) -> u64 {
        self.passed + self.denied + self.other
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sent, {} x 200, {} x 429", self.sent(), self.passed, self.denied)?;
        if self.other > 0 { write!(f, ", {} x something else", self.other) } else { Ok(()) }
    }
}
