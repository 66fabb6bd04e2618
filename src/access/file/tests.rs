//! What the files may say, and how it is told what is wrong with them.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use super::*;
use crate::access::testing::Keys;
use crate::access::{CredentialKind, Refusal, Shown};
use crate::clock::Timestamp;
use crate::names::certificate::ClientCertificate;

const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const JWT: &str = "jwt: {jwks_file: jwks.json, issuer: https://id.example.com, audience: tierflow, roles_claim: groups, roles: {viewer: [everyone]}}\n";

fn port() -> Port {
    Port { bound: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), is_tls: false }
}

/// What comes of the files `/etc/access.yaml`, `/etc/jwks.json` and `/etc/tokens`.
fn read(access: Option<&str>, jwks: &str, tokens: Option<&str>) -> Result<Credentials, String> {
    let files = AccessFiles {
        file: access.map(|_| "/etc/access.yaml".into()),
        token_file: tokens.map(|_| "/etc/tokens".into()),
    };
    credentials(&files, port(), |path| {
        let text = match path.to_str().unwrap() {
            "/etc/access.yaml" => access.unwrap(),
            "/etc/jwks.json" => jwks,
            "/etc/tokens" => tokens.unwrap(),
            _ => return Err(std::io::ErrorKind::NotFound.into()),
        };
        Ok(text.as_bytes().to_vec())
    })
}

fn told(access: &str) -> String {
    read(Some(access), &Keys::make().jwks().to_string(), None).map(drop).expect_err(access)
}

/// Who somebody on this machine is that shows this.
fn who(
    credentials: Credentials,
    authorization: Option<&str>,
    sans: &[&str],
) -> Result<(String, Option<Role>), Refusal> {
    let sans: Vec<San> = sans.iter().map(|san| San::parse(san).unwrap()).collect();
    let certificate = ClientCertificate { sans, not_after: None };
    let shown = Shown {
        authorization: Ok(authorization),
        certificate: (!certificate.sans.is_empty()).then_some(&certificate),
        peer: Ipv4Addr::LOCALHOST.into(),
        is_for_loopback: true,
    };
    let access = crate::access::Access::new(port(), false, credentials);
    access
        .identify(&shown, Timestamp::from_nanos(1_790_000_000_000_000_000))
        .map(|caller| (caller.to_string(), caller.role))
}

