//! Who may ask the admin port of the real program: over real sockets, by files that change, and with the verbs.

use std::net::SocketAddr;
use std::path::Path;

use http::Request;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::access_tokens::{Keys, access_file, claims, header};
use crate::harness::{Tierflow, any_addresses, eventually, save, tierflow as run};
use crate::kit::client::Answer;
use crate::raw_http::{self, RawAnswer};
use crate::store::Store;
use crate::tls::{Authority, in_days};

/// What `sha256sum` says of the tokens of tests.
pub(crate) fn hash(token: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) const VIEWER: &str = "a token to look with";
pub(crate) const OPERATOR: &str = "a token to change with";
pub(crate) const ADMIN: &str = "a token for all of it";

pub(crate) fn tokens() -> [(&'static str, &'static str, String); 3] {
    [("vera", "viewer", VIEWER), ("olaf", "operator", OPERATOR), ("anna", "admin", ADMIN)]
        .map(|(name, role, token)| (name, role, hash(token)))
}

fn seconds_now() -> u64 {
    tierflow::clock::Clock::start().now().as_secs()
}

/// A folder with `access.yaml`, `jwks.json` and policies, and the flag that names the first.
fn write_files(folder: &Path, keys: &Keys, more: &str) -> Vec<String> {
    std::fs::write(folder.join("access.yaml"), access_file(&tokens(), more)).unwrap();
    std::fs::write(folder.join("jwks.json"), keys.jwks().to_string()).unwrap();
    let policies = folder.join("policies");
    std::fs::create_dir_all(&policies).unwrap();
    std::fs::write(policies.join("plan.yaml"), "{kind: Plan, name: standard, limits: [{rate: 1/h}]}").unwrap();
    vec![format!("--admin-access={}/access.yaml", folder.display())]
}

async fn serve(folder: &Path, flags: &[String]) -> Tierflow {
    let source = vec![format!("--policies={}/policies", folder.display())];
    Tierflow::serve(&folder.join("tierflow.log"), source, flags, any_addresses()).await
}

async fn with_token(tierflow: &Tierflow, path: &str, token: &str) -> Answer {
    tierflow.send("GET", path, &[("authorization", &format!("Bearer {token}"))], "").await
}

async fn status_by(tierflow: &Tierflow, token: &str) -> u16 {
    with_token(tierflow, "/v1/status", token).await.status.as_u16()
}

#[tokio::test]
async fn no_name_and_no_page_of_others_is_answered_over_real_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let flags = write_files(folder.path(), &Keys::make(), "hosts: [tierflow.internal]\n");
    let tierflow = serve(folder.path(), &flags).await;
    let admin = tierflow.admin();
    let ask = async |lines: &[&str]| -> RawAnswer {
        let bearer = format!("authorization: Bearer {ADMIN}");
        let lines: Vec<&[u8]> = lines.iter().copied().chain([bearer.as_str()]).map(str::as_bytes).collect();
        raw_http::send(admin, "GET", b"/v1/status", &lines).await
    };
    let port = admin.port();
    for lines in [
        &[format!("host: 127.0.0.1:{port}")][..],
        &["host: localhost".to_owned()],
        &["HOST: TierFlow.Internal:443".to_owned()],
        &[format!("host: 127.0.0.1:{port}"), format!("origin: http://127.0.0.1:{port}")],
        &["host: tierflow.internal".to_owned(), "origin: https://tierflow.internal".to_owned()],
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(ask(&lines).await.status, 200, "{lines:?}");
    }
    for (lines, status) in [
        (&["host: evil.example"][..], 421),
        (&["host: 127.0.0.1.evil.example"], 421),
        (&["host: localhost.evil.example:80"], 421),
        (&["host: 10.0.0.5"], 421),
        (&["host: 127.1"], 421),
        (&["host: tierflow.internal."], 400),
        (&["host: tierflow.internal@evil.example"], 400),
        (&["host: tierflow.internal, evil.example"], 400),
        (&["host: tierflow.internal:x"], 400),
        (&["host:"], 400),
        (&[], 400),
        (&["host: tierflow.internal", "host: tierflow.internal"], 400),
        (&["host: tierflow.internal", "host: evil.example"], 400),
        (&["host: evil.example", "x-forwarded-host: tierflow.internal"], 421),
        (&["host: evil.example", "forwarded: host=tierflow.internal"], 421),
        (&["host: tierflow.internal", "origin: null"], 403),
        (&["host: tierflow.internal", "origin:"], 403),
        (&["host: tierflow.internal", "origin: https://evil.example"], 403),
        (&["host: tierflow.internal", "origin: https://tierflow.internal.evil.example"], 403),
        (&["host: tierflow.internal", "origin: https://tierflow.internal:8443"], 403),
        (&["host: tierflow.internal", "origin: https://tierflow.internal", "origin: https://evil.example"], 403),
        (&["host: tierflow.internal", "origin: https://tierflow.internal https://evil.example"], 403),
        (&["host: localhost", "origin: http://127.0.0.1"], 403),
        (&["host: tierflow.internal", "origin: file://"], 403),
    ] {
        let answer = ask(lines).await;
        assert_eq!(answer.status, status, "{lines:?}: {}", answer.body);
    }
    // A request that says in its first line for whom it is.
    let of_line = async |target: &str, host: &str| {
        let (host, bearer) = (format!("host: {host}"), format!("authorization: Bearer {ADMIN}"));
        raw_http::send(admin, "GET", target.as_bytes(), &[host.as_bytes(), bearer.as_bytes()]).await.status
    };
    assert_eq!(of_line("http://tierflow.internal/v1/status", "tierflow.internal").await, 200);
    assert_eq!(of_line("http://evil.example/v1/status", "tierflow.internal").await, 400);
    assert_eq!(of_line("http://tierflow.internal/v1/status", "evil.example").await, 400);
    // Probes are asked by the address of the moment.
    for path in ["/healthz", "/readyz"] {
        let probe = raw_http::send(admin, "GET", path.as_bytes(), &[b"host: 10.244.0.7:8080"]).await;
        assert_eq!(probe.status, 200, "{path}");
    }
    drop(tierflow);
}

