//! What is replayed from the access log of a real Envoy is what its rate limit service said.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::harness::{Setup, World, eventually, printed};
use crate::seed::Seed;

/// Windows of an hour: it makes no difference that a decision is some milliseconds later than the begin of its request.
const POLICIES: &str = "---
{kind: Api, name: pay, gateway: edge, service: upstream, match: {path: /pay},
 limits: [{name: all, rate: 60/h}, {name: device, rate: 15/h, by: [{header: x-device}]},
          {name: trial, rate: 9/h, by: [client_ip, method], mode: shadow}]}
---
{kind: Api, name: list, gateway: edge, service: upstream, match: {path_template: '/list/{id}', methods: [GET]},
 limits: [{name: each, rate: 4/h, by: [path]}, {name: burst, rate: 30/h, algorithm: token_bucket, burst: 25, by: [{query: q}]}]}
---
{kind: Plan, name: small, limits: [{name: over-all, rate: 20/h}], apis: {list: [{name: at-list, rate: 12/h}]}}
---
{kind: Plan, name: large, limits: [{name: over-all, rate: 50/h}]}
---
{kind: Tenant, name: globex, plan: large}
---
{kind: Tenant, name: gone, plan: small, status: suspended}
---
name: by-agent
rate_limits:
- actions: [{ request_headers: { header_name: x-agent, descriptor_key: agent } }]
  limit: { unit: HOUR, requests_per_unit: 70 }
";

struct Logged {
    world: World,
    folder: tempfile::TempDir,
}

impl Logged {
    async fn start(gateway: &str, policies: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway.replace("LOG", folder.path().join("access.log").to_str().unwrap());
        let world = World::start(Setup { policies, gateway: &gateway, ..Default::default() }).await;
        Self { world, folder }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("access.log")
    }

    async fn lines(&self, count: usize) -> String {
        eventually("Envoy writes all lines", async || {
            let text = std::fs::read_to_string(self.log()).ok()?;
            (text.lines().count() == count && text.ends_with('\n')).then_some(text)
        })
        .await
    }

    /// What the rate limit service says of itself: hits over each limit.
    async fn over_limits(&self) -> BTreeMap<String, u64> {
        let metrics = self.world.tierflow.ask("/metrics").await.text();
        let label =
            |line: &str, name: &str| Some(line.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.to_owned());
        let mut over = BTreeMap::new();
        for line in metrics.lines().filter(|line| line.starts_with("tierflow_decisions_total{")) {
            if ["over_limit", "shadow_over_limit"].contains(&label(line, "result").unwrap().as_str()) {
                let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
                *over.entry(label(line, "limit").unwrap()).or_default() += count;
            }
        }
        over.retain(|_, count| *count > 0);
        over
    }

    fn replay(&self, logs: &[&Path], flags: &[&str]) -> Value {
        let policies = format!("--policies={}", self.world.path("").display());
        let logs: Vec<&str> = logs.iter().map(|log| log.to_str().unwrap()).collect();
        let all = [&["replay"], &logs[..], &[&policies, "--output=json", "--top=100"], flags].concat();
        serde_json::from_str(&printed(&all)).unwrap()
    }
}

fn over_limits(told: &Value) -> BTreeMap<String, u64> {
    let mut over = BTreeMap::new();
    for limit in told["limits"].as_array().unwrap() {
        *over.entry(limit["limit"].as_str().unwrap().to_owned()).or_default() += limit["over_limit"].as_u64().unwrap();
    }
    over.retain(|_, count| *count > 0);
    over
}

fn denied_by(told: &Value, list: &str, name: &str) -> BTreeMap<String, u64> {
    let row = |row: &Value| (row[name].as_str().unwrap().to_owned(), row["denied"].as_u64().unwrap());
    told[list].as_array().unwrap().iter().map(row).filter(|(_, denied)| *denied > 0).collect()
}

