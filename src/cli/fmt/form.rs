//! The one form of a text of policies. A formatter that lost a comment, or changed what a policy means, would be worse than
//! none: what it makes of a text is looked at before anybody is given it.

use std::sync::Arc;

use pretty_yaml::config::{FormatOptions, LanguageOptions, LayoutOptions};
use yaml_parser::SyntaxKind;

use crate::document::{self, Document, Origin};
use crate::policy::parse;
use crate::policy::problem::{Finding, Path, Problem, Target};
use crate::policy::tree::Tree;

/// The widest line, in columns; what cannot be broken is wider.
const WIDTH: usize = 120;

/// The text in its one form, or why it has none. It is that of `name`.
pub(super) fn of(name: &Arc<str>, text: &[u8]) -> Result<String, Vec<Problem>> {
    let meant = meaning(name, text)?;
    // The formatter cannot read it, or makes something else of it.
    let doubt = || vec![problem(name, "has no other form in which its comments and what it means are certain to stay")];
    let text = std::str::from_utf8(text).map_err(|_| doubt())?;
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    let formed = formed(text).ok_or_else(doubt)?;
    let is_kept =
        meaning(name, formed.as_bytes()).is_ok_and(|formed| is_same(&formed, &meant)) && said(&formed) == said(text);
    // Whoever formats it again changes nothing.
    let is_settled = self::formed(&formed).as_ref() == Some(&formed);
    if is_kept && is_settled { Ok(formed) } else { Err(doubt()) }
}

/// What is wrong with the text as a whole.
pub(super) fn problem(name: &Arc<str>, message: &str) -> Problem {
    let origin = Origin::File { path: Arc::clone(name), number: 1, line: 1 };
    let finding = Finding { path: Path::default(), target: Target::Value, message: message.to_owned(), help: None };
    Problem::locate(&Document { origin, revision: None, content: Ok([].into()) }, None, finding, None)
}

fn formed(text: &str) -> Option<String> {
    let options = FormatOptions {
        layout: LayoutOptions { print_width: WIDTH, indent_width: 2, ..LayoutOptions::default() },
        language: LanguageOptions { trailing_comma: false, ..LanguageOptions::default() },
    };
    let formed = pretty_yaml::format_text(text, &options).ok()?;
    Some(with_columns(formed, &comments(text)?))
}

/// Comments at the ends of lines stand where they stood, below each other if they did, as far as the lines leave room for it.
fn with_columns(mut formed: String, wanted: &[Comment]) -> String {
    let found = comments(&formed).unwrap_or_default();
    // From the end, so that the places of those before stay.
    for (found, wanted) in found.iter().zip(wanted).rev().filter(|(found, wanted)| found.is_last && wanted.is_last) {
        formed.insert_str(found.offset, &" ".repeat(wanted.column.saturating_sub(found.column)));
    }
    formed
}

