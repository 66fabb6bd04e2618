//! Secrets, planted wherever Tierflow is given one, while its log tells everything there is. It is made to fail with each of
//! them, and whatever it says then is looked through: logs, answers, metrics, files, spans, and what verbs print.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use etcd_client::Permission;
use http::Request;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use crate::access::hash;
use crate::access_tokens::{Keys, access_file, claims, header};
use crate::etcd_access::{PASSWORD as ETCD, as_user, let_in_with_passwords};
use crate::harness::{DEADLINE, Edge, Tierflow, any_addresses, eventually, free_address, tierflow as run};
use crate::kit::client::Answer;
use crate::kit::upstream::Upstream;
use crate::redis_store::Server;
use crate::store::Store;
use crate::tls::{Authority, in_days};
use crate::traces::Collector;

/// With characters that are written otherwise in URLs, and in JSON.
const REDIS: &str = "planted+redis/secret=1";
const REDIS_WRONG: &str = "planted+redis/wrong=1";
const ETCD_WRONG: &str = "planted+etcd/wrong=1";
const TOKEN: &str = "planted+admin/token=1";
const TOKEN_OF_FILE: &str = "planted+file/token=1";
const TOKEN_WRONG: &str = "planted+token/wrong=1";
const COLLECTOR: &str = "planted+collector/token=1";
/// What clients of the Envoy send.
const CLIENT: &str = "planted+client/token=1";
const COOKIE: &str = "planted+cookie/session1";
const QUERY: &str = "planted-query-key-1";
/// In addresses that headers have: in a query, in one of an address without a scheme, and before a host.
const REFERER: &str = "planted-referer-code-1";
const ORIGINAL_URI: &str = "planted-uri-code-1";
const CALLBACK: &str = "planted-callback-user-1";
const TENANT: &str = "planted+tenant/key=1";
const URL: &str = "planted-url-password-1";

const POLICIES: &str = "
kind: Api
name: pay
gateway: edge
match: { path: /pay }
service: upstream
limits:
- { name: caller, rate: 1/h, by: [{ header: authorization }, { cookie: session }, { query: access_token }], exact: true }
---
kind: Plan
name: free
limits: [{ rate: 1000/h }]
---
name: list
gateway: edge
rate_limits:
- actions:
  - request_headers: { header_name: authorization, descriptor_key: who }
  - request_headers: { header_name: ':path', descriptor_key: at }
  - request_headers: { header_name: referer, descriptor_key: from }
  - request_headers: { header_name: x-original-uri, descriptor_key: uri }
  - request_headers: { header_name: x-callback, descriptor_key: callback }
  limit: { unit: HOUR, requests_per_unit: 1000 }
";

/// What was said, and by what.
#[derive(Default)]
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn hear(&mut self, by: impl Into<String>, words: impl Into<Vec<u8>>) {
        self.0.push((by.into(), words.into()));
    }

    fn hear_answer(&mut self, by: &str, answer: &Answer) {
        self.hear(by, format!("{:?}\n{}", answer.headers, answer.text()));
    }

    /// What a verb prints, however it ends.
    fn hear_verb(&mut self, args: &[&str]) -> String {
        let output = run(args);
        let told = [output.stdout, output.stderr].concat();
        self.hear(format!("tierflow {args:?}"), told.clone());
        String::from_utf8_lossy(&told).into_owned()
    }

    /// Every file below, but for those that secrets are planted in.
    fn hear_files(&mut self, folder: &Path, planted: &[&str]) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name());
            if planted.iter().any(|own| name == *own) {
                continue;
            }
            if path.is_dir() {
                self.hear_files(&path, planted);
            } else if entry.file_type().unwrap().is_file() {
                self.hear(path.display().to_string(), std::fs::read(&path).unwrap());
            }
        }
    }

    fn has(&self, secret: &str) -> Vec<String> {
        let found = |words: &[u8]| {
            let words = String::from_utf8_lossy(words);
            spellings(secret).into_iter().find_map(|spelling| {
                let at = words.find(&spelling)?;
                let before = words[..at].chars().rev().take(200).map(char::len_utf8).sum::<usize>();
                Some(words[at - before..at + spelling.len()].to_owned())
            })
        };
        self.0.iter().filter_map(|(by, words)| Some(format!("{by}: ...{}", found(words)?))).collect()
    }

    fn assert_nothing_of(&self, secrets: &[(&str, &str)]) {
        let leaks = secrets
            .iter()
            .flat_map(|(what, secret)| self.has(secret).into_iter().map(move |place| format!("{what} in {place}")));
        let leaks: Vec<_> = leaks.collect();
        assert!(leaks.is_empty(), "{} times:\n{}", leaks.len(), leaks[..leaks.len().min(20)].join("\n\n"));
    }
}

