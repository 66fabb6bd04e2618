//! The debounce between what is served and what is offered to Envoys: a lone change at once, a burst of changes as few.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::live::Live;
use crate::nodes::Nodes;
use crate::rollout::Rollout;

/// Changes that follow each other within this are one...
const QUIET: Duration = Duration::from_millis(10);
/// ...but no Envoy waits for longer than this.
const DELAY_MAX: Duration = Duration::from_millis(100);

/// Offers every generation that is served, for as long as Tierflow runs.
pub(super) async fn follow(live: Arc<Live>, rollout: Arc<Rollout>, nodes: Arc<Nodes>, shutdown: CancellationToken) {
    let changes = live.subscribe();
    offer(&live, &rollout, &nodes);
    shutdown.run_until_cancelled(paced(changes, || offer(&live, &rollout, &nodes))).await;
}

pub(super) fn offer(live: &Live, rollout: &Rollout, nodes: &Nodes) {
    let served = live.served();
    let read_at = served.read_at;
    rollout.advance(served, |generation, reached| nodes.offered(generation, read_at, reached));
}

async fn paced(mut changes: watch::Receiver<u64>, mut offer: impl FnMut()) {
    let mut last = Instant::now().checked_sub(QUIET).unwrap_or_else(Instant::now);
    while changes.changed().await.is_ok() {
        let first = Instant::now();
        let is_lone = last + QUIET <= first;
        if !is_lone {
            debounce(&mut changes, first + DELAY_MAX).await;
        }
        offer();
        last = Instant::now();
    }
}

/// Waits until nothing has changed for a while, or the time is over.
async fn debounce(changes: &mut watch::Receiver<u64>, latest: Instant) {
    loop {
        let quiet_at = (Instant::now() + QUIET).min(latest);
        match timeout_at(quiet_at, changes.changed()).await {
            Ok(Ok(())) if Instant::now() < latest => {}
            // Nobody will change anything any more; what changed last still counts.
            Ok(Err(_)) => return sleep_until(quiet_at).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The moments of the offers, in milliseconds, if changes come at these.
    async fn offers(changes: impl IntoIterator<Item = u64>) -> Vec<u128> {
        let start = Instant::now();
        let sender = watch::Sender::new(0);
        let times = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&times);
        let task =
            tokio::spawn(paced(sender.subscribe(), move || noted.lock().unwrap().push(start.elapsed().as_millis())));
        for at in changes {
            sleep_until(start + Duration::from_millis(at)).await;
            sender.send_modify(|number| *number += 1);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(task);
        std::mem::take(&mut *times.lock().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_change_is_offered_at_once() {
        assert_eq!(offers([50, 200, 211]).await, [50, 200, 211]);
    }

    #[tokio::test(start_paused = true)]
    async fn xds_rule_91_a_burst_is_offered_as_its_first_and_its_last_change() {
        assert_eq!(offers(50..80).await, [50, 89]);
    }

    #[tokio::test(start_paused = true)]
    async fn xds_rule_91_no_change_waits_for_longer_than_a_tenth_of_a_second() {
        assert_eq!(offers((50..450).step_by(2)).await, [50, 152, 254, 356, 458]);
    }
}
