//! The page, in a real Chromium, with policies in etcd and a real Envoy: an operator finds something out and changes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::access;
use crate::harness::{Edge, Tierflow, eventually, free_address};
use crate::kit::upstream::Upstream;
use crate::page_access;
use crate::store::{Store, document, key};
use crate::web::{Visit, keys};

const SERVICE: &str = "upstream";
/// The editor.
pub(crate) const FIELD: &str = "textarea[aria-label='Text of the policy']";

fn gateway(listen: SocketAddr) -> String {
    let fields = format!(
        "{{nodes: {{clusters: [edge]}}, listen: '{listen}', tenant: {{from: {{header: x-tenant-id}}, default_plan: standard}},
 limiter: {{timeout: 5s, on_error: deny}}}}"
    );
    document("Gateway", "edge", &fields)
}

pub(crate) fn documents(listen: SocketAddr, upstream: SocketAddr) -> [(&'static str, &'static str, String); 7] {
    let of = |kind, name, fields: &str| (kind, name, document(kind, name, fields));
    [
        ("Gateway", "edge", gateway(listen)),
        of("Service", SERVICE, &format!("{{endpoints: ['{upstream}']}}")),
        of(
            "Api",
            "order-create",
            "{gateway: edge, match: {path: /order/create}, service: upstream, limits: [{rate: 5000/h}]}",
        ),
        of("Plan", "standard", "{limits: [{rate: 20/h}]}"),
        of("Plan", "gold", "{limits: [{rate: 1000/h}]}"),
        ("Tenant", "hooli", "kind: Tenant\nname: hooli\nplan: standard\n".to_owned()),
        of("Tenant", "acme", "{plan: gold}"),
    ]
}

/// A shop whose policies are in etcd, with a real Envoy in front.
pub(crate) struct Shop {
    pub(crate) edge: Edge,
    pub(crate) tierflow: Tierflow,
    pub(crate) store: Store,
    _upstream: Upstream,
}

impl Shop {
    pub(crate) async fn open() -> Self {
        Self::open_with(&[], |_| Vec::new()).await
    }

    /// Whose admin port asks who somebody is.
    pub(crate) async fn open_with_access() -> Self {
        let shown = format!("Bearer {}", access::VIEWER);
        Self::open_with(&[("authorization", &shown)], |folder| vec![page_access::write_files(folder)]).await
    }

