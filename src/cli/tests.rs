//! The command line as people type it: what is taken, what is refused and in which words, and what verbs say that fail.

mod printed;

use std::path::Path;

use clap::error::ErrorKind;

use super::stand_in::StandIn;
use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    super::parse(std::iter::once("tierflow").chain(line.split_whitespace()).map(OsString::from))
}

/// What became of a verb.
struct Ended {
    result: Result<(), Failure>,
    out: String,
    err: String,
}

fn run(line: &str) -> Ended {
    run_asked(line, None)
}

/// With somebody who answers questions.
fn run_asked(line: &str, answers: Option<&str>) -> Ended {
    let verb = parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).verb;
    assert!(!matches!(verb, Verb::Serve(_)), "{line} would not end");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut answers = answers.map(str::as_bytes);
    let answers = answers.as_mut().map(|answers| answers as &mut dyn BufRead);
    let (is_watched, colours) = (false, Colours::default());
    let result = verb.run(&mut Streams { answers, out: &mut out, err: &mut err, is_watched, colours });
    let [out, err] = [out, err].map(|written| String::from_utf8(written).unwrap());
    Ended { result, out, err }
}

/// What the verb says when it fails.
fn failure(line: &str) -> String {
    run(line).result.expect_err(line)
}

/// A folder with a file of policies.
fn folder(policies: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.yaml"), policies).unwrap();
    folder
}

fn gateway(name: &str, port: u16) -> String {
    format!("{{kind: Gateway, name: {name}, nodes: {{clusters: [{name}]}}, listen: '127.0.0.1:{port}'}}\n---\n")
}

