//! After the story: what to try next, and a line for everything that happens to the policies.

use std::time::Duration;

use tierflow::live::Refusals;

use crate::screen::Screen;
use crate::shop::Shop;

const PAUSE: Duration = Duration::from_millis(200);

/// Returns only with the reason why the shop could not stay open.
pub(crate) async fn until_something_ends(screen: &mut Screen, shop: &mut Shop) -> Result<(), String> {
    invite(screen, shop);
    let mut generation = shop.generation();
    let mut refused = shop.tierflow.live.refused();
    let mut pushes = shop.pushes().await?;
    loop {
        tokio::select! {
            failure = shop.tierflow.failure() => return Err(failure),
            () = tokio::time::sleep(PAUSE) => {}
        }
        if let Some(ended) = shop.ended_envoy() {
            return Err(ended);
        }
        if shop.generation() != generation {
            // Envoys are told at once, which is not in no time.
            tokio::time::sleep(PAUSE).await;
            generation = shop.generation();
            let pushed = shop.pushes().await?;
            screen.say(&format!("generation {generation} is served; xDS responses for it: {}", pushed - pushes));
            pushes = pushed;
            tell_refusing_envoys(screen, shop);
        }
        let refused_now = shop.tierflow.live.refused();
        tell_refusals(screen, &refused, &refused_now);
        refused = refused_now;
    }
}

fn invite(screen: &Screen, shop: &Shop) {
    let ports = shop.ports;
    let orders = format!("http://{}/order", ports.shop);
    let invitations = [
        ("a limit", format!("curl -i -X POST {orders}/create")),
        ("a suspended tenant", format!("curl -i -H 'x-tenant-id: initech' {orders}/1")),
        ("the sidecar, by cost", format!("curl -i -H 'x-items: 4000' http://{}/stock", ports.sidecar)),
        ("who has what", format!("curl -s http://{}/v1/nodes", ports.admin)),
        ("edit, and look here", format!("$EDITOR {}/plans.yaml", shop.policies.folder.display())),
        ("admin API, metrics", format!("http://{}/v1/status and /metrics", ports.admin)),
        ("Envoy's own admin", format!("http://{}", ports.envoy_admin)),
    ];
    screen.blank();
    screen.title("Try it: the shop stays open until Ctrl-C");
    invitations.iter().for_each(|(what, how)| screen.say(&format!("{what:22}{how}")));
    screen.blank();
    screen.title(&format!("See it: http://{}/", ports.admin));
    screen.blank();
}

fn tell_refusing_envoys(screen: &Screen, shop: &Shop) {
    for node in shop.nodes() {
        for (ty, status) in &node.types {
            let Some(refused) = &status.refused else { continue };
            screen.say(&format!("{} refuses {ty}: {}", node.identity.id, refused.message.trim_end()));
        }
    }
}

fn tell_refusals(screen: &Screen, before: &Refusals, now: &Refusals) {
    for refusal in now.new_since(before) {
        refusal.problems.iter().for_each(|problem| screen.say(&format!("refused: {problem}")));
    }
    if now.is_empty() && !before.is_empty() {
        screen.say("nothing is refused any more");
    }
}
