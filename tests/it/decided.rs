//! What an operator sees of what is decided, through a real Envoy: the traffic by the second, the limits with what they denied,
//! the busiest and the most denied, and who changed what.

use serde_json::{Value, json};

use crate::harness::{Setup, Tierflow, World, any_addresses, eventually, printed};

const POLICIES: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits:
  - { name: all, rate: 1000/h }
  - { name: trial, rate: 1/h, mode: shadow }
---
kind: Api
name: look
gateway: edge
match: { path: /look }
service: upstream
limits: [{ name: network, rate: 1000/h, by: [client_ip/24, { header: x-user }] }]
---
kind: Plan
name: standard
limits: [{ name: plan, rate: 5/h }]
";
const TENANT: &str = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";

async fn world() -> World {
    World::start(Setup { policies: POLICIES, gateway: TENANT, ..Default::default() }).await
}

/// So many requests, and how many of them were denied.
async fn send(world: &World, path: &str, tenant: &str, requests: usize) -> usize {
    let mut denied = 0;
    for _ in 0..requests {
        let headers = [("x-tenant-id", tenant), ("x-user", "ann")];
        denied += usize::from(world.edge.send("GET", path, &headers).await.status == 429);
    }
    denied
}

#[tokio::test]
async fn what_is_decided_is_seen_by_the_second_by_limit_and_by_tenant() {
    let world = world().await;
    assert_eq!(send(&world, "/pay", "noisy", 12).await, 7);
    assert_eq!(send(&world, "/look", "calm", 2).await, 0);
    let sum = |seconds: &Value, of: &str| -> u64 {
        seconds["seconds"].as_array().unwrap().iter().map(|second| second[of].as_u64().unwrap()).sum()
    };
    let seconds = eventually("all seconds are over", async || {
        let seconds = world.tierflow.json("/v1/traffic").await;
        (sum(&seconds, "decisions") == 14).then_some(seconds)
    })
    .await;
    assert_eq!((sum(&seconds, "denied"), sum(&seconds, "failed")), (7, 0));
    for second in seconds["seconds"].as_array().unwrap() {
        assert_eq!(second["p99_us"].is_u64(), second["decisions"] != 0, "{second}");
    }

    let limits = world.tierflow.json("/v1/limits").await;
    let told = |row: &Value| {
        let [api, limit] = ["api", "limit"].map(|member| row[member].as_str().unwrap_or("*"));
        format!("{api} {limit} {}+{} of {}", row["over_limit"], row["shadow_over_limit"], row["decisions"])
    };
    let told: Vec<String> = limits["limits"].as_array().unwrap().iter().map(told).collect();
    // What the plan denies, the Api's own limit in shadow would have denied, too.
    assert_eq!(told, ["* plan 7+0 of 14", "look network 0+0 of 2", "pay all 0+0 of 12", "pay trial 0+11 of 12"]);

    let top = world.tierflow.json("/v1/top").await;
    assert_eq!(top["exact"], true);
    let tenants = json!([
        { "gateway": "edge", "tenant": "noisy", "decisions": 12, "denied": 7 },
        { "gateway": "edge", "tenant": "calm", "decisions": 2, "denied": 0 },
    ]);
    assert_eq!(top["tenants"], tenants);
    let key = |api: Value, tier: &str, limit: &str, tenant: Value, key: Value, counts: [u64; 2]| {
        json!({
            "gateway": "edge", "api": api, "tier": tier, "limit": limit, "tenant": tenant, "key": key,
            "shadow": limit == "trial", "decisions": counts[0], "denied": counts[1],
        })
    };
    let pay = || json!("pay");
    let keys = json!([
        key(pay(), "api", "trial", Value::Null, json!([]), [12, 11]),
        key(Value::Null, "tenant", "plan", json!("noisy"), json!([]), [12, 7]),
        key(pay(), "api", "all", Value::Null, json!([]), [12, 0]),
        key(Value::Null, "tenant", "plan", json!("calm"), json!([]), [2, 0]),
        key(json!("look"), "api", "network", Value::Null, json!(["127.0.0.0/24", "ann"]), [2, 0]),
    ]);
    assert_eq!(top["keys"], keys);
    let denied = world.tierflow.json("/v1/top?by=denied&limit=1&gateway=edge").await;
    assert_eq!((denied["tenants"].as_array().unwrap().len(), &denied["tenants"][0]["tenant"]), (1, &json!("noisy")));
    let flag = format!("--server=http://{}", world.tierflow.admin());
    let verb = printed(&["top", &flag, "--by=denied", "--gateway=edge"]);
    assert!(verb.lines().any(|line| line.split_whitespace().eq(["edge", "noisy", "12", "7", "(58%)"])), "{verb}");
    let verb: Value = serde_json::from_str(&printed(&["top", &flag, "-o=json"])).unwrap();
    assert_eq!(verb["tenants"], tenants);
    let elsewhere = world.tierflow.ask("/v1/top?gateway=other").await;
    assert_eq!(elsewhere.status, 404, "a gateway that there is not is no quiet one");
}

#[tokio::test]
async fn who_changed_what_is_known_after_a_restart_where_there_is_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    let gateway = "kind: Gateway\nname: edge\nnodes: { clusters: [edge] }\nlisten: 127.0.0.1:1\n---\n\
                   kind: Service\nname: upstream\nendpoints: ['127.0.0.1:2']\n---";
    std::fs::write(policies.join("all.yaml"), format!("{gateway}{POLICIES}")).unwrap();
    let source = || vec![format!("--policies={}", policies.display())];
    let log = format!("--audit-log={}", folder.path().join("audit.jsonl").display());
    let start = async || {
        Tierflow::serve(&folder.path().join("log"), source(), std::slice::from_ref(&log), any_addresses()).await
    };
    let mut tierflow = start().await;
    for limit in ["all", "trial"] {
        let path = format!("/v1/counters?api=pay&limit={limit}");
        assert_eq!(tierflow.send("DELETE", &path, &[], "").await.status, 200);
    }
    let told = tierflow.json("/v1/audit").await;
    let what =
        |told: &Value| told["entries"].as_array().unwrap().iter().map(|entry| entry["what"][0].clone()).collect();
    let whats: Vec<Value> = what(&told);
    assert_eq!(whats, ["trial", "all"].map(|limit| json!(format!("reset api limit {limit} of Gateway edge, Api pay"))));
    tierflow.kill();
    let tierflow = start().await;
    assert_eq!(tierflow.json("/v1/audit").await["entries"], told["entries"]);
}
