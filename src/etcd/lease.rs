//! A key that lives as long as its holder: put under a lease that is kept alive, and gone when the holder is.
//!
//! ```text
//! grant -> create the key -> every third of the lease's time: keep alive, and look at the key
//!   ^                                    | lost: another holder, a lease that ran out or was revoked
//!   +------------------------------------+
//! ```
//!
//! Versions of etcd answer that a revoked lease is kept alive (before 3.4.38). So the key is looked at each time: it is
//! claimed only while it is there, under this lease. Whoever was paused for longer than its lease finds that out by its own
//! clock before it does anything, and by the comparisons of every write after.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::failure::Failure;
use super::link::Link;

/// Between attempts to get the key: the first wait, doubled up to the longest.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// A key to be claimed.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub key: String,
    /// The time that the key outlives a holder that is gone.
    pub ttl: Duration,
    /// True to take the key, at first, from a holder that may be an earlier run of this one. Whoever claimed it once and
    /// lost it to somebody else waits until it is free: it may be the one who was taken for dead.
    pub takes_over: bool,
}

/// From whom the key may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TakesFrom {
    Anybody,
    Nobody,
    /// A life of our own that ended without giving it back.
    Lease(i64),
}

/// The proof that the key is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub lease: i64,
    /// The revision that the key was created at: another life of the key has another one.
    pub create_revision: i64,
    /// The time until which this can be relied on without asking again.
    pub until: Instant,
}

impl Claim {
    pub fn is_sure(&self) -> bool {
        Instant::now() < self.until
    }
}

/// Claims the key until shutdown, with whatever value is wanted at the time, and gives it back at the end.
/// `claim` tells whether it is claimed now.
pub async fn claim(
    link: Link,
    wanted: Wanted,
    mut values: watch::Receiver<String>,
    claim: watch::Sender<Option<Claim>>,
    shutdown: CancellationToken,
) {
    let mut failures = 0_u32;
    let mut takes_from = if wanted.takes_over { TakesFrom::Anybody } else { TakesFrom::Nobody };
    loop {
        let life = shutdown.run_until_cancelled(live(&link, &wanted, &mut takes_from, &mut values, &claim)).await;
        let last = claim.send_replace(None);
        let Some(lost) = life else {
            give_back(&link, last).await;
            return;
        };
        if let Some(last) = last {
            takes_from = TakesFrom::Lease(last.lease);
        }
        // A life that began was no failed attempt.
        failures = if last.is_some() { 0 } else { failures + 1 };
        if failures <= 1 {
            tracing::warn!(key = wanted.key, "not held in etcd: {lost}");
        }
        let longest = BACKOFF.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
        let wait = sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0));
        if shutdown.run_until_cancelled(wait).await.is_none() {
            return;
        }
    }
}

/// From the grant of a lease to its loss, and why it was lost.
async fn live(
    link: &Link,
    wanted: &Wanted,
    takes_from: &mut TakesFrom,
    values: &mut watch::Receiver<String>,
    claim: &watch::Sender<Option<Claim>>,
) -> Failure {
    let value = values.borrow_and_update().clone();
    match begin(link, wanted, takes_from, &value).await {
        Ok(life) => {
            claim.send_replace(Some(life));
            tracing::info!(key = wanted.key, lease = life.lease, "held in etcd");
            keep(link, wanted, values, claim, life).await
        }
        Err(failure) => failure,
    }
}

async fn begin(link: &Link, wanted: &Wanted, takes_from: &mut TakesFrom, value: &str) -> Result<Claim, Failure> {
    let until = Instant::now() + wanted.ttl;
    let lease = link.ask(async |connection| connection.grant(wanted.ttl).await).await?;
    let created = link.ask(async |connection| create(connection, &wanted.key, *takes_from, value, lease).await).await;
    match created {
        Ok(create_revision) => Ok(Claim { lease, create_revision, until }),
        Err(failure) => {
            if matches!(failure, Failure::Unanswered(_)) {
                // The key may have been ours, and somebody's who took us for dead since.
                *takes_from = TakesFrom::Lease(lease);
            }
            // It would run out by itself. Whether it was revoked makes no difference.
            let _ = link.ask(async |connection| connection.revoke(lease).await).await;
            Err(failure)
        }
    }
}

/// The revision that the key was created at.
async fn create(
    connection: &Connection,
    key: &str,
    takes_from: TakesFrom,
    value: &str,
    lease: i64,
) -> Result<i64, Failure> {
    let Some(other) = connection.create_leased(key, value, lease).await? else {
        let key = connection.leased(key).await?;
        let key = key.filter(|key| key.lease == lease).ok_or_else(|| Failure::lost("the key went at once"))?;
        return Ok(key.create_revision);
    };
    let may_take = match takes_from {
        TakesFrom::Anybody => true,
        TakesFrom::Nobody => false,
        TakesFrom::Lease(own) => other.lease == own,
    };
    if !may_take {
        return Err(Failure::lost("somebody else holds the key"));
    }
    let is_taken = connection.put_leased(key, value, (other.lease, other.create_revision), lease).await?;
    is_taken.then_some(other.create_revision).ok_or_else(|| Failure::lost("the key changed while it was taken over"))
}

/// Keeps the lease alive until the key is lost.
async fn keep(
    link: &Link,
    wanted: &Wanted,
    values: &mut watch::Receiver<String>,
    claim: &watch::Sender<Option<Claim>>,
    mut life: Claim,
) -> Failure {
    let third = wanted.ttl / 3;
    let mut pause = third;
    loop {
        tokio::select! {
            () = sleep(pause) => {}
            changed = values.changed() => if changed.is_err() {
                // Nobody has another value any more; the key goes on.
                sleep(pause).await;
            },
        }
        let sent_at = Instant::now();
        let value = values.borrow_and_update().clone();
        match link.ask(async |connection| renew(connection, wanted, &value, life).await).await {
            Ok(()) => {
                life.until = sent_at + wanted.ttl;
                claim.send_replace(Some(life));
                pause = third;
            }
            // Several attempts fit into what is left, each at another time than everybody else's.
            Err(Failure::Unanswered(_) | Failure::NotLetIn(_)) if Instant::now() < life.until => {
                pause = (wanted.ttl / 20).mul_f64(0.5 + fastrand::f64());
            }
            Err(failure) => return failure,
        }
    }
}

async fn renew(connection: &Connection, wanted: &Wanted, value: &str, life: Claim) -> Result<(), Failure> {
    if !connection.keep_alive(life.lease).await? {
        return Err(Failure::lost("the lease ran out"));
    }
    let key = connection.leased(&wanted.key).await?;
    let key = key.ok_or_else(|| Failure::lost("the key is gone"))?;
    if (key.lease, key.create_revision) != (life.lease, life.create_revision) {
        return Err(Failure::lost("somebody else holds the key"));
    }
    let fence = (life.lease, life.create_revision);
    if key.value != value.as_bytes() && !connection.put_leased(&wanted.key, value, fence, life.lease).await? {
        return Err(Failure::lost("somebody else holds the key"));
    }
    Ok(())
}

async fn give_back(link: &Link, claim: Option<Claim>) {
    let Some(Claim { lease, .. }) = claim else { return };
    if let Err(failure) = link.ask(async |connection| connection.revoke(lease).await).await {
        tracing::warn!("the lease could not be given back, and runs out: {failure}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_is_not_relied_on_for_longer_than_its_lease() {
        let claim = |until| Claim { lease: 1, create_revision: 1, until };
        assert!(claim(Instant::now() + Duration::from_secs(3600)).is_sure());
        assert!(!claim(Instant::now()).is_sure());
    }
}
