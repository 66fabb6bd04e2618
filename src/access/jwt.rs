//! JSON Web Tokens (RFC 7519, and RFC 8725 on how they are confused): signed by a key that a file has, and for here and now.
//!
//! The header of a token names a key and nothing else: which algorithm is meant, is the key's to say.

use std::collections::BTreeMap;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use serde_json::{Map, Value};

use super::jwks::Keys;
use super::{Caller, CredentialKind, Role};
use crate::clock::Timestamp;

/// The longest token, in bytes. Nothing of a longer one is looked at.
pub(super) const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// By how much the clocks here and at the issuer may differ, in seconds.
const LEEWAY: u64 = 60;
/// The longest subject, in bytes: it is a name in the audit log.
const SUBJECT_BYTES_MAX: usize = 256;

/// Why a JWT is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtRefusal {
    #[error("the token is longer than {} bytes", TOKEN_BYTES_MAX)]
    Size,
    #[error("the header of the token makes no sense, or asks for what is not done here")]
    Header,
    #[error("no key is known by the `kid` of the token")]
    Key,
    #[error("the algorithm of the token is not that of its key")]
    Algorithm,
    #[error("the signature of the token is not that of its key")]
    Signature,
    #[error("the token needs exp, nbf, iss, aud and sub, each of its type")]
    Claims,
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
}

impl JwtRefusal {
    pub const ALL: [Self; 10] = [
        Self::Size,
        Self::Header,
        Self::Key,
        Self::Algorithm,
        Self::Signature,
        Self::Claims,
        Self::Issuer,
        Self::Audience,
        Self::Expired,
        Self::NotYet,
    ];

    /// As metrics name it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Size => "jwt_size",
            Self::Header => "jwt_header",
            Self::Key => "jwt_key",
            Self::Algorithm => "jwt_algorithm",
            Self::Signature => "jwt_signature",
            Self::Claims => "jwt_claims",
            Self::Issuer => "jwt_issuer",
            Self::Audience => "jwt_audience",
            Self::Expired => "jwt_expired",
            Self::NotYet => "jwt_not_yet",
        }
    }
}

/// The issuer whose tokens are taken.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) roles_claim: String,
    /// The role that each value of the claim has.
    pub(super) roles: BTreeMap<String, Role>,
    pub(super) keys: Keys,
}

/// Those that are always looked at, each of its type; the others by their names.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    exp: NumericDate,
    nbf: NumericDate,
    sub: String,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Seconds since the epoch, without their fractions (RFC 7519, section 2).
#[derive(Clone, Copy)]
struct NumericDate(u64);

/// Claims with a meaning of their own, which are no roles.
pub(super) const REGISTERED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

/// Three parts, which no token has that is made here.
pub(super) fn looks_like_one(secret: &str) -> bool {
    secret.bytes().filter(|b| *b == b'.').count() == 2
}

impl Issuer {
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Caller, JwtRefusal> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtRefusal::Size);
        }
        let header = decode_header(token).map_err(|_| JwtRefusal::Header)?;
        let kid = check(&header)?;
        let key = self.keys.get(kid).ok_or(JwtRefusal::Key)?;
        if header.alg != key.algorithm {
            return Err(JwtRefusal::Algorithm);
        }
        // The claims are looked at below: time is an argument here, and each is required and has a type.
        let mut signature_alone = Validation::new(key.algorithm);
        signature_alone.required_spec_claims.clear();
        signature_alone.validate_exp = false;
        signature_alone.validate_nbf = false;
        signature_alone.validate_aud = false;
        let decoded = decode::<Claims>(token, &key.key, &signature_alone).map_err(|error| match error.kind() {
            ErrorKind::InvalidAlgorithm => JwtRefusal::Algorithm,
            ErrorKind::InvalidSignature | ErrorKind::Base64(_) => JwtRefusal::Signature,
            ErrorKind::Json(_) => JwtRefusal::Claims,
            _ => JwtRefusal::Header,
        })?;
        self.caller(&decoded.claims, now)
    }

    fn caller(&self, claims: &Claims, now: Timestamp) -> Result<Caller, JwtRefusal> {
        let is_for_here = match &claims.aud {
            Audience::One(audience) => *audience == self.audience,
            Audience::Several(audiences) => audiences.contains(&self.audience),
        };
        let (NumericDate(exp), NumericDate(nbf)) = (claims.exp, claims.nbf);
        if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX {
            return Err(JwtRefusal::Claims);
        }
        if claims.iss != self.issuer {
            return Err(JwtRefusal::Issuer);
        }
        if !is_for_here {
            return Err(JwtRefusal::Audience);
        }
        if now.as_secs() >= exp.saturating_add(LEEWAY) {
            return Err(JwtRefusal::Expired);
        }
        if now.as_secs().saturating_add(LEEWAY) < nbf {
            return Err(JwtRefusal::NotYet);
        }
        let until = exp.saturating_add(LEEWAY).saturating_mul(1_000_000_000);
        Ok(Caller {
            kind: CredentialKind::Jwt,
            name: claims.sub.as_str().into(),
            role: self.role(claims)?,
            until: Some(Timestamp::from_nanos(until)),
        })
    }

    /// The highest of those that the claim names.
    fn role(&self, claims: &Claims) -> Result<Option<Role>, JwtRefusal> {
        let role = |value: &Value| value.as_str().map(|name| self.roles.get(name).copied()).ok_or(JwtRefusal::Claims);
        match claims.others.get(&self.roles_claim) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let roles = values.iter().map(role).collect::<Result<Vec<_>, _>>()?;
                Ok(roles.into_iter().flatten().max())
            }
            Some(value) => role(value),
        }
    }
}

/// The name of the key. A header that brings a key along, says where one is, or asks for what only others understand
/// (RFC 7515, section 4.1), is refused and not passed over: no honest token for here has one.
fn check(header: &Header) -> Result<&str, JwtRefusal> {
    let has_own_key = header.jku.is_some() || header.jwk.is_some() || header.x5u.is_some() || header.x5c.is_some();
    let is_extended = header.crit.is_some() || header.enc.is_some() || header.zip.is_some() || header.cty.is_some();
    let is_b64 = header.extras.inner().contains_key("b64");
    // RFC 8725, section 3.11: tokens that are for something else say so, as `logout+jwt` does.
    let is_access = |typ: &String| ["jwt", "at+jwt", "application/at+jwt"].contains(&&*typ.to_ascii_lowercase());
    if has_own_key || is_extended || is_b64 || !header.typ.as_ref().is_none_or(is_access) {
        return Err(JwtRefusal::Header);
    }
    header.kid.as_deref().ok_or(JwtRefusal::Key)
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl de::Visitor<'_> for SecondsVisitor {
    type Value = NumericDate;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("seconds since the epoch")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<NumericDate, E> {
        Ok(NumericDate(seconds))
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<NumericDate, E> {
        // Larger ones are none that anybody means, and are not rounded.
        let is_one = (0.0..9_007_199_254_740_992.0).contains(&seconds);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was looked at")]
        let whole = seconds.trunc() as u64;
        is_one.then_some(NumericDate(whole)).ok_or_else(|| E::custom("no time"))
    }
}

#[cfg(test)]
mod tests;
