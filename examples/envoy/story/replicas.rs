//! Two replicas of Tierflow share one limit, by way of a Redis that goes and comes back.

use std::time::Duration;

use tokio::task::JoinSet;

use super::load::Tally;
use super::until;
use crate::screen::Screen;
use crate::shop::{SALE_MAY, Sale, Shop};

/// More than pass, by half.
const REQUESTS: u64 = SALE_MAY * 3 / 2;
/// So many at a time.
const CLIENTS: u64 = 10;
/// A connection is tried again within a second. A busy machine is given more.
const SOON: Duration = Duration::from_secs(5);

pub(super) async fn share_a_limit(screen: &mut Screen, shop: &mut Shop) -> Result<(), String> {
    screen.act("Two replicas, one limit");
    let clock = shop.clock;
    let sale = match &mut shop.sale {
        Ok(sale) => sale,
        Err(error) => {
            screen.say(&format!("left out, for want of a Redis: {error}"));
            return Ok(());
        }
    };
    screen.say(&format!(
        "GET /sale may be asked for {SALE_MAY} times an hour. Its Envoy asks two Tierflows, which count in one Redis"
    ));
    until("both replicas are connected to Redis", async || sale.shares().await.then_some(())).await?;
    until("the Envoy of the sale listens", async || sale.customer.ask_beside().await.ok()).await?;
    let tally = send(sale, REQUESTS).await?;
    let [first, second] = sale.decisions().await?;
    let text = format!("{tally}; one replica was asked {first} times, the other {second} times");
    screen.fact(tally == due(0) && first > 0 && second > 0, &text);

    screen.say("Redis is killed, as by `kill -9`");
    let killed_at = clock.now();
    sale.redis.kill();
    until("nothing passes uncounted", async || {
        let answer = sale.customer.ask().await.ok()?;
        (answer.status == 503 && answer.text().contains("store-away")).then_some(())
    })
    .await?;
    let took = clock.now().since(killed_at);
    screen.fact(
        took < SOON,
        &format!("503 after {} ms: nobody can count, and `on_error: deny` says what then", took.as_millis()),
    );

    screen.say("Redis is started again; it has forgotten everything");
    sale.redis.restart()?;
    let restarted_at = clock.now();
    let mut passed = 0;
    until("requests pass again, and both replicas are connected", async || {
        passed += u64::from(sale.customer.ask().await.ok()?.status == 200);
        (passed > 0 && sale.shares().await).then_some(())
    })
    .await?;
    let took = clock.now().since(restarted_at);
    let tally = send(sale, REQUESTS).await?;
    let text = format!(
        "{} ms later they count together again, from zero: {} passed, and not one more",
        took.as_millis(),
        tally.passed + passed
    );
    screen.fact(took < SOON && tally == due(passed), &text);
    Ok(())
}

/// What has to become of the requests where some passed before.
fn due(passed: u64) -> Tally {
    let left = SALE_MAY.saturating_sub(passed);
    Tally { passed: left, denied: REQUESTS - left, other: 0 }
}

async fn send(sale: &Sale, requests: u64) -> Result<Tally, String> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let customer = sale.customer.clone();
        clients.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..requests / CLIENTS {
                statuses.push(customer.ask().await?.status.as_u16());
            }
            Ok::<_, String>(statuses)
        });
    }
    let mut tally = Tally::default();
    while let Some(statuses) = clients.join_next().await {
        let statuses = statuses.map_err(|error| error.to_string())??;
        statuses.into_iter().for_each(|status| tally.count(status));
    }
    Ok(tally)
}
