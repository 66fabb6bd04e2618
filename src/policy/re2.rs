//! Envoy compiles regular expressions with RE2, whose language is a part of that of the `regex` crate. What it
//! lacks is refused here: an Envoy would refuse all routes of the gateway along with it.
//! (RE2, "Syntax", <https://github.com/google/re2/wiki/Syntax>.)

use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassSet, ClassSetItem, ClassUnicodeKind, Flag, Flags, FlagsItemKind, GroupKind,
    HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange,
};

/// How often RE2 repeats anything, nested repetitions multiplied.
const REPEAT_MAX: u32 = 1000;

/// What is wrong with the expression, for RE2 or for anybody.
pub(super) fn check(regex: &str) -> Result<(), String> {
    let ast = Parser::new().parse(regex);
    let ast = ast.map_err(|error| error.to_string().lines().last().unwrap_or_default().to_owned())?;
    check_ast(&ast, REPEAT_MAX).map_err(|unknown| format!("RE2 does not know {unknown}"))
}

/// Recursion is bounded by the parser's own limit of nesting.
fn check_ast(ast: &Ast, repeats: u32) -> Result<(), &'static str> {
    match ast {
        Ast::Empty(_) | Ast::Dot(_) | Ast::ClassPerl(_) => Ok(()),
        Ast::Flags(flags) => check_flags(&flags.flags),
        Ast::Literal(literal) => check_literal(literal),
        Ast::Assertion(assertion) => check_assertion(&assertion.kind),
        Ast::ClassUnicode(class) => check_unicode(&class.kind),
        Ast::ClassBracketed(class) => check_class(&class.kind),
        Ast::Repetition(repetition) => {
            if matches!(*repetition.ast, Ast::Repetition(_)) {
                return Err("a repetition of a repetition");
            }
            check_ast(&repetition.ast, repeats_left(&repetition.op.kind, repeats)?)
        }
        Ast::Group(group) => check_group(&group.kind).and_then(|()| check_ast(&group.ast, repeats)),
        Ast::Alternation(all) => all.asts.iter().try_for_each(|ast| check_ast(ast, repeats)),
        Ast::Concat(all) => all.asts.iter().try_for_each(|ast| check_ast(ast, repeats)),
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
            Err(r"\u and \U; it has \x{...}")
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

/// Of the names, scripts apart, RE2 knows the short ones of general categories.
fn check_unicode(kind: &ClassUnicodeKind) -> Result<(), &'static str> {
    match kind {
        ClassUnicodeKind::OneLetter(_) => Ok(()),
        ClassUnicodeKind::Named(name) if name.len() <= 2 => Ok(()),
        _ => Err(r"classes of characters by a long name; use those like \pL and \p{Lu}"),
    }
}

fn check_class(set: &ClassSet) -> Result<(), &'static str> {
    match set {
        ClassSet::Item(item) => check_class_item(item),
        ClassSet::BinaryOp(_) => Err("&&, -- and ~~ in brackets"),
    }
}

fn check_class_item(item: &ClassSetItem) -> Result<(), &'static str> {
    match item {
        ClassSetItem::Empty(_) | ClassSetItem::Ascii(_) | ClassSetItem::Perl(_) => Ok(()),
        ClassSetItem::Literal(literal) => check_literal(literal),
        ClassSetItem::Range(range) => check_literal(&range.start).and_then(|()| check_literal(&range.end)),
        ClassSetItem::Unicode(class) => check_unicode(&class.kind),
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
            r"\pL\p{Lu}[\d\s\pN]",
            r"\x41\x{1F600}\b\.\/",
            "a{1000}",
            "(?:a{10}){100}",
            "a*?",
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
            ("[a&&b]", "brackets"),
            ("[[a]b]", "brackets"),
            (r"\b{start}a", "boundaries"),
            (r"\<a", "boundaries"),
            (r"\p{Alphabetic}", "long name"),
            (r"\_", "escape"),
            ("(?<a.b>c)", "names"),
        ] {
            assert!(check(regex).is_err_and(|error| error.contains(unknown)), "{regex}");
        }
    }

    #[test]
    fn an_expression_has_to_be_whole_by_itself() {
        assert_eq!(check("a)|(b"), Err("error: unopened group".to_owned()));
    }
}