#[test]
fn flags_that_make_no_sense_are_named_with_what_was_expected() {
    let refused = [
        ("", "Usage: tierflow <COMMAND>"),
        ("serv", "similar subcommand exists: 'serve'"),
        ("serve --policies=a --etcd=b:1", "'--policies <DIR>' cannot be used with '--etcd <URL>'"),
        ("serve --tls-cert=a", "--tls-key <FILE>"),
        ("serve --tls-key=a", "--tls-cert <FILE>"),
        ("serve --tls-client-ca=a", "--tls-cert <FILE>"),
        ("serve --xds-listen=18000", "'18000' for '--xds-listen <HOST:PORT>'"),
        ("serve --xds-streams-max=0", "0 is not in 1..=1000000"),
        ("serve --xds-streams-per-second=0", "0 is not in 1..=1000000"),
        ("serve --xds-unread-bytes-max=0", "0 is not in 1.."),
        ("serve --xds-connection-age=ever", "'ever' for '--xds-connection-age <DURATION>'"),
        ("serve --xds-connection-age=1ns", "expected a duration of 1s to 30days, or 0s for never"),
        ("serve --xds-connection-age=31days", "expected a duration of 1s to 30days"),
        ("serve --drain-time=999999h", "'999999h' for '--drain-time <DURATION>': expected a duration of 0s to 1h"),
        ("serve --drain-time=soon", "expected a duration of 0s to 1h"),
        ("serve --audit-log=a --audit-log-bytes-max=0", "expected a number of 1 to 1099511627776 bytes"),
        (
            "serve --denials-log=a --denials-log-bytes-max=1099511627777",
            "expected a number of 1 to 1099511627776 bytes",
        ),
        ("serve --audit-log=a --audit-log-bytes-max=9 --audit-log-files-max=1001", "expected a number of 1 to 1000"),
        ("serve --denials-log=a --denials-log-bytes-max=9 --denials-log-files-max=0", "expected a number of 1 to 1000"),
        ("serve --log=", "'' for '--log <FILTER>'"),
        ("register --log=,", "expected a filter, as in info or tierflow=debug,warn"),
        ("serve --state-dir=policies", "--state-dir policies: expected a folder outside of --policies policies"),
        (
            "serve --policies=/tmp/../tmp --state-dir=/tmp/nonexistent/state",
            "expected a folder outside of --policies /tmp",
        ),
        (
            "serve --audit-log=policies/gateway.yaml",
            "--audit-log policies/gateway.yaml: would be read as a policy; expected a file outside of --policies policies",
        ),
        ("serve --policies=/tmp/../tmp --denials-log=/tmp/nonexistent/d.json", "d.json: would be read as a policy"),
        ("serve --policies=p.txt --audit-log=./p.txt", "--audit-log ./p.txt: would be read as a policy"),
        ("audit verify - -", "found `-`, which is standard input, 2 times"),
        ("serve --rls-advertise=a:1,b", "expected HOST:PORT, as in 10.0.0.7:8081"),
        ("serve --replica-id=a/b", "expected 1 to 128 printable characters without /"),
        ("serve --etcd=ftp://a:1", "expected http://HOST:PORT or https://HOST:PORT"),
        ("serve --etcd=a:1 --etcd-prefix=tierflow", "expected a path like /tierflow"),
        ("serve --etcd=a:1 --etcd-user=b", "--etcd-password-file <FILE>"),
        ("serve --etcd=a:1 --etcd-password-file=b", "--etcd-user <NAME>"),
        ("serve --etcd=a:1 --etcd-cert=b", "--etcd-key <FILE>"),
        ("serve --counters-user=a", "--counters-password-file <FILE>"),
        ("serve --counters-cert=a", "--counters-key <FILE>"),
        ("serve --counter-keys-max=1023", "1023 is not in 1024..=100000000"),
        ("serve --counters-timeout=2s", "expected a duration of 1ms to 1s"),
        ("serve --counters-timeout=0ms", "expected a duration of 1ms to 1s"),
        ("serve --counters-timeout=5", "expected a duration of 1ms to 1s"),
        ("serve --counters-connections=65", "65 is not in 1..=64"),
        ("serve --counters-prefix=", "expected 1 to 64 printable characters"),
        ("serve --log-format=xml", "[possible values: text, json]"),
        ("check", "<PATH>"),
        ("explain policies", "--path </PATH>"),
        ("explain policies --path=/ --header=x-tenant-id", "expected NAME=VALUE, as in x-tenant-id=acme"),
        ("explain policies --path=/ --client-ip=localhost", "expected an IP address, as in 10.0.0.7"),
        (
            "explain policies --path=/ --header=x@y=1",
            "found the header name \"x@y\", expected letters, digits and signs",
        ),
        ("explain policies --path=/ --header=:path=/a", "found the header name \":path\""),
        ("explain policies --path=/ --header==1", "found the header name \"\""),
        ("explain policies --path=/ --header=x-a=\u{1b}[31m", "found U+001B in the value of x-a"),
        ("bootstrap", "--gateway <NAME>"),
        ("bootstrap --gateway=a --server-cert=b", "--server-ca <FILE>"),
        ("bootstrap --gateway=a --downstream-connections-max=0", "0 is not in 1..=4294967295"),
        ("bootstrap --gateway=a --xds=rest", "[possible values: sotw, delta]"),
        ("get Thing", "expected one of Gateway, Service, Api, Plan, Tenant, RateLimits"),
        ("get --output=xml", "[possible values: table, json, yaml]"),
        ("get --server-cert=a", "--server-key <FILE>"),
        ("apply", "--file <FILE>"),
        ("apply -f a --base=new", "'new' for '--base <REVISION>'"),
        ("delete Api", "<NAME>"),
        ("replay", "<ACCESS_LOG>"),
        ("replay a.log --top=many", "'many' for '--top <N>'"),
        ("register --service=Pay --address=127.0.0.1:1", "1 to 128 of a-z, 0-9"),
        ("register --service=pay --address=pay:1", "invalid socket address syntax"),
        ("register --service=pay --address=127.0.0.1:1 --weight=1001", "1001 is not in 1..=1000"),
        ("register --service=pay --address=127.0.0.1:1 --ttl=1", "1 is not in 2..=3600"),
        // What would mean nothing is not passed over.
        ("diff a b --server=http://a:1", "--server is about a running server, and two sets are compared without one"),
        ("diff a b --token-file=t", "expected one set, as in `diff A --token-file ...`, or no --token-file"),
        ("diff - -", "found `-`, which is standard input, 2 times: expected it once"),
        ("check - a -", "found `-`, which is standard input, 2 times: expected it once"),
        ("apply -f - -f -", "found `-`, which is standard input, 2 times: expected it once"),
        ("replay - --policies=-", "found `-`, which is standard input, 2 times: expected it once"),
        ("explain a --path=/ --host=a --header=Host=b", "a request has one host"),
        ("explain a --path=/ --header=host=a --header=host=b", "a request has one host"),
        ("get --server-ca=a", "--server-ca needs --server with https, and it is \"http://127.0.0.1:8080\""),
        ("get --server=http://a:1 --server-cert=a --server-key=b", "--server-cert needs --server with https"),
        ("bootstrap --gateway=a --etcd-prefix=/a", "--etcd-prefix needs --etcd"),
        ("serve --etcd-ca=a", "--etcd-ca needs --etcd"),
        ("serve --etcd=http://a:1 --etcd-ca=a", "--etcd-ca needs --etcd with https"),
        (
            "register --service=pay --address=127.0.0.1:1 --etcd=a:1 --etcd-cert=a --etcd-key=b",
            "needs --etcd with https",
        ),
        ("serve --replica-id=one", "--replica-id needs --etcd"),
        ("serve --audit-log=a --denials-log=./a", "each needs a file of its own"),
        ("serve --audit-log=a.1 --denials-log=a", "each needs a file of its own"),
        ("serve --audit-log=a --audit-log-files-max=3", "--audit-log-files-max needs --audit-log-bytes-max"),
        ("serve --denials-log=a --denials-log-files-max=3", "--denials-log-files-max needs --denials-log-bytes-max"),
        ("serve --counters-prefix=a", "--counters-prefix needs --counters=redis://HOST:PORT"),
        ("serve --counters-timeout=9ms", "--counters-timeout needs --counters"),
        ("serve --counters-connections=2", "--counters-connections needs --counters"),
        ("serve --counters-leases=off", "--counters-leases needs --counters"),
        ("serve --counters=redis+cluster://a:1 --counters-leases=on", "a Redis Cluster has no leases"),
        ("counters --tenant=a reset --yes", "cannot be used with"),
    ];
    for (line, words) in refused {
        let Err(error) = parse(line) else { panic!("`{line}` is taken") };
        assert_eq!(error.exit_code(), 2, "{line}");
        let told = error.to_string();
        assert!(told.contains(words), "`{line}` says {told}");
    }
    let Err(error) = parse("check - -") else { panic!("it is taken") };
    assert!(error.to_string().contains("\n\nUsage: tierflow check [OPTIONS] <PATH>...\n"), "{error}");
    Cli::command().debug_assert();
}

