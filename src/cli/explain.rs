//! `tierflow explain`

mod live;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::checked::{Check, Checked, Typed};
use super::get::Output;
use super::output::{self, Format, Streams};
use super::server::{Question, ServerArgs};
use super::usage::more_in;
use super::{Failure, complete};
use crate::compile::RateLimitService;
use crate::explain::{Explanation, Request, check_header, explain_with_others};
use crate::shown;

/// Say which API a request belongs to, and which limits it meets in which counters. Nothing is counted.
#[derive(clap::Args)]
pub(super) struct Args {
    /// A file or folder of policies. Without it a running server is asked, which also says what its counters have left; with
    /// it and --server both: what the server's counters have left of these policies' limits.
    #[arg(value_name = "PATH")]
    policies: Option<PathBuf>,
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
    #[arg(long, default_value = "127.0.0.1", value_parser = parse_address)]
    client_ip: IpAddr,
    /// Only this gateway. Default: all.
    #[arg(long, value_name = "NAME", add = complete::gateways())]
    gateway: Option<String>,
    #[command(flatten)]
    server: Checked<ServerArgs>,
    /// Somebody typed which one.
    #[arg(skip)]
    is_server_named: bool,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// An explanation as the table has it, of a server or of policies alone.
#[derive(Deserialize)]
struct Told {
    gateway: String,
    #[serde(default)]
    identities: Vec<String>,
    answer: Option<ToldAnswer>,
    path: Option<String>,
    api: Option<String>,
    service: Option<String>,
    preflight: bool,
    tenant: Option<String>,
    denied: Option<String>,
    /// Of a server: the limits that have no room.
    denied_by: Option<Vec<String>>,
    /// The limits that it has not, or has otherwise.
    #[serde(default)]
    not_served: Vec<String>,
    limits: Vec<ToldLimit>,
    passed_over: Vec<ToldOther>,
}

#[derive(Deserialize)]
struct ToldOther {
    what: String,
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct ToldAnswer {
    status: u16,
    reason: String,
    location: Option<String>,
}

#[derive(Deserialize)]
struct ToldLimit {
    tier: String,
    name: String,
    rate: String,
    by: Vec<String>,
    algorithm: String,
    mode: String,
    cost: u32,
    exact: bool,
    #[serde(flatten)]
    live: Option<Live>,
}

/// What a server's counter says.
#[derive(Deserialize)]
struct Live {
    used: u32,
    remaining: u32,
    frees_after_seconds: f64,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, as in x-tenant-id=acme")?;
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned());
    check_header(&name, &value)?;
    Ok((name, value))
}

fn parse_address(text: &str) -> Result<IpAddr, &'static str> {
    text.parse().map_err(|_| "expected an IP address, as in 10.0.0.7 or 2001:db8::7")
}

impl Check for Args {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        self.is_server_named = typed.first_in::<ServerArgs>().is_some();
        let hosts = self.header.iter().filter(|(name, _)| name == "host").count();
        match hosts + usize::from(typed.first_of(&["host"]).is_some()) {
            0 | 1 => Ok(()),
            _ => Err("a request has one host: expected --host or one --header host=..., and not several".to_owned()),
        }
    }
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let explanations = match &args.policies {
        Some(policies) => {
            let mut explanations = of_policies(args, policies, streams)?;
            if args.asks_a_server() {
                // A gateway that it does not have is none of its mistakes.
                live::add(&mut explanations, &of_server(args, None)?);
            }
            explanations
        }
        None => of_server(args, args.gateway.as_deref())?,
    };
    if explanations.as_array().is_none_or(Vec::is_empty) {
        let named = args.gateway.as_ref().map(|name| format!("no Gateway is called {name:?}"));
        return Err(named.unwrap_or_else(|| "there is no Gateway".to_owned()));
    }
    match args.output {
        Output::Json => streams.print_value(&explanations, Format::Json),
        Output::Yaml => streams.print_value(&explanations, Format::Yaml),
        Output::Table => {
            let told: Vec<Told> = serde_json::from_value(explanations).map_err(|error| error.to_string())?;
            streams.print(&told.iter().map(table).collect::<Vec<_>>().join("\n"))
        }
    }
}

impl Args {
    pub(super) fn asks_a_server(&self) -> bool {
        self.policies.is_none() || self.is_server_named
    }

    /// As a client would send it.
    fn request(&self) -> Request {
        let (hosts, headers): (Vec<_>, Vec<_>) = self.header.iter().cloned().partition(|(name, _)| name == "host");
        let host = hosts.into_iter().map(|(_, host)| host).next();
        Request {
            method: self.method.clone(),
            path: self.request_path.clone(),
            host: host.unwrap_or_else(|| self.host.clone()),
            headers,
            client_ip: self.client_ip,
        }
    }
}

