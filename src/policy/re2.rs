//! Envoy compiles regular expressions with RE2, whose language is a part of that of the `regex` crate. What it
//! lacks is refused here: an Envoy would refuse all routes of the gateway along with it.
//! (RE2, "Syntax", <https://github.com/google/re2/wiki/Syntax>.)
//!
//! What is not ASCII is refused as well, because Envoys disagree about it: 1.40 compiles expressions as Latin-1, where
//! each byte of a value is a character and `\x{100}` is an error; 1.36 and 1.38 compile them as UTF-8.

use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassBracketed, ClassSet, ClassSetItem, Flag, Flags, FlagsItemKind, GroupKind, HexLiteralKind,
    Literal, LiteralKind, RepetitionKind, RepetitionRange, Span,
};

/// RE2's bound of repetitions, nested ones multiplied.
const REPEAT_MAX: u32 = 1000;

const UNICODE_CLASSES: &str = r"\p, which is about more than ASCII; use classes like [A-Za-z] and [[:punct:]]";

/// Says what is wrong with the expression, for RE2 or for anybody.
pub(super) fn check(regex: &str) -> Result<(), String> {
    if let Some(character) = regex.chars().find(|character| !character.is_ascii()) {
        return Err(format!(
            "it holds {character:?}, which is one character to some Envoys and {} to others; in a path write its \
             bytes as %XX, in a value use exact, prefix, suffix or contains",
            character.len_utf8()
        ));
    }
    let ast = Parser::new().parse(regex);
    let ast = ast.map_err(|error| last_line(&error.to_string()))?;
    Checker { regex }.check(&ast, REPEAT_MAX).map_err(|unknown| format!("not every Envoy's RE2 takes {unknown}"))
}

/// The last line of the parser's picture of an error says what it is.
pub(super) fn last_line(error: &str) -> String {
    let line = error.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

struct Checker<'a> {
    regex: &'a str,
}

impl Checker<'_> {
    /// Recursion is bounded by the parser's own limit of nesting.
    fn check(&self, ast: &Ast, repeats: u32) -> Result<(), &'static str> {
        match ast {
            Ast::Empty(_) | Ast::Dot(_) | Ast::ClassPerl(_) => Ok(()),
            Ast::Flags(flags) => check_flags(&flags.flags),
            Ast::Literal(literal) => check_literal(literal),
            Ast::Assertion(assertion) => check_assertion(&assertion.kind),
            Ast::ClassUnicode(_) => Err(UNICODE_CLASSES),
            Ast::ClassBracketed(class) => self.check_class(class),
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err("a repetition of a repetition");
                }
                // RE2 takes them for characters.
                if self.written(&repetition.op.span).contains(|c: char| c.is_ascii_whitespace()) {
                    return Err("blanks in a repetition");
                }
                self.check(&repetition.ast, repeats_left(&repetition.op.kind, repeats)?)
            }
            Ast::Group(group) => check_group(&group.kind).and_then(|()| self.check(&group.ast, repeats)),
            Ast::Alternation(all) => all.asts.iter().try_for_each(|ast| self.check(ast, repeats)),
            Ast::Concat(all) => all.asts.iter().try_for_each(|ast| self.check(ast, repeats)),
        }
    }

    fn check_class(&self, class: &ClassBracketed) -> Result<(), &'static str> {
        // RE2 takes the second dash for one of a range.
        let inside = self.written(&class.span).trim_start_matches(['[', '^']);
        match &class.kind {
            ClassSet::Item(item) if !inside.starts_with("--") => check_class_item(item),
            _ => Err("&&, -- and ~~ in brackets"),
        }
    }

    fn written(&self, span: &Span) -> &str {
        self.regex.get(span.start.offset..span.end.offset).unwrap_or_default()
    }
}

fn repeats_left(kind: &RepetitionKind, repeats: u32) -> Result<u32, &'static str> {
    let RepetitionKind::Range(range) = kind else { return Ok(repeats) };
    let (RepetitionRange::Exactly(most) | RepetitionRange::AtLeast(most) | RepetitionRange::Bounded(_, most)) = range;
    match repeats / most.max(&1) {
        0 => Err("more than 1000 repetitions"),
        left => Ok(left),
    }
}

