//! Spellings of a path: what the real Envoy makes of them, and that `explain` thinks the same.

use std::net::SocketAddr;

use tierflow::compile::RateLimitService;
use tierflow::document::Documents;
use tierflow::explain::{Explanation, Request, check_header, explain};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Generation, Settings};
use tierflow::names::Revision;
use tierflow::snapshot::feature::EnvoyVersion;

use crate::envoy_versions::version_of;
use crate::harness::{Setup, World, eventually, free_address};
use crate::kit::tools;
use crate::raw_http::{RawAnswer, send, start_echo};
use crate::seed::Seed;

const ESCAPED_SLASHES: [&str; 4] = ["redirect", "decode", "keep", "refuse"];

/// An Envoy with a gateway for each way to treat escaped slashes.
struct Gateways {
    world: World,
    listen: [SocketAddr; 4],
}

impl Gateways {
    /// Each gateway has the Apis; `GATEWAY` is what it does with escaped slashes.
    async fn start(apis: &str) -> Self {
        let echo = start_echo().await;
        let listen = ESCAPED_SLASHES.map(|_| free_address());
        let gateway = |(escaped_slashes, listen): (&str, &SocketAddr)| {
            format!(
                "---
{{kind: Gateway, name: {escaped_slashes}, nodes: {{clusters: [edge]}}, listen: '{listen}',
 path: {{escaped_slashes: {escaped_slashes}}}, limiter: {{timeout: 5s, on_error: deny}}}}
---
{}",
                apis.replace("GATEWAY", escaped_slashes)
            )
        };
        let gateways: String = ESCAPED_SLASHES.into_iter().zip(&listen).map(gateway).collect();
        let policies = format!("---\n{{kind: Service, name: echo, endpoints: ['{echo}']}}\n{gateways}");
        let world = World::start(Setup { policies: &policies, ..Default::default() }).await;
        eventually("all gateways listen", async || {
            (world.edge.stats(["listener_manager.total_listeners_active"]).await == [5]).then_some(())
        })
        .await;
        Self { world, listen }
    }

    /// What the gateway answers to a request for this path.
    async fn ask(&self, escaped_slashes: &str, path: &str) -> RawAnswer {
        let index = ESCAPED_SLASHES.iter().position(|known| *known == escaped_slashes).unwrap();
        send(self.listen[index], "GET", path.as_bytes(), &[b"host: shop.example"]).await
    }

    fn generation(&self) -> Generation {
        let documents = tierflow::source::dir::read(&self.world.path("")).unwrap().documents;
        let settings = Settings {
            rate_limit_service: RateLimitService::default(),
            counter_keys: KeyHasher::seeded([1; 16]),
            allow_empty: false,
        };
        Generation::build(&Documents::new(Revision::default(), documents), &settings).unwrap()
    }
}

#[tokio::test]
async fn an_escaped_slash_is_what_the_gateway_makes_of_it() {
    let gateways = Gateways::start(
        "{kind: Api, name: GATEWAY-two, gateway: GATEWAY, service: echo, match: {path_template: '/pkg/{a}/{b}'}}
---
{kind: Api, name: GATEWAY-one, gateway: GATEWAY, service: echo, match: {path_template: '/pkg/{name}'}}
",
    )
    .await;
    for path in ["/pkg/@scope%2Fname", "/pkg/@scope%2fname", "/pkg/@scope%5Cname"] {
        let redirected = gateways.ask("redirect", path).await;
        assert_eq!((redirected.status, redirected.header("location")), (307, Some("/pkg/@scope/name")));
        let decoded = gateways.ask("decode", path).await;
        assert_eq!((decoded.status, decoded.echoed_target()), (200, Some("/pkg/@scope/name")));
        let kept = gateways.ask("keep", path).await;
        assert_eq!((kept.status, kept.echoed_target()), (200, Some(path)));
        assert_eq!(gateways.ask("refuse", path).await.status, 400);
    }
}

/// Each byte in a name and in a value, but for those that end a name or a line.
#[tokio::test]
async fn a_header_that_explain_refuses_is_one_that_no_request_can_have() {
    let apis = "{kind: Api, name: GATEWAY-all, gateway: GATEWAY, service: echo, match: {path_prefix: /}}\n";
    let gateways = Gateways::start(apis).await;
    for byte in 0..=u8::MAX {
        let shown = char::from(byte);
        let line = |before: &str, after: &str| [before.as_bytes(), &[byte], after.as_bytes()].concat();
        let headers = [
            (line("x-a", "b: v"), check_header(&format!("x-a{shown}b"), "v"), ":\r\n"),
            (line("x-a: v", "w"), check_header("x-a", &format!("v{shown}w")), "\r\n"),
        ];
        for (line, checked, ends) in headers {
            if ends.contains(shown) {
                assert!(checked.is_err(), "{shown:?}");
                continue;
            }
            let answer = send(gateways.listen[0], "GET", b"/", &[b"host: shop.example", &line]).await;
            let told = String::from_utf8_lossy(&line).into_owned();
            assert_eq!(
                (answer.status == 400, told.clone()),
                (checked.is_err(), told),
                "{}: {checked:?}",
                answer.status
            );
        }
    }
}

