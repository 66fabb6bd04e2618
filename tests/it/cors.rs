//! Pages of other origins: what a browser asks before, and what it lets a page read after.

use serde_json::Value;

use crate::harness::{Setup, World, eventually, printed};
use crate::kit::client::Answer;

const GATEWAY: &str = "tenant: { from: { header: x-tenant-id }, missing: reject, default_plan: standard }
cors: { allow_origins: ['https://shop.example', 'https://*.shop.example'], allow_headers: [x-tenant-id], max_age: 10m }";

const POLICIES: &str = "
kind: Plan
name: standard
limits: [{ rate: 1000/h }]
---
kind: Api
name: create
gateway: edge
match: { path: /order, methods: [POST], headers: { x-kind: { present: true } } }
service: upstream
limits: [{ rate: 1/h }]
---
kind: Api
name: read
gateway: edge
match: { path: /order, methods: [GET, HEAD] }
service: upstream
cors: { allow_origins: ['*'] }
---
kind: Api
name: cart
gateway: edge
match: { path: /cart }
service: upstream
cors: { allow_origins: [{ regex: 'https://[a-z]+[.]test' }], allow_credentials: true, expose_headers: [x-cart] }
limits: [{ rate: 1/h, by: [{ cookie: cart }] }]
---
kind: Api
name: inner
gateway: edge
match: { path: /inner }
service: upstream
cors: none
";

const SHOP: (&str, &str) = ("origin", "https://shop.example");
const TENANT: (&str, &str) = ("x-tenant-id", "acme");

async fn world() -> World {
    World::start(Setup { policies: POLICIES, gateway: GATEWAY, ..Default::default() }).await
}

async fn preflight(world: &World, path: &str, origin: &str, method: &str) -> Answer {
    world.edge.send("OPTIONS", path, &[("origin", origin), ("access-control-request-method", method)]).await
}

