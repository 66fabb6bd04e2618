//! The promises that the limiter makes, attacked from outside.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{Setup, World};
use crate::kit::client::Client;

fn api(rate: &str) -> String {
    format!(
        "kind: Api
name: sale
gateway: edge
match: {{ path: /sale }}
service: upstream
limits: [{{ rate: {rate} }}]
"
    )
}

/// A request that passed. It was decided at some moment between the two.
struct Admitted {
    sent: Instant,
    answered: Instant,
}

/// So many requests at once, and those of them that passed.
async fn burst(url: &str, client: &Client, count: usize) -> Vec<Admitted> {
    let mut requests = JoinSet::new();
    for _ in 0..count {
        let (url, client) = (url.to_owned(), client.clone());
        requests.spawn(async move {
            let sent = Instant::now();
            let status = client.get(&url).await.unwrap().status;
            (status == 200).then_some(Admitted { sent, answered: Instant::now() })
        });
    }
    requests.join_all().await.into_iter().flatten().collect()
}

/// Bursts 0.7 windows apart meet the window at every tenth of it. Windows that begin at fixed times, or two that are
/// weighed against each other, let two bursts through within one length.
#[tokio::test]
async fn no_interval_of_the_windows_length_holds_more_than_the_limit() {
    const LIMIT: usize = 20;
    const WINDOW: Duration = Duration::from_secs(1);
    let world = World::start(Setup { policies: &api("20/s"), ..Default::default() }).await;
    let (url, client) = (world.edge.url("/sale"), Client::default());
    let mut bursts = tokio::time::interval(WINDOW * 7 / 10);
    let mut admitted = Vec::new();
    for _ in 0..10 {
        bursts.tick().await;
        admitted.extend(burst(&url, &client, LIMIT).await);
    }
    // Only what was certainly decided within the interval counts: this cannot accuse wrongly.
    let within_window_of = |first: &Admitted| {
        let end = first.sent + WINDOW;
        admitted.iter().filter(|other| other.sent >= first.sent && other.answered < end).count()
    };
    let most = admitted.iter().map(within_window_of).max();
    assert!(most <= Some(LIMIT), "{most:?} passed within one window");
    assert!(admitted.len() >= 3 * LIMIT, "only {} passed in seven windows", admitted.len());
}

#[tokio::test]
async fn many_clients_at_once_get_exactly_the_limit() {
    let world = World::start(Setup { policies: &api("100/h"), ..Default::default() }).await;
    let mut clients = JoinSet::new();
    for _ in 0..64 {
        let url = world.edge.url("/sale");
        clients.spawn(async move {
            let client = Client::default();
            let mut statuses = Vec::new();
            for _ in 0..3 {
                statuses.push(client.get(&url).await.unwrap().status.as_u16());
            }
            statuses
        });
    }
    let statuses = clients.join_all().await.concat();
    let count = |status| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((count(200), count(429)), (100, 92));
    assert_eq!(world.upstream.requests(), 100);
}

/// The API has room for four tenants with ten each. One of them asks for ten times its share, first alone and then
/// beside the others: were its denied requests charged to the API, the others would find it used up.
#[tokio::test]
async fn a_denied_request_burns_nobodys_quota() {
    let plan = "---\nkind: Plan\nname: standard\nlimits: [{ rate: 10/h }]\n";
    let policies = api("40/h") + plan;
    let gateway = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
    let world = World::start(Setup { policies: &policies, gateway, ..Default::default() }).await;
    let url = world.edge.url("/sale");
    assert_eq!(passed(url.clone(), "noisy", 50).await, ("noisy", 10));
    let mut tenants = JoinSet::new();
    for (tenant, requests) in [("noisy", 50), ("a", 10), ("b", 10), ("c", 10)] {
        tenants.spawn(passed(url.clone(), tenant, requests));
    }
    let mut passed = tenants.join_all().await;
    passed.sort();
    assert_eq!(passed, [("a", 10), ("b", 10), ("c", 10), ("noisy", 0)]);
    // Exactly what passed was charged: the API is used up now, and not before.
    let answer = world.edge.send("GET", "/sale", &[("x-tenant-id", "d")]).await;
    assert!(answer.status == 429 && answer.text().contains(r#""tier":"api""#), "{answer:?}");
}

/// How many of a tenant's requests pass, one after the other.
async fn passed(url: String, tenant: &'static str, requests: u32) -> (&'static str, u32) {
    let client = Client::default();
    let mut passed = 0;
    for _ in 0..requests {
        let answer = client.send("GET", &url, &[("x-tenant-id", tenant)]).await.unwrap();
        passed += u32::from(answer.status == 200);
    }
    (tenant, passed)
}
