//! Limits: what a client sees of one, and what a noisy tenant takes from the others, which is nothing.

use serde_json::Value;

use super::load::{self, Tally};
use crate::kit::client::Answer;
use crate::screen::Screen;
use crate::shop::Shop;

pub(super) async fn bite(screen: &mut Screen, shop: &Shop) -> Result<(), String> {
    screen.act("A limit bites");
    screen.say("POST /order/create by nobody in particular: tenant `anonymous`, plan trial, 10 a minute");
    let mut tally = Tally::default();
    let mut denial = None;
    for _ in 0..15 {
        let answer = shop.customer.ask("POST", "/order/create", None).await?;
        tally.count(answer.status.as_u16());
        denial = denial.or(Some(answer).filter(|answer| answer.status == 429));
    }
    screen.fact(tally == Tally { passed: 10, denied: 5, other: 0 }, &format!("{tally}; the first denial:"));
    let denial = denial.ok_or("not one of 15 requests was denied; the limit is 10 a minute")?;
    let problem: Value = serde_json::from_slice(&denial.body).unwrap_or_default();
    screen.quote(&format!("HTTP/1.1 {}", denial.status));
    screen.quote(&headers(&denial));
    screen.quote(&format!("{problem:#}"));
    let wait = denial.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or_default();
    let is_complete = (1..=60).contains(&wait)
        && denial.header("content-type") == Some("application/problem+json")
        && denial.header("x-ratelimit-remaining") == Some("0")
        && problem.get("tier").is_some_and(|tier| tier == "tenant")
        && problem.get("rate").is_some_and(|rate| rate == "10/minute");
    screen.fact(is_complete, "it says which limit of which tier it was, and when to come back");
    Ok(())
}

fn headers(answer: &Answer) -> String {
    let names = ["content-type", "retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    let lines = names.iter().filter_map(|name| Some(shortened(format!("{name}: {}", answer.header(name)?))));
    lines.collect::<Vec<_>>().join("\n")
}

/// Envoy names all the limits that it heard of in one header.
fn shortened(line: String) -> String {
    match line.char_indices().nth(96) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// How long the tenants send.
const SECONDS: u32 = 3;
/// acme's limit a second, by plan `standard`.
const ACME_MAY: u32 = 50;
/// What globex sends a second.
const GLOBEX_SENDS: u32 = 40;
/// What one address may in a minute at order-create.
const ADDRESS_MAY: u64 = 1200;

/// Gives how many requests the noisy one sent.
pub(super) async fn hold_a_noisy_tenant(screen: &mut Screen, shop: &Shop) -> Result<u64, String> {
    screen.act("A noisy tenant, and one beside it");
    screen.say(&format!("acme may send {ACME_MAY}/s and sends ten times that for {SECONDS} s; globex works as usual"));
    let (acme, globex) = tokio::join!(
        load::send(shop, "acme", 10 * ACME_MAY, SECONDS),
        load::send(shop, "globex", GLOBEX_SENDS, SECONDS),
    );
    let row = |tenant: &str, may: &str, tally: Tally| {
        let [sent, passed, denied, other] = [tally.sent(), tally.passed, tally.denied, tally.other];
        [tenant.to_owned(), may.to_owned(), sent.to_string(), passed.to_string(), denied.to_string(), other.to_string()]
    };
    let heading = ["tenant", "may send", "sent", "200", "429", "else"].map(str::to_owned);
    screen.table(&heading, &[row("acme", "50/s", acme.tally), row("globex", "500/s", globex.tally)]);

    let may = ACME_MAY as usize;
    let busiest = acme.busiest_second();
    // A tenth below what is due: at its end the last window may not have been used up.
    let is_held = busiest <= may && acme.passed.len() >= may * SECONDS as usize * 9 / 10 && acme.tally.other == 0;
    screen.fact(
        is_held,
        &format!("acme is held at its limit: at most {busiest} of its requests passed in any one second"),
    );
    let all = u64::from(GLOBEX_SENDS * SECONDS);
    let is_unharmed = globex.tally == Tally { passed: all, ..Default::default() };
    screen.fact(is_unharmed, &format!("globex does not notice: {} of {all}", globex.tally.passed));
    // Had denials been charged to the limit of the address, it would have been used up before the end.
    let sent = acme.tally.sent() + globex.tally.sent();
    let text =
        format!("a denial costs nothing: both send from one address that may {ADDRESS_MAY}/minute, and sent {sent}");
    screen.fact(is_unharmed && sent > ADDRESS_MAY, &text);
    Ok(acme.tally.sent())
}
