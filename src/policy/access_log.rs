//! A gateway's access log: a line for each request, in a file on the Envoy's host.

use super::gateway::{TenantRule, TenantSource};
use super::problem::Findings;
use super::raw::{RawAccessLog, RawAccessLogFormat};
use super::text;

/// The most headers that a log has beside its own fields.
const HEADERS_MAX: usize = 32;

/// The fields of a line in JSON, and the operators that write them (Envoy, "access log format strings"). They are called what
/// Istio and Envoy Gateway call them.
pub const FIELDS: [(&str, &str); 19] = [
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    (":authority", "%REQ(:AUTHORITY)%"),
    ("traceparent", "%REQ(TRACEPARENT)%"),
    ("user-agent", "%REQ(USER-AGENT)%"),
    ("x-envoy-origin-path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("x-forwarded-for", "%REQ(X-FORWARDED-FOR)%"),
    ("x-request-id", "%REQ(X-REQUEST-ID)%"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// On the Envoy's host.
    pub path: String,
    pub format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Envoy's own.
    Text,
    /// [`FIELDS`], and these headers by their names.
    Json { headers: Vec<String> },
}

impl AccessLog {
    pub(super) fn read(raw: &RawAccessLog, tenant: Option<&TenantRule>, findings: &mut Findings) -> Option<Self> {
        let path = text::envoy_path(findings, "path", &raw.path);
        let format = match raw.format {
            Some(RawAccessLogFormat::Text) => {
                if raw.headers.is_some() {
                    let message = "Envoy's own text has no place for headers: expected `format: json` with them";
                    findings.within("headers", |findings| findings.say(message.to_owned()));
                }
                Some(Format::Text)
            }
            None | Some(RawAccessLogFormat::Json) => {
                let listed = raw.headers.as_deref().map(|raws| text::list(findings, "headers", raws, read_header));
                text::optional(listed).and_then(|listed| headers(listed.unwrap_or_default(), tenant, findings))
            }
        };
        Some(Self { path: path?, format: format? })
    }
}

fn read_header(raw: &String, findings: &mut Findings) -> Option<String> {
    let name = findings.check(raw, text::header_name(raw))?;
    let why = match is_loggable(&name) {
        true => return Some(name),
        false if name.contains('%') => "has a %, which ends an operator of Envoy's formats",
        false => "is in the log already",
    };
    findings.say(format!("{name} {why}: expected another header"));
    None
}

/// Where tenants are named in a header, it is one of them.
fn headers(mut listed: Vec<String>, tenant: Option<&TenantRule>, findings: &mut Findings) -> Option<Format> {
    if listed.len() > HEADERS_MAX {
        let message = format!("has {} entries, expected at most {HEADERS_MAX}", listed.len());
        findings.within("headers", |findings| findings.say(message));
        return None;
    }
    if let Some(TenantSource::Header(name)) = tenant.map(|rule| &rule.from)
        && is_loggable(name)
    {
        listed.push(name.clone());
    }
    listed.sort();
    listed.dedup();
    Some(Format::Json { headers: listed })
}

/// False for what would be a field twice, and for what ends an operator of a format.
fn is_loggable(name: &str) -> bool {
    !name.contains('%') && name != "host" && FIELDS.iter().all(|(field, _)| *field != name)
}
