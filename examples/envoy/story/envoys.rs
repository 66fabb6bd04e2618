//! Envoys connect, are given what their gateway needs, and say that they took it.

use tierflow::nodes::{Node, TypeStatus};
use tierflow::snapshot::resource::ResourceType;

use super::until;
use crate::screen::Screen;
use crate::shop::Shop;

/// What every Envoy here is sent. Secrets are for gateways with TLS.
const TYPES: [ResourceType; 4] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

pub(super) async fn connect(screen: &mut Screen, shop: &mut Shop) -> Result<(), String> {
    screen.act("Two Envoys connect");
    screen.say("their bootstrap says who they are and where Tierflow is; all the rest comes from policies");
    let nodes = until("two Envoys acknowledge what they are sent", async || match shop.ended_envoy() {
        Some(ended) => Some(Err(ended)),
        None => Some(shop.nodes()).filter(|nodes| nodes.len() == 2 && nodes.iter().all(is_settled)).map(Ok),
    });
    let nodes = nodes.await.map_err(|error| error + &shop.last_words())??;
    let took = shop.clock.now().since(shop.opened_at).as_millis();
    let heading = ["Envoy", "version", "serves", "acknowledged"].map(str::to_owned);
    screen.table(&heading, &nodes.iter().map(row).collect::<Vec<_>>());
    let is_first = nodes.iter().all(|node| TYPES.iter().all(|ty| acknowledged(node, *ty) == Some(1)));
    screen.fact(is_first, &format!("both run generation 1, {took} ms after they were started"));

    // A request that is not counted yet has no such header. Envoy asks how the limiter is before it asks the limiter.
    until("the shop counts requests", async || {
        let answer = shop.customer.ask("GET", "/order/1", Some("globex")).await.ok()?;
        (answer.status == 200 && answer.header("x-ratelimit-limit").is_some()).then_some(())
    })
    .await
}

/// The generation of the resources that the Envoy took last.
pub(super) fn acknowledged(node: &Node, resource_type: ResourceType) -> Option<u64> {
    node.types.get(&resource_type)?.acknowledged.map(|sent| sent.generation)
}

fn is_settled(node: &Node) -> bool {
    let is_taken = |status: &TypeStatus| status.acknowledged.is_some() && status.acknowledged == status.sent;
    TYPES.iter().all(|ty| node.types.get(ty).is_some_and(|status| is_taken(status)))
}

fn row(node: &Node) -> [String; 4] {
    let types = node.types.iter().filter(|(_, status)| status.acknowledged.is_some());
    let types: Vec<&str> = types.map(|(resource_type, _)| resource_type.as_str()).collect();
    [node.identity.id.clone(), node.envoy_version.clone(), node.groups.join(" "), types.join(", ")]
}
