//! The one place that writes to the terminal. Colours and marks only where a person looks at them.

use std::io::{IsTerminal, Write};

use annotate_snippets::Renderer;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

pub(crate) struct Screen {
    is_styled: bool,
    acts: u32,
    untrue: u32,
}

impl Screen {
    pub(crate) fn new() -> Self {
        // https://no-color.org: set to anything but the empty text.
        let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { is_styled: std::io::stdout().is_terminal() && !wants_none && !is_dumb, acts: 0, untrue: 0 }
    }

    pub(crate) fn title(&self, text: &str) {
        self.line(&self.style(BOLD, text));
    }

    /// The numbered heading of an act.
    pub(crate) fn act(&mut self, title: &str) {
        self.acts += 1;
        self.line("");
        self.title(&format!("{}. {title}", self.acts));
    }

    pub(crate) fn say(&self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// A line that claims something, with a mark that says whether it holds.
    pub(crate) fn fact(&mut self, holds: bool, text: &str) {
        self.untrue += u32::from(!holds);
        let mark = match (self.is_styled, holds) {
            (true, true) => self.style(GREEN, "✓"),
            (true, false) => self.style(RED, "✗"),
            (false, true) => "ok:".to_owned(),
            (false, false) => "NOT SO:".to_owned(),
        };
        self.line(&format!("  {mark} {text}"));
    }

    /// How many facts did not hold.
    pub(crate) fn untrue(&self) -> u32 {
        self.untrue
    }

    /// Somebody else's words.
    pub(crate) fn quote(&self, text: &str) {
        text.lines().for_each(|line| self.line(&format!("      {}", self.style(DIM, line))));
    }

    /// A refused document, as `tierflow check` would show it.
    pub(crate) fn problem(&self, problem: &tierflow::policy::problem::Problem) {
        let renderer = if self.is_styled { Renderer::styled() } else { Renderer::plain() };
        problem.render(&renderer).lines().for_each(|line| self.line(&format!("      {line}")));
    }

    /// Columns stand below each other, numbers on their right.
    pub(crate) fn table<const N: usize>(&self, heading: &[String; N], rows: &[[String; N]]) {
        let all = || std::iter::once(heading).chain(rows);
        let width = |column: usize| all().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..N).map(width).collect();
        let is_number =
            |column: usize| rows.iter().all(|row| row.get(column).is_some_and(|c| c.parse::<u64>().is_ok()));
        let line = |row: &[String; N]| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match is_number(column) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:width$}"),
            });
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        };
        self.say(&self.style(DIM, &line(heading)));
        rows.iter().for_each(|row| self.say(&line(row)));
    }

    pub(crate) fn blank(&self) {
        self.line("");
    }

    /// Why the demo ends before its time.
    pub(crate) fn complain(&self, error: &str) {
        // There is nowhere to complain about a closed standard error.
        let _ = writeln!(std::io::stderr().lock(), "\nerror: {error}");
    }

    fn line(&self, text: &str) {
        // The shop stays open even if nobody reads any more: `demo | head` is no reason to end it halfway.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    fn style(&self, code: &str, text: &str) -> String {
        if self.is_styled { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
