//! Pictures of the page for docs/, drawn anew on demand, with five minutes of traffic in them:
//!
//! ```text
//! cargo test --test it -- --ignored pictures
//! ```

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::harness::{Edge, eventually, eventually_within};
use crate::kit::tools;
use crate::page_changes::Shop;
use crate::store::key;
use crate::web::Visit;

/// What the shop has besides its first documents.
const MORE: [(&str, &str, &str); 8] = [
    (
        "Plan",
        "standard",
        "kind: Plan\nname: standard\nlimits:\n  - rate: 900/minute                    # each tenant, over all APIs of the gateway\n  - rate: 30/s\n",
    ),
    ("Plan", "gold", "kind: Plan\nname: gold\nlimits:\n  - rate: 6000/minute\n  - rate: 200/s\n"),
    ("Plan", "trial", "kind: Plan\nname: trial\nlimits:\n  - rate: 60/minute\n"),
    (
        "Api",
        "order-create",
        "kind: Api\nname: order-create\ngateway: edge\nmatch: { path: /order/create }\nservice: upstream\nlimits:\n  - rate: 9000/minute                   # the whole API, all callers together\n  - name: per-client\n    rate: 12000/minute\n    by: [client_ip]                     # one counter for each address\n",
    ),
    (
        "Api",
        "order-read",
        "kind: Api\nname: order-read\ngateway: edge\nmatch: { path_template: \"/order/{id}\", methods: [GET] }\nservice: upstream\nlimits:\n  - { name: burst, rate: 4000/10s }\n",
    ),
    (
        "Api",
        "payment",
        "kind: Api\nname: payment\ngateway: edge\nmatch: { path_prefix: /payment }\nservice: upstream\nlimits:\n  - { rate: 600/minute, exact: true }\n  - { name: trial, rate: 100/minute, by: [client_ip/24], mode: shadow }\n",
    ),
    ("Tenant", "initech", "kind: Tenant\nname: initech\nplan: trial\n"),
    ("Tenant", "umbrella", "kind: Tenant\nname: umbrella\nplan: gold\n"),
];

/// Who sends how many requests a second at most, and how much later than others the most comes.
const CUSTOMERS: [(&str, u64, &str, f64); 6] = [
    ("hooli", 60, "/order/create", 0.0),
    ("acme", 24, "/order/create", 0.3),
    ("umbrella", 30, "/order/7", 0.5),
    ("globex", 12, "/order/9", 0.8),
    ("initech", 4, "/payment/3", 0.1),
    ("wayne", 5, "/order/create", 0.6),
];
const WAVE_SECONDS: f64 = 80.0;

/// In waves: more, and then less again.
async fn shop_around(edge: &Edge) {
    let mut customers = JoinSet::new();
    for (tenant, a_second, path, later) in CUSTOMERS {
        let (client, url) = (edge.client(), edge.url(path));
        customers.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(1000 / a_second));
            let start = tokio::time::Instant::now();
            loop {
                pace.tick().await;
                let turn = start.elapsed().as_secs_f64() / WAVE_SECONDS - later;
                if fastrand::f64() < 0.55 + 0.45 * (turn * std::f64::consts::TAU).sin() {
                    let _ = client.send("GET", &url, &[("x-tenant-id", tenant)]).await;
                }
            }
        });
    }
    while customers.join_next().await.is_some() {}
}

async fn draw(visit: &Visit, name: &str) {
    visit.settles().await;
    // Nothing blinks in a picture.
    visit.run("document.activeElement?.blur()").await;
    let png = visit.browser.screenshot().await.unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
}

async fn on(visit: &Visit, scheme: &str, width: u32, height: u32, scale: f64) {
    visit.browser.resize(width, height, scale).await.unwrap();
    visit.browser.prefer("prefers-color-scheme", scheme).await.unwrap();
}

#[tokio::test]
#[ignore = "draws docs/images, which takes five minutes"]
async fn pictures() {
    let shop = Shop::open().await;
    for (kind, name, text) in MORE {
        shop.store.put(&key(kind, name), text).await;
    }
    let fonts = tools::fonts().unwrap();
    let visit = Visit::start_with(shop.store.folder.path(), &shop.tierflow, Some(fonts)).await;
    let shown = async {
        eventually_within(Duration::from_secs(400), "five minutes of traffic", async || {
            let seconds = shop.tierflow.json("/v1/traffic").await["seconds"].clone();
            (seconds.as_array().unwrap().len() >= 298).then_some(())
        })
        .await;
        draw_all(&visit, &shop).await;
    };
    tokio::select! {
        () = shown => {}
        () = shop_around(&shop.edge) => unreachable!("customers never stop"),
    }
    visit.has_no_errors().await;
}

async fn draw_all(visit: &Visit, shop: &Shop) {
    on(visit, "light", 1240, 860, 1.5).await;
    visit.open("overview").await;
    visit.sees("hooli").await;
    draw(visit, "overview-light").await;
    on(visit, "dark", 1240, 860, 1.5).await;
    draw(visit, "overview-dark").await;
    on(visit, "dark", 360, 780, 2.0).await;
    draw(visit, "overview-narrow-dark").await;

    on(visit, "light", 1240, 860, 1.5).await;
    visit.open("tenants/hooli?gateway=edge").await;
    visit.sees("of 900").await;
    visit.choose("Like API", "order-create").await;
    visit.click("Ask why").await;
    visit.sees("At gateway edge").await;
    draw(visit, "tenant-light").await;
    on(visit, "light", 360, 780, 2.0).await;
    draw(visit, "tenant-narrow-light").await;

    on(visit, "dark", 1240, 860, 1.5).await;
    visit.open("policies/Plan/standard/edit").await;
    let text = MORE[0].2.replace("900/minute", "1200/minute");
    visit.fill("textarea[aria-label='Text of the policy']", &text).await;
    visit.click("Show what changes").await;
    visit.sees("What changes").await;
    draw(visit, "change-dark").await;

    shop.store.put(&key("Plan", "trial"), &MORE[2].2.replace("60/minute", "often")).await;
    on(visit, "light", 1240, 640, 1.5).await;
    visit.open("policies/Plan/trial").await;
    visit.sees("is refused").await;
    draw(visit, "refused-light").await;
    visit.open("limits").await;
    eventually("two looks make a rate", async || {
        let rates =
            "return [...document.querySelectorAll('td[data-name^=Over]')].every((cell) => cell.innerText !== '–')";
        (visit.run(rates).await == true).then_some(())
    })
    .await;
    draw(visit, "limits-light").await;
}
