//! Hindsight: the access log of the shop's Envoy goes through the policies again, as they are and as they could be.

use tierflow::compile::RateLimitService;
use tierflow::document::Documents;
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Generation, Settings};
use tierflow::names::Revision;
use tierflow::replay::Replay;
use tierflow::replay::entry::Entry;
use tierflow::replay::format::Format;
use tierflow::replay::report::Tally;
use tierflow::source;

use super::until;
use crate::screen::Screen;
use crate::shop::{Policies, Shop};

const TENANT: &str = "acme";
/// What acme may in a minute at order-create, whatever it may in a second.
const MAY_PER_MINUTE: u64 = 200;

pub(super) async fn find_a_number(screen: &mut Screen, shop: &Shop, sent: u64) -> Result<(), String> {
    screen.act("A number, found before it is enforced");
    screen
        .say("`tierflow replay` takes Envoy's access log through policies: these, and others that nobody has to serve");
    let logged = until("Envoy has logged all of acme's requests", async || {
        let log = shop.access_log().ok()?;
        let is_whole = log.lines().filter(|line| line.contains("\"acme\"")).count() as u64 >= sent;
        is_whole.then_some(log)
    });
    let log = logged.await?;
    let now = replayed(&log, &shop.policies)?;
    let other = shop.policies.copy("hindsight")?;
    other.edit("plans.yaml", "- rate: 50/s", "- rate: 100/s")?;
    let twice = replayed(&log, &other)?;
    let row = |what: &str, denied: u64| [what.to_owned(), (now.requests - denied).to_string(), denied.to_string()];
    let rows =
        [row("as it was", now.denied_in_log), row("replayed, 50/s", now.denied), row("replayed, 100/s", twice.denied)];
    screen.table(&["acme", "200", "429"].map(str::to_owned), &rows);
    // A request was decided some milliseconds after it began, and the log has the begin.
    let is_same = now.denied.abs_diff(now.denied_in_log) * 20 <= now.requests;
    screen.fact(is_same, "the replay tells what happened");
    let is_found = now.requests - twice.denied == MAY_PER_MINUTE;
    let text = format!("at 100/s acme would not get twice as much: its {MAY_PER_MINUTE}/minute would be in the way");
    screen.fact(is_found, &text);
    Ok(())
}

/// What would have become of acme's requests.
fn replayed(log: &str, policies: &Policies) -> Result<Tally, String> {
    let documents = source::dir::read(&policies.folder).map_err(|error| error.to_string())?.documents;
    let settings = Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::seeded([0; 16]),
        allow_empty: false,
    };
    let generation = Generation::build(&Documents::new(Revision::default(), documents), &settings)
        .map_err(|problems| format!("{} problems", problems.len()))?;
    let gateway = generation.policies.gateways.get("shop").ok_or("policies/ has no Gateway shop")?;
    let format = Format::default();
    let entries = log.lines().filter_map(|line| Entry::of(format.read(line).ok()?, gateway).ok()?);
    let mut entries: Vec<Entry> = entries.collect();
    entries.sort_by_key(|entry| entry.at);
    let mut replay = Replay::new(&generation.policies, &generation.matcher, gateway);
    entries.iter().for_each(|entry| replay.play(entry));
    Ok(replay.finish().0.tenants.known.get(TENANT).copied().unwrap_or_default())
}
