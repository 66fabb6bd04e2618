//! Counters that are looked at and reset, through the API and from the command line: in memory, and in a Redis that
//! replicas share.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Edge, Setup, Tierflow, World, any_addresses, eventually, free_address, gateway, tierflow};
use crate::kit::client::Answer;
use crate::kit::upstream::Upstream;
use crate::redis_store::Server;

const POLICIES: &str = "
kind: Api
name: sale
gateway: edge
match: { path: /sale }
service: upstream
limits:
  - { name: all, rate: 100/h }
  - { name: client, rate: 50/h, by: [{ header: x-user }] }
---
kind: Plan
name: standard
limits:
  - { name: fixed, rate: 20/h, algorithm: fixed_window }
  - { name: bucket, rate: 36/h, algorithm: token_bucket, burst: 30 }
";
const TENANT: &str = "tenant: { from: { header: x-tenant-id }, default_plan: standard }";
const SETUP: Setup<'static> =
    Setup { policies: POLICIES, gateway: TENANT, on_error: "deny", xds: "delta", bootstrap: "" };

async fn ask(tierflow: &Tierflow, method: &str, query: &str) -> (u16, Value) {
    let answer: Answer = tierflow.send(method, &format!("/v1/counters?{query}"), &[], "").await;
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_else(|_| answer.text().into()))
}

/// As `limit used/remaining exists`.
async fn seen(tierflow: &Tierflow, query: &str) -> Vec<String> {
    let (status, body) = ask(tierflow, "GET", query).await;
    assert_eq!(status, 200, "{body}");
    let counters = body["counters"].as_array().unwrap();
    assert_eq!(body["total"], counters.len());
    let told = |counter: &Value| {
        let [limit, missing] = ["limit", "missing"].map(|field| &counter[field]);
        let limit = limit.as_str().unwrap();
        match missing.as_array().unwrap().is_empty() {
            true => format!("{limit} {}/{} {}", counter["used"], counter["remaining"], counter["exists"]),
            false => format!("{limit} needs {missing}"),
        }
    };
    counters.iter().map(told).collect()
}

async fn spend(edge: &Edge, tenant: &str, user: &str, requests: usize) {
    for _ in 0..requests {
        assert_eq!(edge.send("GET", "/sale", &[("x-tenant-id", tenant), ("x-user", user)]).await.status, 200);
    }
}

/// What every store has to tell, on all the replicas.
async fn counters_are_seen(edge: &Edge, replicas: &[&Tierflow]) {
    for replica in replicas {
        let none = ["all 0/100 false", "client needs [\"header.x-user\"]"];
        assert_eq!(seen(replica, "api=sale&tier=api").await, none, "nothing is counted yet");
    }
    spend(edge, "acme", "1", 16).await;
    spend(edge, "other", "2", 2).await;
    for replica in replicas {
        // Looking costs nothing, and makes no counter.
        for _ in 0..3 {
            assert_eq!(seen(replica, "api=sale&limit=all").await, ["all 18/82 true"]);
            let of_acme = ["fixed 16/4 true", "bucket 16/14 true"];
            assert_eq!(seen(replica, "tenant=acme&api=sale").await, of_acme);
            assert_eq!(seen(replica, "tenant=nobody").await, ["fixed 0/20 false", "bucket 0/30 false"]);
            assert_eq!(seen(replica, "header.X-User=2").await, ["client 2/48 true"]);
            assert_eq!(seen(replica, "header.x-user=").await, ["client 0/50 false"]);
        }
        let (_, body) = ask(replica, "GET", "api=sale&header.x-user=1").await;
        let counter = &body["counters"][0];
        let expected = json!({ "gateway": "edge", "api": "sale", "tenant": null, "tier": "api", "limit": "client",
            "rate": "50/hour", "algorithm": "sliding_window", "mode": "enforce", "missing": [], "exists": true,
            "by": [{ "dimension": "header:x-user", "value": "1" }], "used": 16, "remaining": 34 });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&counter[field], value, "{field}");
        }
        let frees = counter["frees_after_seconds"].as_f64().unwrap();
        assert!((1.0..=3660.0).contains(&frees), "{frees}");
        let (_, body) = ask(replica, "GET", "tenant=acme&limit=bucket").await;
        let counter = &body["counters"][0];
        assert_eq!((&counter["burst"], counter["frees_after_seconds"].as_f64() <= Some(100.0)), (&json!(30), true));
    }
    // Exactly what is named is reset, for all replicas at once.
    let (status, body) = ask(replicas[0], "DELETE", "tenant=acme").await;
    assert_eq!((status, &body["reset"]), (200, &json!(2)), "{body}");
    for replica in replicas {
        assert_eq!(seen(replica, "tenant=acme").await, ["fixed 0/20 false", "bucket 0/30 false"]);
        assert_eq!(seen(replica, "tenant=other").await, ["fixed 2/18 true", "bucket 2/28 true"]);
        assert_eq!(seen(replica, "api=sale&limit=all").await, ["all 18/82 true"]);
    }
    let (status, body) = ask(replicas[0], "DELETE", "tenant=acme").await;
    assert_eq!((status, &body["reset"]), (200, &json!(0)), "once more does no harm");
    spend(edge, "acme", "1", 20).await;
    assert_eq!(seen(replicas[0], "tenant=acme&limit=fixed").await, ["fixed 20/0 true"], "it may spend all of it again");
}