#[test]
fn what_was_typed_is_told_from_what_stands_by_itself() {
    let asks = |line: &str| match parse(line).unwrap().verb {
        Verb::Explain(args) => args.asks_a_server(),
        _ => unreachable!(),
    };
    assert!(!asks("explain a --path=/"), "the default server is not meant");
    assert!(asks("explain a --path=/ --server=http://a:1") && asks("explain a --path=/ --token-file=t"));
    assert!(asks("explain --path=/"));
}

#[test]
fn help_and_version_are_no_errors() {
    for (line, kind) in [
        ("--help", ErrorKind::DisplayHelp),
        ("serve --help", ErrorKind::DisplayHelp),
        ("--version", ErrorKind::DisplayVersion),
    ] {
        let Err(shown) = parse(line) else { panic!("{line}") };
        assert_eq!((shown.kind(), shown.exit_code()), (kind, 0), "{line}");
    }
}

#[test]
fn kinds_are_known_in_any_case() {
    for kind in crate::names::Kind::ALL {
        for text in [kind.as_str().to_owned(), kind.as_str().to_lowercase(), kind.as_str().to_uppercase()] {
            assert_eq!(get::parse_kind(&text), Ok(kind), "{text}");
        }
    }
    assert!(get::parse_kind("").is_err() && get::parse_kind("Apis").is_err());
}

#[test]
fn verbs_that_read_files_say_which_they_cannot_read() {
    for verb in
        ["check", "diff", "replay - --policies", "compile", "explain --path=/", "bootstrap --gateway=a --policies"]
    {
        let told = failure(&format!("{verb} /nonexistent/policies"));
        assert!(told.contains("/nonexistent/policies"), "{verb}: {told}");
    }
    let empty = tempfile::tempdir().unwrap();
    let told = failure(&format!("check {}", empty.path().to_str().unwrap()));
    assert_eq!(told, "there is no document in the .yaml, .yml and .json files of these paths");
}

