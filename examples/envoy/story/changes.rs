//! Policies are edited while requests come in: a rate, a match, and a mistake.

use std::time::Duration;

use tierflow::snapshot::resource::ResourceType;

use super::envoys::acknowledged;
use super::load::Tally;
use super::until;
use crate::screen::Screen;
use crate::shop::Shop;

/// A hundred milliseconds are usual. A busy machine is given more, and yet no more than a person would wait.
const AT_ONCE: Duration = Duration::from_secs(2);

pub(super) async fn of_a_rate(screen: &mut Screen, shop: &Shop) -> Result<(), String> {
    screen.act("A rate is edited");
    screen.say("plans.yaml, plan trial: 10/minute becomes 20/minute; `anonymous` still has its 10 used up");
    let pushes = shop.pushes().await?;
    let edited_at = shop.clock.now();
    shop.policies.edit("plans.yaml", "- rate: 10/minute", "- rate: 20/minute")?;
    until("a request of anonymous passes again", async || {
        let answer = shop.customer.ask("POST", "/order/create", None).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await?;
    let took = shop.clock.now().since(edited_at);
    let text = format!("{} ms from the write to the first request that passes again", took.as_millis());
    screen.fact(took < AT_ONCE, &text);
    let mut tally = Tally { passed: 1, ..Default::default() };
    for _ in 0..14 {
        tally.count(shop.customer.ask("POST", "/order/create", None).await?.status.as_u16());
    }
    let is_continued = tally == Tally { passed: 10, denied: 5, other: 0 };
    screen.fact(is_continued, &format!("{tally}: 10 more, not 20, for what was counted stays counted"));
    let pushes = shop.pushes().await? - pushes;
    screen.fact(
        pushes == 0,
        &format!("xDS responses sent for it: {pushes}. Envoy asks at each request how much is left"),
    );
    Ok(())
}

pub(super) async fn of_a_match(screen: &mut Screen, shop: &Shop) -> Result<(), String> {
    screen.act("A match is edited");
    screen.say("apis.yaml, order-create: `methods: [POST]` becomes `methods: [POST, PUT]`");
    let before = shop.customer.ask("PUT", "/order/create", Some("globex")).await?.status.as_u16();
    let pushes = shop.pushes().await?;
    let listener = listener_updates(shop).await?;
    let generation = shop.generation() + 1;
    let edited_at = shop.clock.now();
    shop.policies.edit(
        "apis.yaml",
        "path: /order/create, methods: [POST]",
        "path: /order/create, methods: [POST, PUT]",
    )?;
    until("the shop's Envoy acknowledges the new routes", async || {
        let nodes = shop.nodes();
        nodes.iter().any(|node| acknowledged(node, ResourceType::Route) == Some(generation)).then_some(())
    })
    .await?;
    let acknowledged_after = shop.clock.now().since(edited_at);
    until("PUT /order/create is answered", async || {
        let answer = shop.customer.ask("PUT", "/order/create", Some("globex")).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await?;
    let took = shop.clock.now().since(edited_at);
    let text = format!("PUT /order/create: {before} before, 200 after {} ms", took.as_millis());
    screen.fact(before == 404 && took < AT_ONCE, &text);
    let pushes = shop.pushes().await? - pushes;
    let text = format!("xDS responses sent for it: {pushes}, the shop's routes");
    screen.fact(pushes == 1, &format!("{text}; acknowledged after {} ms", acknowledged_after.as_millis()));
    let listener = listener_updates(shop).await? - listener;
    screen.fact(listener == 0, &format!("updates of Envoy's listeners: {listener}, so no connection was drained"));
    Ok(())
}

/// What Envoy itself says of how often its listeners were changed.
async fn listener_updates(shop: &Shop) -> Result<u64, String> {
    let modified = shop.envoy_stat("listener_manager.listener_modified").await?;
    Ok(modified + shop.envoy_stat("listener_manager.listener_in_place_updated").await?)
}

pub(super) async fn that_are_wrong(screen: &mut Screen, shop: &Shop) -> Result<(), String> {
    screen.act("A mistake is made, and mended");
    let live = &shop.tierflow.live;
    let generation = shop.generation();
    shop.policies.edit("apis.yaml", "rate: 20000/minute", "rate: 20000/minit")?;
    let refused = until("the mistake is noticed", async || Some(live.refused()).filter(|refused| !refused.is_empty()));
    let refused = refused.await?;
    refused.iter().flat_map(|refusal| &refusal.problems).for_each(|problem| screen.problem(problem));
    let mut tally = Tally::default();
    for _ in 0..20 {
        tally.count(shop.customer.ask("POST", "/order/create", Some("globex")).await?.status.as_u16());
    }
    let is_served = refused.len() == 1 && refused.iter().all(|refusal| refusal.is_served);
    let is_unaffected =
        is_served && shop.generation() == generation && tally == Tally { passed: 20, ..Default::default() };
    screen.fact(is_unaffected, &format!("its last good version stays, generation {generation}: {tally}"));
    shop.policies.edit("apis.yaml", "rate: 20000/minit", "rate: 20000/minute")?;
    until("the mended document is accepted", async || live.refused().is_empty().then_some(())).await?;
    screen.fact(shop.generation() == generation, "mended: nothing is refused any more");
    Ok(())
}