/// As it is, in URLs, in JSON, as bytes are listed, and in base64, wherever in a longer text it stands.
fn spellings(secret: &str) -> Vec<String> {
    let escaped = |is_kept: fn(u8) -> bool| -> String {
        let one = |b: u8| if is_kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
        secret.bytes().map(one).collect()
    };
    let form = escaped(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b));
    let path = escaped(|b| b.is_ascii_alphanumeric() || b"-._~+=/".contains(&b));
    let listed = |as_text: fn(&u8) -> String| secret.as_bytes().iter().map(as_text).collect::<Vec<_>>();
    let mut spellings = vec![secret.to_owned(), form.to_lowercase(), form, path, secret.replace('/', "\\/")];
    spellings.push(listed(|b| b.to_string()).join(", "));
    spellings.push(listed(|b| format!("{b:02x}")).concat());
    for engine in [&STANDARD, &URL_SAFE] {
        for before in 0..3 {
            let encoded = engine.encode([&vec![b'x'; before], secret.as_bytes()].concat());
            // The first and the last letters depend on what stands beside it, too.
            let (first, last) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
            spellings.push(encoded[first..last].to_owned());
        }
    }
    spellings
}

#[test]
fn a_secret_is_found_in_all_its_spellings() {
    for before in ["", "a", "ab", "abc"] {
        let text = format!("{before}{REDIS}?");
        let mut said = Said::default();
        said.hear("base64", STANDARD.encode(&text));
        said.hear("bytes", format!("{:?}", text.as_bytes()));
        said.hear("json", serde_json::to_string(&text).unwrap());
        said.hear("url", "redis%3A%2F%2F%3Aplanted%2Bredis%2Fsecret%3D1%40host");
        said.hear("other", "planted");
        assert_eq!(said.has(REDIS).len(), 4, "{:?}", said.0.len());
    }
}

/// The programs end before their folder goes.
struct World {
    edge: Edge,
    tierflow: Tierflow,
    _upstream: Upstream,
    redis: Server,
    store: Store,
    collector: Collector,
    keys: Keys,
}

/// Where they are planted, and where etcd keeps what it is told.
const FILES: [&str; 6] = ["etcd", "etcd-password", "redis-password", "tokens", "token", "wrong-token"];

