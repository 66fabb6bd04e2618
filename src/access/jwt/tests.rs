//! Tokens that are right, and those that somebody forged, kept for too long, or took from elsewhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::access::file::{AccessFiles, credentials};
use crate::access::testing::{Keys as TestKeys, access_file, claims, encoded, header, hmac_token, message};
use crate::access::token::TokenHash;
use crate::access::{Access, Port, Refusal, Shown};

/// In seconds.
const NOW: u64 = 1_790_000_000;
const TOKEN: &str = "a token of some length";

struct World {
    keys: TestKeys,
    access: Access,
}

impl World {
    fn new() -> Self {
        let keys = TestKeys::make();
        let port = Port { bound: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), is_tls: false };
        let file = access_file(&[("ci", "operator", TokenHash::of(TOKEN).to_hex())], "");
        let jwks = keys.jwks().to_string();
        let files = AccessFiles { file: Some("/access.yaml".into()), token_file: None };
        let read = |path: &Path| {
            let text = if path.ends_with("jwks.json") { &jwks } else { &file };
            Ok(text.clone().into_bytes())
        };
        let access = Access::new(port, false, credentials(&files, port, read).unwrap());
        Self { keys, access }
    }

    fn identify(&self, peer: Ipv4Addr, authorization: &str, now: u64) -> Result<Caller, Refusal> {
        let shown = Shown {
            authorization: Ok(Some(authorization)),
            certificate: None,
            peer: IpAddr::V4(peer),
            is_for_loopback: true,
        };
        self.access.identify(&shown, Timestamp::from_nanos(now * 1_000_000_000))
    }

    fn verify_at(&self, token: &str, now: u64) -> Result<Caller, Refusal> {
        // Each from an address of its own, so that nobody has to wait.
        let peer = Ipv4Addr::from_bits(fastrand::u32(..));
        self.identify(peer, &format!("Bearer {token}"), now)
    }

    fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        self.verify_at(token, NOW)
    }

    /// Signed by `ec`, and right but for these claims.
    fn with(&self, change: impl FnOnce(&mut Map<String, Value>)) -> String {
        let mut claims = claims("ann", &["platform"], NOW);
        change(claims.as_object_mut().unwrap());
        self.keys.token(&header("ec", "ES256"), &claims, "ES256")
    }

    /// Right but for these members of the header.
    fn with_header(&self, members: &Value) -> String {
        let mut header = header("ec", "ES256");
        header.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        self.keys.token(&header, &claims("ann", &["platform"], NOW), "ES256")
    }
}

#[test]
fn each_algorithm_is_taken_by_the_key_that_is_for_it() {
    let world = World::new();
    for (kid, algorithm) in [("ec", "ES256"), ("ed", "EdDSA"), ("rsa", "RS256")] {
        let token = world.keys.token(&header(kid, algorithm), &claims("ann", &["platform"], NOW), algorithm);
        let caller = world.verify(&token).unwrap();
        assert_eq!((caller.to_string().as_str(), caller.role), ("jwt ann", Some(Role::Admin)), "{algorithm}");
        assert_eq!(caller.until, Some(Timestamp::from_nanos((NOW + 360) * 1_000_000_000)));
    }
    // What else headers of honest tokens have.
    for members in [json!({ "typ": "at+jwt" }), json!({ "typ": "jwt", "x5t": "abc" }), json!({ "trace": 7 })] {
        assert!(world.verify(&world.with_header(&members)).is_ok(), "{members}");
    }
    let token = world.keys.token(&json!({ "alg": "ES256", "kid": "ec" }), &claims("ann", &[], NOW), "ES256");
    assert!(world.verify(&token).is_ok());
}

