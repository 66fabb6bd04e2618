//! The page of a port that asks who somebody is, in a real Chromium: signing in, what each role can do, and signing out.

use crate::access::{ADMIN, OPERATOR, VIEWER, tokens};
use crate::access_tokens::{Keys, access_file};
use crate::harness::{eventually, save};
use crate::page_changes::{FIELD, Shop};
use crate::web::Visit;

const TOKEN_FIELD: &str = "[name=token]";

async fn open() -> (Shop, Visit) {
    let shop = Shop::open_with_access().await;
    let visit = Visit::start_at(shop.store.folder.path(), &shop.tierflow, "Sign in").await;
    (shop, visit)
}

async fn sign_in(visit: &Visit, token: &str) {
    visit.fill(TOKEN_FIELD, token).await;
    visit.click("Sign in").await;
}

/// All of the page that a script of it could find a token in, but for what is kept for the tab.
const SHOWN: &str = "return [location.href, document.cookie, document.body.innerHTML, JSON.stringify(localStorage), \
                     JSON.stringify(performance.getEntriesByType('resource').map((entry) => entry.name))].join()";

#[tokio::test]
async fn whoever_signs_in_sees_what_happens_and_whoever_signs_out_leaves_nothing_behind() {
    let (shop, visit) = open().await;
    assert_eq!(visit.run("return document.querySelectorAll('nav, table').length").await, 0, "nothing else is shown");
    sign_in(&visit, "a token that nobody knows").await;
    visit.sees("That token is not known here").await;
    assert_eq!(visit.run("return sessionStorage.length").await, 0);
    sign_in(&visit, VIEWER).await;
    visit.sees_heading("Overview").await;
    assert!(visit.text_of(".who").await.contains("token vera"), "{}", visit.text_of(".who").await);
    // It is told what happens, by a stream that shows the token.
    eventually("it is live", async || visit.text_of(".connection").await.contains("Live").then_some(())).await;
    assert_eq!(shop.order("hooli", 3).await, [200; 3]);
    eventually("the traffic is drawn", async || {
        let label = "return document.querySelector('.canvas').getAttribute('aria-label')";
        visit.run(label).await.as_str().is_some_and(|label| label.contains("a second on average")).then_some(())
    })
    .await;
    // The token is where it belongs alone.
    let shown = visit.run(SHOWN).await;
    assert!(
        !shown.as_str().unwrap().contains(VIEWER) && !shown.as_str().unwrap().contains(&VIEWER.replace(' ', "%20")),
        "{shown}"
    );
    visit.browser.run("location.reload()", &[]).await.unwrap();
    visit.sees_heading("Overview").await;

    visit.click_in_frame("Sign out").await;
    visit.sees_heading("Sign in").await;
    assert_eq!(visit.run("return sessionStorage.length + document.querySelectorAll('nav, table').length").await, 0);
    visit.open("tenants").await;
    visit.sees_heading("Sign in").await;
    visit.has_no_errors().await;
}

#[tokio::test]
async fn a_viewer_can_try_a_change_an_operator_makes_it_and_an_admin_gives_a_reason() {
    let (_shop, visit) = open().await;
    sign_in(&visit, VIEWER).await;
    visit.sees_heading("Overview").await;
    visit.open("policies").await;
    visit.sees("You are a viewer here").await;
    visit.open("policies/Plan/gold/edit").await;
    visit.fill(FIELD, "kind: Plan\nname: gold\nlimits: [{rate: 10/h}]\n").await;
    visit.click("Show what changes").await;
    visit.sees("You may not change anything here").await;
    // As somebody else, with what is typed.
    sign_in(&visit, OPERATOR).await;
    visit.sees("You are token olaf in the audit log").await;
    visit.click("Apply").await;
    visit.sees("An admin may do it all the same").await;
    assert_eq!(visit.run("return document.querySelectorAll('[name=reason]').length").await, 0);
    visit.click_in_frame("Sign out").await;
    sign_in(&visit, ADMIN).await;
    visit.sees_heading("Change Plan gold").await;
    visit.fill(FIELD, "kind: Plan\nname: gold\nlimits: [{rate: 10/h}]\n").await;
    visit.click("Show what changes").await;
    visit.click("Apply").await;
    visit.fill("[name=reason]", "a slow day").await;
    visit.click("Apply all the same").await;
    visit.sees("Applied, revision").await;
    visit.open("audit").await;
    visit.sees("token anna").await;
    visit.has_no_errors().await;
}

/// A token that is taken out while somebody types.
#[tokio::test]
async fn what_is_typed_is_still_there_when_somebody_has_to_sign_in_again() {
    let (shop, visit) = open().await;
    sign_in(&visit, OPERATOR).await;
    visit.sees_heading("Overview").await;
    visit.open("policies/Tenant/hooli/edit").await;
    visit.fill(FIELD, "kind: Tenant\nname: hooli\nplan: gold\n").await;
    let left: Vec<_> = tokens().into_iter().filter(|(name, ..)| *name != "olaf").collect();
    save(shop.store.folder.path(), "access.yaml", &access_file(&left, ""));
    visit.sees_heading("Sign in").await;
    assert_eq!(visit.run("return sessionStorage.length").await, 0, "what is not known is shown no more");
    sign_in(&visit, ADMIN).await;
    visit.sees_heading("Change Tenant hooli").await;
    assert!(visit.value_of(FIELD).await.contains("plan: gold"));
    visit.has_no_errors().await;
}

/// The files of a port that takes the tokens of tests.
pub(crate) fn write_files(folder: &std::path::Path) -> String {
    std::fs::write(folder.join("access.yaml"), access_file(&tokens(), "")).unwrap();
    std::fs::write(folder.join("jwks.json"), Keys::make().jwks().to_string()).unwrap();
    format!("--admin-access={}/access.yaml", folder.display())
}
