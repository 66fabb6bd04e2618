//! The paths that a source file names outside of its tests. Comments and texts name nothing; macros are read as any code.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) paths: Vec<NamedPath>,
    /// Modules with a file of their own that only tests have.
    pub(super) test_modules: Vec<ModulePath>,
}

/// `["limiter", "key"]` for `crate::limiter::key`.
pub(super) type ModulePath = Vec<String>;

#[derive(Debug)]
pub(super) struct NamedPath {
    pub(super) line: usize,
    /// From `crate` on where it is in this crate, however the file has it; else as it stands.
    pub(super) path: String,
}

impl NamedPath {
    /// The module of the crate that it leads into; `*` where it takes all of them.
    pub(super) fn module(&self) -> Option<&str> {
        self.path.strip_prefix("crate::")?.split("::").next()
    }

    pub(super) fn is_below(&self, path: &str) -> bool {
        self.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    }
}

pub(super) fn named(text: &str, module: ModulePath) -> Named {
    let mut reader = Reader { module, named: Named::default() };
    reader.read(text.parse().expect("a source file is made of tokens"));
    reader.named
}

struct Reader {
    /// Where the tokens stand.
    module: ModulePath,
    named: Named,
}

impl Reader {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = &tokens[..];
        while let Some(first) = rest.first() {
            rest = match (first, rest) {
                (TokenTree::Punct(_), [_, TokenTree::Group(attribute), item @ ..]) if is_cfg_test(first, attribute) => {
                    self.skip_item(item)
                }
                (TokenTree::Ident(word), [_, TokenTree::Ident(name), TokenTree::Group(body), rest @ ..])
                    if word == "mod" =>
                {
                    self.module.push(name.to_string());
                    self.read(body.stream());
                    self.module.pop();
                    rest
                }
                (TokenTree::Ident(_), _) => self.read_path(&[], rest),
                (TokenTree::Group(group), [_, rest @ ..]) => {
                    self.read(group.stream());
                    rest
                }
                (_, rest) => &rest[1..],
            };
        }
    }

    /// A path, or a tree of them in a `use`. Returns what stands behind it.
    fn read_path<'a>(&mut self, prefix: &[String], tokens: &'a [TokenTree]) -> &'a [TokenTree] {
        let [first, rest @ ..] = tokens else { return tokens };
        let mut rest = rest;
        let mut segments = [prefix, &[first.to_string()]].concat();
        while let [TokenTree::Punct(colon), TokenTree::Punct(other), next, behind @ ..] = rest
            && (colon.as_char(), other.as_char()) == (':', ':')
        {
            match next {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                    self.read_branches(&segments, group);
                    return behind;
                }
                TokenTree::Ident(_) => segments.push(next.to_string()),
                TokenTree::Punct(star) if star.as_char() == '*' => segments.push(next.to_string()),
                _ => break,
            }
            rest = behind;
        }
        if segments.len() > 1 {
            let path = self.absolute(&segments);
            self.named.paths.push(NamedPath { line: first.span().start().line, path });
        }
        rest
    }

    fn read_branches(&mut self, prefix: &[String], group: &Group) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        for branch in tokens.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ',')) {
            self.read_path(prefix, branch);
        }
    }

    fn absolute(&self, segments: &[String]) -> String {
        let ups = segments.iter().take_while(|segment| *segment == "super").count();
        let (above, below) = match segments[0].as_str() {
            "super" => (&self.module[..self.module.len().saturating_sub(ups)], &segments[ups..]),
            "self" => (&self.module[..], &segments[1..]),
            _ => return segments.join("::"),
        };
        let in_crate = above.iter().chain(below).map(String::as_str);
        std::iter::once("crate").chain(in_crate).collect::<Vec<_>>().join("::")
    }

    /// Skips an item that only tests have, and remembers whether that is the file of a module. What begins with none of
    /// an item's words is a field, a variant, an arm of a match or a statement, and may end with a comma.
    fn skip_item<'a>(&mut self, item: &'a [TokenTree]) -> &'a [TokenTree] {
        let is_item = item.first().is_some_and(|first| ITEM_WORDS.contains(&&*first.to_string()));
        let ends = if is_item { ";" } else { ";," };
        let is_end = |token: &TokenTree| match token {
            TokenTree::Punct(punct) => ends.contains(punct.as_char()),
            TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
            _ => false,
        };
        let Some(end) = item.iter().position(is_end) else { return &[] };
        if let [.., TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Punct(_)] = &item[..=end]
            && word == "mod"
        {
            self.named.test_modules.push([&self.module[..], &[name.to_string()]].concat());
        }
        &item[end + 1..]
    }
}

/// What an item begins with, and nothing else does.
const ITEM_WORDS: [&str; 15] = [
    "async", "const", "enum", "extern", "fn", "impl", "let", "mod", "pub", "static", "struct", "trait", "type",
    "unsafe", "use",
];

/// As in `#[cfg(test)]`.
fn is_cfg_test(hash: &TokenTree, attribute: &Group) -> bool {
    hash.to_string() == "#" && attribute.stream().to_string().replace(' ', "") == "cfg(test)"
}