#[test]
fn every_problem_goes_before_their_number_and_to_standard_error() {
    let broken =
        folder("{kind: Plan, name: a, limits: [{rate: often}]}\n---\n{kind: Plan, name: B, limits: [{rate: 1/m}]}");
    let ended = run(&format!("check {}", broken.path().to_str().unwrap()));
    assert_eq!((ended.result, &*ended.out), (Err("2 problems".to_owned()), ""));
    let told: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("error: ")).collect();
    let expected = "expected 1 to 128 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit";
    assert_eq!(
        told,
        [
            "error: Plan a, limits[0].rate: found \"often\", expected a rate like 100/minute",
            &format!("error: Plan B, name: found \"B\", {expected}"),
        ]
    );
    let broken = folder("{kind: Plan, name: a, limits: [{rate: often}]}");
    let ended = run(&format!("compile {}", broken.path().to_str().unwrap()));
    assert_eq!((ended.result, &*ended.out), (Err("1 problem".to_owned()), ""));
    assert!(ended.err.contains("p.yaml:1:39\n"), "{}", ended.err);
}

#[test]
fn where_a_gateway_is_to_be_chosen_the_choices_are_told_in_order() {
    let none = folder("{kind: Plan, name: a, limits: [{rate: 1/m}]}");
    let two = folder(&[gateway("shop", 1), gateway("edge", 2)].concat());
    let on = |verb: &str, folder: &tempfile::TempDir| failure(&format!("{verb} {}", folder.path().to_str().unwrap()));
    assert_eq!(on("compile", &none), "there is no Gateway");
    assert_eq!(on("compile", &two), "there are several gateways, choose one with --gateway: edge, shop");
    let missing = "no Gateway is called \"pay\"; there are: edge, shop";
    assert_eq!(on("compile --gateway=pay", &two), missing);
    assert_eq!(on("replay - --gateway=pay --policies", &two), missing);
    assert!(on("replay - --policies", &two).starts_with("there are several gateways"));
    assert_eq!(on("bootstrap --gateway=pay --policies", &two), missing);
    assert_eq!(on("explain --gateway=pay --path=/", &two), "there is no such Gateway");
    let told =
        on("bootstrap --gateway=shop --node-id=x --policies", &folder(&gateway("shop", 1).replace("clusters", "ids")));
    assert_eq!(told, "the node id \"x\" is not one that `nodes` of Gateway shop selects");
}

#[test]
fn a_log_that_cannot_be_read_is_told_with_its_first_line() {
    let policies = folder(&gateway("shop", 1));
    let policies = policies.path().to_str().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    std::fs::write(path, "\nstarting up\n{}\n").unwrap();
    let told = failure(&format!("replay {path} --policies={policies}"));
    assert_eq!(
        told,
        format!(
            "no line of the log could be read; {path}:2: it is not of the log's format; --format says another format"
        )
    );
    let told = failure(&format!("replay /nonexistent.log --policies={policies}"));
    assert!(told.starts_with("/nonexistent.log: "), "{told}");
    // Beside lines that are about no request.
    let health = r#"{"start_time": "2026-11-29T07:00:00.000Z"}"#;
    std::fs::write(path, format!("{health}\nnonsense\n")).unwrap();
    let told = failure(&format!("replay {path} --policies={policies}"));
    assert!(told.starts_with(&format!("no line of the log could be read; {path}:2: ")), "{told}");
    std::fs::write(path, format!("{health}\n")).unwrap();
    let ended = run(&format!("replay {path} --policies={policies}"));
    assert_eq!((ended.result, &*ended.err), (Ok(()), "note: no line of the log is about a request\n"));
    std::fs::write(path, "\n\n").unwrap();
    let ended = run(&format!("replay {path} --policies={policies}"));
    assert_eq!((ended.result, &*ended.err), (Ok(()), "note: the log is empty, so nothing was replayed\n"));
    let told = failure(&format!("replay {path} --policies={policies} --format=%START_TIME%"));
    assert!(told.starts_with("--format: it has no %REQ(:METHOD)%"), "{told}");
}

