//! The rows that say how a Tierflow is: what each of them sees of a real one that is not well, and that it serves on.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Edge, Setup, Tierflow, any_addresses, eventually, free_address, gateway, tierflow as run};
use crate::kit::upstream::Upstream;
use crate::redis_store::Server;
use crate::store::check;

const POLICIES: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ name: client, rate: 1000/h, by: [{ header: x-user }], exact: true }]
";

/// The programs end before their folder goes.
struct World {
    edge: Edge,
    tierflow: Tierflow,
    redis: Server,
    _upstream: Upstream,
    folder: TempDir,
}

impl World {
    async fn start(on_error: &str) -> Self {
        let (folder, redis) = (tempfile::tempdir().unwrap(), Server::start(&[]));
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let (policies, listen) = (folder.path().join("policies"), free_address());
        std::fs::create_dir(&policies).unwrap();
        let setup = Setup { on_error, ..Default::default() };
        std::fs::write(policies.join("gateway.yaml"), gateway(&setup, listen, upstream.address)).unwrap();
        std::fs::write(policies.join("policies.yaml"), POLICIES).unwrap();
        let source = vec![format!("--policies={}", policies.display())];
        let flags = [
            format!("--counters={}", redis.url()),
            "--counters-timeout=1s".to_owned(),
            "--counter-keys-max=1024".to_owned(),
            format!("--denials-log={}", folder.path().join("denials.jsonl").display()),
        ];
        let tierflow = Tierflow::serve(&folder.path().join("tierflow.log"), source, &flags, any_addresses()).await;
        let edge = Edge::start(folder.path(), &tierflow, "edge-1", "delta", listen);
        edge.ready().await;
        let world = Self { edge, tierflow, redis, _upstream: upstream, folder };
        world.store_is_there().await;
        world
    }

    async fn store_is_there(&self) {
        eventually("the store is there", async || {
            (check(&self.tierflow, "counter_store").await["value"] == 4).then_some(())
        })
        .await;
    }

    async fn row(&self, name: &str) -> Value {
        check(&self.tierflow, name).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_for_a_store_that_hangs_are_seen_while_they_wait() {
    let world = World::start("allow").await;
    let row = eventually("some wait", async || {
        world.redis.signal("CONT");
        world.store_is_there().await;
        world.redis.signal("STOP");
        let (client, url) = (world.edge.client(), world.edge.url("/pay"));
        let asking = tokio::spawn(async move {
            // Fewer than those after which a store is taken to be away.
            let ask = || client.get(&url);
            tokio::join!(ask(), ask(), ask())
        });
        let mut waiting = None;
        while waiting.is_none() && !asking.is_finished() {
            assert_eq!(world.tierflow.ask("/healthz").await.status, 200);
            waiting = Some(world.row("decision_calls").await).filter(|row| row["value"] != 0);
        }
        let _answers = asking.await.unwrap();
        waiting
    })
    .await;
    world.redis.signal("CONT");
    assert!((1..=3).contains(&row["value"].as_u64().unwrap()), "{row}");
    assert_eq!((&row["ok"], &row["threshold"], &row["unit"]), (&json!(true), &json!(4096), &json!("calls")));
    eventually("nobody waits any more", async || (world.row("decision_calls").await["value"] == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_for_counters_beside_a_store_is_seen_and_a_full_one_is_degraded_and_not_dead() {
    let world = World::start("local").await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
    world.redis.signal("STOP");
    let mut user = 0;
    let row = eventually("there is no more room", async || {
        for _ in 0..100 {
            user += 1;
            world.edge.send("GET", "/pay", &[("x-user", &user.to_string())]).await;
        }
        Some(world.row("counter_keys").await).filter(|row| row["ok"] == false || user > 20_000)
    })
    .await;
    assert_eq!(
        row,
        json!({ "name": "counter_keys", "ok": false, "value": 1024, "threshold": 1024, "unit": "counters" })
    );
    assert_eq!(world.tierflow.ask("/readyz").await.status, 200);
    let server = format!("--server=http://{}", world.tierflow.admin());
    let output = run(&["status", &server]);
    let said = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["counter_keys", "NOT", "OK", "1024", "1024", "counters"]), "{said}");
    assert!(rows.contains(&vec!["denials_log", "ok", "0", "4096", "lines"]), "{said}");
    let names = |checks: &Value| -> Vec<String> {
        checks["checks"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let readiness = names(&world.tierflow.json("/readyz").await);
    assert_eq!(names(&world.tierflow.status().await), readiness);
    // What is documented is what there is.
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md")).unwrap();
    for name in readiness {
        assert!(docs.contains(&format!("| `{name}` |")), "{name}");
    }
    world.redis.signal("CONT");
    drop(world.folder);
}
