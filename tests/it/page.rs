//! The page, in a real Chromium, with policies from files: what it shows, how, and what it keeps from whom.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;
use tempfile::TempDir;
use tierflow::snapshot::resource::ResourceType;

use crate::ads::{Sotw, first};
use crate::harness::{Tierflow, eventually};
use crate::page_changes::{FIELD, documents};
use crate::store::document;
use crate::web::{VIEWS, Visit};

/// Policies in files, and no Envoy.
pub(crate) struct Files {
    pub(crate) tierflow: Tierflow,
    pub(crate) folder: TempDir,
}

impl Files {
    pub(crate) async fn serve(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000));
        let texts = documents(address, address).map(|(_, _, text)| text);
        std::fs::write(policies.join("shop.yaml"), format!("{}\n---\n{more}", texts.join("\n---\n"))).unwrap();
        let tierflow = Tierflow::start(&policies).await;
        Self { tierflow, folder }
    }

    pub(crate) async fn visit(&self) -> Visit {
        Visit::start(self.folder.path(), &self.tierflow).await
    }
}

#[tokio::test]
async fn with_policies_from_files_a_change_can_be_tried_and_not_made() {
    let files = Files::serve("").await;
    let visit = files.visit().await;
    visit.open("policies").await;
    visit.sees("files are the truth").await;
    visit.open("policies/Plan/gold/edit").await;
    visit.fill(FIELD, "kind: Plan\nname: gold\nlimits: [{rate: 2000/h}]\n").await;
    visit.click("Show what changes").await;
    visit.sees("To apply it, change the file.").await;
    visit.sees("1000/hour").await;
    visit.sees("Envoys keep what they have").await;
    assert_eq!(
        visit
            .run("return [...document.querySelectorAll('main button')].filter((b) => b.innerText === 'Apply').length")
            .await,
        0
    );
    visit.has_no_errors().await;
}

#[tokio::test]
async fn a_refused_document_is_shown_with_its_mistake_underlined() {
    let files = Files::serve("kind: Plan\nname: silver\nlimits:\n  - rate: often\n").await;
    let visit = files.visit().await;
    visit.sees("1 document is refused").await;
    visit.open("policies?refused=true").await;
    visit.click("silver").await;
    visit.sees_heading("Plan silver").await;
    eventually("it is underlined", async || (visit.text_of(".wrong").await == "often").then_some(())).await;
    let line = visit.text_of(".code .troubled").await;
    assert_eq!(line.trim_end(), "  - rate: often");
    visit.has_no_errors().await;
}

/// Whoever may connect, or be a tenant, chooses these.
#[tokio::test]
async fn names_and_messages_of_others_are_text() {
    const HOSTILE: &str = "<img src=x onerror=alert(1)><b>bold";
    let tenant = document("Tenant", &format!("'{HOSTILE}'"), "{plan: gold}");
    let files = Files::serve(&tenant).await;
    let mut node = Sotw::open(&files.tierflow).await;
    node.say(first(HOSTILE, ResourceType::Cluster, &[])).await;
    let response = node.hear().await.unwrap();
    node.refuse(&response, &format!("no: {HOSTILE}<script>alert(2)</script>")).await;
    eventually("it is refused", async || (files.tierflow.status().await["nodes"]["refusing"] == 1).then_some(())).await;

    let visit = files.visit().await;
    let is_text = async |view: &str| {
        visit.open(view).await;
        visit.sees(HOSTILE).await;
        let made = "return document.querySelectorAll('main img, main b b, main script').length";
        assert_eq!(visit.run(made).await, 0, "{view}");
    };
    let encoded = percent_encoding::utf8_percent_encode(HOSTILE, percent_encoding::NON_ALPHANUMERIC).to_string();
    for view in ["envoys", "tenants", "policies?kind=Tenant"] {
        is_text(view).await;
    }
    for view in ["envoys", "tenants", "policies/Tenant"] {
        is_text(&format!("{view}/{encoded}")).await;
    }
    visit.open(&format!("envoys/{encoded}")).await;
    visit.sees("<script>alert(2)</script>").await;
    visit.has_no_errors().await;
}

#[tokio::test]
async fn no_view_has_errors_or_is_wider_than_a_narrow_screen() {
    let files = Files::serve("kind: Plan\nname: silver\nlimits:\n  - rate: often\n").await;
    let visit = files.visit().await;
    let of_one = [
        "tenants/acme",
        "limits/edge/order-create",
        "policies/Plan/gold",
        "policies/Plan/silver",
        "policies/Plan/gold/edit",
        "policies/new?kind=Api",
        "envoys/nobody",
        "nothing/like/that",
    ];
    for width in [1280, 360] {
        visit.browser.resize(width, 800, 1.0).await.unwrap();
        for view in VIEWS.into_iter().chain(of_one) {
            visit.open(view).await;
            let wide = visit.run("return document.documentElement.scrollWidth").await;
            assert!(wide.as_u64().unwrap() <= width.into(), "{view} is {wide} wide on a screen of {width}");
        }
    }
    visit.has_no_errors().await;
}

#[tokio::test]
async fn colours_are_those_of_the_system_until_somebody_chooses() {
    let files = Files::serve("").await;
    let visit = files.visit().await;
    let ground = "return getComputedStyle(document.documentElement).backgroundColor";
    let [light, dark] = ["rgb(248, 249, 250)", "rgb(16, 17, 19)"].map(|colour| json!(colour));
    visit.browser.prefer("prefers-color-scheme", "dark").await.unwrap();
    assert_eq!(visit.run(ground).await, dark);
    visit.browser.prefer("prefers-color-scheme", "light").await.unwrap();
    assert_eq!(visit.run(ground).await, light);
    let choose = "document.querySelector('[aria-label^=\"Colours\"]').click()";
    for _ in 0..2 {
        visit.run(choose).await;
        visit.settles().await;
    }
    eventually("it is dark", async || (visit.run(ground).await == dark).then_some(())).await;
    visit.open("tenants").await;
    assert_eq!(visit.run(ground).await, dark, "on every view");
}

#[tokio::test]
async fn of_a_long_list_a_page_is_fetched_and_drawn() {
    let tenants: Vec<String> = (0..3000).map(|n| document("Tenant", &format!("t{n:04}"), "{plan: gold}")).collect();
    let files = Files::serve(&tenants.join("\n---\n")).await;
    let visit = files.visit().await;
    visit.open("tenants").await;
    visit.sees("t0000").await;
    let rows = "return document.querySelectorAll('main tbody tr').length";
    assert_eq!(visit.run(rows).await, 50);
    visit.click("Next page").await;
    visit.sees("t0060").await;
    assert_eq!(visit.run(rows).await, 50);
    visit.fill("main input[type=search]", "2999").await;
    visit.sees("t2999").await;
    eventually("it is the only one", async || (visit.run(rows).await == 1).then_some(())).await;
}