#[test]
fn a_log_that_is_cut_off_is_told_with_how_far_it_was_read_and_is_a_failure() {
    use std::io::Write as _;

    let policies = folder(&gateway("shop", 1));
    let policies = policies.path().to_str().unwrap();
    let line = |second: usize| {
        format!(
            "{{\"start_time\": \"2026-11-29T07:00:{second:02}.000Z\", \"method\": \"GET\", \"path\": \"/{second}\"}}\n"
        )
    };
    // The first part can be read whatever becomes of the second.
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all((0..20).map(line).collect::<String>().as_bytes()).unwrap();
    gzip.flush().unwrap();
    let whole_at = gzip.get_ref().len();
    gzip.write_all((20..40).map(line).collect::<String>().as_bytes()).unwrap();
    let whole = gzip.finish().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let path = log.path().to_str().unwrap();
    let ended = |bytes: &[u8], flags: &str| {
        std::fs::write(path, bytes).unwrap();
        run(&format!("replay {path} --policies={policies} {flags}"))
    };
    assert_eq!((ended(&whole, "").result, ended(&whole, "").err), (Ok(()), String::new()));
    let too_few = "not all of the log was read: there were more requests than these numbers have".to_owned();
    let cut = ended(&whole[..whole_at], "");
    assert_eq!(cut.result, Err(too_few.clone()));
    assert_eq!(
        cut.err,
        format!("warning: {path} was read up to line 20: its gzip stream has no end; is the file whole?\n")
    );
    assert!(cut.out.contains("requests  20 "), "{}", cut.out);
    let damaged = ended(&[&whole[..], b"something else entirely"].concat(), "--output=json");
    assert_eq!(damaged.result, Err(too_few));
    let told: serde_json::Value = serde_json::from_str(&damaged.out).unwrap();
    assert_eq!(told["log"]["broken"][0], format!("{path} was read up to line 40: what follows is no gzip stream"));
}

#[test]
fn etcd_is_asked_only_with_what_it_needs() {
    let register = |flags: &str| failure(&format!("register --log=off --service=a --address=127.0.0.1:1 {flags}"));
    assert_eq!(register(""), "--etcd is needed: that is where instances register");
    let of = |flags: &str| failure(&format!("bootstrap --gateway=a {flags}"));
    assert_eq!(
        of("--etcd=https://a:1"),
        "--etcd with https needs --etcd-ca, the authority that signed etcd's certificate"
    );
    assert_eq!(of("--etcd=https://a:1,b:2 --etcd-ca=c"), "--etcd: either all endpoints are https or none is");
    let told = of("--etcd=a:1 --etcd-user=b --etcd-password-file=/nonexistent/password");
    assert!(told.contains("/nonexistent/password"), "{told}");
}

