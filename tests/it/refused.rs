//! What is refused, and how people are told: each file in `tests/golden/refused` is a set of documents with
//! mistakes, and the text beside it is everything that is said about them.

use std::path::Path;

use annotate_snippets::Renderer;
use tierflow::compile::RateLimitService;
use tierflow::document::{self, Documents};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Generation, Settings};
use tierflow::names::Revision;
use tierflow::policy::problem::Problem;

use crate::golden::assert_golden;

fn problems_of(name: &str, bytes: &[u8]) -> Vec<Problem> {
    let documents = Documents::new(Revision::default(), document::split(&name.into(), bytes));
    let rate_limit_service = RateLimitService::default();
    let settings = Settings { rate_limit_service, counter_keys: KeyHasher::seeded([0; 16]), allow_empty: false };
    Generation::build(&documents, &settings).err().unwrap_or_default()
}

/// People write YAML, whatever it becomes.
const WORDS_OF_RUST: [&str; 10] =
    ["struct", "variant", "enum", "newtype", "u32", "u64", "i64", "usize", "RawEmpty", "deserialize"];

#[test]
fn every_mistake_is_told_with_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/refused");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() > 5);
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let problems = problems_of(name, &std::fs::read(&file).unwrap());
        assert!(!problems.is_empty(), "{name} has no problem");
        for problem in &problems {
            let told = problem.to_string();
            let of_rust =
                WORDS_OF_RUST.iter().find(|word| told.split(|c: char| !c.is_alphanumeric()).any(|w| w == **word));
            assert_eq!(of_rust, None, "{told}");
        }
        let rendered: Vec<_> = problems.iter().map(|problem| problem.render(&Renderer::plain())).collect();
        assert_golden(&file.with_extension("txt"), &(rendered.join("\n\n") + "\n"));
    }
}

/// Documents as large as one may be, each of which makes a mistake with all that it holds.
fn large_mistakes() -> Vec<String> {
    let long = "n".repeat(250_000);
    let many = |one: &dyn Fn(usize) -> String| (0..8000).map(one).collect::<Vec<_>>().join(", ");
    let nested = format!("{}x: 1{}", format!("{}: {{", "k".repeat(9000)).repeat(25), "}".repeat(25));
    vec![
        format!("{{kind: Tenant, name: {long}, plan: a}}"),
        format!("{{kind: Tenant, name: a, plan: {long}}}"),
        format!("{{kind: {long}, name: a}}"),
        format!("{{kind: Tenant, name: a, plan: a, {long}: 1}}"),
        format!("{{kind: Tenant, name: a, plan: a, {}: }}", "!".repeat(250_000)),
        format!("{{kind: Tenant, name: a, plan: [{long}]}}"),
        format!("{{kind: Plan, name: a, limits: [{{rate: {long}}}]}}"),
        format!("{{kind: Plan, name: a, limits: [{{rate: 1/m, mode: {long}}}]}}"),
        format!("{{kind: Plan, name: a, limits: [{}]}}", many(&|n| format!("{{rate: often{n}}}"))),
        format!("{{kind: Plan, name: a, {}}}", many(&|n| format!("key-{n}: "))),
        format!("{{kind: Plan, name: a, limits: [{{rate: 1/m}}], {}}}", many(&|n| format!("key-{n}: 1"))),
        format!("{{kind: Plan, name: a, {nested}}}"),
        format!("{{kind: Plan, name: a, limits: &{long} [{{rate: 1/m}}]}}"),
        format!("{{kind: Plan, name: {long}, limits: !{long} 1}}"),
        format!("kind: Tenant\nname: {long}\nplan: [\n"),
    ]
}

/// What is told is kept in memory, logged and shown, over and over.
#[test]
fn what_is_told_of_a_document_has_a_bound_whatever_stands_in_it() {
    for text in large_mistakes() {
        let problems = problems_of("p.yaml", text.as_bytes());
        assert!((1..=51).contains(&problems.len()), "{:.60}: {} problems", text, problems.len());
        for problem in problems {
            let (line, rendered) = (problem.to_string(), problem.render(&Renderer::plain()));
            assert!(line.len() < 4 * 512, "{:.60}: {} bytes: {:.2000}", text, line.len(), line);
            assert!(rendered.len() < 6 * 512, "{:.60}: {} bytes: {:.3000}", text, rendered.len(), rendered);
        }
    }
}

/// A file that a program wrote is one line.
#[test]
fn of_a_long_line_the_part_is_shown_that_is_meant() {
    let text = format!("{{kind: Plan, name: a, description: {}, limits: [{{rate: often}}]}}", "x".repeat(3000));
    let problems = problems_of("p.yaml", text.replace("description", "limit").as_bytes());
    let rendered = problems.iter().find(|problem| problem.path == "limits[0].rate").unwrap().render(&Renderer::plain());
    let column = text.replace("description", "limit").find("often").unwrap() + 1;
    assert!(rendered.contains(&format!("--> p.yaml:1:{column}\n")), "{rendered}");
    assert!(rendered.contains("limits: [{rate: often}]}\n"), "{rendered}");
    let [line, mark] = ["rate: often", "^^^^^"].map(|text| {
        let line = rendered.lines().find(|line| line.contains(text)).unwrap();
        line.chars().count() - line.split_once(text).unwrap().1.chars().count()
    });
    assert_eq!(line, mark, "{rendered}");
}