/// What the documents say, as the parser of policies reads them; or everything that is wrong with their YAML.
fn meaning(name: &Arc<str>, text: &[u8]) -> Result<Vec<Tree>, Vec<Problem>> {
    let (mut trees, mut problems) = (Vec::new(), Vec::new());
    for document in document::split(name, text) {
        match parse::written(&document) {
            Ok(tree) => trees.push(tree),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() { Ok(trees) } else { Err(problems) }
}

fn is_same(some: &[Tree], others: &[Tree]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| one.is_same(other))
}

struct Comment {
    text: String,
    offset: usize,
    /// In characters from the beginning of its line.
    column: usize,
    /// Something else stands before it on its line.
    is_last: bool,
}

/// In their order.
fn comments(text: &str) -> Option<Vec<Comment>> {
    let tree = yaml_parser::parse(text).ok()?;
    let tokens = tree.descendants_with_tokens().filter_map(|element| element.into_token());
    let comments = tokens.filter(|token| token.kind() == SyntaxKind::COMMENT).map(|token| {
        let offset = usize::from(token.text_range().start());
        let before = text.get(..offset).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let (column, is_last) = (line.chars().count(), !line.trim().is_empty());
        Comment { text: token.text().trim_end().to_owned(), offset, column, is_last }
    });
    Some(comments.collect())
}

/// What the comments say.
fn said(text: &str) -> Option<Vec<String>> {
    Some(comments(text)?.into_iter().map(|comment| comment.text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &[u8]) -> Result<String, Vec<String>> {
        let told = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
        of(&"p.yaml".into(), text).map_err(told)
    }

    #[test]
    fn a_text_has_one_form_and_keeps_its_comments_where_they_are() {
        let text = "\
# What a tenant may.
kind:   Plan   # of all
name: 'gold'
limits:
-   rate:  100/m      # the first
    # Not yet: burst.
-   {rate: 9/h,  by: [client_ip,path]}


...
---
# The end.
kind: Tenant
name: acme
plan: gold
";
        let expected = "\
# What a tenant may.
kind: Plan     # of all
name: \"gold\"
limits:
  - rate: 100/m       # the first
  # Not yet: burst.
  - { rate: 9/h, by: [client_ip, path] }

...
---
# The end.
kind: Tenant
name: acme
plan: gold
";
        assert_eq!(form(text.as_bytes()).as_deref(), Ok(expected));
        assert_eq!(form(expected.as_bytes()).as_deref(), Ok(expected));
        assert_eq!(form(b"").as_deref(), Ok(""));
        // One would be lost; that is for `check` to say.
        assert_eq!(form(b"a:  1\na: 2").as_deref(), Ok("a: 1\na: 2\n"));
    }

    #[test]
    fn what_is_no_yaml_is_left_alone_and_told_with_its_line_in_the_file() {
        for (text, told) in [
            (&b"kind: Plan\nname: \xff\n"[..], "p.yaml:2:7: holds bytes that are not UTF-8"),
            (b"a: 1\n---\nb: [", "p.yaml:3:4: found [ without its end: expected ], or a text in quotes"),
            (
                b"a: 1\n---\nb: c: d",
                "p.yaml:3:5: found a field inside of a value: expected it on a line of its own, or a text that holds `: ` in \
                 quotes",
            ),
            (
                b"kind: Plan\nname: a\n---\nkind: Plan\nname: b\nlimits:\n  - rate: 1/m\n\tby: [path]\n",
                "p.yaml:8:1: Plan b: is indented with a tab: expected spaces",
            ),
            (b"a: 1\n---\nb: &x 1", "p.yaml:3:7: anchors and aliases are not taken"),
            (
                b"a: 1\n---\nb: !x 1",
                "p.yaml:3:4: has the tag !x: tags are not taken; leave it out, or put a text in quotes",
            ),
        ] {
            assert_eq!(form(text), Err(vec![told.to_owned()]));
        }
        let both = form(b"a: [\n---\nb: 1\n---\nc: {").unwrap_err();
        assert_eq!(both.len(), 2, "{both:?}");
        // It can be read, and not be formatted.
        let doubtful = "p.yaml:1: has no other form in which its comments and what it means are certain to stay";
        assert_eq!(form(b"a: |\n \tx\n"), Err(vec![doubtful.to_owned()]));
    }

    #[test]
    fn a_comment_at_the_end_of_a_line_moves_only_where_the_line_needs_its_place() {
        let formed =
            form(b"kind: Plan # \xc3\xbc\nname: 'a'  # b\nlimits:     # c\n- {rate: 1/m} # d\n- {rate: 2/m} # e\n");
        let expected =
            "kind: Plan # \u{fc}\nname: \"a\"  # b\nlimits:     # c\n  - { rate: 1/m } # d\n  - { rate: 2/m } # e\n";
        assert_eq!(formed.as_deref(), Ok(expected));
    }

    /// Also those that are refused for what they mean.
    #[test]
    fn every_policy_of_this_repository_has_a_form_in_which_nothing_is_lost() {
        let mut formed = 0;
        for (name, text) in files(&["policies", "tests/golden/refused", "tests/golden/compiled"]) {
            if meaning(&name, text.as_bytes()).is_ok() {
                assert!(of(&name, text.as_bytes()).is_ok(), "{name}");
                formed += 1;
            }
        }
        assert!(formed > 15, "{formed}");
    }

    #[test]
    fn what_teaches_the_language_is_written_in_its_form() {
        let whole = files(&["policies"]).into_iter();
        let maps = files(&["examples/kubernetes/policies.yaml"]).into_iter().flat_map(|(name, map)| {
            let map: serde_json::Value = serde_yaml::from_str(&map).unwrap();
            let texts = map["data"].as_object().unwrap().values().map(|text| text.as_str().unwrap().to_owned());
            texts.map(|text| (Arc::clone(&name), text)).collect::<Vec<_>>()
        });
        let pages = ["README.md", "docs/policy-language.md", "docs/operating.md", "docs/security.md", "docs/xds.md"];
        let blocks = files(&pages).into_iter().flat_map(|(name, page)| {
            let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
            blocks.map(|block| (Arc::clone(&name), block.to_owned())).collect::<Vec<_>>()
        });
        let mut seen = 0;
        for (name, text) in whole.chain(maps).chain(blocks) {
            let formed = of(&name, text.as_bytes()).map_err(|problems| problems[0].to_string());
            assert_eq!(formed.as_deref(), Ok(&*text), "{name}");
            seen += 1;
        }
        assert!(seen > 15, "{seen}");
    }

    /// The files of this repository that can be read as UTF-8.
    fn files(paths: &[&str]) -> Vec<(Arc<str>, String)> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let files = paths.iter().flat_map(|path| crate::source::dir::read(&root.join(path)).unwrap().files);
        let read =
            |file: std::path::PathBuf| Some((crate::shown::path(&file).into(), std::fs::read_to_string(file).ok()?));
        files.filter_map(read).collect()
    }

    proptest::proptest! {
        /// Whatever is written: it has a form, or it is left alone; nothing panics.
        #[test]
        fn whatever_is_formatted_means_the_same(text in "([ a-c:{}\\[\\],#'\"\\-|>&*!%\n]|\n  |\n- |: |# |---\n){0,40}") {
            let name = "p.yaml".into();
            if let Ok(formed) = of(&name, text.as_bytes()) {
                let meant = |text: &str| meaning(&name, text.as_bytes()).unwrap();
                proptest::prop_assert!(is_same(&meant(&formed), &meant(&text)));
                proptest::prop_assert_eq!(said(&formed), said(&text));
            }
        }
    }
}
