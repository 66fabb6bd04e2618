//! Names and lists from outside as people are shown them: in the log, in problems, answers and what verbs print. A name
//! holds whatever a file system or a client takes, line breaks and escape sequences included; a list is as long as a change.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::Path;

/// The members of a list that an error names in its sentence.
const NAMED_MAX: usize = 3;

/// The text on one line, without what would do something to a terminal.
pub fn text(text: &str) -> Cow<'_, str> {
    match text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(escaped(text)),
    }
}

/// The path on one line. Different paths are shown differently, also where no UTF-8 tells them apart.
pub fn path(path: &Path) -> String {
    let chunks = path.as_os_str().as_encoded_bytes().utf8_chunks();
    let shown = chunks.map(|chunk| {
        let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
        escaped(chunk.valid()) + &invalid
    });
    shown.collect()
}

/// The first few members of a list, and the number of the rest, as in `a; b; c; and 2997 more`.
pub fn few<T: Display>(members: &[T], separator: &str) -> String {
    let named = members.iter().take(NAMED_MAX).map(ToString::to_string);
    let rest = members.len().saturating_sub(NAMED_MAX);
    let rest = (rest > 0).then(|| format!("and {rest} more"));
    named.chain(rest).collect::<Vec<_>>().join(separator)
}

/// So many bytes of the text at most: whole characters from its beginning.
pub fn beginning(text: &str, bytes_max: usize) -> &str {
    let end = (0..=text.len().min(bytes_max)).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}

fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // The backslash too, so that what is escaped cannot be taken for what was written.
        match c == '\\' || !is_plain(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

/// False for control characters, and for those that break lines or turn the direction of what follows (Unicode
/// Standard Annex 9, "explicit directional formatting").
fn is_plain(c: char) -> bool {
    let breaks_lines = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !(c.is_control() || breaks_lines || turns)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_is_plain_is_shown_as_it_is() {
        for plain in ["", "policies/shop.yaml", "ACME \"Inc\" #7", r"a\b", "größe.yaml", "注文"] {
            assert_eq!(text(plain), plain);
        }
        assert_eq!(path(Path::new("größe/a b.yaml")), "größe/a b.yaml");
    }

    #[test]
    fn what_would_do_something_to_a_terminal_is_escaped() {
        assert_eq!(text("a\nb\u{1b}[31m\\"), r"a\nb\u{1b}[31m\\");
        assert_eq!(text("\u{202e}\u{2028}\u{9b}"), r"\u{202e}\u{2028}\u{9b}");
    }

    #[test]
    fn different_paths_are_shown_differently() {
        let shown = |bytes: &[u8]| path(Path::new(OsStr::from_bytes(bytes)));
        assert_eq!(shown(b"\n"), r"\n");
        assert_eq!(shown(br"\n"), r"\\n");
        assert_eq!(shown(b"\xfea\xff"), r"\xfea\xff");
        assert_eq!(shown(br"\xfe"), r"\\xfe");
    }

    #[test]
    fn a_long_list_is_its_first_few_members_and_a_number() {
        assert_eq!(few::<u32>(&[], ", "), "");
        assert_eq!(few(&[1, 2, 3], ", "), "1, 2, 3");
        assert_eq!(few(&[1, 2, 3, 4, 5], "; "), "1; 2; 3; and 2 more");
    }
}
