//! Public keys in a JSON Web Key Set (RFC 7517): those that sign with RS256, ES256 or EdDSA, by their `kid`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

/// The most keys of a set.
const KEYS_MAX: usize = 100;
/// What `ring` takes, in bytes of the modulus.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
const POINT_BYTES: usize = 32;

/// A key, and the only algorithm that it verifies with: what a token says of that is compared with it.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

pub(super) type Keys = BTreeMap<String, Key>;

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<RawKey>,
}

/// What is not known here is passed over (RFC 7517, section 5).
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Of private keys.
    d: Option<serde::de::IgnoredAny>,
    /// Of secret ones.
    k: Option<serde::de::IgnoredAny>,
}

/// The keys of a set. Those for something else, as encryption or other algorithms, are passed over; at least one has to be left.
pub(super) fn parse(json: &[u8]) -> Result<Keys, String> {
    // Somebody else was faster, with the same.
    let _ = RING.install_default();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let RawSet { keys: raw } = serde_path_to_error::deserialize(&mut reader)
        .map_err(|error| format!("{}: {}", error.path(), without_value(&error.inner().to_string())))?;
    reader.end().map_err(|error| error.to_string())?;
    if raw.len() > KEYS_MAX {
        return Err(format!("keys: found {}, expected at most {KEYS_MAX}", raw.len()));
    }
    let mut keys = Keys::new();
    for (index, raw) in raw.iter().enumerate() {
        let at = |problem: String| format!("keys[{index}]{problem}");
        let Some((kid, key)) = raw.read().map_err(at)? else { continue };
        if keys.insert(kid.clone(), key).is_some() {
            return Err(at(".kid: stands here again, expected a name of its own".to_owned()));
        }
    }
    if keys.is_empty() {
        return Err("keys: found none that signs with RS256, ES256 or EdDSA".to_owned());
    }
    Ok(keys)
}

/// What was expected: what was found instead may be a secret.
fn without_value(told: &str) -> String {
    told.rsplit_once(", expected ").map_or_else(|| told.to_owned(), |(_, expected)| format!("expected {expected}"))
}

impl RawKey {
    fn read(&self) -> Result<Option<(String, Key)>, String> {
        if self.d.is_some() {
            return Err(": found a private key, expected public ones alone".to_owned());
        }
        if self.k.is_some() || self.kty == "oct" {
            return Err(": found a secret, expected public keys alone".to_owned());
        }
        let Some(algorithm) = self.algorithm() else { return Ok(None) };
        let kid = self.kid.clone().ok_or(".kid: expected a name that tokens know the key by")?;
        let key = match algorithm {
            Algorithm::RS256 => self.rsa()?,
            Algorithm::ES256 => {
                let point = [&[4][..], &coordinate("x", self.x.as_deref())?, &coordinate("y", self.y.as_deref())?];
                DecodingKey::from_ec_der(&point.concat())
            }
            _ => DecodingKey::from_ed_der(&coordinate("x", self.x.as_deref())?),
        };
        Ok(Some((kid, Key { algorithm, key })))
    }

    /// The one that the key is for; `None` where that is none of those that are taken.
    fn algorithm(&self) -> Option<Algorithm> {
        if self.r#use.as_deref().is_some_and(|used_for| used_for != "sig") {
            return None;
        }
        let (algorithm, names) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => (Algorithm::RS256, &["RS256"][..]),
            ("EC", Some("P-256")) => (Algorithm::ES256, &["ES256"][..]),
            // RFC 9864 has the second name.
            ("OKP", Some("Ed25519")) => (Algorithm::EdDSA, &["EdDSA", "Ed25519"][..]),
            _ => return None,
        };
        self.alg.as_deref().is_none_or(|alg| names.contains(&alg)).then_some(algorithm)
    }

    fn rsa(&self) -> Result<DecodingKey, String> {
        let (n, e) = (decoded("n", self.n.as_deref())?, decoded("e", self.e.as_deref())?);
        if !RSA_BYTES.contains(&n.len()) || n.first() == Some(&0) {
            return Err(format!(".n: found {} bits, expected 2048 to 8192", n.len() * 8));
        }
        let is_odd = e.last().is_some_and(|last| last % 2 == 1);
        if !(1..=4).contains(&e.len()) || e.first() == Some(&0) || !is_odd || e == [1] {
            return Err(".e: expected an odd number from 3 to 4294967295".to_owned());
        }
        Ok(DecodingKey::from_rsa_raw_components(&n, &e))
    }
}

fn decoded(member: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!(".{member}: it is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!(".{member}: expected base64url without padding"))
}

fn coordinate(member: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let bytes = decoded(member, text)?;
    match bytes.len() {
        POINT_BYTES => Ok(bytes),
        other => Err(format!(".{member}: found {other} bytes, expected {POINT_BYTES}")),
    }
}

/// Has `jsonwebtoken` verify with `ring`, which is the one library for cryptography in this program. It signs nothing.
static RING: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(Ring { algorithm: *algorithm, key: key.clone() })),
    key_utils: KeyUtils::new_unimplemented(),
};

struct Ring {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match (self.algorithm, self.key.kind()) {
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signed)
            }
            (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signed)
            }
            _ => return Err(signature::Error::new()),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