impl World {
    /// Its stores do not let it in at first.
    async fn start(said: &mut Said) -> Self {
        let store = Store::start().await;
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let listen = free_address();
        put_policies(&store, listen, upstream.address).await;
        let root = let_in_with_passwords(&store, Permission::read_write("/tierflow/").with_prefix()).await;
        let store = Store { client: root, ..store };
        let redis = Server::start(&["--requirepass", REDIS]);
        let (collector, keys) = (Collector::start().await, Keys::make());
        for (file, text) in [
            ("etcd-password", ETCD_WRONG),
            ("redis-password", REDIS_WRONG),
            ("tokens", &format!("fred:{TOKEN_OF_FILE}")),
            ("token", TOKEN),
            ("wrong-token", TOKEN_WRONG),
            ("access.yaml", &access_file(&[("anna", "admin", hash(TOKEN))], "")),
            ("jwks.json", &keys.jwks().to_string()),
        ] {
            std::fs::write(store.path(file), text).unwrap();
        }
        let flags = [
            format!("--counters={}", redis.url()),
            "--counters-timeout=1s".to_owned(),
            format!("--counters-password-file={}", store.path("redis-password").display()),
            format!("--admin-access={}", store.path("access.yaml").display()),
            format!("--admin-token-file={}", store.path("tokens").display()),
            format!("--audit-log={}", store.path("audit.jsonl").display()),
            format!("--denials-log={}", store.path("denials.jsonl").display()),
            format!("--state-dir={}", store.path("state").display()),
            format!("--traces-otlp=http://{}", collector.address),
            "--traces-sample-per-10000=10000".to_owned(),
            "--log=trace".to_owned(),
        ];
        let headers = format!("authorization=Bearer {}", COLLECTOR.replace('+', "%2B").replace('=', "%3D"));
        let env = [("OTEL_EXPORTER_OTLP_HEADERS", Path::new(&headers))];
        let source = as_user(&store, &store.path("etcd-password"));
        let log = store.path("tierflow.log");
        let tierflow = Tierflow::serve_with_env(&env, &log, source, &flags, any_addresses()).await;
        let mut trouble = async |of: fn(&Value) -> &Value| {
            eventually("a store does not let it in", async || {
                let status = ask(&tierflow, "/v1/status", TOKEN).await;
                said.hear_answer("status of trouble", &status);
                let status: Value = serde_json::from_slice(&status.body).unwrap();
                of(&status).as_str().map(str::to_owned)
            })
            .await
        };
        trouble(|status| &status["source"]["trouble"]).await;
        trouble(|status| &status["counters"]["redis"]["trouble"]).await;
        std::fs::write(store.path("etcd-password"), ETCD).unwrap();
        std::fs::write(store.path("redis-password"), REDIS).unwrap();
        eventually("both let it in", async || {
            let status: Value = serde_json::from_slice(&ask(&tierflow, "/v1/status", TOKEN).await.body).unwrap();
            let is_open = status["counters"]["redis"]["connections_open"] == 4;
            (is_open && status["ready"] == true && status["replicas"].as_array()?.len() == 1).then_some(())
        })
        .await;
        let edge = Edge::start(store.folder.path(), &tierflow, "edge-1", "delta", listen);
        edge.ready().await;
        Self { edge, tierflow, _upstream: upstream, redis, store, collector, keys }
    }

    /// What a client sends with all that it has, until it is denied.
    async fn is_denied(&self) {
        let (bearer, cookie) = (format!("Bearer {CLIENT}"), format!("session={COOKIE}"));
        let addresses = addresses();
        let own = [("authorization", bearer.as_str()), ("cookie", &cookie), ("x-api-key", TENANT)];
        let headers: Vec<_> =
            own.into_iter().chain(addresses.iter().map(|(name, address)| (*name, address.as_str()))).collect();
        let path = format!("/pay?access_token={QUERY}");
        eventually("the client is denied", async || {
            (self.edge.send("GET", &path, &headers).await.status == 429).then_some(())
        })
        .await;
        // One that is decided without an answer of the store.
        self.redis.signal("STOP");
        eventually("nobody counts", async || {
            (self.edge.send("GET", &path, &headers).await.status == 503).then_some(())
        })
        .await;
        self.redis.signal("CONT");
    }