#[test]
fn the_role_is_the_highest_that_the_claim_names() {
    let world = World::new();
    let role = |groups: Value| {
        world.verify(&world.with(|claims| drop(claims.insert("groups".to_owned(), groups)))).unwrap().role
    };
    assert_eq!(role(json!("everyone")), Some(Role::Viewer));
    assert_eq!(role(json!(["everyone", "sre", "cooks"])), Some(Role::Operator));
    assert_eq!(role(json!(["platform", "everyone"])), Some(Role::Admin));
    for none in [json!([]), json!("cooks"), json!("Platform"), json!("platform everyone"), json!("admin")] {
        assert_eq!(role(none.clone()), None, "{none}");
    }
    assert_eq!(world.verify(&world.with(|claims| drop(claims.remove("groups")))).unwrap().role, None);
}

#[test]
fn a_token_counts_from_its_beginning_to_its_end_with_a_minute_on_both_sides() {
    let world = World::new();
    let token = world.with(|claims| {
        claims.insert("nbf".to_owned(), json!(NOW));
        claims.insert("exp".to_owned(), json!(NOW + 100));
    });
    let at = |now: u64| world.verify_at(&token, now).map(drop);
    assert_eq!(at(NOW - 61), Err(Refusal::Jwt(JwtRefusal::NotYet)));
    assert_eq!(at(NOW - 60), Ok(()));
    assert_eq!(at(NOW + 159), Ok(()));
    assert_eq!(at(NOW + 160), Err(Refusal::Jwt(JwtRefusal::Expired)));
    // Fractions are a part of numbers (RFC 7519, section 2).
    let token = world.with(|claims| drop(claims.insert("exp".to_owned(), json!(NOW as f64 + 0.5))));
    assert!(world.verify_at(&token, NOW + 59).is_ok() && world.verify_at(&token, NOW + 60).is_err());
    let one_of_several = world.with(|claims| drop(claims.insert("aud".to_owned(), json!(["other", "tierflow"]))));
    assert!(world.verify(&one_of_several).is_ok());
}