#[tokio::test]
async fn counters_in_memory_are_seen_and_reset() {
    let world = World::start(SETUP).await;
    counters_are_seen(&world.edge, &[&world.tierflow]).await;
    let (_, body) = ask(&world.tierflow, "GET", "").await;
    assert_eq!((&body["store"], body["next_offset"].is_null()), (&json!("memory"), true));
}

struct Sharing {
    server: Server,
    replicas: Vec<Tierflow>,
    edge: Edge,
    _upstream: Upstream,
    folder: TempDir,
}

impl Sharing {
    /// Two replicas that share a store, and an Envoy of the first.
    async fn start() -> Self {
        let server = Server::start(&[]);
        server.connection().await;
        let folder = tempfile::tempdir().unwrap();
        let upstream = Upstream::start("upstream", ([127, 0, 0, 1], 0).into()).await.unwrap();
        let listen = free_address();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("gateway.yaml"), gateway(&SETUP, listen, upstream.address)).unwrap();
        std::fs::write(policies.join("policies.yaml"), POLICIES).unwrap();
        let mut replicas = Vec::new();
        for log in ["a.log", "b.log"] {
            let source = vec![format!("--policies={}", policies.display())];
            let audit = format!("--audit-log={}", folder.path().join(format!("{log}.audit")).display());
            // What a replica has leased would be seen as used.
            let leases = "--counters-leases=off".to_owned();
            let flags = [format!("--counters={}", server.url()), "--counters-timeout=1s".to_owned(), leases, audit];
            let replica = Tierflow::serve(&folder.path().join(log), source, &flags, any_addresses()).await;
            eventually("the store is there", async || {
                (replica.status().await["counters"]["redis"]["connections_open"] == 4).then_some(())
            })
            .await;
            replicas.push(replica);
        }
        let edge = Edge::start(folder.path(), &replicas[0], "edge-1", "delta", listen);
        edge.ready().await;
        Self { server, replicas, edge, _upstream: upstream, folder }
    }
}

#[tokio::test]
async fn counters_in_redis_are_seen_and_reset_on_all_replicas() {
    let mut sharing = Sharing::start().await;
    counters_are_seen(&sharing.edge, &sharing.replicas.iter().collect::<Vec<_>>()).await;
    let audit = std::fs::read_to_string(sharing.folder.path().join("a.log.audit")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["what"][0], "reset tenant limit fixed of Gateway edge, Tenant acme");
    assert_eq!((&lines[0]["who"], &lines[0]["result"]), (&json!("loopback"), &Value::Null));
    assert_eq!((&lines[1]["change"], &lines[1]["result"]), (&lines[0]["change"], &json!({ "reset": 2 })));

    sharing.server.redis.kill();
    let replica = &sharing.replicas[0];
    for method in ["GET", "DELETE"] {
        let (status, body) = ask(replica, method, "tenant=acme").await;
        assert_eq!((status, &body["detail"]), (503, &json!("the store of counters does not answer")), "{method}");
    }
}