#[test]
fn the_example_of_the_documentation_is_taken() {
    let docs = include_str!("../../../docs/security.md");
    let (_, example) = docs.split_once("```yaml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    read(Some(example), &Keys::make().jwks().to_string(), None).unwrap();
}

#[test]
fn everything_that_is_wrong_with_a_file_is_told_with_its_place_and_what_was_expected() {
    for (text, expected) in [
        ("", "/etc/access.yaml:1: is not a mapping"),
        ("{}", "/etc/access.yaml:1:1: says nobody who may ask: expected tokens, certificates or jwt"),
        ("hosts: [a.example]", "says nobody who may ask"),
        ("tokns: []", "/etc/access.yaml:1:1: tokns: unknown field `tokns`"),
        ("tokns: []", "did you mean \"tokens\"?"),
        ("tokens: {}", "/etc/access.yaml:1:1: tokens: "),
        ("tokens: [{name: ci, role: operator}]", "missing field `sha256`"),
        (
            "tokens:\n- {name: ci, role: operater, sha256: \"@\"}",
            "/etc/access.yaml:2:20: tokens[0].role: expected viewer, operator or admin (did you mean \"operator\"?)",
        ),
        ("tokens:\n- {name: ci, role: root, sha256: \"@\"}", "tokens[0].role: expected viewer, operator or admin"),
        ("tokens:\n- {name: '', role: admin, sha256: \"@\"}", "tokens[0].name: expected 1 to 128 bytes"),
        ("tokens:\n- {name: ci, role: admin, sha256: \"@\", token: x}", "unknown field `token`"),
        (
            "tokens:\n- {name: ci, role: admin, sha256: \"@\"}\n- {name: ci, role: viewer, sha256: \"@\"}",
            "/etc/access.yaml:3:10: tokens[1].name: stands here again",
        ),
        (
            "tokens:\n- {name: ci, role: admin, sha256: \"@\"}\n- {name: ann, role: viewer, sha256: \"@\"}",
            "tokens[1].sha256: stands here again",
        ),
        ("tokens: []\ntokens: []", "/etc/access.yaml:2:1"),
        (
            "certificates: [{san: 'URI:spiffe://shop/ops', role: admin}]",
            "certificates[0].san: expected a URI or a DNS name",
        ),
        ("certificates: [{san: '*.shop.internal', role: admin}]", "certificates[0].san: expected"),
        (
            "certificates: [{san: ops.internal, role: admin}, {san: ops.internal, role: viewer}]",
            "certificates[1].san: stands here again",
        ),
        ("jwt: {}", "missing field `jwks_file`"),
        (&JWT.replace("groups", "sub"), "jwt.roles_claim: expected a claim of its own"),
        (&JWT.replace("tierflow", "''"), "jwt.audience: expected 1 to 512 bytes"),
        (
            &JWT.replace("viewer", "veiwer"),
            "jwt.roles.veiwer: expected viewer, operator or admin (did you mean \"viewer\"?)",
        ),
        (&JWT.replace("{viewer: [everyone]}", "{}"), "jwt.roles: says nobody's role"),
        (&JWT.replace("jwks.json", "keys.json"), "/etc/keys.json: entity not found"),
        (&format!("{JWT}hosts: ['tierflow.internal:8080']"), "hosts[0]: expected a name or an address without a port"),
        (&format!("{JWT}hosts: ['*']"), "hosts[0]: expected"),
        (&format!("{JWT}origins: ['null']"), "origins[0]: expected http:// or https:// and a host"),
        (&format!("{JWT}origins: ['*']"), "origins[0]: expected"),
        (&format!("{JWT}origins: ['https://a.example/']"), "origins[0]: expected"),
        ("a: &x 1", "anchors and aliases are not taken"),
    ] {
        let told = told(&text.replace('@', HASH));
        assert!(told.contains(expected), "{text}: {told}");
    }
    let all = told("tokens: [{name: ci, role: x, sha256: y}]\nhosts: [':']\norigins: [a]\n");
    assert!(all.matches("; ").count() == 3 && all.ends_with("and 1 more"), "all at once: {all}");
}

/// Somebody may have put the token itself where something else belongs.
#[test]
fn nothing_that_stands_in_the_file_is_repeated_but_names_of_fields() {
    const SECRET: &str = "open-sesame-open";
    for (text, place) in [
        (
            "tokens:\n- {name: ci, role: admin, sha256: \"@\"}",
            "access.yaml:2:35: tokens[0].sha256: expected the SHA-256",
        ),
        ("tokens:\n- {name: ci, role: admin, sha256: 1234567890123456}", "tokens[0].sha256: expected the SHA-256"),
        ("tokens:\n- {name: \"@\\t\", role: admin, sha256: x}", "tokens[0].name: expected 1 to 128 bytes"),
        ("tokens:\n- {name: ci, role: @, sha256: x}", "tokens[0].role: expected viewer, operator or admin"),
        ("tokens:\n- @", "access.yaml:2:3: tokens[0]: expected "),
        ("tokens: @", "access.yaml:1:9: tokens: expected "),
        ("tokens: {ci: @}", "tokens: expected "),
        (
            "tokens:\n- {@: ci, role: admin}",
            "tokens[0].(not shown): unknown field, expected one of `name`, `role`, `sha256`",
        ),
        ("@: ci", "access.yaml:1:1: (not shown): unknown field, expected one of `tokens`"),
        ("@: a\n@: b", "(not shown): this key stands twice"),
        ("@:", "(not shown): is empty"),
        ("@", "access.yaml:1: is not a mapping"),
        ("certificates: [{san: '@ ', role: admin}]", "certificates[0].san: expected a URI or a DNS name"),
        ("hosts: ['@/']", "hosts[0]: expected a name"),
        ("origins: [@]", "origins[0]: expected http"),
        (&JWT.replace("viewer", "@"), "jwt.roles.(not shown): expected viewer, operator or admin"),
        (&JWT.replace("[everyone]", "@"), "jwt.roles.viewer: expected a list"),
    ] {
        let told = told(&text.replace('@', SECRET));
        assert!(told.contains(place), "{text}: {told}");
        assert!(!told.contains("open") && !told.contains("1234"), "{text}: {told}");
    }
}

#[test]
fn what_is_wrong_with_keys_is_told_by_their_place_in_the_set() {
    let keys = Keys::make().jwks();
    let parse = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut keys = keys.clone();
        change(keys["keys"].as_array_mut().unwrap());
        read(Some(JWT), &keys.to_string(), None).map(drop).unwrap_err()
    };
    let set =
        |index: usize, name: &'static str, value: Value| move |keys: &mut Vec<Value>| keys[index][name] = value.clone();
    for (change, expected) in [
        (
            Box::new(set(0, "x", json!("AAAA"))) as Box<dyn Fn(&mut Vec<Value>)>,
            "/etc/jwks.json: keys[0].x: found 3 bytes, expected 32",
        ),
        (Box::new(set(0, "y", json!(null))), "keys[0].y: it is missing"),
        (Box::new(set(1, "x", json!("a+b/"))), "keys[1].x: expected base64url"),
        (Box::new(set(1, "kid", json!(null))), "keys[1].kid: expected a name"),
        (Box::new(set(1, "kid", json!("ec"))), "keys[1].kid: stands here again"),
        (Box::new(set(1, "kid", json!(7))), "keys[1].kid: expected a string"),
        (Box::new(set(2, "n", json!("AQAB"))), "keys[2].n: found 24 bits, expected 2048 to 8192"),
        (Box::new(set(2, "e", json!("AQ"))), "keys[2].e: expected an odd number"),
        (Box::new(set(2, "e", json!("AQAA"))), "keys[2].e: expected an odd number"),
        (Box::new(set(0, "d", json!("AAAA"))), "keys[0]: found a private key, expected public ones alone"),
        (
            Box::new(|keys: &mut Vec<Value>| keys.push(json!({ "kty": "oct", "kid": "s", "k": "AAAA" }))),
            "keys[4]: found a secret",
        ),
        (
            Box::new(|keys: &mut Vec<Value>| keys.retain(|key| key["use"] == "enc")),
            "keys: found none that signs with RS256, ES256 or EdDSA",
        ),
        (Box::new(|keys: &mut Vec<Value>| *keys = vec![keys[0].clone(); 101]), "keys: found 101, expected at most 100"),
    ] {
        let told = parse(&*change);
        assert!(told.contains(expected), "{told}");
        assert!(!told.contains("AAAA"), "{told}");
    }
    // Those that others take are passed over.
    let mut more = keys.clone();
    let others = json!([{ "kty": "EC", "crv": "P-384" }, { "kty": "OKP", "crv": "X25519", "x": "" }, { "kty": "new" }, { "kty": "RSA", "alg": "PS256" }]);
    more["keys"].as_array_mut().unwrap().extend(others.as_array().unwrap().clone());
    assert!(read(Some(JWT), &more.to_string(), None).is_ok());
    for bad in ["", "[]", "{\"keys\": {}}", "{\"keys\": []} {}", "{\"keys\": [1]}"] {
        assert!(read(Some(JWT), bad, None).unwrap_err().starts_with("/etc/jwks.json: "), "{bad}");
    }
}