    /// Those that are right, and every kind of those that are not.
    async fn shows_tokens(&self, said: &mut Said) -> Vec<String> {
        let now = tierflow::clock::Clock::start().now().as_secs();
        let right = self.keys.token(&header("ec", "ES256"), &claims("ann", &["platform"], now), "ES256");
        let late = self.keys.token(&header("ec", "ES256"), &claims("ann", &["platform"], now - 4000), "ES256");
        let forged = self.keys.token(&header("ec", "ES256"), &claims("ann", &["platform"], now), "EdDSA");
        assert_eq!(ask(&self.tierflow, "/v1/status", &right).await.status, 200);
        let cut = &right[..right.len() - 9];
        for wrong in
            [TOKEN_WRONG, &late, &forged, cut, &format!("{TOKEN} {TOKEN_WRONG}"), &format!("fred:{TOKEN_OF_FILE}")]
        {
            let answer = ask(&self.tierflow, "/v1/status", wrong).await;
            assert!([401, 429].contains(&answer.status.as_u16()), "{wrong}: {}", answer.status);
            said.hear_answer("answer to a wrong token", &answer);
        }
        for (name, value) in [("authorization", TOKEN_WRONG), ("authorization", &format!("Basic {TOKEN_WRONG}"))] {
            said.hear_answer(name, &self.tierflow.send("GET", "/v1/status", &[(name, value)], "").await);
        }
        // Where none is looked for.
        for path in
            [format!("/v1/status?token={TOKEN_WRONG}"), format!("/{TOKEN_WRONG}"), format!("/v1/top?x={TOKEN_WRONG}")]
        {
            ask(&self.tierflow, &path, TOKEN).await;
        }
        self.shows_tokens_over_http2().await;
        // Of a JWT the signature is the secret: what comes before is who somebody is.
        [right, late, forged].iter().map(|token| token.rsplit_once('.').unwrap().1.to_owned()).collect()
    }

    async fn shows_tokens_over_http2(&self) {
        let tcp = TcpStream::connect(self.tierflow.admin()).await.unwrap();
        let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let mut sender = sender.ready().await.unwrap();
        for (token, statuses) in [(TOKEN, [200, 200]), (TOKEN_WRONG, [401, 429])] {
            let uri = format!("http://{}/v1/status", self.tierflow.admin());
            let request = Request::builder().uri(uri).header("authorization", format!("Bearer {token}")).body(());
            let (answer, _) = sender.send_request(request.unwrap(), true).unwrap();
            assert!(statuses.contains(&answer.await.unwrap().status().as_u16()));
        }
    }

    async fn changes(&self, said: &mut Said) {
        let bearer = format!("Bearer {TOKEN}");
        let send = async |method: &str, path: &str, body: &str, number: usize| {
            let headers = [
                ("authorization", bearer.as_str()),
                ("x-config-base-version", "0"),
                ("content-type", "application/json"),
                ("idempotency-key", &format!("change-{number}")),
            ];
            in_time(async || self.tierflow.send(method, path, &headers, body).await).await
        };
        let key = format!(
            "api=pay&limit=caller&header.authorization=Bearer%20{}&cookie.session={}&query.access_token={QUERY}",
            CLIENT.replace('+', "%2B"),
            COOKIE.replace('+', "%2B")
        );
        // Whoever has the values finds the counter, whatever is shown of them.
        let addresses = addresses().map(|(name, address)| format!("&header.{name}={}", address.replace('?', "%3F")));
        let of_list = format!(
            "gateway=edge&tier=rate_limits&header.authorization=Bearer%20{}&path=/pay%3Faccess_token%3D{QUERY}{}",
            CLIENT.replace('+', "%2B"),
            addresses.concat()
        );
        let found = in_time(async || ask(&self.tierflow, &format!("/v1/counters?{of_list}"), TOKEN).await).await;
        let used = &serde_json::from_slice::<Value>(&found.body).unwrap()["counters"][0];
        assert_eq!((&used["used"], &used["by"][1]["value"]), (&json!(1), &json!("/pay")), "{}", found.text());
        said.hear_answer("a list's counter", &found);
        let changes = [
            ("DELETE", format!("/v1/counters?{of_list}"), String::new(), 200),
            ("GET", format!("/v1/counters?{key}"), String::new(), 200),
            ("DELETE", format!("/v1/counters?{key}"), String::new(), 200),
            (
                "PUT",
                "/v1/policies/Plan/new".to_owned(),
                "{kind: Plan, name: new, limits: [{rate: often}]}".to_owned(),
                422,
            ),
            (
                "PUT",
                "/v1/policies/Plan/new".to_owned(),
                "{kind: Plan, name: new, limits: [{rate: 1/h}]}".to_owned(),
                200,
            ),
            ("POST", "/v1/explain".to_owned(), explained(), 200),
        ];
        for (number, (method, path, body, status)) in changes.into_iter().enumerate() {
            let answer = send(method, &path, &body, number).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
            said.hear_answer(&path, &answer);
        }
    }

