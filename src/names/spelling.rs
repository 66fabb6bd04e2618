//! How values of requests are written as text, one text for each: a client sends any bytes, and a tenant may be called by them.
//!
//! A value that is UTF-8 is its own spelling. A byte that is none of a letter is `\xff`, by its hexadecimal digits; and so that
//! nothing else is spelled like it, the backslash of a value that has `\xff` in it as letters is `\x5c`.

use std::borrow::Cow;

/// The letters of an escape: a backslash, an x and two digits.
const ESCAPE_LETTERS: usize = 4;

pub fn spelled(value: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(value)
        && (0..text.len()).all(|at| escape_at(value, at).is_none())
    {
        return Cow::Borrowed(text);
    }
    let mut spelling = String::with_capacity(value.len() + ESCAPE_LETTERS);
    for chunk in value.utf8_chunks() {
        for (at, letter) in chunk.valid().char_indices() {
            match escape_at(chunk.valid().as_bytes(), at) {
                Some(_) => push_escape(&mut spelling, b'\\'),
                None => spelling.push(letter),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_escape(&mut spelling, *byte));
    }
    Cow::Owned(spelling)
}

/// The value that is spelled so.
pub fn read(spelling: &str) -> Cow<'_, [u8]> {
    let letters = spelling.as_bytes();
    if (0..letters.len()).all(|at| escape_at(letters, at).is_none()) {
        return Cow::Borrowed(letters);
    }
    let (mut value, mut rest) = (Vec::with_capacity(letters.len()), letters);
    while let Some((first, behind)) = rest.split_first() {
        let escaped = escape_at(rest, 0);
        value.push(escaped.unwrap_or(*first));
        rest = escaped.and_then(|_| rest.get(ESCAPE_LETTERS..)).unwrap_or(behind);
    }
    Cow::Owned(value)
}

fn push_escape(spelling: &mut String, byte: u8) {
    spelling.push_str(&format!("\\x{byte:02x}"));
}

/// The byte that is spelled at a place.
fn escape_at(letters: &[u8], at: usize) -> Option<u8> {
    let Some([b'\\', b'x', high, low]) = letters.get(at..at + ESCAPE_LETTERS) else { return None };
    let digit = |letter: u8| char::from(letter).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_its_own_spelling_and_other_bytes_are_escaped() {
        for plain in ["", "acme", "größe", r"DOMAIN\user", r"a\x", r"\xzz", r"\\"] {
            assert_eq!(spelled(plain.as_bytes()), plain);
            assert_eq!(*read(plain), *plain.as_bytes());
        }
        for (value, spelling) in [
            (&b"\xff"[..], r"\xff"),
            (b"a\xfe\xffb", r"a\xfe\xffb"),
            (br"\xff", r"\x5cxff"),
            (b"\\xf\xff", r"\xf\xff"),
            ("ä\u{0}\\x41".as_bytes(), "ä\u{0}\\x5cx41"),
        ] {
            assert_eq!(spelled(value), spelling);
            assert_eq!(*read(spelling), *value);
        }
        assert_eq!(*read(r"\xFF"), *b"\xff", "in either case");
    }

    proptest::proptest! {
        /// So no two values have one spelling.
        #[test]
        fn what_is_spelled_is_read_as_the_same(
            value in proptest::collection::vec(proptest::sample::select(b"\\x5cfaF\xff\xc3\xa4".to_vec()), 0..12),
        ) {
            let spelling = spelled(&value);
            proptest::prop_assert_eq!(&*read(&spelling), &value[..]);
        }
    }
}
