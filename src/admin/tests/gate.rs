//! Every route with every role and kind of credential, as the description of the API says who may ask it; and requests that
//! come by a name, or from a page, that is none of ours.

use std::net::IpAddr;
use std::path::Path;

use super::*;
use crate::access::file::{AccessFiles, credentials};
use crate::access::testing::{Keys, access_file, claims, header as header_of};
use crate::access::token::TokenHash;
use crate::access::{Port, Role};
use crate::admin::gate::Gate;
use crate::admin::openapi::ROLE;
use crate::names::certificate::{ClientCertificate, San};

/// What somebody shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Nothing,
    WrongToken,
    Token(Role),
    Jwt(Option<Role>),
    ExpiredJwt,
    Certificate(Role),
    StrangeCertificate,
    /// A wrong token, with a certificate that would do.
    WrongTokenAndCertificate,
}

impl Shows {
    fn all() -> Vec<Self> {
        let of_roles =
            Role::ALL.into_iter().flat_map(|role| [Self::Token(role), Self::Jwt(Some(role)), Self::Certificate(role)]);
        let others = [
            Self::Nothing,
            Self::WrongToken,
            Self::Jwt(None),
            Self::ExpiredJwt,
            Self::StrangeCertificate,
            Self::WrongTokenAndCertificate,
        ];
        of_roles.chain(others).collect()
    }

    /// What it may do; `Err` where it is nobody that is known.
    fn role(self) -> Result<Option<Role>, ()> {
        match self {
            Self::Token(role) | Self::Certificate(role) | Self::Jwt(Some(role)) => Ok(Some(role)),
            Self::Jwt(None) => Ok(None),
            _ => Err(()),
        }
    }
}

/// A port whose file knows one of each kind for each role.
struct Guarded {
    world: World,
    keys: Keys,
}

fn group(role: Role) -> &'static str {
    match role {
        Role::Viewer => "everyone",
        Role::Operator => "sre",
        Role::Admin => "platform",
    }
}

fn token(role: Role) -> String {
    format!("a token for the role {role}")
}

fn san(role: Role) -> String {
    format!("spiffe://shop/{role}")
}

impl Guarded {
    fn with(more: &str, has_open_metrics: bool) -> Self {
        let keys = Keys::make();
        let tokens = Role::ALL.map(|role| (role.as_str(), role.as_str(), TokenHash::of(&token(role)).to_hex()));
        let certificates = Role::ALL.map(|role| format!("- {{san: '{}', role: {role}}}\n", san(role))).concat();
        let file = access_file(&tokens, &format!("certificates:\n{certificates}{more}"));
        let (jwks, files) =
            (keys.jwks().to_string(), AccessFiles { file: Some("access.yaml".into()), token_file: None });
        let read = |path: &Path| {
            let text = if path.ends_with("jwks.json") { &jwks } else { &file };
            Ok(text.clone().into_bytes())
        };
        let port = Port { bound: ([10, 0, 0, 5], 8080).into(), is_tls: false };
        let mut world = World::shop().with_editor();
        let said = credentials(&files, port, read).unwrap();
        world.admin.access = Arc::new(Access::new(port, has_open_metrics, said));
        Self { world, keys }
    }

    fn new() -> Self {
        Self::with("", false)
    }

    fn request(&self, method: &str, path: &str, shows: Shows) -> Request<Body> {
        let now = self.world.admin.clock.now().as_secs();
        let jwt = |groups: &[&str], now: u64| {
            self.keys.token(&header_of("ed", "EdDSA"), &claims("ann", groups, now), "EdDSA")
        };
        let secret = match shows {
            Shows::Token(role) => Some(token(role)),
            Shows::WrongToken | Shows::WrongTokenAndCertificate => Some("a token that nobody knows".to_owned()),
            Shows::Jwt(role) => Some(jwt(role.map(group).as_slice(), now)),
            Shows::ExpiredJwt => Some(jwt(&["platform"], now - 1000)),
            Shows::Nothing | Shows::Certificate(_) | Shows::StrangeCertificate => None,
        };
        let certificate = match shows {
            Shows::Certificate(role) => Some(san(role)),
            Shows::StrangeCertificate => Some("spiffe://shop/edge".to_owned()),
            Shows::WrongTokenAndCertificate => Some(san(Role::Admin)),
            _ => None,
        };
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "10.0.0.5:8080");
        if let Some(secret) = secret {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        if let Some(san) = certificate {
            let certificate = ClientCertificate { sans: vec![San::parse(&san).unwrap()], not_after: None };
            request = request.extension(Arc::new(certificate));
        }
        // Each from an address of its own, so that nobody has to wait.
        let peer = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | (fastrand::u32(..) >> 8)));
        request.extension(ConnectInfo(SocketAddr::from((peer, 50_000)))).body(Body::empty()).unwrap()
    }

    /// The answer to a request, of which those that never end are not read.
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.world.admin.clone().into_router().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let is_stream = parts.headers.get(header::CONTENT_TYPE).is_some_and(|value| value == "text/event-stream");
        let bytes = if is_stream { Default::default() } else { body.collect().await.unwrap().to_bytes() };
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        }
    }

    /// Method and path of each operation, and the role that it needs.
    async fn operations(&self) -> Vec<(String, String, Option<Role>)> {
        let request = self.request("GET", "/openapi.json", Shows::Token(Role::Viewer));
        let document = self.send(request).await.json();
        let mut operations = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let role = operation[ROLE].as_str().unwrap_or_else(|| panic!("{method} {path} has no rule"));
                let role = Role::parse(role).or_else(|| {
                    assert_eq!(role, "none", "{method} {path}");
                    None
                });
                assert_eq!(operation["security"].is_array(), role.is_some(), "{method} {path}");
                operations.push((method.to_uppercase(), path.clone(), role));
            }
        }
        operations
    }
}

