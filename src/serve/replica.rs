//! This replica among those that share etcd: registered under a lease, which also proves its writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::etcd::Section;
use crate::etcd::lease::{self, Held, Wanted};
use crate::etcd::link::Link;
use crate::live::Live;
use crate::source::board::Replica;

/// How long a replica that is gone is taken for alive.
const TTL: Duration = Duration::from_secs(10);
/// What it serves is told at most so often.
const TELLING_PAUSE: Duration = Duration::from_secs(1);

/// What it is called if nobody says.
pub(super) fn made_id() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let host = if host.is_empty() { "tierflow" } else { &host };
    format!("{host}-{:08x}", fastrand::u32(..))
}

/// The key that a replica is registered under.
pub(super) fn key(link: &Link, id: &str) -> String {
    format!("{}{id}", Section::Servers.prefix(&link.settings().prefix))
}

/// Registered until shutdown, with what is served at the time.
pub(super) async fn register(
    link: Link,
    replica: Replica,
    live: Arc<Live>,
    held: watch::Sender<Option<Held>>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let wanted = Wanted { key: key(&link, &replica.id), ttl: TTL, takes_over: false };
    let (values, wanted_values) = watch::channel(value(&replica, &live));
    let telling = async {
        let mut generations = live.subscribe();
        while generations.changed().await.is_ok() {
            values.send_replace(value(&replica, &live));
            sleep(TELLING_PAUSE).await;
        }
    };
    tokio::select! {
        () = lease::hold(link, wanted, wanted_values, held, shutdown) => {}
        () = telling => {}
    }
    Ok(())
}

fn value(replica: &Replica, live: &Live) -> String {
    let (generation, revision) = live.generation().map_or((0, 0), |served| (served.number, served.revision.0));
    let told = Replica { generation, revision, ..replica.clone() };
    serde_json::to_string(&told).unwrap_or_default()
}