#[tokio::test]
async fn a_path_with_escapes_is_an_api_and_a_counter_whichever_case_they_have() {
    let echo = start_echo().await;
    let policies = format!(
        "---
{{kind: Service, name: echo, endpoints: ['{echo}']}}
---
{{kind: Api, name: exact, gateway: edge, service: echo, match: {{path: /exact/a%2fb}}, limits: [{{rate: 2/h, by: [path]}}]}}
---
{{kind: Api, name: prefix, gateway: edge, service: echo, match: {{path_prefix: /prefix/a%2Fb}}, limits: [{{rate: 2/h, by: [path]}}]}}
---
{{kind: Api, name: template, gateway: edge, service: echo, match: {{path_template: '/template/a%2Fb/{{x}}'}}, limits: [{{rate: 2/h, by: [path]}}]}}
---
{{name: list, rate_limits: [{{actions: [{{request_headers: {{header_name: ':path', descriptor_key: p}}}},
 {{header_value_match: {{descriptor_value: other, headers: [{{name: ':path', string_match: {{prefix: /other}}}}]}}}}], limit: {{unit: HOUR, requests_per_unit: 2}}}}]}}
---
{{kind: Api, name: other, gateway: edge, service: echo, match: {{path_prefix: /}}}}
"
    );
    let gateway = "path: { escaped_slashes: keep }";
    let world = World::start(Setup { policies: &policies, gateway, ..Default::default() }).await;
    let statuses = async |paths: [&str; 3]| {
        let mut statuses = Vec::new();
        for path in paths {
            statuses.push(send(world.edge.listen, "GET", path.as_bytes(), &[b"host: x"]).await.status);
        }
        statuses
    };
    for (capitals, small) in [
        ("/exact/a%2Fb", "/exact/a%2fb"),
        ("/prefix/a%2Fb/%C3%A4", "/prefix/a%2fb/%c3%a4"),
        ("/template/a%2Fb/c", "/template/a%2fb/c"),
        ("/other/%3A", "/other/%3a"),
    ] {
        assert_eq!(statuses([capitals, small, small]).await, [200, 200, 429], "{small}");
    }
    assert_eq!(statuses(["/exact/a/b", "/exact/a/b", "/exact/a%2fb"]).await, [200, 200, 429], "another path");
}

/// How many random requests each gateway gets.
const REQUESTS: usize = 500;