#[test]
fn a_certificate_has_the_role_of_its_name_and_a_wrong_token_is_no_certificate() {
    let file = "certificates:\n- {san: 'spiffe://shop/ops', role: admin}\n- {san: edge.shop.internal, role: viewer}\n";
    let who = |authorization, sans: &[&str]| who(read(Some(file), "", None).unwrap(), authorization, sans);
    assert_eq!(who(None, &["spiffe://shop/ops"]), Ok(("certificate spiffe://shop/ops".to_owned(), Some(Role::Admin))));
    assert_eq!(
        who(None, &["EDGE.shop.internal"]),
        Ok(("certificate edge.shop.internal".to_owned(), Some(Role::Viewer)))
    );
    let both = who(None, &["edge.shop.internal", "spiffe://shop/ops"]);
    assert_eq!(both.unwrap().1, Some(Role::Admin));
    for strange in ["spiffe://shop/ops/x", "spiffe://shop/op", "ops.shop.internal", "spiffe://Shop/ops"] {
        let Some(_) = San::parse(strange) else { continue };
        assert_eq!(who(None, &[strange]), Err(Refusal::UnknownCertificate), "{strange}");
    }
    assert_eq!(who(None, &[]), Err(Refusal::Nothing), "loopback is nobody where a file says who may ask");
    assert_eq!(who(Some("Bearer x"), &["spiffe://shop/ops"]), Err(Refusal::UnknownToken));
}

