//! What a replica is busy with, or waits for a disk with, keeps neither its probes nor its lease in etcd waiting.

use tokio::task::JoinSet;

use crate::audit::build_hung_disk;
use crate::harness::{Tierflow, any_addresses, eventually};
use crate::kit::client::Client;
use crate::store::{Store, document, key};

/// Adopted by a debug build within seconds.
const TENANTS: usize = 20_000;
/// Answers while they are adopted: hundreds, where nothing is in the way.
const ANSWERS_MIN: usize = 10;
/// More than the admin API has threads.
const CHANGES: usize = 4;

async fn tenants(store: &Store) {
    let tenant = |n: usize| (key("Tenant", &format!("t{n}")), document("Tenant", &format!("t{n}"), "{plan: standard}"));
    let all: Vec<_> = (0..TENANTS).map(tenant).collect();
    for some in all.chunks(100) {
        store.put_all(some).await;
    }
}

/// Asks for a change, which waits for the audit log.
fn change(changes: &mut JoinSet<()>, tierflow: &Tierflow) {
    let url = format!("http://{}/v1/policies/Plan/standard", tierflow.admin());
    changes.spawn(async move {
        let plan = document("Plan", "standard", "{limits: [{rate: 1/h}]}");
        let _ = Client::default().send_body("PUT", &url, &[("x-config-base-version", "1")], &plan).await;
    });
}

async fn probe(tierflow: &Tierflow) {
    assert_eq!(tierflow.ask("/healthz").await.status, 200);
}

/// The lease of the only replica, and how many seconds it has left.
async fn lease(store: &Store) -> Option<(i64, i64)> {
    let options = etcd_client::GetOptions::new().with_prefix();
    let servers = store.client.clone().get("/tierflow/servers/", Some(options)).await.ok()?;
    let lease = servers.kvs().first()?.lease();
    let left = store.client.clone().lease_client().time_to_live(lease, None).await.ok()?;
    Some((lease, left.ttl()))
}

#[tokio::test]
async fn whatever_is_under_way_probes_are_answered_and_the_lease_is_kept() {
    let store = Store::start_shop().await;
    tenants(&store).await;
    let [library, hung] = ["hung_disk.so", "hung"].map(|name| store.path(name));
    build_hung_disk(&library);
    std::fs::write(&hung, "").unwrap();
    let env = [("LD_PRELOAD", library.as_path()), ("HUNG_DISK", &hung)];
    let flags = [format!("--audit-log={}", store.path("audit").display())];
    let log = store.path("tierflow.log");
    let tierflow = Tierflow::serve_with_env(&env, &log, store.endpoint(), &flags, any_addresses()).await;
    let mut changes = JoinSet::new();
    change(&mut changes, &tierflow);

    // The set is known and not served yet: it is being adopted.
    let mut answers = 0;
    eventually("all of it is served", async || {
        probe(&tierflow).await;
        let status = tierflow.status().await;
        let is_listed = status["source"]["compared_seconds_ago"].is_number();
        answers += usize::from(is_listed && status["generation"].is_null());
        (status["documents"] == 4 + TENANTS).then_some(())
    })
    .await;
    assert!(answers >= ANSWERS_MIN, "{answers} answers while {TENANTS} tenants were adopted");

    let (held, _) = eventually("it has a lease", async || lease(&store).await).await;
    for _ in 1..CHANGES {
        change(&mut changes, &tierflow);
    }
    let mut lowest = i64::MAX;
    eventually("the lease is renewed while changes wait", async || {
        probe(&tierflow).await;
        while changes.try_join_next().is_some() {
            change(&mut changes, &tierflow);
        }
        let (lease, left) = lease(&store).await?;
        assert_eq!(lease, held);
        lowest = lowest.min(left);
        (left > lowest).then_some(())
    })
    .await;
}
