//! A visit of the page, in a real browser: what a person sees, and what a person does.

use std::path::Path;

use serde_json::{Value, json};

use crate::browser::{Browser, Element};
use crate::harness::{Tierflow, eventually, free_address};

/// Views by their addresses. Those of one thing need its name.
pub(crate) const VIEWS: [&str; 8] =
    ["overview", "envoys", "limits", "tenants", "policies", "explain", "events", "audit"];

/// Keys that are none of a letter (WebDriver, section 17.4.2).
pub(crate) mod keys {
    pub(crate) const TAB: &str = "\u{e004}";
    pub(crate) const ENTER: &str = "\u{e007}";
    pub(crate) const ESCAPE: &str = "\u{e00c}";
}

pub(crate) struct Visit {
    pub(crate) browser: Browser,
    root: String,
}

impl Visit {
    /// Opens the page at its first view.
    pub(crate) async fn start(folder: &Path, tierflow: &Tierflow) -> Self {
        Self::start_with(folder, tierflow, None).await
    }

    pub(crate) async fn start_with(folder: &Path, tierflow: &Tierflow, fonts: Option<&Path>) -> Self {
        Self::open_page(folder, tierflow, fonts, "Overview").await
    }

    /// Where the page begins with something else.
    pub(crate) async fn start_at(folder: &Path, tierflow: &Tierflow, title: &str) -> Self {
        Self::open_page(folder, tierflow, None, title).await
    }

    async fn open_page(folder: &Path, tierflow: &Tierflow, fonts: Option<&Path>, title: &str) -> Self {
        let browser = Browser::start(folder, free_address(), fonts).await.unwrap();
        let visit = Self { browser, root: format!("http://{}/", tierflow.admin()) };
        visit.browser.resize(1280, 900, 1.0).await.unwrap();
        visit.browser.goto(&visit.root).await.unwrap();
        visit.sees_heading(title).await;
        visit
    }

    /// A view by its address, as in `tenants/acme`.
    pub(crate) async fn open(&self, view: &str) {
        self.browser.goto(&format!("{}#/{view}", self.root)).await.unwrap();
        self.settles().await;
    }

    /// Nothing is on its way any more.
    pub(crate) async fn settles(&self) {
        let is_there = "return document.querySelector('main h1') !== null && !document.querySelector('main').innerText.includes('Loading…')";
        eventually("the view is there", async || (self.run(is_there).await == true).then_some(())).await;
    }

    pub(crate) async fn run(&self, script: &str) -> Value {
        self.browser.run(script, &[]).await.unwrap()
    }

    /// What is written in the view.
    pub(crate) async fn text(&self) -> String {
        let text = self.run("return document.querySelector('main')?.innerText ?? ''").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// What is written where the selector says.
    pub(crate) async fn text_of(&self, css: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        self.browser.run(script, &[json!(css)]).await.unwrap().as_str().unwrap_or_default().to_owned()
    }

    pub(crate) async fn sees(&self, words: &str) {
        eventually(words, async || self.text().await.contains(words).then_some(())).await;
    }

    pub(crate) async fn sees_heading(&self, title: &str) {
        eventually(title, async || (self.text_of("main h1").await == title).then_some(())).await;
    }

    pub(crate) async fn value_of(&self, css: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.value ?? ''";
        self.browser.run(script, &[json!(css)]).await.unwrap().as_str().unwrap_or_default().to_owned()
    }

    /// A link or button by what stands on it, when it can be used.
    async fn control(&self, words: &str) -> Element {
        let on_it = format!("normalize-space(.)={words:?} and not(@disabled)");
        let path = format!("//main//a[{on_it}] | //main//button[{on_it}]");
        eventually(words, async || self.browser.find_by("xpath", &path).await.ok()).await
    }

    pub(crate) async fn click(&self, words: &str) {
        // A table that is drawn anew may take it away in between.
        eventually(words, async || self.browser.click(&self.control(words).await).await.ok()).await;
    }

    /// A button beside the view.
    pub(crate) async fn click_in_frame(&self, words: &str) {
        let path = format!("//header//button[normalize-space(.)={words:?}]");
        let click = async || self.browser.click(&self.browser.find_by("xpath", &path).await.ok()?).await.ok();
        eventually(words, click).await;
    }

    pub(crate) async fn fill(&self, css: &str, text: &str) {
        let field = eventually(css, async || self.browser.find(css).await.ok()).await;
        self.browser.run("arguments[0].focus(); arguments[0].select()", &[field.to_json()]).await.unwrap();
        self.browser.type_into(&field, text).await.unwrap();
    }

    /// Chooses an entry of a list by its value.
    pub(crate) async fn choose(&self, label: &str, value: &str) {
        let path = format!("//label[span={label:?}]//option[@value={value:?}]");
        let option = eventually(value, async || self.browser.find_by("xpath", &path).await.ok()).await;
        self.browser.click(&option).await.unwrap();
    }

    pub(crate) async fn press(&self, keys: &[&str]) {
        self.browser.press(keys).await.unwrap();
    }

    /// Presses Tab until something with these words, or this label, has the focus.
    pub(crate) async fn tab_to(&self, words: &str) {
        let focused = "const at = document.activeElement; return at.getAttribute('aria-label') || at.innerText || ''";
        for _ in 0..80 {
            self.press(&[keys::TAB]).await;
            if self.run(focused).await.as_str().is_some_and(|label| label.trim() == words) {
                return;
            }
        }
        panic!("the keyboard never gets to {words:?}");
    }

    /// Errors in scripts, and what the policy of the page's content kept from it.
    pub(crate) async fn has_no_errors(&self) {
        let lines = self.browser.console().await.unwrap();
        // An answer that is no success is a line of its own, and may be what a test is about.
        let faults: Vec<_> = lines.into_iter().filter(|line| !line.contains("Failed to load resource")).collect();
        assert_eq!(faults, [""; 0]);
    }
}
