//! The path of a request as routes and limits see it.
//!
//! Envoy gives a path one spelling before it looks for a route, so that another one is no way round a limit. What it does
//! there is written down here once more, because people are told of it: `check` refuses an Api whose path could never
//! arrive, `explain` says what becomes of a request. `tests/it/spellings.rs` holds it against a real Envoy.
//!
//! ```text
//! fragment? -> escaped slashes -> parameters of dot segments -> percent-encoding and dot segments -> doubled slashes
//! ```
//!
//! Sources: http_connection_manager.proto (`normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`), and
//! RFC 3986, sections 5.2.4 and 6.2.2. Envoy leaves parameters at dot segments until version 1.39.1.

use std::borrow::Cow;

use super::gateway::EscapedSlashes;

/// The outcome for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Normalized {
    /// The path arrives, spelled so.
    Path(String),
    /// 307: the client is told to ask for this one.
    Redirect(String),
    /// 400: why.
    Refused(&'static str),
}

/// Of a path that begins with a slash, and its query.
pub fn normalize(path_and_query: &str, escaped_slashes: EscapedSlashes) -> Normalized {
    if path_and_query.contains('#') {
        return Normalized::Refused("a request has no fragment");
    }
    let (path, query) = path_and_query.split_at(path_and_query.find('?').unwrap_or(path_and_query.len()));
    let unescaped = unescape_slashes(path);
    let has_escaped_slashes = unescaped != path;
    let path = match escaped_slashes {
        EscapedSlashes::Keep => Cow::Borrowed(path),
        EscapedSlashes::Refuse if has_escaped_slashes => return Normalized::Refused("the path has an escaped slash"),
        EscapedSlashes::Redirect | EscapedSlashes::Decode | EscapedSlashes::Refuse => unescaped,
    };
    match resolve(&cut_parameters_of_dots(&path)) {
        Some(path) => {
            let path = merge_slashes(path) + query;
            let is_redirect = has_escaped_slashes && escaped_slashes == EscapedSlashes::Redirect;
            if is_redirect { Normalized::Redirect(path) } else { Normalized::Path(path) }
        }
        None => Normalized::Refused("the path has an escaped NUL"),
    }
}