/// A key of another form, or of another type, counts as nothing where requests are decided, and so it does here.
#[tokio::test]
async fn a_look_writes_nothing_into_redis() {
    let sharing = Sharing::start().await;
    spend(&sharing.edge, "acme", "1", 16).await;
    let mut connection = sharing.server.connection().await;
    let mut dump = async || {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("tierflow:*").query_async(&mut connection).await.unwrap();
        // The roll of replicas and the skew of the clock are written once a second.
        keys.retain(|key| key != "tierflow:replicas" && !key.ends_with("}skew"));
        keys.sort();
        let mut all = Vec::new();
        for key in keys {
            let value: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut connection).await.unwrap();
            // The probe of the connections writes, once a second.
            if value.first() != Some(&b'f') || value.len() != 13 {
                let expires: u64 = redis::cmd("PEXPIRETIME").arg(&key).query_async(&mut connection).await.unwrap();
                all.push((key, value, expires));
            }
        }
        all
    };
    let before = dump().await;
    assert_eq!(before.len(), 5, "two logs that became rings, and a bucket");
    for query in ["", "tenant=acme", "tenant=nobody", "header.x-user=1", "header.x-user=7"] {
        seen(&sharing.replicas[1], query).await;
    }
    assert_eq!(dump().await, before);
}

#[tokio::test]
async fn what_names_no_counter_is_told_and_nothing_is_reset() {
    let world = World::start(SETUP).await;
    spend(&world.edge, "acme", "1", 1).await;
    let refused = async |method: &str, query: &str| {
        let (status, body) = ask(&world.tierflow, method, query).await;
        (status, body["detail"].as_str().unwrap().to_owned())
    };
    let (status, why) = refused("GET", "api=sael").await;
    assert_eq!((status, why.as_str()), (404, "no Api is called \"sael\"; did you mean \"sale\"?"));
    assert_eq!(refused("GET", "tenat=acme").await.0, 400);
    assert_eq!(refused("GET", "offset=x").await.0, 400);
    assert!(refused("DELETE", "").await.1.starts_with("say what is to be reset"));
    assert!(refused("DELETE", "tier=api").await.1.starts_with("say what is to be reset"));
    assert_eq!(
        refused("DELETE", "api=sale&limit=client").await.1,
        "that names no counter yet: limits there count by header.x-user, so say these too"
    );
    let elsewhere = world.tierflow.send("DELETE", "/v1/counters?tenant=acme", &[("host", "shop.example")], "").await;
    assert_eq!(elsewhere.status, 421, "a page under a name of its own reaches nothing");
    assert_eq!(seen(&world.tierflow, "tenant=acme").await, ["fixed 1/19 true", "bucket 1/29 true"]);
}

#[tokio::test]
async fn the_command_shows_counters_and_resets_them() {
    let world = World::start(SETUP).await;
    spend(&world.edge, "acme", "1", 3).await;
    let server = format!("--server=http://{}", world.tierflow.admin());
    let run = |args: &[&str]| {
        let output = tierflow(&[&["counters"], args, &[&server]].concat());
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), out, err)
    };
    let rows = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let (code, out, err) = run(&["--tenant", "acme", "--api", "sale"]);
    assert_eq!(code, Some(0), "{err}");
    let shown = rows(&out);
    assert_eq!(shown[0][..5], ["GATEWAY", "TIER", "API", "TENANT", "LIMIT"]);
    assert_eq!(shown[1][..9], ["edge", "tenant", "-", "acme", "fixed", "20/hour", "-", "3", "17"]);
    let (_, out, _) = run(&["--key", "header.x-user=1", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()[0]["used"], 3);
    let (_, out, _) = run(&["--limit", "client"]);
    assert!(out.contains("header:x-user=?") && out.contains("needs header.x-user"), "{out}");
    let (code, _, err) = run(&["--limit", "clint"]);
    assert!(code == Some(1) && err.contains("did you mean \"client\"?") && err.contains("(404)"), "{err}");
    let (code, _, err) = run(&["reset", "--tenant", "acme"]);
    assert!(code == Some(1) && err.contains("say --yes"), "{err}");
    let (code, out, err) = run(&["reset", "--tenant", "acme", "--yes"]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "2 counters are at zero now, 2 of which had counted something\n"),
        "{err}"
    );
    assert_eq!(seen(&world.tierflow, "tenant=acme&limit=fixed").await, ["fixed 0/20 false"]);
}
