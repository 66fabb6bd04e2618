//! Which parts of a request let whoever has them in, and how they are shown where limits count by them.
//!
//! A limit may count by a token, a session or a key that a service gave out. More people see who is busy or denied than may
//! have these. So everywhere the value is shown by the beginning of its SHA-256: the same value is the same text on every
//! replica, and whoever has the value finds it. Any other value may be an address, with one in its query or before its host,
//! and what stands there is shown by its hash as well. How addresses are spelled is not looked at: there are too many ways.

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

/// A value of a request as it is shown: what is no secret in it, and what is in the place of the two that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownValue<'a> {
    plain: [&'a [u8]; 2],
    /// Each behind the plain text of its place.
    concealed: [Option<Concealed>; 2],
}

impl<'a> ShownValue<'a> {
    pub fn credential(value: &'a [u8]) -> Self {
        Self { plain: [&[]; 2], concealed: [Concealed::of(value), None] }
    }

    /// As in `https://sha256:961fd459c359@shop.example/pay?sha256:ba7816bf8f01`.
    pub fn without_user_and_query(value: &'a [u8]) -> Self {
        let (value, query) = split_query(value);
        let (before, user, rest) = split_user(value);
        Self { plain: [before, rest], concealed: [user, query].map(Concealed::of) }
    }

    /// What is shown, in parts of which each may be empty.
    pub fn parts(&self) -> [&[u8]; 4] {
        let [before, rest] = self.plain;
        let [user, query] = self.concealed.each_ref().map(|concealed| match concealed {
            Some(concealed) => concealed.as_str().as_bytes(),
            None => &[],
        });
        [before, user, rest, query]
    }
}

/// What stands up to the first `?` or `#`, and what follows it.
fn split_query(value: &[u8]) -> (&[u8], &[u8]) {
    let start = value.iter().position(|b| matches!(b, b'?' | b'#')).map_or(value.len(), |end| end + 1);
    value.split_at(start)
}

/// What stands between `//` and an `@` without a `/` between them (RFC 3986, section 3.2.1), and what stands before and behind
/// it. Of several addresses in one value it is from the first user to the last.
fn split_user(value: &[u8]) -> (&[u8], &[u8], &[u8]) {
    let user_at = |(at, _)| {
        let start = at + 2;
        let authority = value.get(start..)?.split(|b| *b == b'/').next()?;
        authority.iter().rposition(|b| *b == b'@').map(|length| (start, start + length))
    };
    let starts = value.windows(2).enumerate().filter(|(_, letters)| letters == b"//");
    let users = starts.filter_map(user_at).reduce(|(start, _), (_, end)| (start, end));
    let (start, end) = users.unwrap_or_default();
    let (before, user_and_rest) = value.split_at(start);
    let (user, rest) = user_and_rest.split_at(end - start);
    (before, user, rest)
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
    fn of_whatever_is_shown_users_and_queries_are_shown_by_their_hashes() {
        for (value, expected) in [
            ("/pay?abc", "/pay?HASH"),
            ("https://shop.example/cb#abc", "https://shop.example/cb#HASH"),
            ("mailto:a@shop.example?abc", "mailto:a@shop.example?HASH"),
            ("shop.example/pay?abc", "shop.example/pay?HASH"),
            ("?abc", "?HASH"),
            ("./pay?abc", "./pay?HASH"),
            ("https:/shop.example/pay?abc", "https:/shop.example/pay?HASH"),
            ("https://abc@shop.example/@ann", "https://HASH@shop.example/@ann"),
            ("//abc@shop.example?abc", "//HASH@shop.example?HASH"),
            ("to https://a:1/ and ftp://abc@", "to https://a:1/ and ftp://HASH@"),
            ("/pay", "/pay"),
            ("/pay?", "/pay?"),
            ("//@shop.example//", "//@shop.example//"),
            ("https://shop.example/@ann", "https://shop.example/@ann"),
            ("ann@shop.example", "ann@shop.example"),
            ("", ""),
        ] {
            let expected = expected.replace("HASH", "sha256:ba7816bf8f01");
            let shown = ShownValue::without_user_and_query(value.as_bytes()).parts().concat();
            assert_eq!(String::from_utf8(shown).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn no_user_of_several_addresses_is_shown_and_no_end_of_one() {
        for value in
            ["https://a:SECRET@b,https://c:SECRET@d/", "https://a:b@SECRET@c/", "a/?b?SECRET#SECRET", "////SECRET@/"]
        {
            let shown = ShownValue::without_user_and_query(value.as_bytes()).parts().concat();
            assert!(!String::from_utf8(shown).unwrap().contains("SECRET"), "{value}");
        }
    }
}