/// The path with its percent-escapes in capitals: `%2f` and `%2F` are the same (RFC 3986, section 6.2.2.1), and Envoy
/// leaves both as they come.
pub fn capitalize_escapes(path: &[u8]) -> Cow<'_, [u8]> {
    let is_capital = |(at, byte): (usize, &u8)| *byte != b'%' || !is_lower_escape(path.get(at..).unwrap_or_default());
    if path.iter().enumerate().all(is_capital) {
        return Cow::Borrowed(path);
    }
    let mut capital = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        match escaped(rest) {
            Some((_, tail)) => {
                capital.extend(rest.iter().take(3).map(u8::to_ascii_uppercase));
                rest = tail;
            }
            None => {
                capital.push(*byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(capital)
}

fn is_lower_escape(text: &[u8]) -> bool {
    escaped(text).is_some() && text.iter().take(3).any(u8::is_ascii_lowercase)
}

/// The byte that a text begins with in its escaped form, and what comes after it.
fn escaped(text: &[u8]) -> Option<(u8, &[u8])> {
    let (escape, rest) = text.split_first_chunk::<3>()?;
    let [b'%', digits @ ..] = escape else { return None };
    Some((hex_pair(*digits)?, rest))
}

fn hex_pair(digits: [u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

fn unescape_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let slashes = [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")];
    Cow::Owned(slashes.iter().fold(path.to_owned(), |path, (escape, slash)| path.replace(escape, slash)))
}

/// `/a/..;x/b` is `/a/../b` to servers that know parameters of segments, so it is to Envoy.
fn cut_parameters_of_dots(path: &str) -> Cow<'_, str> {
    if !path.contains(".;") {
        return Cow::Borrowed(path);
    }
    let cut = |segment| match segment {
        _ if str::starts_with(segment, "..;") => "..",
        _ if segment.starts_with(".;") => ".",
        _ => segment,
    };
    Cow::Owned(path.split('/').map(cut).collect::<Vec<_>>().join("/"))
}

/// Without dot segments, each other segment in its one spelling. A backslash is a slash (WHATWG URL, path state).
fn resolve(path: &str) -> Option<String> {
    let mut segments: Vec<String> = Vec::new();
    let mut parts = path.split(['/', '\\']).skip(1).peekable();
    while let Some(part) = parts.next() {
        match part.replace("%2e", ".").replace("%2E", ".").as_str() {
            "." => {}
            ".." => drop(segments.pop()),
            _ => {
                segments.push(spell(part)?);
                continue;
            }
        }
        // What a dot segment at the end names is a folder.
        if parts.peek().is_none() {
            segments.push(String::new());
        }
    }
    Some(format!("/{}", segments.join("/")))
}

/// A segment whose unreserved characters are themselves, while others are escaped where they have to be. `None`: it has
/// an escaped NUL.
fn spell(segment: &str) -> Option<String> {
    let mut spelled: Vec<u8> = Vec::with_capacity(segment.len());
    // Where a percent sign was written that begins no escape.
    let mut stray = None;
    let mut rest = segment.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        match escaped(rest) {
            Some((0, _)) => return None,
            Some((decoded, tail)) if is_unreserved(decoded) => {
                spelled.push(decoded);
                rest = tail;
                disarm(&mut spelled, stray, tail);
            }
            Some((_, tail)) => {
                spelled.extend(rest.iter().take(3));
                rest = tail;
            }
            None => {
                match byte {
                    b'%' => {
                        stray = Some(spelled.len());
                        spelled.push(b'%');
                    }
                    byte if is_unreserved(*byte) || b"!$&'()*+,:;=@[]".contains(byte) => spelled.push(*byte),
                    byte => spelled.extend(format!("%{byte:02X}").bytes()),
                }
                rest = tail;
            }
        }
    }
    // Whatever is no ASCII was escaped.
    String::from_utf8(spelled).ok()
}

/// A stray percent sign and what was decoded after it must not become an escape that nobody wrote: `%%36%31` is `%2561`.
fn disarm(spelled: &mut Vec<u8>, stray: Option<usize>, tail: &[u8]) {
    let Some(stray) = stray else { return };
    let digits = match (spelled.get(stray + 1..), tail.first()) {
        (Some(&[high]), Some(&low)) | (Some(&[high, low]), _) => [high, low],
        _ => return,
    };
    if hex_pair(digits).is_some() {
        spelled.splice(stray + 1..stray + 1, *b"25");
    }
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn merge_slashes(path: String) -> String {
    if !path.contains("//") {
        return path;
    }
    let merged = path.split('/').filter(|segment| !segment.is_empty()).collect::<Vec<_>>().join("/");
    // Of slashes alone Envoy leaves two.
    format!("/{merged}{}", if path.ends_with('/') { "/" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(spelling: &str) -> String {
        match normalize(spelling, EscapedSlashes::Keep) {
            Normalized::Path(path) => path,
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn spellings_of_a_path_are_one() {
        for (spelling, expected) in [
            ("/admin/%64ata", "/admin/data"),
            ("/a/%2e%2E/b", "/b"),
            ("/a\\..\\b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/a//../b", "/a/b"),
            ("//a//", "/a/"),
            ("//", "//"),
            ("/a/..;x/b", "/b"),
            ("/a/%2e%2e;x/b", "/a/..;x/b"),
            ("/a|b[c]", "/a%7Cb[c]"),
            ("/a%zz%", "/a%zz%"),
            ("/%%36%31", "/%2561"),
            ("/%%341", "/%2541"),
            ("/%%30", "/%0"),
            ("/ä", "/%C3%A4"),
            ("/%c3%A4?x=//..\\%2F", "/%c3%A4?x=//..\\%2F"),
        ] {
            assert_eq!(path(spelling), expected, "{spelling}");
        }
    }

    #[test]
    fn escaped_slashes_are_what_the_gateway_makes_of_them() {
        let of = |escaped_slashes| normalize("/a%2F..%5cb?%2F", escaped_slashes);
        assert_eq!(of(EscapedSlashes::Redirect), Normalized::Redirect("/b?%2F".to_owned()));
        assert_eq!(of(EscapedSlashes::Decode), Normalized::Path("/b?%2F".to_owned()));
        assert_eq!(of(EscapedSlashes::Keep), Normalized::Path("/a%2F..%5cb?%2F".to_owned()));
        assert!(matches!(of(EscapedSlashes::Refuse), Normalized::Refused(_)));
    }

    #[test]
    fn what_envoy_refuses_does_not_arrive() {
        for spelling in ["/a#b", "/a?b#c", "/a%00"] {
            assert!(matches!(normalize(spelling, EscapedSlashes::Redirect), Normalized::Refused(_)), "{spelling}");
        }
    }

    #[test]
    fn escapes_are_the_same_in_capitals() {
        assert_eq!(*capitalize_escapes(b"/a%2fb%c3%A4%z%fz\xff"), *b"/a%2Fb%C3%A4%z%fz\xff");
        assert!(matches!(capitalize_escapes(b"/a%2Fb"), Cow::Borrowed(_)));
    }
}