/// HTTP/2 says in `:authority` for whom a request is, and may say so in `host` again.
#[tokio::test]
async fn over_http2_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let flags = write_files(folder.path(), &Keys::make(), "hosts: [tierflow.internal]\n");
    let tierflow = serve(folder.path(), &flags).await;
    let tcp = TcpStream::connect(tierflow.admin()).await.unwrap();
    let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let mut ask = async |authority: &str, headers: &[(&str, &str)]| {
        let uri = format!("http://{authority}/v1/status");
        let mut request = Request::builder().uri(uri).header("authorization", format!("Bearer {VIEWER}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (answer, _) = sender.send_request(request.body(()).unwrap(), true).unwrap();
        answer.await.unwrap().status().as_u16()
    };
    assert_eq!(ask("tierflow.internal", &[]).await, 200);
    assert_eq!(ask("tierflow.internal", &[("host", "tierflow.internal")]).await, 200);
    assert_eq!(ask("evil.example", &[]).await, 421);
    assert_eq!(ask("evil.example", &[("host", "tierflow.internal")]).await, 400);
    assert_eq!(ask("tierflow.internal", &[("host", "evil.example")]).await, 400);
    assert_eq!(ask("tierflow.internal", &[("origin", "null")]).await, 403);
    assert_eq!(ask("tierflow.internal", &[("origin", "https://tierflow.internal")]).await, 200);
    drop(tierflow);
}

/// A token that is right, in a place where none belongs, is none; and one beside another is none, either.
#[tokio::test]
async fn a_token_is_looked_for_in_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::make();
    let flags = write_files(folder.path(), &keys, "");
    let tierflow = serve(folder.path(), &flags).await;
    let jwt = keys.token(&header("rsa", "RS256"), &claims("ann", &["platform"], seconds_now()), "RS256");
    for token in [VIEWER, ADMIN, &jwt] {
        assert_eq!(status_by(&tierflow, token).await, 200, "{token}");
    }
    let who: Value = serde_json::from_slice(&with_token(&tierflow, "/v1/access", &jwt).await.body).unwrap();
    assert_eq!((&who["who"], &who["kind"], &who["role"]), (&json!("jwt ann"), &json!("jwt"), &json!("admin")));
    let bearer = format!("Bearer {ADMIN}");
    for headers in [
        &[][..],
        &[("cookie", &*format!("token={ADMIN}; authorization={bearer}"))],
        &[("x-authorization", &*bearer)],
        &[("proxy-authorization", &*bearer)],
        &[("authorization", &*bearer), ("authorization", &*bearer)],
        &[("authorization", "Bearer x"), ("authorization", &*bearer)],
        &[("authorization", &*format!("{bearer}, Bearer x"))],
        &[("authorization", &*format!("Basic {ADMIN}"))],
        &[("authorization", &*format!("Bearer {jwt}."))],
    ] {
        let answer = tierflow.send("GET", "/v1/status", headers, "").await;
        assert_eq!(answer.status, 401, "{headers:?}");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer ")), "{answer:?}");
    }
    for path in ["access_token", "token", "authorization"]
        .map(|name| format!("/v1/status?{name}={}", ADMIN.replace(' ', "%20")))
    {
        assert_eq!(tierflow.ask(&path).await.status, 401, "{path}");
    }
    let log = std::fs::read_to_string(folder.path().join("tierflow.log")).unwrap();
    assert!(log.contains("a login at the admin port failed") && !log.contains(ADMIN) && !log.contains(&jwt), "{log}");
}