#[tokio::test]
async fn what_is_replayed_of_an_envoys_log_is_what_was_decided() {
    const REQUESTS: usize = 300;
    let gateway = "access_log: { path: LOG, headers: [x-device, x-agent] }\n\
                   tenant: { from: { header: x-tenant-id }, default_plan: small }";
    let logged = Logged::start(gateway, POLICIES).await;
    let seed = Seed::of("REPLAY_SEED");
    let mut dice = fastrand::Rng::with_seed(seed.number);
    let (mut of_tenants, mut of_apis) = (BTreeMap::new(), BTreeMap::new());
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..REQUESTS {
        let path = match dice.u8(..10) {
            0..4 => "/pay".to_owned(),
            4..9 => format!("/list/{}?q={}", dice.u8(..20), dice.u8(..2)),
            _ => "/nowhere".to_owned(),
        };
        let method = if path == "/pay" { ["GET", "POST"][dice.usize(..2)] } else { "GET" };
        let tenant = ["globex", "acme", "initech", "gone"][dice.usize(..4)];
        let device = dice.u8(..3).to_string();
        let mut headers = vec![("x-tenant-id", tenant), ("x-device", &device)];
        if dice.bool() {
            headers.push(("x-agent", "one"));
        }
        if dice.u8(..8) == 0 {
            headers.remove(0);
        }
        let status = logged.world.edge.send(method, &path, &headers).await.status.as_u16();
        *statuses.entry(status).or_default() += 1;
        if matches!(status, 403 | 429) {
            let api = path.split('/').nth(1).unwrap();
            *of_apis.entry(api.to_owned()).or_insert(0) += 1;
            let named = headers.iter().find(|(name, _)| *name == "x-tenant-id");
            let tenant = named.map_or("anonymous", |(_, tenant)| *tenant);
            *of_tenants.entry(tenant.to_owned()).or_insert(0) += 1;
        }
    }
    let text = logged.lines(REQUESTS).await;
    let told = logged.replay(&[&logged.log()], &[]);
    let denied = statuses[&429] + statuses[&403];
    assert!(denied > 50 && statuses[&200] > 50 && statuses[&404] > 5, "{statuses:?}");
    assert_eq!(told["total"]["requests"], REQUESTS);
    assert_eq!(told["total"]["denied"], denied, "{told:#}");
    assert_eq!(told["total"]["denied_in_log"], denied, "Envoy's flag says the same");
    assert_eq!(told["answers"]["404: no Api takes the request"], statuses[&404]);
    assert_eq!(denied_by(&told, "apis", "api"), of_apis);
    assert_eq!(denied_by(&told, "tenants", "tenant"), of_tenants);
    let over = over_limits(&told);
    assert_eq!(over, logged.over_limits().await);
    assert!(over.len() >= 5, "too few limits deny: {over:?}");
    assert_eq!(told["log"]["missing_headers"], serde_json::json!([]));

    // In two files of which the older one is packed, in any order, and with what is no request between the lines.
    let (older, newer) = text.split_at(text.match_indices('\n').nth(REQUESTS / 2).unwrap().0 + 1);
    let [packed, rest] = ["access.log.1.gz", "rest.log"].map(|name| logged.folder.path().join(name));
    let mut gzip = GzEncoder::new(std::fs::File::create(&packed).unwrap(), Compression::fast());
    gzip.write_all(older.as_bytes()).unwrap();
    gzip.finish().unwrap();
    std::fs::write(&rest, format!("{newer}\nrotated\n")).unwrap();
    let again = logged.replay(&[&rest, &packed], &[]);
    for part in ["total", "apis", "limits", "tenants", "answers"] {
        assert_eq!(again[part], told[part], "{part}");
    }
    assert_eq!(again["log"]["unread"][0]["lines"], 1);
}

#[tokio::test]
async fn envoys_own_format_tells_clients_apart_and_says_what_it_has_not() {
    let policies = "---
{kind: Api, name: pay, gateway: edge, service: upstream, match: {path: /pay},
 limits: [{name: client, rate: 3/h, by: [client_ip]}, {name: device, rate: 100/h, by: [{header: x-device}]}]}
";
    let gateway = "access_log: { path: LOG, format: text }\nclient_ip: { trusted_hops: 1 }";
    let logged = Logged::start(gateway, policies).await;
    let mut denied = 0;
    for number in 0..24 {
        let client = format!("198.51.100.{}", number % 4);
        let headers = [("x-forwarded-for", client.as_str()), ("user-agent", "a \"quoted\" one")];
        let status = logged.world.edge.send("GET", "/pay?a=1", &headers).await.status.as_u16();
        denied += u64::from(status == 429);
    }
    logged.lines(24).await;
    let told = logged.replay(&[&logged.log()], &[]);
    assert_eq!(denied, 12);
    assert_eq!(
        (&told["total"]["denied"], &told["total"]["denied_in_log"]),
        (&denied.into(), &denied.into()),
        "{told:#}"
    );
    assert_eq!(told["log"]["missing_headers"], serde_json::json!(["x-device"]));
    assert_eq!(over_limits(&told), BTreeMap::from([("client".to_owned(), 12)]));
}

/// As other programs than an Envoy write them.
#[test]
fn a_log_may_begin_with_a_byte_order_mark_and_say_its_times_with_an_offset() {
    let folder = tempfile::tempdir().unwrap();
    let [policies, log] = ["policies", "access.log"].map(|name| folder.path().join(name));
    std::fs::create_dir(&policies).unwrap();
    let text = "{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:1', \
                tenant: {from: {header: x-tenant-id}, default_plan: small}}\n---\n\
                {kind: Service, name: upstream, endpoints: ['127.0.0.1:2']}\n";
    std::fs::write(policies.join("all.yaml"), text.to_owned() + POLICIES).unwrap();
    let line = |time: &str| format!("{{\"time\": \"{time}\", \"method\": \"GET\", \"path\": \"/pay\"}}\n");
    let lines = [line("2026-11-29T05:15:00+02:00"), line("2026-11-29T03:15:01Z")].concat();
    let told = |lines: &str| -> Value {
        std::fs::write(&log, lines).unwrap();
        let policies = format!("--policies={}", policies.display());
        serde_json::from_str(&printed(&["replay", log.to_str().unwrap(), &policies, "--output=json"])).unwrap()
    };
    let plain = told(&lines);
    assert_eq!((&plain["total"]["requests"], &plain["from"]), (&2.into(), &"2026-11-29T03:15:00Z".into()), "{plain}");
    assert_eq!(told(&format!("\u{feff}{lines}")), plain);
}
