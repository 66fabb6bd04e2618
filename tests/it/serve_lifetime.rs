//! `tierflow serve` from its start to its end, be it violent.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::getuid;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Edge, Load, Program, Setup, Tierflow, World, any_addresses, eventually, free_address};
use crate::kit::client::Client;

const API: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits: [{ rate: 1000000/h }]
";

/// Whether Tierflow decided the request.
async fn is_decided(edge: &Edge) -> bool {
    edge.get("/pay").await.header("x-ratelimit-limit").is_some()
}

/// A kill under load, a restart on the same ports, and a first change after it.
async fn a_kill_is_not_seen_by_clients(xds: &str) -> World {
    let mut world = World::start(Setup { policies: API, on_error: "allow", xds, ..Default::default() }).await;
    let load = Load::start(world.edge.url("/pay"));
    assert!(is_decided(&world.edge).await);
    let addresses = world.tierflow.addresses();
    world.tierflow.kill();
    eventually("nobody decides", async || (!is_decided(&world.edge).await).then_some(())).await;

    world.tierflow = Tierflow::start_on(&world.path(""), addresses).await;
    assert_eq!(world.tierflow.ask("/readyz").await.status, 200);
    eventually("it decides again", async || is_decided(&world.edge).await.then_some(())).await;
    assert_eq!(load.stop().await, Vec::<String>::new());

    // That a change arrives shows that the Envoy is back.
    world.save("policies.yaml", &API.replace("/pay", "/charge"));
    eventually("a change arrives", async || (world.edge.get("/charge").await.status == 200).then_some(())).await;
    world
}

#[tokio::test]
async fn a_kill_is_not_seen_by_clients_and_nothing_is_sent_twice_with_delta() {
    let world = a_kill_is_not_seen_by_clients("delta").await;
    assert_eq!(world.tierflow.pushes().await, [0, 0, 0, 0, 1]);
}

#[tokio::test]
async fn the_log_says_where_to_look_next() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("tierflow.log");
    let source = vec![format!("--policies={}", folder.path().display())];
    let tierflow = Tierflow::serve(&log, source, &["--allow-empty".to_owned()], any_addresses()).await;
    let url = format!("http://{}", tierflow.admin());
    let told = format!("see {url}/, or `tierflow status --server {url}`");
    eventually("the address of the page", async || fs::read_to_string(&log).unwrap().contains(&told).then_some(()))
        .await;
    assert_eq!(
        Client::default().get(&format!("{url}/")).await.unwrap().header("content-type"),
        Some("text/html; charset=utf-8")
    );
}

/// This variant has no way to say what an Envoy has. It is sent all of it, and takes it for what it is.
#[tokio::test]
async fn a_kill_is_not_seen_by_clients_with_state_of_the_world() {
    let world = a_kill_is_not_seen_by_clients("sotw").await;
    let modified = ["listener_manager.listener_modified", "cluster_manager.cluster_modified"];
    assert_eq!(world.edge.stats(modified).await, [0, 0]);
}

