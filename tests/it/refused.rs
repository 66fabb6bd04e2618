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
