//! Keys and tokens for tests, made with `ring`: those that are right, and whatever else somebody may send. The tests of the
//! program as a whole include this file.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaKeyPair,
};
use serde_json::{Value, json};

/// The issuer and the audience of tokens that are right.
pub(crate) const ISSUER: &str = "https://id.example.com";
pub(crate) const AUDIENCE: &str = "tierflow";

/// Keys of an issuer: `ec`, `ed` and `rsa`.
pub(crate) struct Keys {
    ec_pkcs8: Vec<u8>,
    ed_pkcs8: Vec<u8>,
    rsa: RsaKeyPair,
}

impl Keys {
    /// New ones. `ring` makes none of RSA, so that this one lies in a file.
    pub(crate) fn make() -> Self {
        let random = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pem = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/rsa.key"));
        let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let rsa = RsaKeyPair::from_pkcs8(&STANDARD.decode(base64).unwrap()).unwrap();
        Self { ec_pkcs8: ec.as_ref().to_vec(), ed_pkcs8: ed.as_ref().to_vec(), rsa }
    }

    pub(crate) fn ec(&self) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.ec_pkcs8, &SystemRandom::new()).unwrap()
    }

    pub(crate) fn ed(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_pkcs8(&self.ed_pkcs8).unwrap()
    }

    pub(crate) fn rsa_public(&self) -> PublicKeyComponents<Vec<u8>> {
        PublicKeyComponents::from(self.rsa.public())
    }

    /// DER, as HMAC is sometimes told to take for its secret.
    pub(crate) fn rsa_der(&self) -> &[u8] {
        self.rsa.public().as_ref()
    }

    pub(crate) fn jwks(&self) -> Value {
        let rsa = self.rsa_public();
        let (ec, ed) = (self.ec(), self.ed());
        let point = ec.public_key().as_ref();
        json!({ "keys": [
            { "kty": "EC", "kid": "ec", "use": "sig", "crv": "P-256", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) },
            { "kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": encoded(ed.public_key().as_ref()) },
            { "kty": "RSA", "kid": "rsa", "alg": "RS256", "n": encoded(&rsa.n), "e": encoded(&rsa.e) },
            // Not for signatures, which tokens may not use it for.
            { "kty": "RSA", "kid": "enc", "use": "enc", "alg": "RSA-OAEP", "n": encoded(&rsa.n), "e": encoded(&rsa.e) },
        ] })
    }

    /// With the algorithm of that name.
    pub(crate) fn signature(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |padding: &'static dyn ring::signature::RsaEncoding| {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(padding, &random, message, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "ES256" => self.ec().sign(&random, message).unwrap().as_ref().to_vec(),
            "ES256 in DER" => {
                let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.ec_pkcs8, &random).unwrap();
                ec.sign(&random, message).unwrap().as_ref().to_vec()
            }
            "EdDSA" => self.ed().sign(message).as_ref().to_vec(),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "PS256" => rsa(&RSA_PSS_SHA256),
            other => panic!("nothing signs with {other}"),
        }
    }

    /// A token of this header and these claims, signed with that algorithm, whatever the header says.
    pub(crate) fn token(&self, header: &Value, claims: &Value, algorithm: &str) -> String {
        let message = message(header, claims);
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", encoded(&signature))
    }
}

pub(crate) fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()))
}

/// The same, with a secret that both sides know.
pub(crate) fn hmac_token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = message(header, claims);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encoded(tag.as_ref()))
}

pub(crate) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The header of a token that `kid` signs.
pub(crate) fn header(kid: &str, algorithm: &str) -> Value {
    json!({ "alg": algorithm, "kid": kid, "typ": "JWT" })
}

/// The claims of a token that is right at this time, in seconds.
pub(crate) fn claims(subject: &str, groups: &[&str], now: u64) -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "groups": groups, "nbf": now - 10, "exp": now + 300, "iat": now - 10,
    })
}

/// The file of `--admin-access` that takes these, with tokens by name, role and hash.
pub(crate) fn access_file(tokens: &[(&str, &str, String)], more: &str) -> String {
    let token =
        |(name, role, hash): &(&str, &str, String)| format!("- {{name: {name}, role: {role}, sha256: \"{hash}\"}}\n");
    let tokens: String = tokens.iter().map(token).collect();
    format!(
        "tokens:\n{tokens}jwt:\n  jwks_file: jwks.json\n  issuer: {ISSUER}\n  audience: {AUDIENCE}\n  roles_claim: groups\n  \
         roles: {{viewer: [everyone], operator: [sre], admin: [platform]}}\n{more}"
    )
}