/// Nothing was kept from the run before, so there is no good version of the gateway.
async fn a_gateway_that_is_broken_at_the_start_takes_no_envoy_down(xds: &str) {
    let mut world = World::start(Setup { policies: API, xds, ..Default::default() }).await;
    let addresses = world.tierflow.addresses();
    world.tierflow.kill();
    let whole = fs::read_to_string(world.path("gateway.yaml")).unwrap();
    world.save("gateway.yaml", &whole.replace("kind: Gateway", "kind: Gatway"));
    world.tierflow = Tierflow::start_on(&world.path(""), addresses).await;
    eventually("Envoy is back", async || {
        let nodes = world.tierflow.json("/v1/nodes").await;
        (nodes["nodes"].as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    world.save("policies.yaml", &format!("{API}---\nkind: Plan\nname: new\nlimits: [{{ rate: 1/s }}]\n"));
    eventually("a change is served", async || {
        (world.tierflow.ask("/v1/policies/Plan/new").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(world.tierflow.pushes().await, [0; 5]);
    assert_eq!(world.edge.stats(["listener_manager.total_listeners_active"]).await, [1]);
    world.save("gateway.yaml", &whole);
    eventually("it decides again", async || is_decided(&world.edge).await.then_some(())).await;
}

#[tokio::test]
async fn a_gateway_that_is_broken_at_the_start_takes_no_envoy_down_with_delta() {
    a_gateway_that_is_broken_at_the_start_takes_no_envoy_down("delta").await;
}

#[tokio::test]
async fn a_gateway_that_is_broken_at_the_start_takes_no_envoy_down_with_state_of_the_world() {
    a_gateway_that_is_broken_at_the_start_takes_no_envoy_down("sotw").await;
}

#[tokio::test]
async fn a_gateway_may_rather_deny_what_nobody_decides() {
    let mut world = World::start(Setup { policies: API, on_error: "deny", ..Default::default() }).await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
    world.tierflow.kill();
    assert_eq!(world.edge.get("/pay").await.status, 503);
}

#[tokio::test]
async fn a_second_envoy_gets_everything() {
    let world = World::start(Setup { policies: API, ..Default::default() }).await;
    let second = Edge::start(world.folder.path(), &world.tierflow, "edge-2", "sotw", world.edge.listen);
    second.ready().await;
    let nodes = world.tierflow.json("/v1/nodes").await;
    let ids: Vec<_> = nodes["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect();
    assert_eq!(ids, ["edge-1", "edge-2"]);
    let World { edge: first, tierflow: _tierflow, .. } = world;
    drop(first);
    assert_eq!(second.get("/pay").await.header("x-ratelimit-remaining"), Some("999999"));
}

#[tokio::test]
async fn a_termination_ends_it_with_zero_while_an_envoy_is_connected() {
    let world = World::start(Setup { policies: API, ..Default::default() }).await;
    assert_eq!(world.edge.get("/pay").await.status, 200);
    let log = world.path("").with_extension("log");
    world.tierflow.signal("TERM");
    assert_eq!(world.tierflow.ended().await.code(), Some(0));
    // It has four seconds for calls under way. Idle Envoys must not use them up.
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.contains("cut off"), "{log}");
}

/// A Tierflow that is about to end for an hour.
async fn leaving() -> (tempfile::TempDir, Tierflow) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("plan.yaml"), "kind: Plan\nname: standard\nlimits: [{ rate: 1/h }]\n").unwrap();
    let source = vec![format!("--policies={}", folder.display())];
    let flags = ["--drain-time=1h".to_owned()];
    let tierflow = Tierflow::serve(&folder.with_extension("log"), source, &flags, any_addresses()).await;
    eventually("it is ready", async || (tierflow.ask("/readyz").await.status == 200).then_some(())).await;
    (root, tierflow)
}

#[tokio::test]
async fn whoever_leaves_says_so_and_serves_on_until_it_is_told_again() {
    let (_folder, tierflow) = leaving().await;
    let health = async |port, service: &str| {
        let channel = Endpoint::from_shared(format!("http://{port}")).unwrap().connect().await.unwrap();
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.unwrap().into_inner().status()
    };
    let services = [
        (tierflow.rls, "envoy.service.ratelimit.v3.RateLimitService"),
        (tierflow.xds, "envoy.service.discovery.v3.AggregatedDiscoveryService"),
    ];
    for (port, service) in services {
        assert_eq!(health(port, service).await, ServingStatus::Serving);
    }
    tierflow.signal("TERM");
    eventually("it says so", async || (tierflow.ask("/readyz").await.status == 503).then_some(())).await;
    let readiness = tierflow.json("/readyz").await;
    let row = readiness["checks"].as_array().unwrap().iter().find(|row| row["name"] == "leaving").unwrap();
    assert_eq!((&row["ok"], &readiness["ready"]), (&false.into(), &false.into()));
    for (port, service) in services {
        eventually(service, async || (health(port, service).await == ServingStatus::NotServing).then_some(())).await;
    }
    assert_eq!(tierflow.ask("/v1/policies/Plan/standard").await.status, 200);
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());
}

#[tokio::test]
async fn at_a_terminal_nobody_waits_for_envoys_to_go_elsewhere() {
    let (_folder, tierflow) = leaving().await;
    tierflow.signal("INT");
    assert!(tierflow.ended().await.success());
}

#[tokio::test]
async fn the_rate_limit_service_is_unwell_until_there_are_policies() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    fs::create_dir(&folder).unwrap();
    let tierflow = Tierflow::start(&folder).await;
    let channel = Endpoint::from_shared(format!("http://{}", tierflow.rls)).unwrap().connect().await.unwrap();
    let service = "envoy.service.ratelimit.v3.RateLimitService".to_owned();
    let health = async || {
        let request = HealthCheckRequest { service: service.clone() };
        HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
    };
    assert_eq!(health().await, ServingStatus::NotServing);
    assert_eq!(tierflow.ask("/readyz").await.status, 503);
    fs::write(folder.join("plan.yaml"), "kind: Plan\nname: standard\nlimits: [{ rate: 1/h }]\n").unwrap();
    eventually("it is well", async || (health().await == ServingStatus::Serving).then_some(())).await;
    assert_eq!(tierflow.ask("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_at_the_start() {
    let world = World::start(Setup { policies: API, ..Default::default() }).await;
    let xds = format!("--xds-listen={}", world.tierflow.xds);
    let output = crate::harness::tierflow(&["serve", "--policies", world.path("").to_str().unwrap(), &xds]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--xds-listen") && said.contains("in use"), "{said}");
}

#[tokio::test]
async fn it_takes_as_many_files_as_the_system_allows() {
    let folder = tempfile::tempdir().unwrap();
    let ports = ["xds", "rls", "admin"].map(|port| format!("--{port}-listen=127.0.0.1:0"));
    let tierflow = Command::new("sh")
        .args(["-c", "ulimit -Sn 64; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tierflow"), "serve", "--log=error"])
        .arg(format!("--policies={}", folder.path().display()))
        .args(ports)
        .spawn();
    let tierflow = Program(tierflow.unwrap());
    let limits = format!("/proc/{}/limits", tierflow.0.id());
    eventually("it asks for more", async || {
        let limits = fs::read_to_string(&limits).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let [soft, hard, ..] = files.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        (soft == hard).then_some(())
    })
    .await;
}

/// A core dump would hold passwords, keys and tokens.
#[tokio::test]
async fn no_core_is_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let tierflow = Tierflow::start(&policies).await;
    let limits = fs::read_to_string(format!("/proc/{}/limits", tierflow.process())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[..2], ["0", "0"]);
}

/// The limit of cores does not count for a program that they are piped to. What is not dumpable is dumped to none, and its files
/// in /proc, its memory among them, are root's (proc(5)).
#[tokio::test]
async fn its_memory_is_nobodys_but_roots() {
    /// Somebody who is not root (`nobody`), where that is who runs the tests.
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    // By its descriptor, because nobody else may be let into the folder that it is in.
    let binary = fs::File::open(env!("CARGO_BIN_EXE_tierflow")).unwrap();
    let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
    command.args(["serve", "--log=error", "--allow-empty", &format!("--policies={}", folder.path().display())]);
    let admin = free_address();
    command.args([
        format!("--admin-listen={admin}"),
        "--xds-listen=127.0.0.1:0".into(),
        "--rls-listen=127.0.0.1:0".into(),
    ]);
    if getuid().is_root() {
        command.uid(NOBODY);
    }
    let tierflow = Program(command.spawn().unwrap());
    let (client, url) = (Client::default(), format!("http://{admin}/healthz"));
    eventually("it serves", async || client.get(&url).await.ok()).await;
    assert_eq!(fs::metadata(format!("/proc/{}/mem", tierflow.0.id())).unwrap().uid(), 0);
}

/// A disk that is full, or a reader of the log that ended.
#[tokio::test]
async fn a_log_that_cannot_be_written_costs_the_log_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    let admin = free_address();
    let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args(["serve", "--policies", policies.to_str().unwrap(), "--allow-empty"])
        .args(["--xds-listen", "127.0.0.1:0", "--rls-listen", "127.0.0.1:0", "--admin-listen", &admin.to_string()])
        .stdin(std::process::Stdio::null())
        .stderr(fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn();
    let mut program = Program(child.unwrap());
    let client = Client::default();
    let generation = async || {
        assert!(program.0.try_wait().unwrap().is_none(), "it ended");
        let status = client.get(&format!("http://{admin}/v1/status")).await.ok()?.text();
        Some(serde_json::from_str::<serde_json::Value>(&status).unwrap()["generation"].as_u64())
    };
    let mut generation = generation;
    let first = eventually("it serves", &mut generation).await;
    fs::write(policies.join("gateway.yaml"), "kind: Gateway\nname: edge\nnodes: { ids: [e] }\nlisten: 127.0.0.1:1\n")
        .unwrap();
    eventually("it takes a change, of which it logs", async || (generation().await? > first).then_some(())).await;
}

/// Whatever the umask of whoever started it allows.
#[tokio::test]
async fn what_is_written_is_for_its_owner_and_what_others_collect_for_a_group() {
    let root = tempfile::tempdir().unwrap();
    let [policies, audit, denials, state] =
        ["policies", "audit.jsonl", "denials.jsonl", "state"].map(|name| root.path().join(name));
    fs::create_dir(&policies).unwrap();
    fs::write(policies.join("plan.yaml"), "kind: Plan\nname: standard\nlimits: [{ rate: 1/h }]\n").unwrap();
    let flags = [
        format!("--audit-log={}", audit.display()),
        format!("--denials-log={}", denials.display()),
        format!("--state-dir={}", state.display()),
    ];
    let (log, source) = (root.path().join("tierflow.log"), vec![format!("--policies={}", policies.display())]);
    let _tierflow = Tierflow::serve(&log, source, &flags, any_addresses()).await;
    let set = eventually("a set is kept", async || {
        let files = fs::read_dir(&state).ok()?.filter_map(Result::ok);
        files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ending| ending == "jsonl"))
    });
    let set = set.await;
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!([mode(&audit), mode(&denials)].map(|mode| mode & !0o640), [0; 2]);
    assert_eq!([mode(&state), mode(&set)].map(|mode| mode & 0o077), [0; 2]);
}