    /// With further flags, which may name files of the folder, and with headers that the status is shown to.
    async fn open_with(shown: &[(&str, &str)], flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let store = Store::start().await;
        let upstream = Upstream::start(SERVICE, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let listen = free_address();
        let entries = documents(listen, upstream.address).map(|(kind, name, text)| (key(kind, name), text));
        store.put_all(&entries).await;
        let flags = flags(store.folder.path());
        let tierflow = store.tierflow_at(store.endpoint(), &flags).await;
        eventually("it may write", async || {
            let status = tierflow.send("GET", "/v1/status", shown, "").await;
            let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
            (status["ready"] == true && status["replicas"].as_array().is_some_and(|all| all.len() == 1)).then_some(())
        })
        .await;
        let edge = Edge::start(store.folder.path(), &tierflow, "edge-1", "delta", listen);
        edge.ready().await;
        Self { edge, tierflow, store, _upstream: upstream }
    }

    pub(crate) async fn visit(&self) -> Visit {
        Visit::start(self.store.folder.path(), &self.tierflow).await
    }

    /// The statuses of so many orders.
    pub(crate) async fn order(&self, tenant: &str, orders: usize) -> Vec<u16> {
        let mut statuses = Vec::new();
        for _ in 0..orders {
            let answer = self.edge.send("GET", "/order/create", &[("x-tenant-id", tenant)]).await;
            statuses.push(answer.status.as_u16());
        }
        statuses
    }
}

#[tokio::test]
async fn an_operator_finds_the_most_denied_tenant_asks_why_and_gives_it_another_plan() {
    let shop = Shop::open().await;
    let visit = shop.visit().await;
    let denied = shop.order("hooli", 60).await.into_iter().filter(|status| *status == 429).count();
    assert_eq!(denied, 40);
    assert_eq!(shop.order("acme", 5).await, [200; 5]);

    // The traffic, and who is denied most of it.
    eventually("the traffic is drawn", async || {
        let label = "return document.querySelector('.canvas').getAttribute('aria-label')";
        visit.run(label).await.as_str().is_some_and(|label| label.contains("a second on average")).then_some(())
    })
    .await;
    eventually("hooli is denied most", async || {
        visit.text_of("table[aria-label=Tenants] tbody tr").await.contains("hooli").then_some(())
    })
    .await;
    visit.click("hooli").await;
    visit.sees_heading("hooli").await;
    visit.sees("20 of 20").await;

    // Why.
    visit.choose("Like API", "order-create").await;
    eventually("the form is filled in", async || {
        let [path, headers] = [visit.value_of("[name=path]").await, visit.value_of("[name=headers]").await];
        (path == "/order/create" && headers == "x-tenant-id: hooli").then_some(())
    })
    .await;
    visit.click("Ask why").await;
    visit.sees("no room in tenant-hour").await;

    // Another plan, with a mistake at first.
    visit.click("Change").await;
    visit.sees_heading("Change Tenant hooli").await;
    visit.fill(FIELD, "kind: Tenant\nname: hooli\nplan: glod\n").await;
    visit.sees("did you mean \"gold\"?").await;
    eventually("it is underlined", async || (visit.text_of(".editor .wrong").await == "glod").then_some(())).await;
    visit.fill(FIELD, "kind: Tenant\nname: hooli\nplan: gold\n").await;
    visit.click("Show what changes").await;
    visit.sees("What changes").await;
    assert!(visit.text_of(".difference").await.contains("plan: gold"), "{}", visit.text().await);
    let text = shop.tierflow.json("/v1/policies/Tenant/hooli").await["text"].clone();
    assert!(text.as_str().unwrap().contains("plan: standard"), "it is shown before it is done");
    assert_eq!(shop.order("hooli", 1).await, [429]);
    visit.click("Apply").await;
    visit.sees("Applied, revision").await;

    // It takes effect, and stands in the audit log.
    eventually("hooli may order again", async || (shop.order("hooli", 1).await == [200]).then_some(())).await;
    visit.click("who did it").await;
    visit.sees_heading("Audit").await;
    visit.sees("put Tenant hooli").await;
    assert!(visit.text_of("table[aria-label=Audit] tbody tr").await.contains("loopback"), "{}", visit.text().await);
    visit.has_no_errors().await;
}

#[tokio::test]
async fn what_somebody_else_changed_meanwhile_is_shown_and_not_overwritten() {
    let shop = Shop::open().await;
    let visit = shop.visit().await;
    visit.open("policies/Tenant/hooli/edit").await;
    visit.fill(FIELD, "kind: Tenant\nname: hooli\nplan: gold\n").await;
    visit.click("Show what changes").await;
    visit.sees("What changes").await;
    // Somebody else, in a browser of their own.
    let other = shop.visit().await;
    other.open("policies/Tenant/hooli/edit").await;
    other.fill(FIELD, "kind: Tenant\nname: hooli\nplan: standard\nstatus: suspended\n").await;
    other.click("Show what changes").await;
    other.click("Apply").await;
    other.sees("Applied, revision").await;
    other.has_no_errors().await;
    visit.click("Apply").await;
    visit.sees("Somebody else changed it meanwhile").await;
    assert!(visit.text_of(".difference").await.contains("status: suspended"), "{}", visit.text().await);
    assert!(visit.value_of(FIELD).await.contains("plan: gold"), "what was written is still there");
    let text = shop.tierflow.json("/v1/policies/Tenant/hooli").await["text"].clone();
    assert!(text.as_str().unwrap().contains("suspended"), "{text}");
    visit.click("Show what changes").await;
    visit.click("Apply").await;
    visit.sees("Applied, revision").await;
}

#[tokio::test]
async fn what_takes_much_away_needs_a_reason() {
    let shop = Shop::open().await;
    let visit = shop.visit().await;
    visit.open("policies/Plan/gold/edit").await;
    visit.fill(FIELD, "kind: Plan\nname: gold\nlimits: [{rate: 10/h}]\n").await;
    visit.click("Show what changes").await;
    visit.click("Apply").await;
    visit.fill("[name=reason]", "a slow day").await;
    visit.click("Apply all the same").await;
    visit.sees("Applied, revision").await;
    visit.open("audit").await;
    visit.sees("because: a slow day").await;
}

#[tokio::test]
async fn where_changes_need_a_token_the_page_asks_for_it_and_its_name_is_noted() {
    let shop = Shop::open_with(&[], |folder| {
        let file = folder.join("tokens");
        std::fs::write(&file, "ann:0123456789abcdef\n").unwrap();
        vec![format!("--admin-token-file={}", file.display())]
    })
    .await;
    let visit = shop.visit().await;
    visit.open("policies/Tenant/hooli/edit").await;
    visit.fill(FIELD, "kind: Tenant\nname: hooli\nplan: gold\n").await;
    visit.click("Show what changes").await;
    visit.sees("You may not change anything here").await;
    visit.fill("[name=token]", "0123456789abcdeX").await;
    visit.click("Sign in").await;
    visit.sees("That token is not known here").await;
    visit.fill("[name=token]", "0123456789abcdef").await;
    visit.click("Sign in").await;
    visit.sees("You are token ann in the audit log").await;
    visit.click("Apply").await;
    visit.sees("Applied, revision").await;
    visit.open("audit").await;
    eventually("it is noted", async || {
        visit.text_of("table[aria-label=Audit] tbody tr").await.contains("ann").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_keyboard_alone_is_enough_to_change_something() {
    let shop = Shop::open().await;
    let visit = shop.visit().await;
    visit.press(&["?"]).await;
    eventually("the help", async || visit.text_of("#help").await.contains("Keyboard").then_some(())).await;
    visit.press(&[keys::ESCAPE]).await;
    visit.press(&["g", "t"]).await;
    visit.sees_heading("Tenants").await;
    visit.sees("hooli").await;
    visit.press(&["j", "j", "k", "j", keys::ENTER]).await;
    visit.sees_heading("hooli").await;
    visit.press(&["g", "o"]).await;
    visit.sees_heading("Overview").await;
    visit.press(&["/", "h", "o", "o", "l", keys::ENTER]).await;
    visit.sees_heading("hooli").await;
    visit.settles().await;
    visit.tab_to("Change").await;
    visit.press(&[keys::ENTER]).await;
    visit.sees_heading("Change Tenant hooli").await;
    visit.settles().await;
    visit.tab_to("Text of the policy").await;
    visit.press(&["#", " ", "m", "i", "n", "e", keys::ENTER]).await;
    eventually("it can be shown", async || {
        (visit.run("return [...document.querySelectorAll('main button')].some((b) => b.innerText === 'Show what changes' && !b.disabled)").await == true).then_some(())
    })
    .await;
    visit.tab_to("Show what changes").await;
    visit.press(&[keys::ENTER]).await;
    visit.sees("What changes").await;
    visit.tab_to("Apply").await;
    visit.press(&[keys::ENTER]).await;
    visit.sees("Applied, revision").await;
    visit.has_no_errors().await;
}
