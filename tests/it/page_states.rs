//! The page, in a real Chromium, while something changes under it: the stream of events fails and comes back, Envoys are held
//! and go, documents come and go.

use std::net::SocketAddr;

use serde_json::json;
use tierflow::snapshot::resource::ResourceType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::ads::{Sotw, first};
use crate::harness::{Setup, Tierflow, World, any_addresses, eventually};
use crate::page::Files;
use crate::page_changes::{FIELD, Shop};
use crate::tls::{Authority, in_days};
use crate::web::{VIEWS, Visit};

/// Whoever follows the events, as a browser does.
async fn follower(admin: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(format!("GET /v1/events HTTP/1.1\r\nhost: {admin}\r\n\r\n").as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn without_a_stream_of_events_the_page_asks_again_and_again_until_there_is_one() {
    let files = Files::serve("").await;
    let mut followers = Vec::new();
    for _ in 0..64 {
        followers.push(follower(files.tierflow.admin()).await);
    }
    let visit = files.visit().await;
    let connection = async |word: &str| {
        eventually(word, async || visit.text_of(".connection p").await.contains(word).then_some(())).await;
    };
    connection("Every 2 s").await;
    // Of the seconds that it asked for.
    eventually("traffic is told", async || visit.text_of(".numbers dd").await.starts_with('0').then_some(())).await;
    drop(followers);
    connection("Live").await;
}

#[tokio::test]
async fn an_envoy_that_is_held_says_why_and_one_that_left_is_gone() {
    const API: &str = "{kind: Api, name: pay, gateway: edge, service: upstream, match: {path: /pay}}";
    let world = World::start(Setup { policies: API, ..Default::default() }).await;
    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    // The address is of a network that is kept for documentation, so no machine has it.
    world.save("gateway.yaml", &gateway.replace("listen: 127.0.0.1:", "listen: 192.0.2.1:"));
    eventually("it is held", async || world.tierflow.status().await["held"].get(0).cloned()).await;
    let mut healthy = Sotw::open(&world.tierflow).await;
    healthy.say(first("edge-2", ResourceType::Listener, &[])).await;
    let good = healthy.take(&[]).await.version_info;
    let acknowledging = tokio::spawn(async move {
        // It is offered again now and then, and who took what the other refuses would end the hold.
        while let Ok(response) = healthy.hear().await {
            if response.version_info == good {
                healthy.ack(&response, &[]).await;
            }
        }
    });
    let states = async || world.tierflow.status().await["nodes"]["states"].clone();
    eventually("one is held", async || (states().await["HELD"] == 1).then_some(())).await;

    let visit = Visit::start(world.folder.path(), &world.tierflow).await;
    visit.sees("The rollout to gateway edge is held: edge-1 refused it").await;
    visit.open("envoys").await;
    visit.choose("State", "HELD").await;
    let is_alone = async |state: &str| {
        eventually(state, async || {
            let badges = "return [...document.querySelectorAll('main tbody .badge')].map((badge) => badge.innerText)";
            (visit.run(badges).await == json!([state]) && visit.text().await.contains("edge-2")).then_some(())
        })
        .await;
    };
    is_alone("HELD").await;
    visit.click("edge-2").await;
    visit.sees_heading("edge-2").await;
    visit.sees("another Envoy of its gateway refused a part of what is newer").await;

    acknowledging.abort();
    visit.open("envoys").await;
    visit.choose("State", "GONE").await;
    is_alone("GONE").await;
    visit.click("edge-2").await;
    visit.sees("its last stream ended").await;
    visit.has_no_errors().await;
}

#[tokio::test]
async fn a_document_is_made_and_deleted_and_both_are_shown_before() {
    let shop = Shop::open().await;
    let visit = shop.visit().await;
    let status = async || shop.tierflow.ask("/v1/policies/Tenant/globex").await.status.as_u16();
    visit.open("policies?kind=Tenant").await;
    visit.click("New policy").await;
    visit.sees_heading("New Tenant").await;
    visit.fill(FIELD, "kind: Tenant\nname: globex\nplan: gold\n").await;
    visit.click("Show what changes").await;
    visit.sees("What changes").await;
    assert_eq!(status().await, 404, "it is shown before it is done");
    visit.click("Apply").await;
    visit.sees("Applied, revision").await;
    assert_eq!(status().await, 200);

    // Made once more, it is another's by now.
    visit.open("policies").await;
    visit.open("policies/new?kind=Tenant&name=globex").await;
    visit.fill(FIELD, "kind: Tenant\nname: globex\nplan: standard\n").await;
    visit.click("Show what changes").await;
    visit.click("Apply").await;
    visit.sees("Somebody else changed it meanwhile").await;
    visit.sees("The document is there already").await;

    visit.open("policies/Tenant/globex/edit").await;
    visit.click("Delete…").await;
    visit.sees("Delete Tenant globex?").await;
    assert_eq!(status().await, 200, "it is shown before it is done");
    visit.click("Delete").await;
    visit.sees("Deleted, revision").await;
    assert_eq!(status().await, 404);
    visit.open("policies?kind=Tenant").await;
    visit.sees("hooli").await;
    assert!(!visit.text().await.contains("globex"));
    visit.open("audit").await;
    visit.sees("delete Tenant globex").await;
    visit.has_no_errors().await;
}

#[tokio::test]
async fn the_page_goes_on_after_a_restart_under_it() {
    let mut files = Files::serve("").await;
    let visit = files.visit().await;
    let connection = async || visit.text_of(".connection p").await;
    eventually("it is live", async || connection().await.contains("Live").then_some(())).await;
    let addresses = files.tierflow.addresses();
    files.tierflow.kill();
    visit.sees("Tierflow does not answer. What is shown is what it said last.").await;
    visit.open("tenants").await;
    let policies = files.folder.path().join("policies");
    files.tierflow = Tierflow::start_on(&policies, addresses).await;
    eventually("it is live again", async || connection().await.contains("Live").then_some(())).await;
    visit.sees("hooli").await;
    assert!(!visit.text().await.contains("does not answer"));
    visit.has_no_errors().await;
}

/// Nothing is served yet, and nothing may be known of what will be.
#[tokio::test]
async fn every_view_of_an_empty_folder_says_that_there_is_nothing_yet() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let tierflow = Tierflow::start(&policies).await;
    let visit = Visit::start(folder.path(), &tierflow).await;
    for view in
        VIEWS.into_iter().chain(["tenants/acme", "limits/edge/pay", "policies/Plan/gold", "policies/new?kind=Plan"])
    {
        visit.open(view).await;
        assert_ne!(visit.text_of("main h1").await, "", "{view}");
    }
    visit.open("policies").await;
    visit.sees("no policy set is loaded yet").await;
    visit.has_no_errors().await;
}

/// Those of a store that is never there, and of a gateway for certificates that nobody is asked for.
#[tokio::test]
async fn certificates_and_those_who_are_denied_for_want_of_one_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::create_dir(folder.join("policies")).unwrap();
    let gateway = "{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', identities: [spiffe://shop/edge]}";
    std::fs::write(folder.join("policies/gateway.yaml"), gateway).unwrap();
    std::fs::write(folder.join("ca.crt"), Authority::until(in_days(10)).pem()).unwrap();
    let source = vec![format!("--policies={}/policies", folder.display())];
    let flags = ["--counters=rediss://127.0.0.1:1".to_owned(), format!("--counters-ca={}/ca.crt", folder.display())];
    let tierflow = Tierflow::serve(&folder.join("tierflow.log"), source, &flags, any_addresses()).await;
    let mut node = Sotw::open(&tierflow).await;
    node.say(first("edge-1", ResourceType::Listener, &[])).await;
    assert!(node.hear().await.is_err());
    let visit = Visit::start(folder, &tierflow).await;
    visit.sees("The certificate of --counters-ca ends in").await;
    visit.sees("No Envoy can have edge").await;
    let rows = async |table: &str| {
        let rows = format!(
            "return [...document.querySelectorAll('main table[aria-label=\"{table}\"] tbody tr')].map((row) => row.innerText)"
        );
        visit.run(&rows).await
    };
    let is_row = async |table: &str, words: &[&str]| {
        let rows =
            eventually(table, async || rows(table).await.as_array().filter(|rows| rows.len() == 1).cloned()).await;
        let row = rows[0].as_str().unwrap().to_owned();
        assert!(words.iter().all(|word| row.contains(word)), "{row}");
    };
    is_row("Certificates", &["--counters-ca", "CN=an authority of tests", "days", "expiring"]).await;
    is_row("Denied identities", &["edge-1", "xds", "edge is for some certificates only", "1"]).await;
    visit.has_no_errors().await;
}
