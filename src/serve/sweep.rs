//! The sweep through the counters: what counts nothing any more is dropped, at a pace that leaves requests their locks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::counters::memory::Memory;

/// The pause between two steps.
const PAUSE: Duration = Duration::from_millis(50);
/// The steps of a round, however many counters there are: some ten seconds, and the time of the work itself.
const STEPS: usize = 256;

pub(super) async fn sweep(counters: &Memory, clock: Clock, shutdown: CancellationToken) {
    let rounds = async {
        loop {
            let sweeps = counters.sweeps_per_round().div_ceil(STEPS);
            for _ in 0..STEPS {
                tokio::time::sleep(PAUSE).await;
                for _ in 0..sweeps {
                    counters.sweep(clock.now());
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(rounds).await;
}
