//! The story: eight acts, in the order in which one gets to know Tierflow.

mod changes;
mod envoys;
mod hindsight;
mod limits;
mod load;
mod replicas;

use std::time::Duration;

use crate::screen::Screen;
use crate::shop::Shop;

/// Much longer than anything here takes, even on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(20);

/// An error means that the story could not go on. What is merely not as it should be is on the screen, and counted.
pub(crate) async fn tell(screen: &mut Screen, shop: &mut Shop) -> Result<(), String> {
    introduce(screen, shop);
    envoys::connect(screen, shop).await?;
    limits::bite(screen, shop).await?;
    let sent = limits::hold_a_noisy_tenant(screen, shop).await?;
    hindsight::find_a_number(screen, shop, sent).await?;
    changes::of_a_rate(screen, shop).await?;
    changes::of_a_match(screen, shop).await?;
    changes::that_are_wrong(screen, shop).await?;
    replicas::share_a_limit(screen, shop).await
}

fn introduce(screen: &Screen, shop: &Shop) {
    let ports = shop.ports;
    let [first, second] = ports.upstreams;
    screen.title("Tierflow: a shop behind Envoy, guarded by policies");
    screen.say(&format!(
        "shop       http://{}, and the sidecar of its inventory on http://{}",
        ports.shop, ports.sidecar
    ));
    screen.say(&format!("upstreams  {first} and {second}"));
    screen.say(&format!("Tierflow   xDS {}, decisions {}, admin http://{}", ports.xds, ports.rls, ports.admin));
    screen.say(&format!("policies   {}, a copy of policies/ with these ports", shop.policies.folder.display()));
}

/// Asks again and again, until there is an answer.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> Result<T, String> {
    let answered = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(DEADLINE, answered).await;
    waited.map_err(|_| format!("waited {} s in vain: {what}", DEADLINE.as_secs()))
}
