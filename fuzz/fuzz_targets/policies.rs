//! Whatever a file of policies holds: it is read to its end without a panic, and what passes is compiled.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tierflow::limiter::key::KeyHasher;
use tierflow::compile::RateLimitService;
use tierflow::document::{Documents, split};
use tierflow::live::{Generation, Settings};
use tierflow::names::Revision;

fuzz_target!(|bytes: &[u8]| {
    let documents = Documents::new(Revision::default(), split(&"policies.yaml".into(), bytes));
    let rate_limit_service = RateLimitService::default();
    let settings = Settings { rate_limit_service, counter_keys: KeyHasher::seeded([0; 16]), allow_empty: true };
    if let Err(problems) = Generation::build(&documents, &settings) {
        let renderer = annotate_snippets::Renderer::plain();
        problems.iter().for_each(|problem| drop(problem.render(&renderer)));
    }
});