/// A path with something in the place of its names.
fn filled(path: &str) -> String {
    let names = [
        ("{kind}", "Plan"),
        ("{name}", "standard"),
        ("{id}", "edge-1"),
        ("{folder}/{file}", "lib/api.js"),
        ("{file}", "app.js"),
    ];
    names.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value))
}

#[tokio::test]
async fn every_route_lets_in_whom_its_rule_says_and_nobody_else() {
    let guarded = Guarded::new();
    let operations = guarded.operations().await;
    let mut looked_at = 0;
    for (method, path, needed) in &operations {
        for shows in Shows::all() {
            let answer = guarded.send(guarded.request(method, &filled(path), shows)).await;
            let case = format!("{method} {path} by {shows:?}: {} {}", answer.status, answer.text);
            match (*needed, shows.role()) {
                (None, _) => assert!(answer.status < 400, "{case}"),
                (Some(_), Err(())) => {
                    assert_eq!(answer.status, 401, "{case}");
                    let challenge = answer.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
                    assert!(challenge.starts_with("Bearer realm="), "{case}: {challenge}");
                    problem(&answer);
                }
                (Some(needed), Ok(role)) if role.is_none_or(|role| role < needed) => {
                    let (status, detail) = problem(&answer);
                    assert_eq!(status, 403, "{case}");
                    assert!(detail.contains(&format!("needs the role {needed}")), "{case}");
                }
                (Some(_), Ok(_)) => assert!(![401, 403, 421, 429].contains(&answer.status), "{case}"),
            }
            looked_at += 1;
        }
    }
    assert!(operations.len() > 25 && looked_at > 400, "{} {looked_at}", operations.len());
    let of = |method: &str, path: &str| {
        operations.iter().find(|(own, at, _)| own == method && at == path).map(|(.., role)| *role).unwrap()
    };
    assert_eq!(of("GET", "/healthz"), None);
    assert_eq!(of("GET", "/v1/status"), Some(Role::Viewer));
    assert_eq!(of("POST", "/v1/diff"), Some(Role::Viewer));
    for (method, path) in [
        ("PUT", "/v1/policies/{kind}/{name}"),
        ("DELETE", "/v1/policies/{kind}/{name}"),
        ("POST", "/v1/apply"),
        ("DELETE", "/v1/counters"),
    ] {
        assert_eq!(of(method, path), Some(Role::Operator), "{method} {path}");
    }
}

/// What is not there, or cannot be asked so, is nobody's to find out.
#[tokio::test]
async fn what_is_not_served_is_guarded_as_well() {
    let guarded = Guarded::new();
    for (method, path, status) in [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v2", 404),
        ("GET", "//v1/status", 404),
        ("GET", "/V1/status", 404),
        ("GET", "/v1/status/", 404),
        ("GET", "/healthz/../v1/status", 404),
        ("PATCH", "/v1/status", 405),
        ("TRACE", "/v1/policies", 405),
        ("OPTIONS", "/v1/apply", 405),
        ("POST", "/healthz", 405),
        ("CONNECT", "/v1/status", 405),
    ] {
        assert_eq!(guarded.send(guarded.request(method, path, Shows::Nothing)).await.status, 401, "{method} {path}");
        let known = guarded.send(guarded.request(method, path, Shows::Token(Role::Viewer))).await;
        assert_eq!(known.status, status, "{method} {path}: {}", known.text);
    }
    let head = guarded.send(guarded.request("HEAD", "/v1/status", Shows::Nothing)).await;
    assert_eq!(head.status, 401, "HEAD is GET");
}

