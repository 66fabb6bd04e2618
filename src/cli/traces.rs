//! How `serve` is told where spans go.

use std::path::PathBuf;

use super::Failure;
use super::checked::{Check, Typed};
use crate::config::parse_host_port;
use crate::traces::{SAMPLED_OF, TracesSettings, check_headers};

#[derive(Clone, clap::Args)]
pub(super) struct TracesArgs {
    /// The collector that takes spans of decisions: OTLP over gRPC, as in http://127.0.0.1:4317. The decisions of traces that
    /// an Envoy records are spans of these.
    #[arg(long, value_name = "URL", value_parser = parse_url, env = "TIERFLOW_TRACES_OTLP")]
    traces_otlp: Option<String>,
    /// PEM file of the authority that signed the collector's certificate; needed for https.
    #[arg(long, value_name = "FILE", env = "TIERFLOW_TRACES_OTLP_CA")]
    traces_otlp_ca: Option<PathBuf>,
    /// The number of decisions that begin a trace, of 10000 that an Envoy asks for without one: 0 to 10000.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(SAMPLED_OF)), env = "TIERFLOW_TRACES_SAMPLE_PER_10000")]
    traces_sample_per_10000: u32,
}

impl Check for TracesArgs {
    fn check(&mut self, typed: &Typed) -> Result<(), String> {
        let is_tls = self.traces_otlp.as_ref().is_some_and(|url| url.starts_with("https://"));
        match (typed.first_in::<Self>(), typed.first_of(&["traces_otlp_ca"])) {
            (Some(flag), _) if self.traces_otlp.is_none() => Err(format!("{flag} needs --traces-otlp")),
            (_, Some(flag)) if !is_tls => Err(format!("{flag} needs --traces-otlp with https")),
            _ => Ok(()),
        }
    }
}

impl TracesArgs {
    /// `None`: there are no spans.
    pub(super) fn settings(self, replica_id: Option<&str>) -> Result<Option<TracesSettings>, Failure> {
        let Some(url) = self.traces_otlp else { return Ok(None) };
        if url.starts_with("https://") && self.traces_otlp_ca.is_none() {
            return Err("--traces-otlp with https needs --traces-otlp-ca, the authority that signed the collector's \
                        certificate"
                .to_owned());
        }
        check_headers(|variable| std::env::var_os(variable))?;
        Ok(Some(TracesSettings {
            url,
            ca: self.traces_otlp_ca,
            sample: self.traces_sample_per_10000,
            instance: replica_id.map(str::to_owned),
        }))
    }
}

/// A user in it would stand in every list of processes.
fn parse_url(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let address = address.map(|address| address.trim_end_matches('/')).filter(|address| !address.contains(['/', '@']));
    match address.map(parse_host_port) {
        Some(Ok(_)) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("expected http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_url_with_a_port() {
        assert_eq!(parse_url("http://127.0.0.1:4317/").as_deref(), Ok("http://127.0.0.1:4317"));
        assert_eq!(parse_url("https://[::1]:4317").as_deref(), Ok("https://[::1]:4317"));
        for bad in
            ["", "127.0.0.1:4317", "http://collector", "http://a:1/v1/traces", "http://ann:secret@a:1", "grpc://a:1"]
        {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
