//! The API as a client sees it: every path, what it answers, and what it answers to nonsense.

mod events;
mod gate;
mod lists;
mod page;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::*;
use crate::access::file::{AccessFiles, credentials};
use crate::access::{Credentials, Port};
use crate::audit::{Audit, AuditSettings};
use crate::budget::Allowance;
use crate::certificates::Holds;
use crate::compile::RateLimitService;
use crate::counters::memory::{Memory, MemoryLimits};
use crate::denials::Denials;
use crate::document::{Documents, split};
use crate::etcd::EtcdSettings;
use crate::etcd::link::Link;
use crate::events::Events;
use crate::limiter::key::KeyHasher;
use crate::live::{Settings, Writer};
use crate::made_certificates::{Authority, in_days};
use crate::names::{Name, NodeIdentity, Revision};
use crate::nodes::{Node, Position, Protocol, Seat, Sent, Standing, Subscribed};
use crate::rotation::Rotation;
use crate::snapshot::resource::ResourceType;

const SHOP: &str = "\
{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:10000',
 tenant: {from: {header: x-tenant-id}, default_plan: standard}}
---
{kind: Service, name: order, endpoints: ['127.0.0.1:9101']}
---
{kind: Api, name: create, gateway: edge, match: {path: /create}, service: order, limits: [{rate: 10/m}]}
---
{kind: Plan, name: standard, limits: [{rate: 100/h, by: [client_ip]}]}
---
{kind: Tenant, name: acme inc/7, plan: standard}
";

/// What a client gets.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn content_type(&self) -> &str {
        self.headers[header::CONTENT_TYPE].to_str().unwrap()
    }
}

pub(super) struct World {
    pub(super) admin: Admin,
    writer: Writer,
    /// Of the connection that all ask on.
    allowance: Arc<Allowance>,
}

impl World {
    /// Nothing is loaded yet.
    fn new() -> Self {
        let counter_keys = KeyHasher::seeded([0; 16]);
        let rate_limit_service = RateLimitService::default();
        let (live, writer) = Live::new(Settings { rate_limit_service, counter_keys, allow_empty: false });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let port = Port { bound: address, is_tls: false };
        let clock = Clock::start();
        let admin = Admin {
            live,
            rollout: Arc::default(),
            nodes: Arc::default(),
            denials: Arc::new(Denials::new(Arc::default(), clock)),
            certificates: Arc::default(),
            asks_for_certificates: false,
            counters: Counters::Memory(Arc::new(Memory::new(MemoryLimits { keys_max: 1024 }))),
            metrics: Arc::default(),
            traffic: Arc::default(),
            top: Arc::default(),
            limits: Arc::default(),
            turns: Turns::default(),
            following: Following::new(Arc::new(Events::new(clock.now())), CancellationToken::new()),
            board: Arc::default(),
            directory: Arc::default(),
            editor: None,
            audit: Arc::new(Audit::default()),
            keeping: None,
            tls_trouble: Trouble::default(),
            crowding: Crowding::of_ports(&Metrics::default(), clock),
            traces: None,
            denial_log: None,
            access: Arc::new(Access::new(port, false, Credentials::none(port))),
            clock,
            listeners: Listeners { xds: address, rls: address, admin: address },
            xds_unread_bytes_max: 1000,
            leaving: CancellationToken::new(),
        };
        Self { admin, writer, allowance: Arc::default() }
    }

    pub(super) fn shop() -> Self {
        let mut world = Self::new();
        world.load(SHOP);
        world
    }

    fn load(&mut self, text: &str) {
        let documents = Documents::new(Revision(7), split(&"p.yaml".into(), text.as_bytes()));
        self.writer.adopt(&documents, self.admin.clock.now());
        let Admin { live, rollout, nodes, .. } = &self.admin;
        let served = live.served();
        let read_at = served.read_at;
        rollout.advance(served, |generation, reached| nodes.offered(generation, read_at, reached));
    }

    /// The token of somebody who may do everything.
    pub(super) fn with_token_of_ann(mut self) -> Self {
        let files = AccessFiles { file: None, token_file: Some("tokens".into()) };
        let port = self.admin.access.port;
        let said = credentials(&files, port, |_| Ok(b"ann:0123456789abcdef\n".to_vec()));
        self.admin.access = Arc::new(Access::new(port, false, said.unwrap()));
        self
    }

    /// Policies that come from an etcd where nobody listens.
    fn with_editor(mut self) -> Self {
        let endpoints = vec!["http://127.0.0.1:1".to_owned()];
        let link = Link::new(EtcdSettings { endpoints, prefix: "/t".to_owned(), user: None, tls: None });
        let (_claim, claims) = watch::channel(None);
        let editor = Editor::new(link, Arc::clone(&self.admin.live), claims, "/t/servers/a".to_owned());
        self.admin.editor = Some(Arc::new(editor));
        self
    }