#[tokio::test]
async fn a_change_that_needs_a_reason_needs_an_admin_however_the_reason_is_spelled() {
    let guarded = Guarded::new();
    for query in ["force=a%20slow%20day", "f%6Frce=x", "&force=x", "force="] {
        for (method, path) in [("PUT", "/v1/policies/Plan/a"), ("DELETE", "/v1/policies/Plan/a"), ("POST", "/v1/apply")]
        {
            let path = format!("{path}?{query}");
            for shows in
                [Shows::Token(Role::Operator), Shows::Jwt(Some(Role::Operator)), Shows::Certificate(Role::Operator)]
            {
                let (status, detail) = problem(&guarded.send(guarded.request(method, &path, shows)).await);
                assert_eq!((status, detail.contains("needs the role admin")), (403, true), "{method} {path}: {detail}");
            }
            let admin = guarded.send(guarded.request(method, &path, Shows::Token(Role::Admin))).await;
            assert!(![401, 403].contains(&admin.status), "{method} {path}: {}", admin.text);
        }
    }
}

#[tokio::test]
async fn metrics_are_for_everybody_where_that_is_said() {
    for (is_open, expected) in [(false, 401), (true, 200)] {
        let guarded = Guarded::with("", is_open);
        for shows in [Shows::Nothing, Shows::WrongToken] {
            assert_eq!(guarded.send(guarded.request("GET", "/metrics", shows)).await.status, expected);
            assert_eq!(guarded.send(guarded.request("GET", "/v1/status", shows)).await.status, 401);
        }
    }
}

#[tokio::test]
async fn off_loopback_without_credentials_only_probes_are_answered() {
    let guarded = Guarded::new();
    let mut bare = Guarded::new();
    let port = Port { bound: ([0, 0, 0, 0], 8080).into(), is_tls: false };
    bare.world.admin.access = Arc::new(Access::new(port, false, crate::access::Credentials::none(port)));
    for (method, path, _) in guarded.operations().await {
        for shows in [Shows::Nothing, Shows::Token(Role::Admin), Shows::Certificate(Role::Admin)] {
            let answer = bare.send(bare.request(&method, &filled(&path), shows)).await;
            let is_probe = ["/healthz", "/readyz"].contains(&path.as_str());
            assert_eq!(answer.status, if is_probe { 200 } else { 403 }, "{method} {path}: {}", answer.text);
        }
    }
    // This machine is answered as ever.
    for (host, status) in
        [("localhost:8080", 200), ("127.0.0.1:8080", 200), ("10.0.0.5:8080", 403), ("shop.example", 421)]
    {
        let mut request = bare.request("GET", "/v1/status", Shows::Nothing);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))));
        request.headers_mut().insert(header::HOST, host.parse().unwrap());
        assert_eq!(bare.send(request).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn failed_logins_and_those_who_are_turned_away_are_counted_from_the_start() {
    let guarded = Guarded::new();
    crate::admin::start_series(&guarded.world.admin.metrics);
    let count = |series: &str| {
        let text = guarded.world.admin.metrics.render();
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or_else(|| panic!("{series}"))
    };
    let failed = |reason: &str| -> u64 { count(&format!("tierflow_admin_logins_failed_total{{reason=\"{reason}\"}}")) };
    let away = |reason: &str| -> u64 { count(&format!("tierflow_admin_turned_away_total{{reason=\"{reason}\"}}")) };
    let reasons = ["malformed", "unknown_token", "unknown_certificate", "slowed", "jwt_expired", "jwt_signature"];
    assert!(reasons.iter().all(|reason| failed(reason) == 0));
    for (shows, reason) in [
        (Shows::WrongToken, "unknown_token"),
        (Shows::WrongTokenAndCertificate, "unknown_token"),
        (Shows::StrangeCertificate, "unknown_certificate"),
        (Shows::ExpiredJwt, "jwt_expired"),
    ] {
        let before = failed(reason);
        guarded.send(guarded.request("GET", "/v1/status", shows)).await;
        assert_eq!(failed(reason), before + 1, "{shows:?}");
    }
    guarded.send(guarded.request("GET", "/v1/status", Shows::Nothing)).await;
    guarded.send(guarded.request("DELETE", "/v1/counters", Shows::Token(Role::Viewer))).await;
    assert_eq!((away("nothing_shown"), away("role"), away("host"), away("origin")), (1, 1, 0, 0));
    // Whoever goes on from one address is told to wait.
    let again = async || {
        let mut request = guarded.request("GET", "/v1/status", Shows::WrongToken);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 1))));
        guarded.send(request).await
    };
    for _ in 0..10 {
        assert_eq!(again().await.status, 401);
    }
    let slowed = again().await;
    assert_eq!((slowed.status, failed("slowed")), (429, 1));
    assert!(slowed.headers.contains_key(header::RETRY_AFTER));
}

