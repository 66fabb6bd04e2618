//! The sweep through the counters: what counts nothing any more is dropped, at a pace that leaves requests their locks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// The pause between two steps.
const PAUSE: Duration = Duration::from_millis(50);
/// The steps of a round, however many counters there are: some ten seconds, and the time of the work itself.
const STEPS: usize = 256;

pub(super) async fn sweep(sweeps_per_round: impl Fn() -> usize, sweep: impl Fn(), shutdown: CancellationToken) {
    let rounds = async {
        loop {
            let sweeps = sweeps_per_round().div_ceil(STEPS);
            for _ in 0..STEPS {
                tokio::time::sleep(PAUSE).await;
                for _ in 0..sweeps {
                    sweep();
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(rounds).await;
}
