//! Names and lists from outside as people are shown them: in the log, in problems, answers and what verbs print. A name
//! holds whatever a file system or a client takes, line breaks and escape sequences included; a list is as long as a change.

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::path::Path;

/// The longest text from outside that is shown, in bytes: a name, a reason, a line of a document, the path of a request.
/// Every name that makes sense is shorter.
pub const TEXT_BYTES_MAX: usize = 512;
/// The longest part of a sentence, in bytes: so that there is room for what was expected instead.
const QUOTED_BYTES_MAX: usize = 256;
/// The members of a list that an error names in its sentence.
const NAMED_MAX: usize = 3;

/// The text on one line, without what would do something to a terminal.
pub fn text(text: &str) -> Cow<'_, str> {
    match text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(escaped(text)),
    }
}

/// The text without what would do something to a terminal, but for the ends of its lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    match text.chars().all(|c| c == '\n' || is_plain(c)) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(text.split('\n').map(self::text).collect::<Vec<_>>().join("\n")),
    }
}

/// JSON that means the same, without what would do something to a terminal.
pub fn json(json: &str) -> Cow<'_, str> {
    if json.chars().all(|c| c == '\n' || is_plain(c)) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        // What is not plain stands in texts only; all of it is of the Basic Multilingual Plane (RFC 8259, section 7).
        match c == '\n' || is_plain(c) {
            true => shown.push(c),
            false => shown.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(shown)
}

/// The text without the users, passwords and queries of URLs in it (RFC 3986, section 3), as in
/// `redis://(not shown)@10.0.0.6`. What somebody typed stands in the error about it, and errors in logs.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    const SCHEME_END: &str = "://";
    let mut shown = String::new();
    let (mut rest, mut is_changed) = (text, false);
    while let Some((before, after)) = rest.split_once(SCHEME_END) {
        // A password that nobody escaped may have slashes and more in it.
        let end = after.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"')).unwrap_or(after.len());
        let (address, behind) = after.split_at_checked(end).unwrap_or((after, ""));
        let address = self::address(address);
        shown.extend([before, SCHEME_END, &*address]);
        is_changed |= matches!(address, Cow::Owned(_));
        rest = behind;
    }
    if is_changed { Cow::Owned(shown + rest) } else { Cow::Borrowed(text) }
}

/// What a URL has behind its scheme, or several do, without users, passwords and queries.
pub fn address(text: &str) -> Cow<'_, str> {
    const NOT_SHOWN: &str = "(not shown)";
    let after_user = text.rfind('@').map(|at| text.get(at..).unwrap_or_default());
    let rest = after_user.unwrap_or(text);
    // With nothing behind it, it is the end of a question.
    let query = rest.find(['?', '#']).map(|at| at + 1).filter(|at| *at < rest.len());
    let (rest, query_shown) = query.map_or((rest, ""), |at| (rest.get(..at).unwrap_or_default(), NOT_SHOWN));
    match (after_user, query) {
        (None, None) => Cow::Borrowed(text),
        (user, _) => Cow::Owned([if user.is_some() { NOT_SHOWN } else { "" }, rest, query_shown].concat()),
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

/// The text, or the beginning of one that is too long and how much of it there is more, as in `aaa… (249488 bytes more)`. What is
/// bounded already stays as it is.
pub fn bounded(text: &str) -> Cow<'_, str> {
    cut(text, TEXT_BYTES_MAX)
}

/// The same for sentences that name several things, as an error does.
pub fn sentences(text: &str) -> Cow<'_, str> {
    cut(text, 4 * TEXT_BYTES_MAX)
}

/// The same for a text that is a part of a sentence.
pub fn quoted(text: &str) -> Cow<'_, str> {
    cut(text, QUOTED_BYTES_MAX)
}

/// A value as it is quoted in a sentence.
pub fn value(value: impl Debug) -> String {
    quoted(&format!("{value:?}")).into_owned()
}

/// At most so many bytes, what says how many are left out among them.
fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    /// Has room for any number.
    const SUFFIX_BYTES_MAX: usize = "… (18446744073709551615 bytes more)".len();
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let beginning = beginning(text, bytes_max - SUFFIX_BYTES_MAX);
    Cow::Owned(format!("{beginning}… ({} bytes more)", text.len() - beginning.len()))
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
    fn lines_stay_lines_and_json_means_the_same() {
        assert_eq!(lines("a\\b\nc\n"), "a\\b\nc\n");
        assert_eq!(lines("a\\b\nc\\\u{1b}[2J\n"), "a\\b\nc\\\\\\u{1b}[2J\n");
        let text = "\u{9b}\u{202e}\u{7f}\u{2028}\n\u{1b}ü";
        let written = serde_json::to_string_pretty(&[text]).unwrap();
        let shown = json(&written);
        assert!(shown.chars().all(|c| c == '\n' || is_plain(c)), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&shown).unwrap(), [text]);
    }

    #[test]
    fn of_urls_neither_users_nor_passwords_nor_queries_are_shown() {
        for (text, expected) in [
            ("nothing", "nothing"),
            ("http://a:1/b and redis://c", "http://a:1/b and redis://c"),
            ("'redis://ann:s3c@ret/@a:1' for http://:p@b", "'redis://(not shown)@a:1' for http://(not shown)@b"),
            ("http://a:1, mail to ann@b", "http://a:1, mail to ann@b"),
            ("\"://x@\"://", "\"://(not shown)@\"://"),
            ("http://a:1/b?token=c: away", "http://a:1/b?(not shown) away"),
            (
                "'http://ann:b?c@a:1/?d#e', or http://a#f",
                "'http://(not shown)@a:1/?(not shown)', or http://a#(not shown)",
            ),
            ("is it http://a?", "is it http://a?"),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
        assert_eq!(address("ann:b@a:1?c"), "(not shown)@a:1?(not shown)", "without a scheme, too");
        assert_eq!(address("a:1"), "a:1");
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
    fn a_long_text_is_its_beginning_and_how_much_more_there_is() {
        let longest = "n".repeat(TEXT_BYTES_MAX);
        assert_eq!(bounded(&longest), longest);
        for text in ["n".repeat(250_000), "ä".repeat(TEXT_BYTES_MAX), "n".repeat(TEXT_BYTES_MAX + 1)] {
            let shown = bounded(&text);
            let (beginning, more) = shown.strip_suffix(" bytes more)").unwrap().split_once("… (").unwrap();
            assert!(shown.len() <= TEXT_BYTES_MAX && text.starts_with(beginning), "{shown}");
            assert_eq!(beginning.len() + more.parse::<usize>().unwrap(), text.len());
            assert_eq!(bounded(&shown), shown, "once is enough");
        }
        assert_eq!(value("a\nb"), r#""a\nb""#);
        assert!(value("n".repeat(250_000)).len() <= QUOTED_BYTES_MAX);
    }

    #[test]
    fn a_long_list_is_its_first_few_members_and_a_number() {
        assert_eq!(few::<u32>(&[], ", "), "");
        assert_eq!(few(&[1, 2, 3], ", "), "1, 2, 3");
        assert_eq!(few(&[1, 2, 3, 4, 5], "; "), "1; 2; 3; and 2 more");
    }
}