#[tokio::test]
async fn who_may_ask_changes_with_the_files_and_what_makes_no_sense_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::make();
    let flags = write_files(folder.path(), &keys, "");
    let tierflow = serve(folder.path(), &flags).await;
    let jwt = keys.token(&header("ec", "ES256"), &claims("ann", &["sre"], seconds_now()), "ES256");
    assert_eq!(status_by(&tierflow, &jwt).await, 200);
    let mut stream = follow(tierflow.admin(), VIEWER).await;

    // A token is taken out, and whoever follows is asked anew.
    let left: Vec<_> = tokens().into_iter().filter(|(name, ..)| *name != "vera").collect();
    save(folder.path(), "access.yaml", &access_file(&left, ""));
    eventually("it is out", async || (status_by(&tierflow, VIEWER).await == 401).then_some(())).await;
    assert_eq!(status_by(&tierflow, OPERATOR).await, 200);
    tokio::time::timeout(crate::harness::DEADLINE, stream.read_to_end(&mut Vec::new()))
        .await
        .expect("the stream ends")
        .unwrap();

    // A broken file is told of, and the one before counts on.
    save(folder.path(), "access.yaml", "tokens: [{name: x, role: operater}]\n");
    let trouble = eventually("it is told", async || {
        let status: Value = serde_json::from_slice(&with_token(&tierflow, "/v1/status", OPERATOR).await.body).unwrap();
        status["access_trouble"].as_str().map(str::to_owned)
    })
    .await;
    assert!(trouble.contains("access.yaml:1:") && trouble.contains("tokens[0]"), "{trouble}");
    assert_eq!(status_by(&tierflow, ADMIN).await, 200);
    assert_eq!(status_by(&tierflow, VIEWER).await, 401);
    let metrics = with_token(&tierflow, "/metrics", ADMIN).await.text();
    assert!(metrics.contains("tierflow_access_reload_total{result=\"refused\"} 1\n"), "{metrics}");

    // Keys that are renewed, under the same names.
    save(folder.path(), "access.yaml", &access_file(&tokens(), ""));
    let renewed = Keys::make();
    save(folder.path(), "jwks.json", &renewed.jwks().to_string());
    let fresh = renewed.token(&header("ec", "ES256"), &claims("ann", &["sre"], seconds_now()), "ES256");
    eventually("the new key is taken", async || (status_by(&tierflow, &fresh).await == 200).then_some(())).await;
    assert_eq!(status_by(&tierflow, VIEWER).await, 200);
    let status: Value = serde_json::from_slice(&with_token(&tierflow, "/v1/status", ADMIN).await.body).unwrap();
    assert_eq!(status["access_trouble"], Value::Null);
    assert_eq!(with_token(&tierflow, "/v1/status", &jwt).await.status, 401, "the old key signs nothing any more");
}

/// A stream of events, after its head.
async fn follow(admin: SocketAddr, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let head = format!(
        "GET /v1/events HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    stream
}

#[test]
fn a_file_that_makes_no_sense_at_the_start_lets_nobody_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.yaml");
    std::fs::write(&path, "tokens:\n- {name: ci, role: root, sha256: x}\n").unwrap();
    let ports = ["xds", "rls", "admin"].map(|port| format!("--{port}-listen=127.0.0.1:0"));
    let serve = |flag: String| {
        let flags: Vec<&str> = ["serve", &flag].into_iter().chain(ports.iter().map(String::as_str)).collect();
        let output = run(&flags);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = serve(format!("--admin-access={}", path.display()));
    assert!(
        code == Some(1) && told.contains("access.yaml:2:20: tokens[0].role: expected viewer, operator or admin"),
        "{told}"
    );
    let (code, told) = serve(format!("--admin-access={}", folder.path().join("none.yaml").display()));
    assert!(code == Some(1) && told.contains("none.yaml: No such file"), "{told}");
    let (code, told) = serve(format!("--admin-token-file={}", folder.path().join("none").display()));
    assert!(code == Some(1) && told.contains("none: No such file"), "{told}");
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "# a secret that is not mounted yet\n").unwrap();
    let (code, told) = serve(format!("--admin-token-file={}", empty.display()));
    assert!(code == Some(1) && told.contains("empty: says nobody who may ask: expected NAME:TOKEN"), "{told}");
}