#[test]
fn lines_of_tokens_may_do_everything_and_leave_this_machine_a_look() {
    let lines = "# people\nann:0123456789abcdef\n";
    let who_by = |authorization| who(read(None, "", Some(lines)).unwrap(), authorization, &[]);
    assert_eq!(who_by(Some("Bearer 0123456789abcdef")), Ok(("token ann".to_owned(), Some(Role::Admin))));
    assert_eq!(who_by(Some("bearer   0123456789abcdef")), Ok(("token ann".to_owned(), Some(Role::Admin))));
    assert_eq!(who_by(Some("Bearer 0123456789abcdeg")), Err(Refusal::UnknownToken));
    assert_eq!(who_by(Some("Bearer  ")), Err(Refusal::Malformed));
    assert_eq!(who_by(None), Ok(("loopback".to_owned(), Some(Role::Viewer))));
    // Beside a file that says who may ask, that is everybody's to show.
    let both =
        || read(Some(&format!("tokens: [{{name: ci, role: viewer, sha256: \"{HASH}\"}}]")), "", Some(lines)).unwrap();
    assert_eq!(who(both(), None, &[]), Err(Refusal::Nothing));
    assert_eq!(who(both(), Some("Bearer abc"), &[]), Ok(("token ci".to_owned(), Some(Role::Viewer))));
    assert_eq!(who(both(), Some("Bearer 0123456789abcdef"), &[]).unwrap().1, Some(Role::Admin));
    let broken = read(None, "", Some("ann:short")).map(drop).unwrap_err();
    assert_eq!(broken, "/etc/tokens: line 1: expected NAME:TOKEN, the token of at least 16 bytes");
    for empty in ["", "\n", "# nobody yet\n\n"] {
        let told = read(None, "", Some(empty)).unwrap_err();
        let expected = "/etc/tokens: says nobody who may ask: expected NAME:TOKEN, the token of at least 16 bytes";
        assert_eq!(told, expected, "{empty:?}");
    }
}

#[test]
fn without_files_only_this_machine_may_ask() {
    let none = || Credentials::none(port());
    assert_eq!(who(none(), None, &[]), Ok(("loopback".to_owned(), Some(Role::Admin))));
    assert_eq!(
        who(none(), Some("Bearer x"), &[]).unwrap().1,
        Some(Role::Admin),
        "nothing could be known, and so nothing is wrong"
    );
    let access = crate::access::Access::new(port(), false, none());
    let asks = |peer: &str, is_for_loopback| {
        let shown = Shown { authorization: Ok(None), certificate: None, peer: peer.parse().unwrap(), is_for_loopback };
        access.identify(&shown, Timestamp::default()).map(|caller| caller.kind)
    };
    assert_eq!(asks("::ffff:127.0.0.1", true), Ok(CredentialKind::Loopback));
    for (peer, is_for_loopback) in [("10.0.0.7", true), ("127.0.0.1", false), ("::ffff:10.0.0.7", true), ("::", true)] {
        assert_eq!(asks(peer, is_for_loopback), Err(Refusal::NotFromHere), "{peer}");
    }
}