fn allowed(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[tokio::test]
async fn a_preflight_is_answered_by_envoy_and_counted_by_nothing() {
    let world = world().await;
    for origin in ["https://shop.example", "https://a.b.shop.example"].repeat(5) {
        let answer = preflight(&world, "/order", origin, "POST").await;
        assert_eq!((answer.status.as_u16(), allowed(&answer)), (200, Some(origin)), "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("x-tenant-id"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
    }
    assert_eq!(world.upstream.requests(), 0);
    let asked = ["cluster.upstream.ratelimit.ok", "cluster.upstream.ratelimit.over_limit"];
    assert_eq!(world.edge.stats(asked).await, [0, 0]);
    assert_eq!(world.edge.send("POST", "/order", &[SHOP, TENANT, ("x-kind", "a")]).await.status, 200);
    assert_eq!(world.edge.stats(asked).await, [1, 0]);
}

#[tokio::test]
async fn a_preflight_is_that_of_the_api_whose_method_it_asks_for() {
    let world = world().await;
    let rows = [
        ("/order", "https://shop.example", "POST", Some("https://shop.example"), Some("create")),
        ("/order", "https://shop.example.evil", "POST", None, Some("create")),
        ("/order", "https://evilshop.example", "POST", None, Some("create")),
        ("/order", "http://shop.example", "POST", None, Some("create")),
        ("/order", "https://any.example", "GET", Some("https://any.example"), Some("read")),
        ("/order", "https://shop.example", "DELETE", None, None),
        ("/cart", "https://web.test", "PATCH", Some("https://web.test"), Some("cart")),
        ("/cart", "https://shop.example", "PATCH", None, Some("cart")),
    ];
    for (path, origin, method, expected, api) in rows {
        let answer = preflight(&world, path, origin, method).await;
        assert_eq!(allowed(&answer), expected, "{method} {path} from {origin}");
        assert_eq!(answer.status, if api.is_some() { 200 } else { 404 });
        let explained = explained(&world, path, origin, method);
        assert_eq!((explained["api"].as_str(), explained["preflight"].as_bool()), (api, Some(api.is_some())));
    }
    assert_eq!(world.upstream.requests(), 0);
}

/// What `tierflow explain` thinks of a preflight.
fn explained(world: &World, path: &str, origin: &str, method: &str) -> Value {
    let policies = world.path("");
    let headers = [format!("--header=origin={origin}"), format!("--header=access-control-request-method={method}")];
    let path = format!("--path={path}");
    let args = ["explain", policies.to_str().unwrap(), "-ojson", "--method=OPTIONS", &path, &headers[0], &headers[1]];
    serde_json::from_str::<Value>(&printed(&args)).unwrap()[0].take()
}

#[tokio::test]
async fn a_page_can_read_a_denial_and_when_to_come_back() {
    let world = world().await;
    let own = [SHOP, TENANT, ("x-kind", "a")];
    assert_eq!(world.edge.send("POST", "/order", &own).await.status, 200);
    let denied = world.edge.send("POST", "/order", &own).await;
    let nameless = world.edge.send("POST", "/order", &[SHOP, ("x-kind", "a")]).await;
    for (answer, status) in [(&denied, 429), (&nameless, 400)] {
        assert_eq!((answer.status.as_u16(), allowed(answer)), (status, Some(SHOP.1)), "{}", answer.text());
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for header in ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"] {
            assert!(exposed.split(", ").any(|own| own == header), "{exposed}");
        }
    }
    let from_elsewhere = world.edge.send("POST", "/order", &[("origin", "https://evil.example"), own[1], own[2]]).await;
    assert_eq!((from_elsewhere.status.as_u16(), allowed(&from_elsewhere)), (429, None));
}

#[tokio::test]
async fn an_api_has_a_policy_of_its_own_beside_cookies_that_it_counts_by() {
    let world = world().await;
    let ask = async |cookie: &str| {
        world.edge.send("GET", "/cart", &[("origin", "https://web.test"), TENANT, ("cookie", cookie)]).await
    };
    for (cookie, status) in [("cart=a", 200), ("cart=b", 200), ("cart=a", 429)] {
        let answer = ask(cookie).await;
        assert_eq!((answer.status.as_u16(), allowed(&answer)), (status, Some("https://web.test")), "{cookie}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(answer.header("access-control-expose-headers").unwrap().starts_with("x-cart, "));
    }
}

/// `none` leaves it to the service. And not every OPTIONS is a preflight.
#[tokio::test]
async fn what_is_no_preflight_is_a_request_like_any_other() {
    let world = world().await;
    let of_service = preflight(&world, "/inner", SHOP.1, "GET").await;
    assert_eq!((of_service.status.as_u16(), allowed(&of_service)), (400, None), "it names no tenant");
    let asks_nothing = [vec![SHOP], vec![SHOP, ("access-control-request-method", "")]];
    let from_nowhere = [
        vec![("access-control-request-method", "GET")],
        vec![("origin", ""), ("access-control-request-method", "GET")],
    ];
    for headers in asks_nothing.into_iter().chain(from_nowhere) {
        assert_eq!(world.edge.send("OPTIONS", "/cart", &headers).await.status, 400, "{headers:?}");
    }
    assert_eq!(world.upstream.requests(), 0);
}

#[tokio::test]
async fn a_changed_policy_pushes_routes_and_no_listener() {
    let world = world().await;
    let [clusters, endpoints, secrets, listeners, routes] = world.tierflow.pushes().await;
    let gateway = std::fs::read_to_string(world.path("gateway.yaml")).unwrap();
    world.save("gateway.yaml", &gateway.replace("https://shop.example", "https://other.example"));
    eventually("another origin is allowed", async || {
        let answer = preflight(&world, "/order", "https://other.example", "POST").await;
        allowed(&answer).map(drop)
    })
    .await;
    assert_eq!(world.tierflow.pushes().await, [clusters, endpoints, secrets, listeners, routes + 1]);
}