#[tokio::test]
async fn explain_says_of_any_request_what_envoy_does() {
    let gateways = Gateways::start(
        "{kind: Api, name: GATEWAY-exact, gateway: GATEWAY, service: echo, match: {path: /a/b}, limits: [{name: exact, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-template, gateway: GATEWAY, service: echo, match: {path_template: '/{x}/b'}, limits: [{name: template, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-escapes, gateway: GATEWAY, service: echo, match: {path_template: '/{x}/%C3%A4'}, limits: [{name: escapes, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-prefix, gateway: GATEWAY, service: echo, match: {path_prefix: /a}, limits: [{name: prefix, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-query, gateway: GATEWAY, service: echo, match: {path_prefix: /, query: {x: '1'}}, limits: [{name: query, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-host, gateway: GATEWAY, service: echo, match: {path_prefix: /, hosts: [shop.example]}, limits: [{name: host, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-header, gateway: GATEWAY, service: echo, match: {path_prefix: /, headers: {host: {suffix: .test}}}, limits: [{name: header, rate: 1000000/h}]}
---
{kind: Api, name: GATEWAY-regex, gateway: GATEWAY, service: echo, match: {path_regex: '/[a-z%.;*]*'}, limits: [{name: regex, rate: 1000000/h}]}
",
    )
    .await;
    let generation = gateways.generation();
    let seed = Seed::of("SPELLINGS_SEED");
    let mut differences = Vec::new();
    let mut random = fastrand::Rng::with_seed(seed.number);
    let cuts_parameters = version_of(tools::envoy().unwrap()) >= EnvoyVersion::parse("1.39.1").unwrap();
    for _ in 0..REQUESTS {
        let request = random_request(&mut random);
        // Older Envoys do not know the method either.
        if !cuts_parameters && (request.path.contains(".;") || request.method == "QUERY") {
            continue;
        }
        for (name, listen) in ESCAPED_SLASHES.into_iter().zip(gateways.listen) {
            let gateway = generation.policies.gateways.get(name).unwrap();
            let explained = explain(&generation.policies, &generation.matcher, gateway, &request);
            let lines: Vec<String> = std::iter::once(format!("host: {}", request.host))
                .chain(request.headers.iter().map(|(name, value)| format!("{name}: {value}")))
                .collect();
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            let answer = send(listen, &request.method, request.path.as_bytes(), &lines).await;
            if let Some(difference) = difference(&request, &explained, &answer) {
                differences.push(format!("{difference}: {name} {request:?}\n  {explained:?}\n  {answer:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{} differ\n{}", differences.len(), differences.join("\n"));
}

fn difference(request: &Request, explained: &Explanation, answer: &RawAnswer) -> Option<&'static str> {
    let expected = match (&explained.answer, &explained.api) {
        (Some(answer), _) => answer.status,
        (None, None) => 404,
        (None, Some(_)) => 200,
    };
    if expected != 200 {
        // A client of gRPC is told in its own words.
        let has_status = answer.status == expected || answer.header("grpc-status").is_some();
        let location = explained.answer.as_ref().and_then(|answer| answer.location.as_deref());
        return match has_status {
            false => Some("status"),
            true if answer.header("location") != location => Some("location"),
            true => None,
        };
    }
    let is_origin_form = request.path.starts_with('/');
    match () {
        () if answer.status != 200 => Some("status"),
        () if answer.limit() != explained.limits.first().map(|limit| limit.name.as_str()) => Some("Api"),
        () if answer.echoed_target() != explained.path.as_deref() => Some("path"),
        () if is_origin_form && answer.echoed("host").unwrap_or_default() != request.host => Some("host"),
        () => None,
    }
}

const METHODS: [&str; 16] = [
    "GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "OPTIONS", "CONNECT", "PROPFIND", "MSEARCH",
    "M-SEARCH", "QUERY", "get",
];

/// Of what paths are made, and what is strange in one.
const PATH_PIECES: [&str; 72] = [
    "/", "/", "/", "/", "/", "/a", "/a", "/b", "/a/b", "/a/b", "a", "b", "a", "b", "e", "x", "%61", "%62", "%2F",
    "%2f", "%5C", "%5c", "\\", ".", "..", "/.", "/..", "/../", "/./", "%2e", "%2E", ".%2e", ";", "..;", ".;", "/..;x/",
    "%", "%2", "%%36", "%%3", "%31", "%c", "[", "]", "|", "{", "}", "^", "`", "\"", "<", ">", "~", "%7e", "*", "%2a",
    "!", "%21", "@", "/%C3%A4", "/%c3%a4", "//", "+", "$&'(),=:", "%25", "%252F", "%20", "?", "?x=1", "?y&x=1",
    "?x=1&x=2", "?x=%31",
];
/// What no path may have.
const RARE_PIECES: [&str; 6] = ["#", "%00", " ", "\u{1}", "\u{7f}", "ä"];
const HOSTS: [&str; 24] = [
    "shop.example",
    "shop.example",
    "shop.example",
    "shop.example:80",
    "SHOP.example:8443",
    "shop.example:",
    "shop.example:x",
    "shop.example:1:2",
    "shop.example.",
    "a.test",
    "a.TEST:1",
    "b.test:shop.example",
    "[::1]",
    "[::1]:80",
    "a_b.test",
    "u@shop.example",
    "%61.test",
    "",
    "sh op.test",
    "a/b",
    "a\"b",
    "a|b",
    "ä.test",
    "a.test;x",
];
const URLS: [&str; 20] = [
    "http://shop.example",
    "http://shop.example:80",
    "HTTP://SHOP.example",
    "https://shop.example",
    "http://a.test:8443",
    "http://u:p@shop.example",
    "http://[::1]:80",
    "http://[::1]",
    "http://a_b.test",
    "http://shop.example:",
    "http://a..b",
    "http://shop.example:x",
    "http://",
    "http:",
    "ftp://shop.example",
    "ws://shop.example",
    "x",
    "*",
    "",
    "%2F",
];

fn random_request(random: &mut fastrand::Rng) -> Request {
    let pieces: String = (0..random.usize(0..8)).map(|_| *random.choice(&PATH_PIECES).unwrap()).collect();
    let rare = if random.u8(..) < 10 { random.choice(&RARE_PIECES).unwrap() } else { "" };
    let path = match random.u8(0..20) {
        0 => format!("{}/{pieces}", random.choice(&URLS).unwrap()),
        1 => random.choice(&URLS).unwrap().to_string(),
        2 => format!("{}?{pieces}", random.choice(&URLS).unwrap()),
        _ if rare.is_empty() => format!("/{pieces}"),
        _ => format!("/{rare}x{pieces}"),
    };
    let is_grpc = random.u8(..) < 16;
    Request {
        method: random.choice(METHODS).unwrap().to_owned(),
        path,
        host: random.choice(&HOSTS).unwrap().to_string(),
        headers: is_grpc.then(|| ("content-type".to_owned(), "application/grpc".to_owned())).into_iter().collect(),
        client_ip: [127, 0, 0, 1].into(),
    }
}