/// Whatever is changed of a token that is right.
#[test]
fn no_forged_expired_or_confused_token_is_taken() {
    let world = World::new();
    let (keys, right) = (&world.keys, claims("ann", &["platform"], NOW));
    let good = keys.token(&header("ec", "ES256"), &right, "ES256");
    assert!(world.verify(&good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let [head, body, signature] = parts[..] else { unreachable!() };
    let signed = |message: &str| format!("{message}.{}", encoded(&keys.signature("ES256", message.as_bytes())));
    let of_bytes = |head: &[u8], body: &[u8]| signed(&format!("{}.{}", encoded(head), encoded(body)));
    let of_body = |body: &str| of_bytes(header("ec", "ES256").to_string().as_bytes(), body.as_bytes());
    let of_head = |head: &str| of_bytes(head.as_bytes(), right.to_string().as_bytes());
    let set = |name: &str, value: Value| world.with(|claims| drop(claims.insert(name.to_owned(), value)));
    let without = |name: &str| world.with(|claims| drop(claims.remove(name)));
    let hmac = |kid: &str, secret: &[u8]| hmac_token(&header(kid, "HS256"), &right, secret);
    let other = TestKeys::make();
    let (ec_point, their_jwk) = (ring_point(keys), other.jwks()["keys"][0].clone());
    let their = |more: Value| {
        let mut head = header("theirs", "ES256");
        head.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        other.token(&head, &right, "ES256")
    };
    let last = signature.chars().next_back().unwrap();
    use JwtRefusal::{Algorithm, Audience, Claims, Expired, Header, Issuer, Key, NotYet, Signature, Size};
    let cases: Vec<(&str, String, JwtRefusal)> = vec![
        // No signature, or one that is none.
        ("alg none without a signature", format!("{}.", message(&header("ec", "none"), &right)), Header),
        ("alg None", format!("{}.", message(&header("ec", "None"), &right)), Header),
        ("alg nOnE", format!("{}.", message(&header("ec", "nOnE"), &right)), Header),
        ("alg none with the right signature", keys.token(&header("ec", "none"), &right, "ES256"), Header),
        ("alg none without a key", format!("{}.", message(&json!({ "alg": "none" }), &right)), Header),
        ("no alg", keys.token(&json!({ "kid": "ec" }), &right, "ES256"), Header),
        ("alg of another type", keys.token(&json!({ "kid": "ec", "alg": ["ES256"] }), &right, "ES256"), Header),
        ("alg in small letters", keys.token(&header("ec", "es256"), &right, "ES256"), Header),
        ("the signature left out", format!("{head}.{body}."), Signature),
        ("zeros for a signature", format!("{head}.{body}.{}", encoded(&[0; 64])), Signature),
        ("half of the signature", format!("{head}.{body}.{}", &signature[..43]), Signature),
        ("more after the signature", format!("{head}.{body}.{signature}AAAA"), Signature),
        ("the signature padded", format!("{head}.{body}.{signature}=="), Signature),
        (
            "other bits that stand for nothing",
            format!("{head}.{body}.{}{}", &signature[..signature.len() - 1], next(last)),
            Signature,
        ),
        ("the signature in DER", keys.token(&header("ec", "ES256"), &right, "ES256 in DER"), Signature),
        ("the signature of another token", format!("{head}.{}.{signature}", encoded(b"{}")), Signature),
        (
            "a changed subject",
            format!("{head}.{}.{signature}", encoded(claims("bob", &["platform"], NOW).to_string().as_bytes())),
            Signature,
        ),
        (
            "a changed header",
            format!("{}.{body}.{signature}", encoded(json!({ "kid": "ec", "alg": "ES256" }).to_string().as_bytes())),
            Signature,
        ),
        // Another algorithm than that of the key.
        ("HMAC with the public point", hmac("ec", &ec_point), Algorithm),
        ("HMAC with the public modulus", hmac("rsa", &keys.rsa_public().n), Algorithm),
        ("HMAC with the public key in DER", hmac("rsa", keys.rsa_der()), Algorithm),
        ("HMAC with the set of keys", hmac("rsa", keys.jwks().to_string().as_bytes()), Algorithm),
        ("HMAC with nothing", hmac("ec", b""), Algorithm),
        ("HMAC with Ed25519's point", hmac("ed", ring::signature::KeyPair::public_key(&keys.ed()).as_ref()), Algorithm),
        ("RS256 by the name of an EC key", keys.token(&header("ec", "RS256"), &right, "RS256"), Algorithm),
        ("ES256 by the name of an RSA key", keys.token(&header("rsa", "ES256"), &right, "ES256"), Algorithm),
        ("EdDSA by the name of an EC key", keys.token(&header("ec", "EdDSA"), &right, "EdDSA"), Algorithm),
        ("RS384", keys.token(&header("rsa", "RS384"), &right, "RS384"), Algorithm),
        ("PS256", keys.token(&header("rsa", "PS256"), &right, "PS256"), Algorithm),
        ("PS256 that says RS256", keys.token(&header("rsa", "RS256"), &right, "PS256"), Signature),
        ("ES256 signed with Ed25519", keys.token(&header("ec", "ES256"), &right, "EdDSA"), Signature),
        // Another key.
        ("a key of the same name", other.token(&header("ec", "ES256"), &right, "ES256"), Signature),
        ("Ed25519 of the same name", other.token(&header("ed", "EdDSA"), &right, "EdDSA"), Signature),
        ("a name that is not known", keys.token(&header("old", "ES256"), &right, "ES256"), Key),
        ("no name", keys.token(&json!({ "alg": "ES256" }), &right, "ES256"), Key),
        ("an empty name", keys.token(&header("", "ES256"), &right, "ES256"), Key),
        ("a path for a name", keys.token(&header("../ec", "ES256"), &right, "ES256"), Key),
        ("a number for a name", keys.token(&json!({ "alg": "ES256", "kid": 1 }), &right, "ES256"), Header),
        ("a key for encryption", keys.token(&header("enc", "RS256"), &right, "RS256"), Key),
        ("a key that it brings along", their(json!({ "jwk": their_jwk })), Header),
        ("a key that it brings along under a known name", their(json!({ "jwk": their_jwk, "kid": "ec" })), Header),
        ("keys that lie elsewhere", their(json!({ "jku": "https://evil.example/jwks.json" })), Header),
        ("a certificate that lies elsewhere", their(json!({ "x5u": "https://evil.example/cert.pem" })), Header),
        ("a certificate that it brings along", their(json!({ "x5c": ["MIIB"] })), Header),
        (
            "where keys lie, signed by the right one",
            world.with_header(&json!({ "jku": "https://id.example.com/jwks.json" })),
            Header,
        ),
        // What only others understand.
        ("crit", world.with_header(&json!({ "crit": ["exp"], "exp": 1 })), Header),
        ("crit that is empty", world.with_header(&json!({ "crit": [] })), Header),
        ("claims that are not encoded", world.with_header(&json!({ "crit": ["b64"], "b64": false })), Header),
        ("b64 alone", world.with_header(&json!({ "b64": true })), Header),
        ("compressed claims", world.with_header(&json!({ "zip": "DEF" })), Header),
        ("a token in a token", world.with_header(&json!({ "cty": "JWT" })), Header),
        ("a token for logging out", world.with_header(&json!({ "typ": "logout+jwt" })), Header),
        ("an event's token", world.with_header(&json!({ "typ": "secevent+jwt" })), Header),
        ("alg twice", of_head("{\"alg\":\"ES256\",\"alg\":\"ES256\",\"kid\":\"ec\"}"), Header),
        // Time.
        ("expired", set("exp", json!(NOW - 60)), Expired),
        ("expired long ago", set("exp", json!(0)), Expired),
        ("no exp", without("exp"), Claims),
        ("exp as a text (CVE-2026-25537)", set("exp", json!("99999999999")), Claims),
        ("exp null", set("exp", json!(null)), Claims),
        ("exp true", set("exp", json!(true)), Claims),
        ("exp in a list", set("exp", json!([NOW + 300])), Claims),
        ("exp below zero", set("exp", json!(-1)), Claims),
        ("exp beyond all numbers", of_body(&right.to_string().replace(&(NOW + 300).to_string(), "1e400")), Claims),
        ("exp beyond all times", of_body(&right.to_string().replace(&(NOW + 300).to_string(), "1e300")), Claims),
        ("exp twice", of_body(&right.to_string().replacen('{', "{\"exp\":99999999999,", 1)), Claims),
        ("not valid yet", set("nbf", json!(NOW + 61)), NotYet),
        ("no nbf", without("nbf"), Claims),
        ("nbf as a text", set("nbf", json!("0")), Claims),
        ("nbf null", set("nbf", json!(null)), Claims),
        // From elsewhere, for somebody else.
        ("no iss", without("iss"), Claims),
        ("another iss", set("iss", json!("https://evil.example")), Issuer),
        ("iss in a list", set("iss", json!(["https://id.example.com"])), Claims),
        ("iss with more behind", set("iss", json!("https://id.example.com.evil.example")), Issuer),
        ("iss with a slash", set("iss", json!("https://id.example.com/")), Issuer),
        ("iss in other letters", set("iss", json!("https://ID.example.com")), Issuer),
        ("no aud", without("aud"), Claims),
        ("another aud", set("aud", json!("billing")), Audience),
        ("aud with more behind", set("aud", json!("tierflow-staging")), Audience),
        ("a part of aud", set("aud", json!("tier")), Audience),
        ("an empty list for aud", set("aud", json!([])), Audience),
        ("other auds", set("aud", json!(["billing", "tierflow "])), Audience),
        ("aud with a number beside", set("aud", json!(["tierflow", 1])), Claims),
        ("aud as an object", set("aud", json!({ "tierflow": true })), Claims),
        ("aud null", set("aud", json!(null)), Claims),
        ("no sub", without("sub"), Claims),
        ("an empty sub", set("sub", json!("")), Claims),
        ("sub as a number", set("sub", json!(1)), Claims),
        ("a sub without an end", set("sub", json!("a".repeat(257))), Claims),
        ("a number for a role", set("groups", json!(1)), Claims),
        ("a number among the roles", set("groups", json!(["platform", 1])), Claims),
        ("an object for roles", set("groups", json!({ "platform": true })), Claims),
        // No token at all.
        ("claims that are no JSON", of_body("exp"), Claims),
        ("claims in a list", of_body("[]"), Claims),
        ("claims that are nested without an end", of_body(&"[".repeat(3000)), Claims),
        ("a header that is no JSON", of_head("alg"), Header),
        ("a header in a list", of_head("[]"), Header),
        ("a header with bytes that are no text", of_bytes(b"\xff\xfe", b"{}"), Header),
        ("a part in other base64", format!("{}=.{body}.{signature}", head), Header),
        ("spaces in it", format!("{head} .{body}.{signature}"), Header),
        ("nothing but dots", "..".to_owned(), Header),
        ("one that is too long", set("pad", json!("a".repeat(TOKEN_BYTES_MAX))), Size),
    ];
    assert!(cases.len() > 80, "{}", cases.len());
    for (what, token, expected) in cases {
        assert_eq!(world.verify(&token), Err(Refusal::Jwt(expected)), "{what}");
    }
    // What is no JWT is looked for among the tokens, and is none of these either.
    let hash = TokenHash::of(TOKEN).to_hex();
    for other in [
        format!("{head}.{body}"),
        format!("{good}.{signature}"),
        format!("{head}.{body}.{signature}.{signature}.{signature}"),
        hash,
        TOKEN.to_uppercase(),
        format!("{TOKEN} "),
        format!("{TOKEN}\0"),
        format!("ci:{TOKEN}"),
        TOKEN[1..].to_owned(),
        json!({ "payload": body, "signatures": [{ "protected": head, "signature": signature }] }).to_string(),
    ] {
        assert_eq!(world.verify(&other), Err(Refusal::UnknownToken), "{other}");
    }
    assert!(world.verify(&format!("  {TOKEN}")).is_ok(), "between the scheme and it are as many spaces as one likes");
    for header in
        ["", "Bearer", "Bearer ", &good, &format!("Basic {good}"), &format!("Token {good}"), &format!("Bearer: {good}")]
    {
        let peer = Ipv4Addr::from_bits(fastrand::u32(..));
        assert_eq!(world.identify(peer, header, NOW), Err(Refusal::Malformed), "{header}");
    }
    assert!(world.identify(Ipv4Addr::LOCALHOST, &format!("bearer {good}"), NOW).is_ok(), "RFC 9110, section 11.1");
}

fn ring_point(keys: &TestKeys) -> Vec<u8> {
    ring::signature::KeyPair::public_key(&keys.ec()).as_ref().to_vec()
}

/// A digit of base64 with the same six bits but for the last, which stand for nothing at the end of 64 bytes.
fn next(digit: char) -> char {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    DIGITS.chars().nth(DIGITS.find(digit).unwrap() + 1).unwrap()
}

#[test]
fn whoever_guesses_waits_and_a_good_client_beside_does_not() {
    let world = World::new();
    let [guesser, neighbour] = [Ipv4Addr::new(10, 0, 0, 7), Ipv4Addr::new(10, 0, 0, 8)];
    let good = format!("Bearer {}", world.with(|_| {}));
    assert!(world.identify(neighbour, &good, NOW).is_ok());
    let guesses: Vec<_> = (0..30).map(|number| world.identify(guesser, &format!("Bearer {number:020}"), NOW)).collect();
    let slowed = guesses.iter().filter(|told| matches!(told, Err(Refusal::Slowed { seconds: 1..=6 }))).count();
    assert_eq!(slowed, 20);
    assert!(world.identify(neighbour, &good, NOW).is_ok());
    // Also where both come by the same address, as behind a proxy.
    assert!(world.identify(guesser, &good, NOW).is_ok());
    let token = format!("Bearer {TOKEN}");
    assert!(matches!(world.identify(guesser, &token, NOW), Err(Refusal::Slowed { .. })), "it was not seen here before");
    assert!(world.identify(guesser, &token, NOW + 5).is_ok());
}