#[tokio::test]
async fn by_another_host_or_from_another_page_nothing_is_answered_but_probes() {
    let guarded = Guarded::with("hosts: [tierflow.internal]\norigins: ['https://panel.example']\n", false);
    let ask = async |path: &str, host: &[&str], origin: &[&str]| {
        let mut request = guarded.request("GET", path, Shows::Token(Role::Admin));
        request.headers_mut().remove(header::HOST);
        for host in host {
            request.headers_mut().append(header::HOST, host.parse().unwrap());
        }
        for origin in origin {
            request.headers_mut().append(header::ORIGIN, origin.parse().unwrap());
        }
        guarded.send(request).await.status
    };
    let own = ["tierflow.internal"];
    for path in ["/v1/status", "/", "/metrics", "/openapi.json", "/v1/nothing"] {
        let good = ask(path, &own, &[]).await;
        assert!([200, 404].contains(&good), "{path}: {good}");
        assert_eq!(ask(path, &["evil.example"], &[]).await, 421, "{path}");
        assert_eq!(ask(path, &[], &[]).await, 400, "{path}");
        assert_eq!(ask(path, &["tierflow.internal", "tierflow.internal"], &[]).await, 400, "{path}");
        assert_eq!(ask(path, &["tierflow.internal", "evil.example"], &[]).await, 400, "{path}");
        for origin in ["http://tierflow.internal", "https://tierflow.internal", "https://panel.example"] {
            assert_eq!(ask(path, &own, &[origin]).await, good, "{path} {origin}");
        }
        for origin in
            ["null", "https://evil.example", "http://tierflow.internal:81", "", "https://panel.example.evil.example"]
        {
            assert_eq!(ask(path, &own, &[origin]).await, 403, "{path} {origin:?}");
        }
        assert_eq!(ask(path, &own, &["https://panel.example", "https://evil.example"]).await, 403, "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(path, &["10.244.0.7:8080"], &[]).await, 200, "{path}");
        assert_eq!(ask(path, &["evil.example"], &["null"]).await, 200, "{path}");
    }
}

/// Whoever is asked by somebody whose token was taken out meanwhile tells it nothing more.
#[tokio::test]
async fn a_stream_ends_when_it_is_asked_anew_who_follows() {
    let guarded = Guarded::new();
    let request = guarded.request("GET", "/v1/events", Shows::Token(Role::Viewer));
    let mut stream = guarded.world.admin.clone().into_router().call(request).await.unwrap();
    assert_eq!(stream.status(), 200);
    guarded.world.admin.access.renew(crate::access::Credentials::none(guarded.world.admin.access.port));
    assert!(stream.body_mut().frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let guarded = Guarded::new();
    let request = guarded.request("GET", "/v1/events", Shows::Jwt(Some(Role::Viewer)));
    let mut stream = guarded.world.admin.clone().into_router().call(request).await.unwrap();
    let begun = tokio::time::Instant::now();
    while stream.body_mut().frame().await.is_some() {}
    assert!(begun.elapsed().as_secs() <= 361, "{:?}", begun.elapsed());
}

/// A mistake in this program keeps everybody out, and lets nobody in.
#[tokio::test]
async fn a_request_that_no_gate_looked_at_gets_no_answer() {
    let mut request =
        Request::builder().uri("/v1/status").header(header::HOST, "localhost").body(Body::empty()).unwrap();
    let refused = crate::admin::gate::admit(crate::admin::gate::VIEWER, &mut request).unwrap_err();
    assert_eq!(refused.status, 503);
    let guarded = Guarded::new();
    let admin = &guarded.world.admin;
    let gate = Gate {
        access: Arc::clone(&admin.access),
        metrics: Arc::clone(&admin.metrics),
        clock: admin.clock,
        told: Arc::default(),
    };
    request.extensions_mut().insert(gate);
    let refused = crate::admin::gate::admit(crate::admin::gate::VIEWER, &mut request).unwrap_err();
    assert_eq!((refused.status.as_u16(), &*refused.detail), (503, "the peer's address is not known"));
}
