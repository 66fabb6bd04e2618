//! The pulse: at the end of each second, what was decided in it, whose requests that were, and what else has changed, is put
//! where people can see it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::events::observer::Observer;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Metrics;
use crate::top::Top;
use crate::traffic::Traffic;

pub(super) struct Pulse {
    pub(super) metrics: Arc<Metrics>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) top: Arc<Top>,
    pub(super) clock: Clock,
    pub(super) observer: Observer,
}

impl Pulse {
    /// A new generation is told at once.
    pub(super) async fn beat(
        mut self,
        mut generations: watch::Receiver<u64>,
        shutdown: CancellationToken,
    ) -> Result<(), String> {
        let beats = async {
            self.second();
            loop {
                tokio::select! {
                    () = tokio::time::sleep(to_next_second(self.clock.now())) => self.second(),
                    Ok(()) = generations.changed() => self.observer.look_at_policies(),
                }
            }
        };
        shutdown.run_until_cancelled(beats).await;
        Ok(())
    }

    fn second(&mut self) {
        let now = self.clock.now();
        self.top.collect(now);
        if let Some(second) = self.traffic.take(self.metrics.totals(), now) {
            self.observer.tell_traffic(second);
        }
        self.observer.look();
    }
}

fn to_next_second(now: Timestamp) -> Duration {
    const SECOND: u64 = 1_000_000_000;
    Duration::from_nanos(SECOND - now.as_nanos() % SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_comes_with_the_beginning_of_a_second() {
        let from = |nanos| to_next_second(Timestamp::from_nanos(nanos)).as_nanos();
        assert_eq!([from(7_000_000_000), from(7_000_000_001), from(7_999_999_999)], [1_000_000_000, 999_999_999, 1]);
    }
}
