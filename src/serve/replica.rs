//! This replica among those that share etcd: registered under a lease, which also proves its writes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Shared, advertised};
use crate::config::Config;
use crate::editor::Editor;
use crate::etcd::lease::{self, Claim, Wanted};
use crate::etcd::link::Link;
use crate::etcd::{EtcdSettings, Section};
use crate::live::Live;
use crate::source::board::Replica;
use crate::version::VERSION;

/// Time that a replica which is gone is taken for alive.
const TTL: Duration = Duration::from_secs(10);
/// Pause between two times that it tells what it serves.
const TELLING_PAUSE: Duration = Duration::from_secs(1);
/// The time between two looks at the older forms that its Envoys have: these go when an Envoy acknowledges something.
const FORMS_PAUSE: Duration = Duration::from_secs(60);
/// The most of them that are told: an Envoy's value in etcd is bounded.
const FORMS_MAX: usize = 1024;

/// The two sides of it: who changes documents, and the task that keeps it registered so that it may.
pub(super) fn join(
    config: &Config,
    settings: &EtcdSettings,
    shared: &Shared,
) -> (Editor, impl Future<Output = Result<(), String>> + Send + use<>) {
    // A connection's task belongs to the runtime that opened it: what keeps the lease waits for nobody's edits.
    let [link, link_of_lease] = [(), ()].map(|()| Link::new(settings.clone()));
    let replica = Replica {
        id: config.replica_id.clone().unwrap_or_else(made_id),
        version: VERSION.to_owned(),
        rls: advertised(config, shared.listeners.rls).iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    let key = format!("{}{}", Section::Servers.prefix(&settings.prefix), replica.id);
    let (claim, holding) = watch::channel(None);
    let live = Arc::clone(&shared.live);
    let editor = Editor::new(link, Arc::clone(&live), holding, key.clone());
    let wanted = Wanted { key, ttl: TTL, takes_over: false };
    (editor, register(link_of_lease, wanted, replica, live, claim, shared.leaving.clone()))
}

/// A name for a replica that was given none.
fn made_id() -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    let host = if host.is_empty() { "tierflow" } else { &host };
    format!("{host}-{:08x}", fastrand::u32(..))
}

/// Registered until it leaves, with what is served at the time.
async fn register(
    link: Link,
    wanted: Wanted,
    replica: Replica,
    live: Arc<Live>,
    claim: watch::Sender<Option<Claim>>,
    leaving: CancellationToken,
) -> Result<(), String> {
    let (values, wanted_values) = watch::channel(value(&replica, &live));
    let telling = async {
        let mut generations = live.subscribe();
        while !matches!(timeout(FORMS_PAUSE, generations.changed()).await, Ok(Err(_))) {
            values.send_if_modified(|told| {
                let now = value(&replica, &live);
                let is_new = *told != now;
                *told = now;
                is_new
            });
            sleep(TELLING_PAUSE).await;
        }
    };
    tokio::select! {
        () = lease::claim(link, wanted, wanted_values, claim, leaving) => {}
        () = telling => {}
    }
    Ok(())
}

fn value(replica: &Replica, live: &Live) -> String {
    let (generation, revision) = live.generation().map_or((0, 0), |served| (served.number, served.revision.0));
    let mut forms = live.forms.had();
    forms.truncate(FORMS_MAX);
    let told = Replica { generation, revision, forms, ..replica.clone() };
    serde_json::to_string(&told).unwrap_or_default()
}
