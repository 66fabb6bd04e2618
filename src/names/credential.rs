//! Which parts of a request let whoever has them in, and how they are shown where limits count by them.
//!
//! A limit may count by a token, a session or a key that a service gave out. More people see who is busy or denied than may
//! have these. So everywhere the value is shown by the beginning of its SHA-256: the same value is the same text on every
//! replica, and whoever has the value finds it. The query of a path or a URL may have one in it under any name, and is shown
//! by its hash as well.

use std::fmt;

use ring::digest;

/// A part of a request whose name has one of these is a credential: in any case, and with `_` for `-`.
const WORDS: [&str; 12] = [
    "authorization",
    "cookie",
    "token",
    "session",
    "secret",
    "password",
    "passwd",
    "api-key",
    "apikey",
    "credential",
    "signature",
    "jwt",
];
/// Names that are too short to be looked for in others: those of keys in queries.
const NAMES: [&str; 2] = ["key", "sig"];

/// The bytes of the hash that are shown: too few to be all of it, and enough to tell values apart.
const HASH_BYTES: usize = 6;
const PREFIX: &str = "sha256:";

/// True for the name of a header or of a parameter of a query whose value is a credential.
pub fn is_credential(name: &str) -> bool {
    NAMES.iter().any(|own| name.eq_ignore_ascii_case(own)) || WORDS.iter().any(|word| has_word(name, word))
}

fn has_word(name: &str, word: &str) -> bool {
    let is_same = |(own, letter): (&u8, &u8)| own.eq_ignore_ascii_case(letter) || (*own == b'_' && *letter == b'-');
    name.as_bytes().windows(word.len()).any(|part| part.iter().zip(word.as_bytes()).all(is_same))
}

/// The text in the place of a credential. There is none for an empty one, which is that of requests that have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Concealed([u8; PREFIX.len() + 2 * HASH_BYTES]);

impl Concealed {
    pub fn of(value: &[u8]) -> Option<Self> {
        if value.is_empty() {
            return None;
        }
        let hash = digest::digest(&digest::SHA256, value);
        let digits = hash.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit);
        let mut text = [0; PREFIX.len() + 2 * HASH_BYTES];
        text.iter_mut().zip(PREFIX.bytes().chain(digits)).for_each(|(place, letter)| *place = letter);
        Some(Self(text))
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// A value of a request as it is shown: what stands before a secret in it, and what is in the secret's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownValue<'a> {
    plain: &'a [u8],
    concealed: Option<Concealed>,
}

impl<'a> ShownValue<'a> {
    pub fn credential(value: &'a [u8]) -> Self {
        Self { plain: &[], concealed: Concealed::of(value) }
    }

    /// As in `/pay?sha256:ba7816bf8f01`.
    pub fn without_query(value: &'a [u8]) -> Self {
        match split_query(value) {
            Some((before, query)) => Self { plain: before, concealed: Concealed::of(query) },
            None => Self { plain: value, concealed: None },
        }
    }

    /// What is shown, in two parts of which either may be empty.
    pub fn parts(&self) -> [&[u8]; 2] {
        [self.plain, self.concealed.as_ref().map_or(&[], |concealed| concealed.as_str().as_bytes())]
    }
}

/// The query or fragment of a path or a URL (RFC 3986, section 3), and all that stands before it. Other texts have none,
/// whatever they ask.
fn split_query(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = value.iter().position(|b| matches!(b, b'?' | b'#'))?;
    let (before, _) = value.split_at_checked(end)?;
    let is_address = before.starts_with(b"/") || before.windows(3).any(|part| part == b"://");
    is_address.then(|| value.split_at_checked(end + 1)).flatten()
}

fn digit(number: u8) -> u8 {
    if number < 10 { b'0' + number } else { b'a' + number - 10 }
}

impl fmt::Display for Concealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_credentials_are_known_in_all_their_spellings() {
        for name in [
            "authorization",
            "Proxy-Authorization",
            "cookie",
            "x-api-key",
            "X_API_KEY",
            "apikey",
            "x-goog-api-key",
            "access_token",
            "x-amz-security-token",
            "x-csrf-token",
            "x-session",
            "client_secret",
            "X-Amz-Signature",
            "key",
            "x-jwt-assertion",
        ] {
            assert!(is_credential(name), "{name}");
        }
        for name in ["x-tenant-id", "x-user", "host", "page", "monkey", "user-agent", "x-forwarded-for", "", "sign"] {
            assert!(!is_credential(name), "{name}");
        }
    }

    /// As `printf %s 'Bearer abc' | sha256sum | cut -c1-12` prints it.
    #[test]
    fn a_credential_is_shown_by_the_beginning_of_its_hash_and_none_as_nothing() {
        assert_eq!(Concealed::of(b"abc").unwrap().to_string(), "sha256:ba7816bf8f01");
        assert_ne!(Concealed::of(b"abd"), Concealed::of(b"abc"));
        assert_eq!(Concealed::of(b""), None);
    }

    #[test]
    fn of_paths_and_urls_the_query_is_shown_by_its_hash() {
        for (value, expected) in [
            ("/pay?abc", "/pay?sha256:ba7816bf8f01"),
            ("//?abc", "//?sha256:ba7816bf8f01"),
            ("https://shop.example?abc", "https://shop.example?sha256:ba7816bf8f01"),
            ("https://shop.example/cb#abc", "https://shop.example/cb#sha256:ba7816bf8f01"),
            ("/pay", "/pay"),
            ("/pay?", "/pay?"),
            ("who? https://a", "who? https://a"),
            ("", ""),
        ] {
            assert_eq!(ShownValue::without_query(value.as_bytes()).parts().concat(), expected.as_bytes(), "{value}");
        }
    }
}