/// From the verb that makes a token to the change that it makes, and its name in the audit log.
#[tokio::test]
async fn a_token_that_a_verb_makes_is_one_that_verbs_can_show() {
    let store = Store::start_shop().await;
    let folder = store.folder.path();
    let out = folder.join("ci.token");
    let make = |name: &str| run(&["token", name, "--role=operator", &format!("--out={}", out.display())]);
    let made = make("ci");
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let again = make("ci");
    assert!(!again.status.success(), "a token that is there is not written over");
    let secret = std::fs::read_to_string(&out).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&out).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let line = String::from_utf8(made.stdout).unwrap();
    assert_eq!(line, format!("- {{name: \"ci\", role: operator, sha256: \"{}\"}}\n", hash(secret.trim())));
    std::fs::write(folder.join("access.yaml"), format!("tokens:\n{line}")).unwrap();

    let flags = [format!("--admin-access={}/access.yaml", folder.display())];
    let tierflow = Tierflow::serve(&store.path("tierflow.log"), store.endpoint(), &flags, any_addresses()).await;
    let server = format!("--server=http://{}", tierflow.admin());
    let shows = format!("--token-file={}", out.display());
    let refused = run(&["status", &server]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("show a token or a certificate that is known here (401)")
    );
    let plan = store.path("plan.yaml");
    std::fs::write(&plan, "{kind: Plan, name: standard, limits: [{rate: 2/h}]}").unwrap();
    eventually("it is applied", async || {
        let applied = run(&["apply", "-f", plan.to_str().unwrap(), &server, &shows]);
        applied.status.success().then_some(())
    })
    .await;
    let forced = run(&["apply", "-f", plan.to_str().unwrap(), "--force=a slow day", &server, &shows]);
    let told = String::from_utf8_lossy(&forced.stderr);
    assert!(told.contains("that needs the role admin, and token ci has the role operator (403)"), "{told}");
    let log = std::fs::read_to_string(store.path("tierflow.log")).unwrap();
    assert!(log.contains("token ci") && !log.contains(secret.trim()), "{log}");
}

/// What a verb says over TLS, with the certificate of that name.
fn says(folder: &Path, admin: SocketAddr, certificate: &str, verb: &[&str]) -> (bool, String) {
    let server = format!("--server=https://{admin}");
    let file = |flag: &str, name: &str| format!("--server-{flag}={}/{name}", folder.display());
    let shown = [
        file("ca", "ca.crt"),
        file("cert", &format!("{certificate}.crt")),
        file("key", &format!("{certificate}.key")),
        server,
    ];
    let args: Vec<&str> = verb.iter().copied().chain(shown.iter().map(String::as_str)).collect();
    let output = run(&args);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_has_the_role_of_its_name_and_another_of_the_same_authority_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let authority = Authority::new();
    std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    for (name, san) in [
        ("server", "127.0.0.1"),
        ("ops", "spiffe://shop/ops"),
        ("edge", "spiffe://shop/edge"),
        ("desk", "Desk.shop.internal"),
        // Names of a certificate that are no names of a role.
        ("mail", "ops@shop"),
    ] {
        let issued = authority.issue(&[san], in_days(1));
        std::fs::write(folder.join(format!("{name}.crt")), issued.certificate).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), issued.key).unwrap();
    }
    let more =
        "certificates:\n- {san: 'spiffe://shop/ops', role: operator}\n- {san: desk.shop.internal, role: viewer}\n";
    let mut flags = write_files(folder, &Keys::make(), more);
    let files = [("cert", "server.crt"), ("key", "server.key"), ("client-ca", "ca.crt")];
    flags.extend(files.map(|(flag, file)| format!("--tls-{flag}={}/{file}", folder.display())));
    let tierflow = serve(folder, &flags).await;
    let said = |certificate: &str, verb: &[&str]| says(folder, tierflow.admin(), certificate, verb);
    for known in ["ops", "desk"] {
        let (is_well, said) = said(known, &["get"]);
        assert!(is_well && said.contains("standard"), "{known}: {said}");
    }
    for (strange, why) in [
        ("edge", "the certificate has no role here"),
        ("mail", "the certificate has no role here"),
        ("server", "the certificate has no role here"),
    ] {
        let (is_well, said) = said(strange, &["get"]);
        assert!(!is_well && said.contains(why) && said.contains("(401)"), "{strange}: {said}");
    }
    let (_, told) = said("desk", &["delete", "Plan", "standard", "--base=1"]);
    assert!(
        told.contains("that needs the role operator, and certificate desk.shop.internal has the role viewer"),
        "{told}"
    );
    let (_, told) = said("ops", &["delete", "Plan", "standard", "--base=1"]);
    assert!(told.contains("files are the truth"), "{told}");
    // A wrong token is not mended by a certificate.
    std::fs::write(folder.join("wrong"), "a token that nobody knows").unwrap();
    let shows = format!("--token-file={}/wrong", folder.display());
    let (_, told) = said("ops", &["get", &shows]);
    assert!(told.contains("that token is not known here"), "{told}");
}