    /// All that the API tells, as its own description lists it.
    async fn tells(&self, said: &mut Said) {
        let document: Value = serde_json::from_slice(&ask(&self.tierflow, "/openapi.json", TOKEN).await.body).unwrap();
        let paths =
            document["paths"].as_object().unwrap().iter().filter(|(_, operations)| operations["get"].is_object());
        let mut asked = 0;
        for (path, _) in paths.filter(|(path, _)| *path != "/v1/events") {
            let path = path
                .replace("{kind}/{name}", "Plan/free")
                .replace("{id}", "edge-1")
                .replace("{folder}/{file}", "lib/api.js")
                .replace("{file}", "app.js");
            let query = if path == "/v1/config_dump" { "?gateway=edge" } else { "" };
            let answer = in_time(async || ask(&self.tierflow, &format!("{path}{query}"), TOKEN).await).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            said.hear_answer(&path, &answer);
            asked += 1;
        }
        assert!(asked > 15, "{asked} routes");
        said.hear("/v1/events", self.events().await);
        said.hear_answer("/", &ask(&self.tierflow, "/", TOKEN).await);
        for by in ["decisions", "denied"] {
            said.hear_answer("/v1/top", &ask(&self.tierflow, &format!("/v1/top?by={by}&limit=1000"), TOKEN).await);
        }
        let (server, token) = (format!("--server=http://{}", self.tierflow.admin()), self.store.path("token"));
        let [right, wrong] =
            [token, self.store.path("wrong-token")].map(|file| format!("--token-file={}", file.display()));
        for token in [&right, &wrong] {
            for verb in ["status", "top", "get", "counters"] {
                said.hear_verb(&[verb, &server, token]);
            }
        }
        let (authorization, key) =
            (format!("--header=authorization=Bearer {CLIENT}"), format!("--header=x-api-key={TENANT}"));
        said.hear_verb(&["explain", &server, &right, "--path=/pay", &authorization, &key]);
    }

