//! The page, in a real Chromium, of a large fleet: what it draws does not grow with it, and whatever there is can be found.

use std::time::Duration;

use tierflow::snapshot::resource::ResourceType;

use crate::ads::{Sotw, first};
use crate::harness::{eventually, eventually_within};
use crate::page::Files;
use crate::store::document;

const TENANTS: usize = 100_000;
const ENVOYS: usize = 1000;
const APIS: usize = 1100;

/// Elements of a view that shows all that it ever shows at once.
const ELEMENTS_MAX: u64 = 2500;
const ELEMENTS: &str = "return document.querySelectorAll('*').length";
const ROWS: &str = "return document.querySelectorAll('main tbody tr').length";
const SEARCH: &str = "main input[type=search]";
const START: Duration = Duration::from_secs(240);

#[tokio::test]
async fn a_hundred_thousand_tenants_and_a_thousand_envoys_are_pages_and_each_can_be_found() {
    let tenants = (0..TENANTS).map(|n| document("Tenant", &format!("t{n:05}"), "{plan: gold}"));
    let apis = (0..APIS).map(|n| {
        let fields =
            format!("{{gateway: edge, match: {{path: /a{n:04}}}, service: upstream, limits: [{{rate: 7/h}}]}}");
        document("Api", &format!("a{n:04}"), &fields)
    });
    let files = Files::serve("").await;
    let documents = tenants.chain(apis).collect::<Vec<_>>().join("\n---\n");
    std::fs::write(files.folder.path().join("policies/many.yaml"), documents).unwrap();
    eventually_within(START, "all is served", async || {
        (files.tierflow.status().await["documents"].as_u64()? > TENANTS as u64).then_some(())
    })
    .await;
    let mut envoys = Vec::new();
    for number in 0..ENVOYS {
        let envoy = Sotw::open(&files.tierflow).await;
        envoy.say(first(&format!("n{number:04}"), ResourceType::Cluster, &[])).await;
        envoys.push(envoy);
    }
    eventually("all Envoys are known", async || {
        (files.tierflow.status().await["nodes"]["connected"] == ENVOYS).then_some(())
    })
    .await;

    let visit = files.visit().await;
    visit.run("new PerformanceObserver((list) => { window.longest = Math.max(window.longest ?? 0, ...list.getEntries().map((task) => task.duration)) }).observe({ type: 'longtask', buffered: true })").await;
    for view in crate::web::VIEWS {
        visit.open(view).await;
        let elements = visit.run(ELEMENTS).await.as_u64().unwrap();
        assert!(elements < ELEMENTS_MAX, "{view}: {elements} elements");
    }
    let finds = async |view: &str, typed: &str, found: &str| {
        visit.open(view).await;
        visit.fill(SEARCH, typed).await;
        visit.sees(found).await;
        eventually("it is the only one", async || (visit.run(ROWS).await == 1).then_some(())).await;
    };
    finds("envoys", "n0999", "n0999").await;
    finds("tenants", "t99999", "t99999").await;
    finds("policies?kind=Tenant", "T77777", "t77777").await;
    // Also beyond the first thousand counters, a limit has what is used of it.
    finds("limits", "a1099", "0 of 7").await;

    // What is cut is said.
    visit.open("overview").await;
    visit.press(&["/"]).await;
    visit.fill("#finder input", "t9").await;
    let told = async || visit.text_of("#finder").await;
    eventually("there are more", async || told().await.contains("There are more").then_some(())).await;
    visit.fill("#finder input", "t99998").await;
    eventually("it is found", async || {
        let told = told().await;
        (told.contains("t99998") && !told.contains("There are more")).then_some(())
    })
    .await;
    println!("the longest task: {} ms", visit.run("return window.longest ?? 0").await);
    visit.has_no_errors().await;
}