fn of_policies(args: &Args, policies: &Path, streams: &mut Streams<'_>) -> Result<Value, Failure> {
    let generation = output::load(policies, RateLimitService::default(), streams)?;
    let request = args.request();
    let gateways = generation.policies.gateways.sorted().into_iter().map(|(_, gateway)| gateway);
    let chosen = gateways.filter(|gateway| args.gateway.as_ref().is_none_or(|name| gateway.name.as_str() == name));
    let explanations: Vec<Explanation> = chosen
        .map(|gateway| explain_with_others(&generation.policies, &generation.matcher, gateway, &request))
        .collect();
    if explanations.is_empty() {
        return Err("there is no such Gateway".to_owned());
    }
    serde_json::to_value(&explanations).map_err(|error| error.to_string())
}

fn of_server(args: &Args, gateway: Option<&str>) -> Result<Value, Failure> {
    let Request { method, path, host, headers, client_ip } = args.request();
    let headers: Vec<_> = headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
    let asked = json!({
        "gateway": gateway, "method": method, "path": path, "host": host, "headers": headers, "client_ip": client_ip,
    });
    let question = Question {
        method: "POST",
        headers: vec![("content-type", "application/json")],
        body: asked.to_string().into_bytes(),
        ..Question::get("/v1/explain")
    };
    let mut answer = args.server.ask(question)?;
    Ok(answer.get_mut("explanations").map(Value::take).unwrap_or_default())
}

/// Each line on one line, whatever names and values are in it.
fn table(told: &Told) -> String {
    lines(told).iter().map(|line| shown::text(line).into_owned() + "\n").collect()
}

fn lines(told: &Told) -> Vec<String> {
    let mut lines = vec![format!("gateway  {}", told.gateway)];
    if !told.identities.is_empty() {
        lines.push(format!("envoys   with a certificate of {}", told.identities.join(" or ")));
    }
    if let Some(ToldAnswer { status, reason, location }) = &told.answer {
        let location = location.as_ref().map(|location| format!(" to {location}")).unwrap_or_default();
        lines.push(format!("answer   {status}{location}: {reason}"));
        return lines;
    }
    lines.extend(told.path.as_ref().map(|path| format!("path     {path}")));
    match (&told.api, &told.service) {
        (Some(api), Some(service)) => lines.push(format!("api      {api} -> service {service}")),
        _ => lines.push("api      none: 404".to_owned()),
    }
    if told.preflight {
        lines.push("answer   by Envoy, to a preflight: nothing is counted".to_owned());
        return lines;
    }
    lines.extend(told.tenant.as_ref().map(|tenant| format!("tenant   {tenant}")));
    lines.extend(told.denied.as_ref().map(|reason| format!("denied   {reason}")));
    if told.api.is_some() && told.denied.is_none() {
        lines.extend(limit_rows(told));
        lines.extend(told.denied_by.as_ref().map(|denied_by| {
            match (denied_by.as_slice(), told.not_served.as_slice()) {
                ([], []) => "now      such a request would be admitted".to_owned(),
                ([], unknown) => {
                    format!("now      not known: the server does not have {} as it is here", unknown.join(" and "))
                }
                (limits, _) => format!("now      such a request would be denied by {}", limits.join(" and ")),
            }
        }));
    }
    let other = |other: &ToldOther| format!("not      {} {}: {}", other.what, other.name, other.reason);
    lines.extend(told.passed_over.iter().map(other));
    lines
}

fn limit_rows(told: &Told) -> Vec<String> {
    if told.limits.is_empty() {
        return vec!["limits   none".to_owned()];
    }
    let header = ["TIER", "LIMIT", "RATE", "COUNTED BY", "ALGORITHM", "MODE", "COST", "USED", "LEFT", "MORE IN"];
    let rows = std::iter::once(header.map(str::to_owned)).chain(told.limits.iter().map(row));
    // Policies alone know nothing of the last three.
    let is_live = told.limits.iter().any(|limit| limit.live.is_some());
    let shown = if is_live { header.len() } else { header.len() - 3 };
    let rows: Vec<[String; 10]> = rows
        .map(|mut row| {
            row.iter_mut().skip(shown).for_each(String::clear);
            row
        })
        .collect();
    output::aligned(&rows).into_iter().map(|row| format!("limits   {row}")).collect()
}

fn row(limit: &ToldLimit) -> [String; 10] {
    let by = if limit.by.is_empty() { "-".to_owned() } else { limit.by.join(" ") };
    let mode = if limit.exact { format!("{}, exact", limit.mode) } else { limit.mode.clone() };
    let [used, left, frees] = match &limit.live {
        Some(Live { used, remaining, frees_after_seconds }) => {
            [used.to_string(), remaining.to_string(), more_in(*frees_after_seconds)]
        }
        None => ["-", "-", "-"].map(str::to_owned),
    };
    let cost = limit.cost.to_string();
    [
        limit.tier.clone(),
        limit.name.clone(),
        limit.rate.clone(),
        by,
        limit.algorithm.clone(),
        mode,
        cost,
        used,
        left,
        frees,
    ]
}
