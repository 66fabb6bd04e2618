//! `tierflow check`

mod report;

use std::path::PathBuf;

use serde_json::Value;

use super::Failure;
use super::checked::{Check, Typed};
use super::output::{self, Format, Streams};
use crate::compile::RateLimitService;
use crate::live::Generation;

/// Validate documents exactly as `serve` would, and print every problem.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files and folders; together they are one set. `-` is standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The form in which problems are told.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people, on standard error.
    Text,
    /// A list of problems.
    Json,
    /// Annotations of GitHub's workflows.
    Github,
    /// SARIF 2.1.0, which code scanners speak.
    Sarif,
}

impl Check for Args {
    fn check(&mut self, _: &Typed) -> Result<(), String> {
        output::read_once(&self.paths)
    }
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let documents = output::read_documents(&args.paths, streams)?;
    if documents.documents.is_empty() {
        return Err("there is no document in the .yaml, .yml and .json files of these paths".to_owned());
    }
    let built = output::try_build(&documents, RateLimitService::default());
    let problems = built.as_ref().err().map(Vec::as_slice).unwrap_or_default();
    match args.output {
        Output::Text => streams.tell(problems),
        Output::Json => {
            let problems: Vec<Value> = problems.iter().map(report::json).collect();
            streams.print_value(&problems.into(), Format::Json)?;
        }
        Output::Github => streams.print(&problems.iter().map(report::github).collect::<String>())?,
        Output::Sarif => streams.print_value(&report::sarif(problems), Format::Json)?,
    }
    let generation = built.map_err(|problems| output::summary(&problems))?;
    match args.output {
        Output::Text | Output::Github => streams.print(&format!("ok: {}\n", contents(&generation))),
        Output::Json | Output::Sarif => Ok(()),
    }
}

fn contents(generation: &Generation) -> String {
    let policies = &generation.policies;
    let count = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let counts = [
        count(policies.gateways.len(), "gateway", "gateways"),
        count(policies.services.len(), "service", "services"),
        count(policies.apis.len(), "API", "APIs"),
        count(policies.plans.len(), "plan", "plans"),
        count(policies.tenants.len(), "tenant", "tenants"),
        count(policies.rate_limits.len(), "list of rate limits", "lists of rate limits"),
    ];
    counts.join(", ")
}