    async fn events(&self) -> Vec<u8> {
        let stream = TcpStream::connect(self.tierflow.admin()).await.unwrap();
        let (mut answer, mut request) = stream.into_split();
        let head =
            format!("GET /v1/events?after=0 HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut request, head.as_bytes()).await.unwrap();
        let mut heard = Vec::new();
        tokio::time::timeout(DEADLINE, hear_until(&mut answer, &mut heard, "event: traffic")).await.unwrap();
        heard
    }
}

async fn hear_until(answer: &mut OwnedReadHalf, heard: &mut Vec<u8>, word: &str) {
    while !String::from_utf8_lossy(heard).contains(word) {
        assert!(answer.read_buf(heard).await.unwrap() > 0, "the stream ends");
    }
}

async fn put_policies(store: &Store, listen: SocketAddr, upstream: SocketAddr) {
    let gateway = format!(
        "{{kind: Gateway, name: edge, nodes: {{clusters: [edge]}}, listen: '{listen}', limiter: {{timeout: 5s, on_error: deny}}, \
         tenant: {{from: {{header: x-api-key}}, default_plan: free}}}}"
    );
    let service = format!("{{kind: Service, name: upstream, endpoints: ['{upstream}']}}");
    let [api, plan, list] = POLICIES.split("---\n").collect::<Vec<_>>()[..] else { unreachable!() };
    for (key, text) in [
        ("Gateway/edge", gateway.as_str()),
        ("Service/upstream", &service),
        ("Api/pay", api),
        ("Plan/free", plan),
        ("RateLimits/list", list),
    ] {
        store.put(&format!("/tierflow/policies/{key}"), text).await;
    }
}

fn addresses() -> [(&'static str, String); 3] {
    [
        ("referer", format!("https://shop.example/signed-in?code={REFERER}")),
        ("x-original-uri", format!("shop.example/signed-in?code={ORIGINAL_URI}")),
        ("x-callback", format!("https://ann:{CALLBACK}@shop.example/")),
    ]
}

fn explained() -> String {
    let headers = [
        ("authorization", format!("Bearer {CLIENT}")),
        ("cookie", format!("session={COOKIE}")),
        ("x-api-key", TENANT.to_owned()),
    ];
    let headers = headers.into_iter().chain(addresses());
    let headers: Vec<_> = headers.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    json!({ "path": "/pay", "headers": headers, "gateway": "edge" }).to_string()
}

async fn ask(tierflow: &Tierflow, path: &str, token: &str) -> Answer {
    tierflow.send("GET", path, &[("authorization", &format!("Bearer {token}"))], "").await
}

/// A store that is busy is asked again: 503 says so.
async fn in_time(ask: impl AsyncFn() -> Answer) -> Answer {
    eventually("a store has time", async || Some(ask().await).filter(|answer| answer.status != 503)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_secret_is_in_nothing_that_the_program_says() {
    let mut said = Said::default();
    let world = World::start(&mut said).await;
    world.is_denied().await;
    let signatures = world.shows_tokens(&mut said).await;
    world.changes(&mut said).await;
    let hash = world.shown_hash().await;
    eventually("the denial is noted", async || {
        std::fs::read_to_string(world.store.path("denials.jsonl")).unwrap().contains("denied").then_some(())
    })
    .await;
    eventually("spans come", async || (!world.collector.all().is_empty()).then_some(())).await;
    assert!(world.collector.headers().contains(COLLECTOR), "the collector is shown its token");
    world.tells(&mut said).await;
    said.hear("spans", format!("{:?}", world.collector.all()));
    let World { edge, tierflow, store, collector, .. } = world;
    // What is lost then is told, too.
    collector.refuse();
    edge.get("/pay").await;
    let log = || std::fs::read_to_string(store.path("tierflow.log")).unwrap();
    eventually("spans are lost", async || log().contains("spans are lost").then_some(())).await;
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());
    assert!(log().lines().any(|line| line.contains("\"TRACE\"")), "everything was to be told");
    said.hear_files(store.folder.path(), &FILES);
    let planted = [
        ("the password of Redis", REDIS),
        ("a wrong password of Redis", REDIS_WRONG),
        ("the password of etcd", ETCD),
        ("a wrong password of etcd", ETCD_WRONG),
        ("a token", TOKEN),
        ("a token of --admin-token-file", TOKEN_OF_FILE),
        ("a wrong token", TOKEN_WRONG),
        ("the collector's token", COLLECTOR),
        ("a client's token", CLIENT),
        ("a client's cookie", COOKIE),
        ("a client's key", QUERY),
        ("a query in an address that a client sends", REFERER),
        ("a query in one without a scheme", ORIGINAL_URI),
        ("a user in an address that a client sends", CALLBACK),
        ("a tenant's key", TENANT),
    ];
    let signatures = signatures.iter().map(|signature| ("a JWT", signature.as_str()));
    said.assert_nothing_of(&planted.into_iter().chain(signatures).collect::<Vec<_>>());
    let has_hash = said.0.iter().filter(|(_, words)| String::from_utf8_lossy(words).contains(&hash)).count();
    assert!(has_hash >= 3, "who has the token finds it: in {has_hash} of what was said");
}

impl World {
    /// The text in the place of the client's token, as the documentation says how it is made.
    async fn shown_hash(&self) -> String {
        let hash = format!("sha256:{}", &hash(&format!("Bearer {CLIENT}"))[..12]);
        eventually("the busiest are told", async || {
            let top = ask(&self.tierflow, "/v1/top", TOKEN).await.text();
            top.contains(&hash).then_some(())
        })
        .await;
        hash
    }
}

/// Files in the wrong places, and that do not fit together.
#[tokio::test]
async fn a_private_key_is_in_nothing_that_the_program_says() {
    let (mut said, folder) = (Said::default(), tempfile::tempdir().unwrap());
    let folder = folder.path();
    std::fs::create_dir(folder.join("policies")).unwrap();
    let authority = Authority::new();
    let [own, other] = [authority.issue(&["127.0.0.1"], in_days(10)), authority.issue(&["127.0.0.1"], in_days(10))];
    own.write(folder, "own");
    other.write(folder, "other");
    let cut = &own.key[..own.key.len() / 2];
    std::fs::write(folder.join("cut.key"), cut).unwrap();
    std::fs::write(folder.join("line.key"), own.key.replacen('\n', "\n!!", 2)).unwrap();
    let path = |name: &str| format!("{}/{name}", folder.display());
    let policies = format!("--policies={}", path("policies"));
    for files in [
        ["own.crt", "other.key", "own.crt"],
        ["own.key", "own.key", "own.crt"],
        ["own.crt", "cut.key", "own.crt"],
        ["own.crt", "line.key", "own.crt"],
        ["own.crt", "own.key", "own.key"],
        ["own.crt", "own.crt", "own.crt"],
    ] {
        let [certificate, key, authority] = files.map(path);
        let flags =
            [format!("--tls-cert={certificate}"), format!("--tls-key={key}"), format!("--tls-client-ca={authority}")];
        let told = said.hear_verb(&["serve", &policies, "--log=trace", &flags[0], &flags[1], &flags[2]]);
        assert!(told.contains("error: "), "{files:?}: {told}");
    }
    own.write(folder, "tls");
    let flags =
        [format!("--tls-cert={}", path("tls.crt")), format!("--tls-key={}", path("tls.key")), "--log=trace".to_owned()];
    let log = folder.join("tierflow.log");
    let tierflow = Tierflow::serve(&log, vec![policies], &flags, any_addresses()).await;
    std::fs::write(folder.join("authority.crt"), authority.pem()).unwrap();
    let server = format!("--server=https://{}", tierflow.admin());
    said.hear_verb(&["status", &server, &format!("--server-ca={}", path("authority.crt"))]);
    for (ending, text) in [("key", other.key.as_str()), ("key", cut), ("crt", &own.key)] {
        let told = || std::fs::read_to_string(&log).unwrap().matches("the certificate of before is served on").count();
        let before = told();
        std::fs::write(folder.join("new"), text).unwrap();
        std::fs::rename(folder.join("new"), folder.join("tls").with_extension(ending)).unwrap();
        eventually("the new files are refused", async || (told() > before).then_some(())).await;
    }
    drop(tierflow);
    said.hear("the log", std::fs::read(&log).unwrap());
    let lines = [&own.key, &other.key].into_iter().flat_map(|key| key.lines()).filter(|line| !line.starts_with("---"));
    // A line of a key in PEM begins in the same way in each: what follows is the secret.
    let lines: Vec<_> = lines.filter(|line| line.len() > 40).map(|line| ("a key", &line[line.len() - 24..])).collect();
    assert!(lines.len() >= 2, "{}", own.key);
    said.assert_nothing_of(&lines);
}

/// What somebody wrote into the wrong place, or not as it is read, is an error that says where.
#[test]
fn a_secret_in_the_wrong_place_is_refused_and_not_repeated() {
    /// It is refused once its ports are there.
    const ANY_PORTS: [&str; 4] =
        ["serve", "--xds-listen=127.0.0.1:0", "--rls-listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"];
    let (mut said, folder) = (Said::default(), tempfile::tempdir().unwrap());
    let access = folder.path().join("access.yaml");
    let flag = format!("--admin-access={}", access.display());
    for (text, place) in [
        (
            format!("tokens:\n- {{name: ci, role: {URL}, sha256: x}}\n"),
            "access.yaml:2:20: tokens[0].role: expected viewer",
        ),
        (format!("tokens:\n- {URL}\n"), "access.yaml:2:3: tokens[0]: expected"),
        (format!("{URL}: ci\n"), "access.yaml:1:1: (not shown): unknown field, expected one of `tokens`"),
    ] {
        std::fs::write(&access, text).unwrap();
        let told = said.hear_verb(&[&ANY_PORTS[..], &["--policies=policies", &flag]].concat());
        assert!(told.contains(place), "{told}");
    }
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args(ANY_PORTS)
        .args(["--policies=policies", "--traces-otlp=http://127.0.0.1:1"])
        .env("OTEL_EXPORTER_OTLP_HEADERS", format!("a=b,{URL}"))
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("error: OTEL_EXPORTER_OTLP_HEADERS: entry 2: expected NAME=VALUE"), "{told}");
    said.hear("serve with headers", told);
    said.assert_nothing_of(&[("a secret", URL)]);
}

/// They are refused because lists of processes show them; logs are kept for longer.
#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    let mut said = Said::default();
    for args in [
        &["serve", "--counters", "redis://:URL@127.0.0.1:1"][..],
        &["serve", "--counters", "redis+cluster://ann:URL@127.0.0.1:1,127.0.0.1:2"],
        &["serve", "--counters", "http://ann:URL@127.0.0.1:1"],
        &["serve", "--etcd", "http://ann:URL@127.0.0.1:1"],
        &["serve", "--etcd", "http://ann:a/b@URL@127.0.0.1:1"],
        &["serve", "--etcd", "ftp://ann:URL@127.0.0.1"],
        &["serve", "--traces-otlp", "http://ann:URL@127.0.0.1:1"],
        &["status", "--server", "http://ann:URL@127.0.0.1:1"],
        &["status", "--server", "https://ann:URL@127.0.0.1:1"],
        &["get", "--server", "http://ann:URL@127.0.0.1:1"],
        &["top", "--server", "http://URL@127.0.0.1:1"],
        &["register", "--service", "a", "--address", "127.0.0.1:1", "--etcd", "http://ann:URL@127.0.0.1:1"],
        &["bootstrap", "--gateway", "g", "--etcd", "http://ann:URL@127.0.0.1:1"],
        &["serve", "--no-such-flag=http://ann:URL@127.0.0.1:1"],
        // Without a scheme, and in a query.
        &["serve", "--etcd", "ann:URL@127.0.0.1:1"],
        &["serve", "--etcd", "127.0.0.1:1,ann:URL@127.0.0.1:2"],
        &["serve", "--etcd", "http://127.0.0.1:1?token=URL"],
        &["serve", "--etcd", "http://127.0.0.1?token=URL:1"],
        &["serve", "--traces-otlp", "ann:URL@127.0.0.1:1"],
        &["serve", "--traces-otlp", "127.0.0.1:1?token=URL"],
        &["serve", "--traces-otlp", "http://127.0.0.1:1/?token=URL"],
        &["serve", "--counters", "redis://127.0.0.1:1?password=URL"],
        &["serve", "--counters", "127.0.0.1:1?password=URL"],
        &["status", "--server", "http://127.0.0.1:1?token=URL"],
        &["status", "--server", "127.0.0.1:1/?token=URL"],
        &["status", "--server", "http://127.0.0.1:1/#URL"],
        &["status", "--server", "ann:URL@127.0.0.1:1"],
    ] {
        let args: Vec<String> = args.iter().map(|arg| arg.replace("URL", URL)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let told = said.hear_verb(&args);
        assert!(told.contains("error: ") && !told.contains("shown) shown)"), "{args:?}: {told}");
    }
    // The names of what was heard have what was typed.
    let said = Said(said.0.into_iter().map(|(_, words)| ("a verb".to_owned(), words)).collect());
    said.assert_nothing_of(&[("a password", URL)]);
}