/// How a change looks on the wire.
#[test]
fn an_edit_says_what_it_was_made_from_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let first = file("first.yaml", "# base version 41\n{kind: Plan, name: a}\n");
    let second = file("second.yaml", "{kind: Plan, name: b}\n# base version 12 \n# base version soon\n");
    let third = file("third.yaml", "{kind: Plan, name: c}");
    let token = file("token", "# mine\n\nann: 0123456789abcdef \n");
    let refusal = (409, r#"{"detail": "no"}"#);
    let ask = |flags: &str, answers: &[(u16, &str)]| {
        let server = StandIn::answering(answers);
        let told = failure(&format!("{flags} --server={}/", server.url()));
        (told, server.asked())
    };
    let header = |asked: &super::stand_in::Asked, name: &str| {
        let value = asked.headers.iter().find_map(|header| header.strip_prefix(&format!("{name}: ")));
        value.map(str::to_owned)
    };

    let (told, asked) = ask(&format!("apply -f {first} -f {second} --token-file={token}"), &[refusal]);
    assert_eq!(told, "no (409)");
    assert_eq!(asked[0].line, "POST /v1/apply");
    assert_eq!(header(&asked[0], "x-config-base-version").as_deref(), Some("12"), "the oldest of those that are named");
    assert_eq!(header(&asked[0], "authorization").as_deref(), Some("Bearer 0123456789abcdef"));
    assert_eq!(header(&asked[0], "idempotency-key"), None);
    assert_eq!(asked[0].body.split("\n---\n").count(), 2);

    let flags = format!("apply -f {first} --base=7 --idempotency-key=once --force=100%");
    let (_, asked) = ask(&flags, &[refusal]);
    assert_eq!(asked[0].line, "POST /v1/apply?force=100%25");
    assert_eq!(header(&asked[0], "x-config-base-version").as_deref(), Some("7"), "the flag is right");
    assert_eq!(header(&asked[0], "idempotency-key").as_deref(), Some("once"));
    assert_eq!(header(&asked[0], "authorization"), None);

    // Where nothing names one, the newest.
    let status = (200, r#"{"source": {"revision": 90}}"#);
    let (_, asked) = ask(&format!("apply -f {third}"), &[status, refusal]);
    assert_eq!(asked[0].line, "GET /v1/status");
    assert_eq!(header(&asked[1], "x-config-base-version").as_deref(), Some("90"));
    let (told, _) = ask(&format!("apply -f {third}"), &[(200, "{}")]);
    assert_eq!(told, "the server has no revision");

    let (_, asked) = ask("delete tenant a%/\u{e9} --base=3", &[refusal]);
    assert_eq!((&*asked[0].line, &*asked[0].body), ("DELETE /v1/policies/Tenant/a%25%2F%C3%A9", ""));

    let told = failure(&format!("apply -f {} --base=1", folder.path().join("gone.yaml").to_str().unwrap()));
    assert!(told.contains("gone.yaml"), "{told}");
    let told = failure(&format!("apply -f {first} --token-file=/nonexistent/token"));
    assert!(told.starts_with("/nonexistent/token: "), "{told}");
}

#[test]
fn an_answer_that_is_no_success_is_told_in_the_servers_words() {
    let told = |status, body: &str| {
        let server = StandIn::answering(&[(status, body)]);
        let told = failure(&format!("delete Plan a --base=1 --server={}", server.url()));
        server.asked();
        told
    };
    assert_eq!(told(404, r#"{"title": "Not Found", "detail": "no Plan is there"}"#), "no Plan is there (404)");
    // A proxy in between, say.
    assert_eq!(told(502, "<html>Bad Gateway</html>"), "the server answers 502");
    assert_eq!(told(500, r#"{"detail": 7}"#), "the server answers 500");
    let problems = r#"{"detail": "it makes no sense", "problems": [
        {"location": "body:3:7", "path": "rate", "message": "found \"often\"", "help": "did you mean 1/m?"},
        {"location": "body:9:1", "path": "", "message": "is defined twice", "help": null}
    ]}"#;
    assert_eq!(
        told(422, problems),
        "it makes no sense (422)\n  body:3:7: rate: found \"often\" (did you mean 1/m?)\n  body:9:1: is defined twice"
    );
    // A success, but not one of a change.
    assert!(told(200, "{}").starts_with("the server's answer: missing field `revision`"));
    assert!(told(200, "done").starts_with("the server's answer: "));
    let server = StandIn::answering(&[(200, r#"{"documents": 3}"#)]);
    let told = failure(&format!("get --server={}", server.url()));
    assert!(told.starts_with("the server answers something else than documents: "), "{told}");
    server.asked();
}

#[test]
fn a_server_that_cannot_be_asked_is_told_with_the_reason() {
    let get = |flags: &str| failure(&format!("get {flags}"));
    assert_eq!(
        get("--server=https://127.0.0.1:1"),
        "--server with https needs --server-ca, the authority that signed the server's certificate"
    );
    let told = get("--server=https://127.0.0.1:1 --server-ca=/nonexistent/ca.crt");
    assert!(told.starts_with("--server-ca /nonexistent/ca.crt: "), "{told}");
    let told = get("--server=::");
    assert!(told.starts_with("--server: found \"::\", expected http://HOST:PORT"), "{told}");
    let tls =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name).to_str().unwrap().to_owned();
    let (ca, certificate, other_key) = (tls("authority.crt"), tls("client.crt"), tls("server.key"));
    let told = get(&format!("--server=https://127.0.0.1:1 --server-ca={}", tls("client.key")));
    assert!(told.contains("client.key: expected a CERTIFICATE in PEM"), "{told}");
    let identity = format!("--server-cert={certificate} --server-key={certificate}");
    let told = get(&format!("--server=https://127.0.0.1:1 --server-ca={ca} {identity}"));
    assert!(told.contains("expected a PRIVATE KEY in PEM"), "{told}");
    let identity = format!("--server-cert={certificate} --server-key={other_key}");
    let told = get(&format!("--server=https://127.0.0.1:1 --server-ca={ca} {identity}"));
    assert!(told.starts_with(&format!("--server-cert {certificate}: ")), "{told}");
    // A server of plain HTTP is no server of HTTPS.
    let server = StandIn::answering(&[]);
    let url = server.url().replace("http:", "https:");
    server.asked();
    let told = get(&format!("--server={url} --server-ca={ca}"));
    assert!(told.starts_with(&format!("{url}: cannot be reached: ")), "{told}");
}
