//! The one form of a text of policies. A formatter that lost a comment, or changed what a policy means, would be worse than
//! none: what it makes of a text is looked at before anybody is given it.

use std::sync::Arc;

use pretty_yaml::config::{FormatOptions, LanguageOptions, LayoutOptions};
use serde_json::Value;
use yaml_parser::SyntaxKind;

use crate::document::{self, Document};

/// The widest line, in columns; what cannot be broken is wider.
const WIDTH: usize = 120;

pub(super) fn of(text: &[u8]) -> Result<String, String> {
    let text =
        std::str::from_utf8(text).map_err(|error| format!("is not UTF-8 from byte {} on", error.valid_up_to()))?;
    if text.trim().is_empty() {
        return Ok(String::new());
    }
    let meant = meaning(text)?;
    let formed = formed(text)?;
    let is_kept = meaning(&formed).as_ref() == Ok(&meant) && comments(&formed) == comments(text);
    // Whoever formats it again changes nothing.
    let is_settled = self::formed(&formed).as_ref() == Ok(&formed);
    match is_kept && is_settled {
        true => Ok(formed),
        false => Err("has no other form in which its comments and what it means are certain to stay".to_owned()),
    }
}

fn formed(text: &str) -> Result<String, String> {
    let options = FormatOptions {
        layout: LayoutOptions { print_width: WIDTH, indent_width: 2, ..LayoutOptions::default() },
        language: LanguageOptions { trailing_comma: false, ..LanguageOptions::default() },
    };
    pretty_yaml::format_text(text, &options).map_err(|error| error.to_string())
}

/// What the documents say, as the parser of policies reads them.
fn meaning(text: &str) -> Result<Vec<Value>, String> {
    let value = |document: Document| {
        let content = document.content.map_err(|why: Arc<str>| why.to_string())?;
        serde_yaml::from_slice(&content).map_err(|error| error.to_string())
    };
    document::split(&"text".into(), text.as_bytes()).into_iter().map(value).collect()
}

/// In their order.
fn comments(text: &str) -> Option<Vec<String>> {
    let tree = yaml_parser::parse(text).ok()?;
    let tokens = tree.descendants_with_tokens().filter_map(|element| element.into_token());
    let comments = tokens.filter(|token| token.kind() == SyntaxKind::COMMENT);
    Some(comments.map(|comment| comment.text().trim_end().to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
kind: Plan # of all
name: \"gold\"
limits:
  - rate: 100/m # the first
  # Not yet: burst.
  - { rate: 9/h, by: [client_ip, path] }

...
---
# The end.
kind: Tenant
name: acme
plan: gold
";
        assert_eq!(of(text.as_bytes()).as_deref(), Ok(expected));
        assert_eq!(of(expected.as_bytes()).as_deref(), Ok(expected));
        assert_eq!(of(b"").as_deref(), Ok(""));
    }

    #[test]
    fn what_is_no_yaml_is_left_alone() {
        assert_eq!(of(b"kind: Plan\nname: \xff\n").unwrap_err(), "is not UTF-8 from byte 17 on");
        for bad in ["a: [", "a: b: c", "a: 1\na: 2\n", "{a: }}"] {
            assert!(of(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    /// All policies that there are here, also those that are refused for what they mean.
    #[test]
    fn every_policy_of_this_repository_has_a_form_in_which_nothing_is_lost() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut formed = 0;
        for folder in ["policies", "tests/golden/refused", "tests/golden/compile"] {
            let Ok(reading) = crate::source::dir::read(&root.join(folder)) else { continue };
            for file in reading.files {
                let text = std::fs::read(&file).unwrap();
                if meaning(&String::from_utf8_lossy(&text)).is_ok() && std::str::from_utf8(&text).is_ok() {
                    assert!(of(&text).is_ok(), "{}", crate::shown::path(&file));
                    formed += 1;
                }
            }
        }
        assert!(formed > 5, "{formed}");
    }

    proptest::proptest! {
        /// Whatever is written: it has a form, or it is left alone; nothing panics.
        #[test]
        fn whatever_is_formatted_means_the_same(text in "([ a-c:{}\\[\\],#'\"\\-|>&*!%\n]|\n  |\n- |: |# |---\n){0,40}") {
            if let Ok(formed) = of(text.as_bytes()) {
                proptest::prop_assert_eq!(meaning(&formed), meaning(&text));
                proptest::prop_assert_eq!(comments(&formed), comments(&text));
            }
        }
    }
}