    fn join(&self, id: &str, groups: &[&str]) -> Seat {
        let metadata = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let identity =
            Arc::new(NodeIdentity { id: id.to_owned(), cluster: "edge".to_owned(), metadata, certificate: None });
        let position = Position { standing: Standing::Pending, live: 0, since: Timestamp::default() };
        self.admin.nodes.join(Node {
            identity,
            envoy_version: "1.40.0".to_owned(),
            too_old_for: Vec::new(),
            protocol: Protocol::Delta,
            connected_at: Timestamp::default(),
            gone_at: None,
            groups: groups.iter().filter_map(|name| Name::parse(name)).collect(),
            position,
            types: BTreeMap::new(),
        })
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000)));
        let request = request.extension(peer).extension(Arc::clone(&self.allowance)).body(body.into()).unwrap();
        let response = self.admin.clone().into_router().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(super) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!((answer.status, answer.content_type()), (200, "application/json"), "{path}: {}", answer.text);
        answer.json()
    }
}

/// Method, path, headers and body of a request, and the status and some words of its answer.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16, &'a str);

/// The status of an error and its detail.
fn problem(answer: &Answer) -> (u16, String) {
    assert_eq!(answer.content_type(), "application/problem+json", "{}", answer.text);
    let body = answer.json();
    assert_eq!((&body["status"], &body["type"]), (&json!(answer.status), &json!("about:blank")));
    (answer.status, body["detail"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_is_told_as_problem_details() {
    let world = World::shop().with_editor();
    let base = [("x-config-base-version", "0")];
    let json = [("content-type", "application/json")];
    let too_large = "x".repeat(BODY_BYTES_MAX + 1);
    let cases: [Case<'_>; 52] = [
        ("GET", "/v1/thing", &[], "", 404, "nothing is at /v1/thing"),
        ("PATCH", "/v1/policies", &[], "", 405, "/v1/policies cannot be asked with PATCH"),
        ("POST", "/v1/nodes/a", &[], "", 405, "/v1/nodes/a cannot be asked with POST"),
        ("GET", "/v1/policies/Thing/x", &[], "", 404, "\"Thing\" is none of Gateway, Service, Api, "),
        ("GET", "/v1/policies/Plan/gold", &[], "", 404, "no Plan is called \"gold\""),
        ("GET", "/v1/policies/Plan/%ff", &[], "", 400, "Invalid URL"),
        ("GET", "/v1/nodes/%ff", &[], "", 400, "Invalid URL"),
        ("GET", "/v1/nodes/edge-1", &[], "", 404, "no Envoy with the node id \"edge-1\" is connected"),
        ("GET", "/v1/config_dump", &[], "", 400, "gateway is missing: expected it in the query, as in ?gateway=..."),
        ("GET", "/v1/config_dump?gateway=side", &[], "", 404, "no Gateway is called \"side\""),
        ("GET", "/v1/policies?limit=0", &[], "", 400, "limit: found 0, expected 1 to 1000"),
        ("GET", "/v1/policies?limit=1001", &[], "", 400, "limit: found 1001"),
        (
            "GET",
            "/v1/policies?kind=Thing",
            &[],
            "",
            400,
            "kind: found \"Thing\", expected Gateway or Service or Api or ",
        ),
        ("GET", "/v1/policies?refused=yes", &[], "", 400, "refused: found \"yes\", expected true or false"),
        ("GET", "/v1/policies?after=x", &[], "", 400, "after: found \"x\", expected the `next` of the page before"),
        (
            "GET",
            "/v1/policies?serach=a",
            &[],
            "",
            400,
            "unknown parameter \"serach\"; did you mean \"search\"?; expected kind, search, refused, ",
        ),
        ("GET", "/v1/nodes?limit=-1", &[], "", 400, "limit: found \"-1\", expected a whole number of 1 to 1000"),
        ("GET", "/v1/nodes?state=stale", &[], "", 400, "state: found \"stale\", expected REFUSED or HELD or "),
        ("GET", "/v1/nodes?after=W10", &[], "", 400, "after: found \"W10\""),
        ("GET", "/v1/nodes?colour=red", &[], "", 400, "unknown parameter \"colour\"; expected gateway, state, "),
        ("GET", "/v1/traffic?x=1", &[], "", 400, "unknown parameter \"x\"; expected none"),
        ("GET", "/v1/nodes?gateway=edeg", &[], "", 404, "no Gateway is called \"edeg\"; did you mean \"edge\"?"),
        ("GET", "/v1/top?gateway=side", &[], "", 404, "no Gateway is called \"side\""),
        ("GET", "/v1/top?api=pay", &[], "", 404, "no Api is called \"pay\""),
        ("GET", "/v1/limits?gateway=side", &[], "", 404, "no Gateway is called \"side\""),
        ("GET", "/v1/limits?api=pay", &[], "", 404, "no Api is called \"pay\""),
        ("POST", "/v1/check?delete=Plan/gold", &[], "", 404, "no Plan gold is there to be deleted"),
        ("POST", "/v1/diff?delete=Plan/gold", &[], "", 404, "no Plan gold is there to be deleted"),
        ("POST", "/v1/check", &[], "", 400, "the body has no document: expected a file of documents"),
        ("POST", "/v1/check?merge=true", &[], "", 400, "the body has no document"),
        (
            "POST",
            "/v1/check?delete=Plan/standard",
            &[],
            "{kind: Plan, name: standard, limits: [{rate: 1/m}]}",
            400,
            "delete: Plan standard is in the body, too",
        ),
        (
            "POST",
            "/v1/diff?delete=Plan/standard&merge=true",
            &[],
            "{kind: Plan, name: standard, limits: [{rate: 1/m}]}",
            400,
            "delete: Plan standard is in the body, too",
        ),
        ("POST", "/v1/explain", &json, r#"["/"]"#, 422, "the body: found an array, expected a JSON object"),
        ("POST", "/v1/explain", &json, "7", 422, "the body: found a number, expected a JSON object"),
        ("POST", "/v1/explain", &json, "{}", 422, "the body: missing field `path`"),
        (
            "POST",
            "/v1/explain",
            &json,
            r#"{"path": "/", "headers": [{"name": 7}]}"#,
            422,
            "headers[0].name: invalid type",
        ),
        ("POST", "/v1/check?merge=1", &[], "", 400, "merge: found \"1\", expected true or false"),
        ("POST", "/v1/explain", &json, r#"{"path": "/", "gateway": "side"}"#, 404, "no Gateway is called \"side\""),
        ("POST", "/v1/explain", &json, r#"{"path": "/", "headers": [{"name": "x y", "value": "1"}]}"#, 400, "\"x y\""),
        (
            "POST",
            "/v1/explain",
            &json,
            r#"{"path": "/", "headers": [{"name": "x", "value": "\u007f"}]}"#,
            400,
            "U+007F",
        ),
        ("GET", "/v1/counters?colour=red", &[], "", 400, "colour"),
        ("GET", "/v1/counters?offset=-1", &[], "", 400, "offset: found \"-1\", expected a whole number"),
        ("GET", "/v1/counters?api=pay", &[], "", 404, "pay"),
        ("DELETE", "/v1/counters", &[], "", 400, "say what is to be reset"),
        ("DELETE", "/v1/counters?api=create&tenant=acme%20inc/7", &[], "", 400, "that names no counter"),
        ("PUT", "/v1/policies/Plan/gold", &base, &too_large, 413, "length limit exceeded"),
        ("PUT", "/v1/policies/Plan/gold?force=a&force=b", &base, "", 400, "force stands twice"),
        ("DELETE", "/v1/counters?limit=a&header.x-a=1&header.X-A=2", &[], "", 400, "header.X-A stands twice"),
        ("DELETE", "/v1/counters?limit=a&tenant=%ff", &[], "", 400, "the query is not UTF-8"),
        ("PUT", "/v1/policies/Plan/gold", &base, "{kind: Plan}", 422, "make no sense"),
        ("DELETE", "/v1/policies/Plan/gold", &[], "", 428, "say in X-Config-Base-Version"),
        ("POST", "/v1/apply", &base, "", 400, "the change holds nothing"),
    ];
    for (method, path, headers, body, status, words) in cases {
        let answer = world.send(method, path, headers, body.to_owned()).await;
        let (told, detail) = problem(&answer);
        assert_eq!(told, status, "{method} {path}: {detail}");
        assert!(detail.contains(words), "{method} {path}: {detail}");
    }
}

#[tokio::test]
async fn a_body_with_a_content_coding_is_refused_with_what_would_be_taken() {
    let world = World::shop().with_editor();
    let base = ("x-config-base-version", "0");
    for (method, path) in [
        ("POST", "/v1/apply"),
        ("PUT", "/v1/policies/Plan/gold"),
        ("POST", "/v1/check"),
        ("POST", "/v1/diff"),
        ("POST", "/v1/explain"),
    ] {
        for codings in [&["gzip"][..], &["identity", "br"], &["gzip, identity"]] {
            let codings = codings.iter().map(|coding| ("content-encoding", *coding));
            let headers: Vec<_> = codings.chain([base, ("content-type", "application/json")]).collect();
            let answer = world.send(method, path, &headers, "\u{1f}\u{8b}").await;
            assert_eq!(answer.headers[header::ACCEPT_ENCODING], "identity", "{method} {path}");
            let (status, detail) = problem(&answer);
            assert_eq!((status, detail.contains("expected a body without one")), (415, true), "{detail}");
        }
        let answer = world.send(method, path, &[("content-encoding", "Identity"), base], "").await;
        assert_eq!(answer.headers.get(header::ACCEPT_ENCODING), None, "{method} {path}");
    }
    // Nothing comes that could be encoded.
    assert_eq!(world.send("GET", "/v1/status", &[("content-encoding", "gzip")], "").await.status, 200);
}

#[tokio::test]
async fn a_parameter_that_nothing_takes_is_refused_by_every_operation_that_needs_a_role() {
    let world = World::shop();
    let document = world.json("/openapi.json").await;
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_open = path == "/v1/counters" || operation["x-role"] == "none" || path == "/metrics";
            let path = path.replace("{kind}", "Plan").replace(['{', '}'], "");
            let answer = world.send(&method.to_uppercase(), &format!("{path}?no_such=1"), &[], "").await;
            assert_eq!((answer.status == 400, &*path), (!is_open || path == "/v1/counters", &*path), "{method} {path}");
            if !is_open {
                assert!(problem(&answer).1.starts_with("unknown parameter \"no_such\""), "{method} {path}");
                asked += 1;
            }
        }
    }
    assert!(asked > 15, "{asked}");
}

#[tokio::test]
async fn a_change_that_etcd_cannot_be_asked_for_may_be_sent_again_and_one_of_files_is_no_change() {
    let change = ("PUT", "/v1/policies/Plan/gold", [("x-config-base-version", "0")]);
    let plan = "{kind: Plan, name: gold, limits: [{rate: 1/m}]}";
    let send = async |world: &World| world.send(change.0, change.1, &change.2, plan).await;
    let of_files = send(&World::shop()).await;
    let (status, detail) = problem(&of_files);
    assert_eq!((status, detail.contains("files are the truth")), (409, true), "{detail}");
    let unregistered = send(&World::shop().with_editor()).await;
    assert_eq!((problem(&unregistered).0, &unregistered.headers[header::RETRY_AFTER]), (503, &"1".parse().unwrap()));
}

#[tokio::test]
async fn a_change_that_cannot_be_noted_is_not_made() {
    let mut world = World::shop().with_editor();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let settings =
        AuditSettings { path: path.clone(), rotation: Rotation { bytes_max: None, files_max: NonZeroU32::MIN } };
    world.admin.audit = Arc::new(Audit::open(settings, Arc::clone(&world.admin.metrics)).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let base = [("x-config-base-version", "0")];
    for (method, path) in [("DELETE", "/v1/policies/Plan/gold"), ("DELETE", "/v1/counters?api=create&limit=api-minute")]
    {
        let (status, detail) = problem(&world.send(method, path, &base, "").await);
        assert_eq!((status, &*detail), (507, "the audit log cannot be written, so nothing is changed"), "{path}");
    }
    let ready = world.get("/readyz").await;
    let row = |check: &&Value| check["name"] == "audit_log";
    let (status, body) = (ready.status, ready.json());
    let row = body["checks"].as_array().unwrap().iter().find(row).unwrap();
    assert_eq!((status, &row["ok"]), (200, &json!(false)), "degraded is not dead");
}

#[tokio::test]
async fn before_a_first_set_is_loaded_it_lives_is_not_ready_and_says_so() {
    let world = World::new();
    assert_eq!((world.get("/healthz").await.status, &*world.get("/healthz").await.text), (200, "ok\n"));
    let ready = world.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
    for path in ["/v1/policies", "/v1/policies/Plan/a", "/v1/counters", "/v1/config_dump?gateway=edge"] {
        let (status, detail) = problem(&world.get(path).await);
        assert_eq!((status, &*detail), (503, "no policy set is loaded yet"), "{path}");
    }
    let status = world.json("/v1/status").await;
    for member in ["generation", "revision", "rate_limit_service"] {
        assert_eq!(status[member], json!(null), "{member}");
    }
    assert_eq!((&status["ready"], &status["documents"]), (&json!(false), &json!(0)));
    assert_eq!(world.json("/v1/nodes").await, json!({ "nodes": [] }));
}

#[tokio::test]
async fn readiness_has_a_row_for_each_check_and_degraded_is_not_dead() {
    let mut world = World::shop();
    world.admin.board.heard(Revision(7), world.admin.clock.now());
    let oks = async |world: &World| {
        let ready = world.get("/readyz").await;
        assert_eq!(ready.status, 200);
        let checks = ready.json()["checks"].clone();
        let ok = |check: &Value| (check["name"].as_str().unwrap().to_owned(), check["ok"].as_bool().unwrap());
        checks.as_array().unwrap().iter().map(ok).collect::<BTreeMap<_, _>>()
    };
    let all = [
        "certificates",
        "connections",
        "counter_keys",
        "decision_calls",
        "documents",
        "identities",
        "leaving",
        "policies",
        "refused_documents",
        "refused_files",
        "source",
        "xds_unread",
    ];
    let all = all.map(|name| (name.to_owned(), true));
    assert_eq!(oks(&world).await, BTreeMap::from(all.clone()));
    world.load(&format!("{SHOP}---\n{{kind: Plan, name: bad}}\n"));
    let mut expected = BTreeMap::from(all);
    expected.insert("refused_documents".to_owned(), false);
    assert_eq!(oks(&world).await, expected);
    world.admin.board.holds(0, true);
    expected.insert("documents".to_owned(), false);
    assert_eq!(oks(&world).await, expected);
    let trouble = world.json("/v1/status").await["source"]["trouble"].take();
    assert!(trouble.as_str().unwrap().starts_with("the source holds no document"), "{trouble}");
    // It was never heard.
    world.admin.board = Arc::default();
    expected.insert("documents".to_owned(), true);
    expected.insert("source".to_owned(), false);
    assert_eq!(oks(&world).await, expected);
    // Nobody is asked for a certificate.
    world.load(&SHOP.replacen("listen:", "identities: [edge.shop], listen:", 1));
    expected.extend([("refused_documents".to_owned(), true), ("identities".to_owned(), false)]);
    assert_eq!(oks(&world).await, expected);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tls.crt"), Authority::until(in_days(20)).pem()).unwrap();
    world.admin.certificates.look("--tls-cert", &folder.path().join("tls.crt"), Holds::Chain, crate::clock::wall());
    expected.insert("certificates".to_owned(), false);
    assert_eq!(oks(&world).await, expected);
}

#[tokio::test]
async fn documents_are_listed_with_those_that_are_refused_in_their_order() {
    let mut world = World::shop();
    world.load(&format!("{}---\n{{kind: Plan, name: bad}}\n", SHOP.replace("100/h", "often")));
    let list = world.json("/v1/policies").await;
    assert_eq!((&list["generation"], &list["revision"]), (&json!(1), &json!(7)));
    let row = |row: &Value| {
        let name = format!("{} {}", row["kind"].as_str().unwrap(), row["name"].as_str().unwrap());
        let is_refused = row["served"] == false || row["refused"].is_object();
        (name, row["served"].as_bool().unwrap(), is_refused)
    };
    let rows: Vec<_> = list["documents"].as_array().unwrap().iter().map(row).collect();
    let expected = [
        ("Gateway edge", true, false),
        ("Service order", true, false),
        ("Api create", true, false),
        ("Plan bad", false, true),
        ("Plan standard", true, true),
        ("Tenant acme inc/7", true, false),
    ];
    assert_eq!(rows, expected.map(|(name, served, refused)| (name.to_owned(), served, refused)));
    // The version that is served, and what is wrong with the one that is not.
    let plan = world.json("/v1/policies/Plan/standard").await;
    assert!(plan["text"].as_str().unwrap().contains("100/h"), "{plan}");
    let told = &plan["refused"]["problems"][0];
    assert_eq!((&told["path"], &told["location"]), (&json!("limits[0].rate"), &json!("p.yaml:8:46")));
    assert!(told["message"].as_str().unwrap().contains("found \"often\""), "{told}");
    let refused = world.json("/v1/policies/Plan/bad").await;
    assert_eq!((&refused["served"], &refused["text"]), (&json!(false), &json!(null)));
    // A name may have whatever a header can carry.
    let tenant = world.get("/v1/policies/Tenant/acme%20inc%2F7").await;
    assert_eq!((tenant.status, &tenant.json()["name"]), (200, &json!("acme inc/7")));
    assert_eq!(tenant.headers[header::ETAG], "\"7\"", "of a file, the revision of the set");
}

/// What all pages of a list have, and how many there are.
async fn pages(world: &World, path: &str, rows: &str, name: fn(&Value) -> String) -> (Vec<String>, usize) {
    let (mut all, mut count, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = world.json(&format!("{path}{after}")).await;
        all.extend(page[rows].as_array().unwrap().iter().map(name));
        count += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return (all, count),
        }
    }
}

#[tokio::test]
async fn documents_come_in_pages_and_can_be_narrowed_down() {
    let mut world = World::shop();
    let plans: String = (0..250)
        .map(|n| {
            format!(
                "---\n{{kind: Plan, name: p{n:03}, limits: [{{rate: {}}}]}}\n",
                if n % 50 == 7 { "often" } else { "1/m" }
            )
        })
        .collect();
    // Two that do not say who they are, and a good version of one that is refused.
    let nameless = "---\n{kind: Thing}\n---\n{kind: Plan}\n";
    world.load(&format!(
        "{SHOP}{}",
        plans.replace("name: p007, limits: [{rate: often}]", "name: p007, limits: [{rate: 2/m}]")
    ));
    world.load(&format!("{SHOP}{plans}{nameless}"));
    let name = |row: &Value| {
        let name = row["name"].as_str().map_or_else(|| row["origin"].to_string(), str::to_owned);
        format!("{name}{}", if row["served"] == false { " refused" } else { "" })
    };
    let list = async |query: &str| pages(&world, &format!("/v1/policies?{query}"), "documents", name).await;
    let (all, count) = list("limit=1000").await;
    assert_eq!((all.len(), count), (257, 1));
    assert!(all[0].ends_with("\" refused") && all[1].ends_with("\" refused"), "those without a name come first");
    assert_eq!(&all[2..6], ["edge", "order", "create", "p000"]);
    for (limit, expected) in [(7, 37), (100, 3), (256, 2), (257, 1)] {
        assert_eq!(list(&format!("limit={limit}")).await, (all.clone(), expected), "{limit}");
    }
    assert_eq!(list("").await, (all.clone(), 3), "a hundred, where nothing is said");
    let refused = ["p007", "p057 refused", "p107 refused", "p157 refused", "p207 refused"];
    let (of_plans, _) = list("limit=2&kind=Plan&refused=true").await;
    assert_eq!(of_plans, refused);
    assert_eq!(list("limit=2&refused=true").await.0[2..], refused, "and those without a name");
    let (good, _) = list("limit=9&refused=false").await;
    assert_eq!(good.len(), 250, "{good:?}");
    assert_eq!(list("search=P05").await.0.len(), 10);
    assert_eq!(list("limit=1&search=inc/").await.0, ["acme inc/7"]);
    assert_eq!(list("kind=Tenant").await.0, ["acme inc/7"]);
    assert_eq!(list("kind=RateLimits").await.0, [""; 0]);
    // What is deleted in between moves nobody's page.
    let first = world.json("/v1/policies?limit=100&kind=Plan").await;
    world.load(&format!("{SHOP}{}", plans.replace("name: p099", "name: q").replace("name: p001", "name: q1")));
    let rest = world.json(&format!("/v1/policies?limit=100&kind=Plan&after={}", first["next"].as_str().unwrap())).await;
    assert_eq!(rest["documents"][0]["name"], "p100");
}

#[tokio::test]
async fn a_list_that_the_client_has_is_not_sent_again_until_it_changes() {
    let mut world = World::shop();
    let seat = world.join("edge-1", &["edge"]);
    for path in ["/v1/policies", "/v1/nodes", "/v1/policies?kind=Plan"] {
        let first = world.get(path).await;
        let tag = first.headers[header::ETAG].to_str().unwrap().to_owned();
        let again = world.send("GET", path, &[("if-none-match", &tag)], "").await;
        assert_eq!((again.status, &*again.text, &again.headers[header::ETAG]), (304, "", &first.headers[header::ETAG]));
        seat.stands(Standing::Live, 1, world.admin.clock.now());
        world.load(&SHOP.replace("100/h", "often"));
        let changed = world.send("GET", path, &[("if-none-match", &tag)], "").await;
        assert_eq!(changed.status, 200, "{path}");
        seat.stands(Standing::Pending, 1, world.admin.clock.now());
        world.load(SHOP);
    }
}

#[tokio::test]
async fn envoys_come_in_pages_and_can_be_narrowed_down() {
    let mut world = World::new();
    let gateway = |name: &str| {
        format!("---\n{{kind: Gateway, name: {name}, nodes: {{clusters: [{name}]}}, listen: '127.0.0.1:2'}}\n")
    };
    world.load(&[SHOP, &gateway("side"), &gateway("none")].concat());
    let seats: Vec<Seat> = (0..25).map(|n| world.join(&format!("Edge-{n:02}"), &[["edge", "side"][n % 2]])).collect();
    seats[4].stands(Standing::Live, 1, world.admin.clock.now());
    let _twice = world.join("Edge-07", &["side"]);
    let list = async |query: &str| {
        pages(&world, &format!("/v1/nodes?{query}"), "nodes", |node| node["id"].as_str().unwrap().to_owned()).await
    };
    let (all, count) = list("").await;
    assert_eq!((all.len(), count, all.is_sorted()), (26, 1, true));
    for (limit, expected) in [(1, 26), (8, 4), (25, 2), (26, 1)] {
        assert_eq!(list(&format!("limit={limit}")).await, (all.clone(), expected), "{limit}");
    }
    assert_eq!(list("limit=3&gateway=side").await.0.len(), 13);
    assert_eq!(list("state=SYNCED").await.0, ["Edge-04"]);
    assert_eq!(list("limit=10&state=STALE").await.0.len(), 25);
    assert_eq!(list("search=edge-1").await.0.len(), 10);
    assert_eq!(list("search=edge-1&gateway=none").await.0, [""; 0]);
}

#[tokio::test]
async fn a_dump_has_every_resource_of_the_gateway_and_nothing_of_others() {
    let world = World::shop();
    let dump = world.json("/v1/config_dump?gateway=edge").await;
    assert_eq!((&dump["generation"], &dump["held"]), (&json!(1), &json!(false)));
    let types = |kind: &str| {
        let is_it = |resource: &&Value| resource["resource"]["@type"].as_str().unwrap().ends_with(kind);
        let all = dump["resources"].as_array().unwrap().iter().filter(is_it);
        all.map(|resource| resource["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(types(".Listener"), ["edge"]);
    assert_eq!(types(".RouteConfiguration"), ["edge"]);
    assert!(types(".Cluster").iter().any(|name| name.contains("order")), "{:?}", types(".Cluster"));
    let tag = world.get("/v1/config_dump?gateway=edge").await.headers[header::ETAG].to_str().unwrap().to_owned();
    let again = world.send("GET", "/v1/config_dump?gateway=edge", &[("if-none-match", &tag)], "").await;
    assert_eq!((again.status, &*again.text), (304, ""));
}

#[tokio::test]
async fn nodes_are_shown_with_what_each_was_sent_and_made_of_it() {
    let world = World::shop();
    let (first, second) = (world.join("edge-1", &["edge"]), world.join("edge-1", &[]));
    let at = Timestamp::from_nanos(1_500_000_000);
    let version = crate::names::Version::of(b"x");
    first.subscribed(ResourceType::Route, Subscribed { all: false, names: 2 });
    first.sent(ResourceType::Route, Sent { generation: 1, version, at });
    first.refused(ResourceType::Route, vec!["edge".into()], "no such cluster", at);
    first.stands(Standing::Live, 1, at);
    let all = world.json("/v1/nodes").await;
    let both = world.json("/v1/nodes/edge-1").await;
    assert_eq!((both["nodes"].as_array().unwrap().len(), &all), (2, &both), "while it reconnects it has two streams");
    drop(second);
    let one = &world.json("/v1/nodes/edge-1").await["nodes"][0];
    let members = ["id", "cluster", "envoy", "protocol", "standing", "connected_at"].map(|member| one[member].clone());
    let expected = ["edge-1", "edge", "1.40.0", "delta", "live", "1970-01-01T00:00:00.000Z"];
    assert_eq!(members, expected.map(Value::from));
    assert_eq!((&one["metadata"], &one["groups"]), (&json!({ "zone": "a" }), &json!(["edge"])));
    let routes = one["types"].as_object().unwrap().values().next().unwrap();
    assert_eq!(routes["subscribed"], json!({ "all": false, "names": 2 }));
    let sent = json!({ "generation": 1, "version": version.to_string(), "at": "1970-01-01T00:00:01.500Z" });
    assert_eq!((&routes["sent"], &routes["acknowledged"]), (&sent, &json!(null)));
    assert_eq!(routes["refused"], json!(null), "what it refused is not wanted any more");
}

#[tokio::test]
async fn an_envoy_that_is_gone_is_shown_until_it_is_back() {
    let world = World::shop();
    let (edge, other) = (world.join("edge-1", &["edge"]), world.join("edge-2", &["edge"]));
    for seat in [&edge, &other] {
        seat.stands(Standing::Live, 1, world.admin.clock.now());
    }
    drop(edge);
    let states = async |path: &str| {
        let list = world.json(path).await;
        let nodes = list["nodes"].as_array().unwrap().iter();
        nodes.map(|node| format!("{} {}", node["id"].as_str().unwrap(), node["state"].as_str().unwrap())).collect()
    };
    let all: Vec<String> = states("/v1/nodes").await;
    assert_eq!(all, ["edge-1 GONE", "edge-2 SYNCED"]);
    let one: Vec<String> = states("/v1/nodes/edge-1").await;
    assert_eq!(one, ["edge-1 GONE"]);
    let nodes = world.json("/v1/status").await["nodes"].clone();
    assert_eq!((&nodes["connected"], &nodes["states"]["GONE"]), (&json!(1), &json!(1)), "it is no connected one");
    assert_eq!((&nodes["behind"][0]["id"], &nodes["behind"][0]["generation"]), (&json!("edge-1"), &json!(1)));
    let _back = world.join("edge-1", &["edge"]);
    let back: Vec<String> = states("/v1/nodes/edge-1").await;
    assert_eq!(back, ["edge-1 STALE"]);
}

#[tokio::test]
async fn a_status_counts_envoys_by_where_they_stand_and_names_those_behind() {
    let world = World::shop();
    let at = world.admin.clock.now();
    let stand = |id: &str, groups: &[&str], standing| {
        let seat = world.join(id, groups);
        if standing == Standing::Refusing {
            seat.refused(ResourceType::Listener, Vec::new(), "no", at);
        }
        seat.stands(standing, u64::from(standing == Standing::Live), at);
        seat
    };
    let _seats = [
        stand("live", &["edge"], Standing::Live),
        stand("refusing", &["edge"], Standing::Refusing),
        stand("held", &["edge"], Standing::Held),
        stand("pending", &["edge"], Standing::Pending),
    ];
    let late = world.join("late", &[]);
    let version = crate::names::Version::of(b"x");
    late.sent(ResourceType::Cluster, Sent { generation: 1, version, at: Timestamp::default() });
    let nodes = world.json("/v1/status").await["nodes"].clone();
    for (member, expected) in [
        ("connected", 5),
        ("live", 1),
        ("refusing", 1),
        ("held", 1),
        ("pending", 2),
        ("late", 1),
        ("selected_by_no_gateway", 1),
    ] {
        assert_eq!(nodes[member], json!(expected), "{member}: {nodes}");
    }
    let behind = nodes["behind"].as_array().unwrap();
    let ids: Vec<_> = behind.iter().map(|node| node["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["refusing", "held", "late", "pending"], "the worst first, and the one that is so for the longest");
    let states: Vec<_> = behind.iter().map(|node| node["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["REFUSED", "HELD", "STALE", "STALE"]);
    assert_eq!(nodes["states"], json!({ "REFUSED": 1, "HELD": 1, "STALE": 2, "GONE": 0, "SYNCED": 1 }));
    assert_eq!(behind[0]["reason"], "listener: no");
    assert_eq!(behind[0]["refused"][0]["message"], "no");
    assert_eq!(behind.iter().map(|node| &node["late"]).filter(|late| **late == json!(true)).count(), 1);
    // It tells of so many by name, and counts all.
    let _more: Vec<Seat> = (0..30).map(|n| world.join(&format!("more-{n}"), &[])).collect();
    let nodes = world.json("/v1/status").await["nodes"].clone();
    assert_eq!((&nodes["connected"], nodes["behind"].as_array().unwrap().len()), (&json!(35), 20));
}

#[tokio::test]
async fn whoever_has_not_answered_to_the_newest_generation_is_pending_whatever_it_has() {
    let mut world = World::shop();
    let (seat, other) = (world.join("edge-1", &["edge"]), world.join("other", &["edge"]));
    let at = world.admin.clock.now();
    for seat in [&seat, &other] {
        seat.stands(Standing::Live, 1, at);
    }
    world.admin.nodes.offered(2, at, &[seat.stream()]);
    world.load(&SHOP.replace("/create", "/made"));
    let nodes = world.json("/v1/status").await["nodes"].clone();
    assert_eq!((&nodes["live"], &nodes["pending"]), (&json!(1), &json!(1)), "{nodes}");
    assert_eq!((&nodes["behind"][0]["id"], &nodes["behind"][0]["generation"]), (&json!("edge-1"), &json!(1)));
    seat.stands(Standing::Live, 2, at);
    assert_eq!(world.json("/v1/status").await["nodes"]["live"], json!(2));
}

#[tokio::test]
async fn counters_are_seen_page_by_page_and_reset_by_name() {
    let mut world = World::shop();
    let services: String = (0..1001)
        .map(|n| {
            format!("---\n{{kind: Api, name: a{n:04}, gateway: edge, match: {{path: /{n}}}, service: order, limits: [{{rate: 1/m}}]}}\n")
        })
        .collect();
    world.load(&format!("{SHOP}{services}"));
    let page = world.json("/v1/counters?tier=api").await;
    assert_eq!((&page["total"], &page["next_offset"], &page["store"]), (&json!(1002), &json!(1000), &json!("memory")));
    let last = world.json("/v1/counters?tier=api&offset=1000").await;
    assert_eq!((last["counters"].as_array().unwrap().len(), &last["next_offset"]), (2, &json!(null)));
    let past = world.json("/v1/counters?tier=api&offset=5000").await;
    assert_eq!(past["counters"], json!([]));
    let one = &world.json("/v1/counters?api=create&tier=api").await["counters"][0];
    let told = ["limit", "rate", "used", "remaining", "exists"].map(|member| one[member].clone());
    assert_eq!(told, [json!("api-minute"), json!("10/minute"), json!(0), json!(10), json!(false)]);
    // Which counter is meant is not said: the plan counts by the client's address.
    let named = world.json("/v1/counters?tenant=acme%20inc/7").await;
    let unsaid = &named["counters"][0];
    assert_eq!((&unsaid["missing"], &unsaid["used"]), (&json!(["client_ip"]), &json!(null)), "{named}");

    let reset = async |query: &str| world.send("DELETE", &format!("/v1/counters?{query}"), &[], "").await;
    let (status, detail) = problem(&reset("tier=api&gateway=edge").await);
    assert_eq!((status, detail.starts_with("that names 1002 counters")), (400, true), "{detail}");
    let (status, detail) = problem(&reset("tenant=acme%20inc/7").await);
    assert_eq!((status, detail.contains("client_ip")), (400, true), "{detail}");
    let done = reset("api=create&tier=api").await;
    assert_eq!((done.status, &done.json()["reset"]), (200, &json!(0)), "it had counted nothing");
    assert_eq!(done.json()["counters"][0]["existed"], json!(false));
}

#[tokio::test]
async fn a_store_of_counters_that_is_away_is_told_and_nothing_is_said_to_be_reset() {
    let mut world = World::shop();
    world.admin.counters = Counters::Away;
    for method in ["GET", "DELETE"] {
        let answer = world.send(method, "/v1/counters?api=create&tier=api", &[], "").await;
        let (status, detail) = problem(&answer);
        assert_eq!((status, &*detail), (503, "the store of counters does not answer"), "{method}");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    }
}

#[tokio::test]
async fn metrics_are_text_that_ends_and_a_source_that_was_never_heard_has_no_age() {
    let world = World::shop();
    let answer = world.get("/metrics").await;
    assert!(answer.content_type().starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(answer.text.ends_with("# EOF\n"));
    assert!(answer.text.contains("\ntierflow_source_lag_seconds NaN\n"), "{}", answer.text);
    assert!(answer.text.contains("\ntierflow_counter_keys 0\n"));
    world.admin.board.heard(Revision(7), world.admin.clock.now());
    let lag = world.get("/metrics").await.text;
    let lag = lag.lines().find_map(|line| line.strip_prefix("tierflow_source_lag_seconds ")).unwrap();
    assert!(lag.parse::<f64>().unwrap() >= 0.0, "{lag}");
}

/// Time stands still while something can be done, and goes on at once where all wait.
#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let world = World::shop().with_editor();
    let base = [("x-config-base-version", "0"), ("content-type", "application/json")];
    for (method, path) in [
        ("PUT", "/v1/policies/Plan/gold"),
        ("POST", "/v1/apply"),
        ("POST", "/v1/check"),
        ("POST", "/v1/diff"),
        ("POST", "/v1/explain"),
    ] {
        // A byte each second.
        let drops = futures_util::stream::unfold((), async |()| {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>("#"), ()))
        });
        let answer = world.send(method, path, &base, Body::from_stream(drops)).await;
        let (status, detail) = problem(&answer);
        assert_eq!((status, &*detail), (408, "the body did not come within 30 s"), "{method} {path}");
    }
}

#[tokio::test]
async fn who_may_not_change_anything_is_told_before_the_body_is_read() {
    let world = World::shop().with_editor().with_token_of_ann();
    let too_large = "x".repeat(APPLY_BYTES_MAX + 1);
    for (method, path) in [("POST", "/v1/apply"), ("PUT", "/v1/policies/Plan/a"), ("DELETE", "/v1/counters?api=create")]
    {
        let (status, _) = problem(&world.send(method, path, &[], too_large.clone()).await);
        assert_eq!(status, 403, "{method} {path}");
        let wrong = [("authorization", "Bearer 0123456789abcdeg")];
        assert_eq!(problem(&world.send(method, path, &wrong, too_large.clone()).await).0, 401, "{method} {path}");
    }
    let ann = [("authorization", "Bearer 0123456789abcdef")];
    assert_eq!(problem(&world.send("POST", "/v1/apply", &ann, too_large).await).0, 413);
    // Whoever reads on this machine needs none.
    assert_eq!(world.get("/v1/policies").await.status, 200);
}
