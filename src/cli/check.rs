//! `tierflow check`

use std::path::PathBuf;

use super::Failure;
use super::output::{self, Streams};
use crate::compile::RateLimitService;

/// Validate documents exactly as `serve` would, and print every problem.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files and folders; together they are one set.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let documents = output::read_documents(&args.paths, streams)?;
    if documents.documents.is_empty() {
        return Err("there is no document in the .yaml, .yml and .json files of these paths".to_owned());
    }
    let policies = output::build(&documents, RateLimitService::default(), streams)?.policies;
    let count = |count: usize, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let counts = [
        count(policies.gateways.len(), "gateway", "gateways"),
        count(policies.services.len(), "service", "services"),
        count(policies.apis.len(), "API", "APIs"),
        count(policies.plans.len(), "plan", "plans"),
        count(policies.tenants.len(), "tenant", "tenants"),
        count(policies.rate_limits.len(), "list of rate limits", "lists of rate limits"),
    ];
    streams.print(&format!("ok: {}\n", counts.join(", ")))
}