fn check_group(kind: &GroupKind) -> Result<(), &'static str> {
    match kind {
        GroupKind::CaptureIndex(_) => Ok(()),
        GroupKind::CaptureName { name, .. } => {
            let is_word = name.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            is_word.then_some(()).ok_or("names of groups with other characters than letters, digits and _")
        }
        GroupKind::NonCapturing(flags) => check_flags(flags),
    }
}

fn check_flags(flags: &Flags) -> Result<(), &'static str> {
    let is_unknown =
        |kind: &FlagsItemKind| matches!(kind, FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace));
    match flags.items.iter().any(|item| is_unknown(&item.kind)) {
        true => Err("other flags than i, m, s and U"),
        false => Ok(()),
    }
}

fn check_literal(literal: &Literal) -> Result<(), &'static str> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            Err(r"\u and \U; write \x{...}")
        }
        LiteralKind::HexFixed(HexLiteralKind::X) | LiteralKind::HexBrace(HexLiteralKind::X)
            if !literal.c.is_ascii() =>
        {
            Err(r"characters above \x7F")
        }
        LiteralKind::Superfluous if literal.c == '_' => Err(r"the escape \_"),
        _ => Ok(()),
    }
}

fn check_assertion(kind: &AssertionKind) -> Result<(), &'static str> {
    use AssertionKind::{EndLine, EndText, NotWordBoundary, StartLine, StartText, WordBoundary};
    match kind {
        StartLine | EndLine | StartText | EndText | WordBoundary | NotWordBoundary => Ok(()),
        _ => Err(r"other word boundaries than \b and \B"),
    }
}

fn check_class_item(item: &ClassSetItem) -> Result<(), &'static str> {
    match item {
        ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => Ok(()),
        ClassSetItem::Literal(literal) => check_literal(literal),
        ClassSetItem::Range(range) => check_literal(&range.start).and_then(|()| check_literal(&range.end)),
        ClassSetItem::Unicode(_) => Err(UNICODE_CLASSES),
        ClassSetItem::Bracketed(_) => Err("brackets in brackets"),
        ClassSetItem::Union(union) => union.items.iter().try_for_each(check_class_item),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_knows_passes() {
        for regex in [
            "/order/[0-9]+",
            "(?i)a|b",
            "(?is-m:a.b)",
            "(?P<id>[[:alpha:]_-]+)",
            r"[\d\s[:punct:]]",
            r"\x41\x{7F}\b\.\/",
            "a{1000}",
            "(?:a{10}){100}",
            "a*?",
            "[a-]{2}[-a] {1,}",
            "[^/]+",
        ] {
            assert_eq!(check(regex), Ok(()), "{regex}");
        }
    }

    #[test]
    fn what_re2_does_not_know_is_refused() {
        for (regex, unknown) in [
            ("a{1001}", "repetitions"),
            ("(?:a{11}){100}", "repetitions"),
            ("a**", "repetition of"),
            ("(?x)a b", "flags"),
            ("(?-u:a)", "flags"),
            (r"\u0041", r"\u"),
            (r"[a-\u{62}]", r"\u"),
            ("[a-z--b]", "brackets"),
            ("[--a]", "brackets"),
            ("[^--a]", "brackets"),
            ("a{ 2}", "blanks"),
            ("[ab]{2, 3}", "blanks"),
            ("[a&&b]", "brackets"),
            ("[[a]b]", "brackets"),
            (r"\b{start}a", "boundaries"),
            (r"\<a", "boundaries"),
            (r"\p{Alphabetic}", "\\p"),
            (r"[a\pL]", "\\p"),
            (r"\x{263A}", "above"),
            (r"[a-\xe9]", "above"),
            ("caf\u{e9}", "one character to some Envoys and 2 to others"),
            (r"\_", "escape"),
            ("(?<a.b>c)", "names"),
        ] {
            assert!(check(regex).is_err_and(|error| error.contains(unknown)), "{regex}: {:?}", check(regex));
        }
    }

    #[test]
    fn an_expression_has_to_be_whole_by_itself() {
        assert_eq!(check("a)|(b"), Err("unopened group".to_owned()));
    }
}
