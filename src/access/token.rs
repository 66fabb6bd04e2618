//! Tokens: secrets that somebody shows, of which only the hashes are known here.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use super::Role;

/// The shortest token that somebody may have chosen. Those that are made here are longer.
pub const TOKEN_BYTES_MIN: usize = 16;
/// What tokens that are made here begin with, so that tools which look for secrets find them.
const PREFIX: &str = "tierflow_";
/// The random bytes of one.
const SECRET_BYTES: usize = 32;

/// A token that is known, and whose it is.
#[derive(Clone, Debug)]
pub struct Token {
    pub name: Arc<str>,
    pub role: Role,
    pub hash: TokenHash,
}

/// The SHA-256 of a token. A token is random and long, so that nothing slower is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }

    /// 64 hexadecimal digits, as `sha256sum` prints them.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> =
            text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        let digits: [u8; 64] = digits?.try_into().ok()?;
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        }
        Some(Self(hash))
    }

    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The longest name of a token, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The name of a token, which is one in the audit log; else what was expected.
pub fn name(text: &str) -> Result<Arc<str>, String> {
    let is_name = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    let expected = || format!("1 to {NAME_BYTES_MAX} bytes without control characters");
    is_name.then(|| text.into()).ok_or_else(expected)
}

/// A new token. Nobody guesses 256 bits.
pub fn make() -> Option<String> {
    let mut secret = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut secret).ok()?;
    Some(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)))
}

/// All tokens are compared, each in a time that does not depend on how much of it is right.
pub(super) fn find<'a>(tokens: &'a [Token], hash: &TokenHash) -> Option<&'a Token> {
    let (mut found, mut place) = (Choice::from(0), 0);
    for (index, token) in (0_u64..).zip(tokens) {
        let is_it = token.hash.0.ct_eq(&hash.0);
        place = u64::conditional_select(&place, &index, is_it);
        found |= is_it;
    }
    let place = usize::try_from(place).ok().filter(|_| bool::from(found))?;
    tokens.get(place)
}

/// The lines `NAME:TOKEN` of `--admin-token-file`, whose tokens may do everything.
pub(super) fn lines(text: &str) -> Result<Vec<Token>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let read = |(index, line): (usize, &str)| match line.split_once(':') {
        Some((name, token)) if !name.is_empty() && token.trim().len() >= TOKEN_BYTES_MIN => {
            Ok(Token { name: name.into(), role: Role::Admin, hash: TokenHash::of(token.trim()) })
        }
        _ => Err(format!("line {}: expected NAME:TOKEN, the token of at least {TOKEN_BYTES_MIN} bytes", index + 1)),
    };
    let tokens: Vec<Token> = lines.map(read).collect::<Result<_, _>>()?;
    match tokens.is_empty() {
        // As of an access file: a secret that was not mounted, or is being written, must not look like one that lets nobody in.
        true => {
            Err(format!("says nobody who may ask: expected NAME:TOKEN, the token of at least {TOKEN_BYTES_MIN} bytes"))
        }
        false => Ok(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, secret: &str) -> Token {
        Token { name: name.into(), role: Role::Viewer, hash: TokenHash::of(secret) }
    }

    #[test]
    fn a_hash_is_read_as_sha256sum_prints_it() {
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::of("abc").to_hex(), of_abc, "FIPS 180-2, B.1");
        assert_eq!(TokenHash::parse(of_abc), Some(TokenHash::of("abc")));
        assert_eq!(TokenHash::parse(&of_abc.to_uppercase()), Some(TokenHash::of("abc")));
        for bad in
            ["", "abc", &of_abc[1..], &format!("{of_abc}0"), &of_abc.replace('b', "g"), &of_abc.replace('b', "ü")]
        {
            assert_eq!(TokenHash::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_that_are_made_are_long_and_each_another() {
        let made: std::collections::BTreeSet<String> = (0..100).map(|_| make().unwrap()).collect();
        assert_eq!(made.len(), 100);
        assert!(made.iter().all(|token| token.starts_with(PREFIX) && token.len() == PREFIX.len() + 43));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_by_its_number_and_without_the_token() {
        assert_eq!(
            lines("# people\n\nann:secret\n").unwrap_err(),
            "line 3: expected NAME:TOKEN, the token of at least 16 bytes"
        );
        for (text, expected) in [
            ("ann:0123456789abcdef\n", 1),
            ("ann: 0123456789abcdef \r\n", 1),
            ("\n#ci:0123456789abcdef\nann:0123456789abcdef\n", 1),
            // A token may hold what stands between it and its name.
            ("ann:0123456789:abcdef\nci:fedcba9876543210", 2),
        ] {
            assert_eq!(lines(text).unwrap().len(), expected, "{text:?}");
        }
        // One line that is wrong, and nobody knows which token was meant.
        for bad in
            ["ann:0123456789abcdef\nci\n", ":0123456789abcdef", "ci:0123456789abcde", "", "\n#ann:0123456789abcdef\n"]
        {
            assert!(lines(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        /// Nothing but the whole token is the token.
        #[test]
        fn a_part_of_a_token_is_none(secret in "[!-~]{16,40}", shown in "[!-~]{0,40}", cut in 0..40_usize) {
            let tokens = [token("ann", &secret), token("ci", &format!("{secret}x"))];
            let named = |shown: &str| find(&tokens, &TokenHash::of(shown)).map(|token| token.name.to_string());
            let cut = secret.get(..cut.min(secret.len() - 1)).unwrap_or_default();
            proptest::prop_assert_eq!(named(cut), None);
            proptest::prop_assert_eq!(named(&secret), Some("ann".to_owned()));
            proptest::prop_assert_eq!(named(&format!("{secret}x")), Some("ci".to_owned()));
            if shown != secret && shown != format!("{secret}x") {
                proptest::prop_assert_eq!(named(&shown), None);
            }
        }
    }
}
