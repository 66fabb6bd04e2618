//! `tierflow schema`

use schemars::JsonSchema;
use serde_json::json;

use super::Failure;
use super::output::{Format, Streams};
use crate::policy::raw::{RawDocument, RawRateLimits};

/// Print the JSON Schema of the policy language, for editors.
#[derive(clap::Args)]
pub(super) struct Args {
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,
}

/// A document with a kind, or a list of rate limits.
#[derive(JsonSchema)]
#[schemars(title = "Tierflow policy", untagged)]
#[expect(dead_code, reason = "only its JSON Schema is used")]
enum AnyDocument {
    Kind(Box<RawDocument>),
    RateLimits(RawRateLimits),
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let schema = serde_json::to_value(schemars::schema_for!(AnyDocument)).unwrap_or_else(|_| json!({}));
    streams.print_value(&schema, args.output)
}
