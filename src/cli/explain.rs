//! `tierflow explain`

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use super::Failure;
use super::output::{self, Format, Streams};
use crate::compile::RateLimitService;
use crate::explain::{Answer, Explanation, Request, explain};

/// Say which API a request belongs to, and which limits it meets in which counters. Nothing is counted.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A file or folder of policies.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[arg(long, default_value = "GET")]
    method: String,
    /// Path and query as they are sent, or a whole URL as a proxy is asked for.
    #[arg(long = "path", value_name = "/PATH")]
    request_path: String,
    /// With its port, if it has one. Default: any host, where only APIs without `hosts` match.
    #[arg(long, default_value = "")]
    host: String,
    /// A request header; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_header)]
    header: Vec<(String, String)>,
    /// The client's address as the gateway finds it, but for one in a header that the gateway reads it from.
    #[arg(long, default_value = "127.0.0.1")]
    client_ip: IpAddr,
    /// Only this gateway. Default: all.
    #[arg(long, value_name = "NAME")]
    gateway: Option<String>,
    #[arg(short, long, value_enum, default_value = "table")]
    output: OutputFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OutputFormat {
    Table,
    Json,
    Yaml,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, as in x-tenant-id=acme")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let generation = output::load(&args.path, RateLimitService::default(), streams)?;
    let (hosts, headers): (Vec<_>, Vec<_>) = args.header.iter().cloned().partition(|(name, _)| name == "host");
    let host = hosts.into_iter().map(|(_, host)| host).next();
    let request = Request {
        method: args.method.clone(),
        path: args.request_path.clone(),
        host: host.unwrap_or_else(|| args.host.clone()),
        headers,
        client_ip: args.client_ip,
    };
    let gateways = generation.policies.gateways.sorted().into_iter().map(|(_, gateway)| gateway);
    let chosen = gateways.filter(|gateway| args.gateway.as_ref().is_none_or(|name| gateway.name.as_str() == name));
    let explanations: Vec<Explanation> =
        chosen.map(|gateway| explain(&generation.policies, &generation.matcher, gateway, &request)).collect();
    if explanations.is_empty() {
        return Err("there is no such Gateway".to_owned());
    }
    let value = || serde_json::to_value(&explanations).unwrap_or(Value::Null);
    match args.output {
        OutputFormat::Json => streams.print_value(&value(), Format::Json),
        OutputFormat::Yaml => streams.print_value(&value(), Format::Yaml),
        OutputFormat::Table => streams.print(&explanations.iter().map(table).collect::<Vec<_>>().join("\n")),
    }
}

fn table(explanation: &Explanation) -> String {
    let mut lines = vec![format!("gateway  {}", explanation.gateway)];
    if let Some(Answer { status, reason, location }) = &explanation.answer {
        let location = location.as_ref().map(|location| format!(" to {location}")).unwrap_or_default();
        lines.push(format!("answer   {status}{location}: {reason}"));
        return lines.join("\n") + "\n";
    }
    lines.extend(explanation.path.as_ref().map(|path| format!("path     {path}")));
    match (&explanation.api, &explanation.service) {
        (Some(api), Some(service)) => lines.push(format!("api      {api} -> service {service}")),
        _ => lines.push("api      none: 404".to_owned()),
    }
    if explanation.preflight {
        lines.push("answer   by Envoy, to a preflight: nothing is counted".to_owned());
        return lines.join("\n") + "\n";
    }
    lines.extend(explanation.tenant.as_ref().map(|tenant| format!("tenant   {tenant}")));
    lines.extend(explanation.denied.map(|reason| format!("denied   {reason}")));
    if explanation.api.is_some() && explanation.denied.is_none() {
        lines.extend(limit_rows(explanation));
    }
    lines.join("\n") + "\n"
}

fn limit_rows(explanation: &Explanation) -> Vec<String> {
    if explanation.limits.is_empty() {
        return vec!["limits   none".to_owned()];
    }
    let header = ["TIER", "LIMIT", "RATE", "COUNTED BY", "ALGORITHM", "MODE", "COST"].map(str::to_owned);
    let row = |limit: &crate::explain::ExplainedLimit| {
        let by = if limit.by.is_empty() { "-".to_owned() } else { limit.by.join(" ") };
        let mode = if limit.exact { format!("{}, exact", limit.mode) } else { limit.mode.to_owned() };
        let texts = [limit.tier, &limit.name, &limit.rate, &by, limit.algorithm, &mode];
        let [tier, name, rate, by, algorithm, mode] = texts.map(str::to_owned);
        [tier, name, rate, by, algorithm, mode, limit.cost.to_string()]
    };
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(explanation.limits.iter().map(row)).collect();
    output::aligned(&rows).into_iter().map(|row| format!("limits   {row}")).collect()
}
