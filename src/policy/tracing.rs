//! The spans that the Envoys of a gateway make of its requests.

use std::net::SocketAddr;

use super::problem::Findings;
use super::raw::RawTracing;
use super::text;

/// Of so many requests the sampled ones are counted: Envoy tells no finer shares apart (`tracing.random_sampling` of its
/// runtime).
pub const SAMPLED_OF: u32 = 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// An IP address, or a name that Envoy looks up.
    pub collector_host: String,
    pub collector_port: u16,
    /// The requests of [`SAMPLED_OF`] that are traced.
    pub sample: u32,
    /// True where a request's own `traceparent` is believed.
    pub continues_traces: bool,
}

/// The headers in which a request says of which trace it is (W3C Trace Context).
pub const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

impl Tracing {
    pub(super) fn read(raw: &RawTracing, findings: &mut Findings) -> Option<Self> {
        let collector = findings.within("otlp", |findings| findings.check(&raw.otlp, parse_collector(&raw.otlp)));
        let sample =
            text::number_within(findings, "sample_per_10000", raw.sample_per_10000, SAMPLED_OF / 100, 0..=SAMPLED_OF);
        let (collector_host, collector_port) = collector?;
        let continues_traces = raw.continue_traces.unwrap_or(false);
        Some(Self { collector_host, collector_port, sample: sample?, continues_traces })
    }
}

fn parse_collector(otlp: &str) -> Result<(String, u16), &'static str> {
    match otlp.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok((address.ip().to_string(), address.port())),
        _ => text::host_and_port(otlp).ok_or("a host and a port, as in collector.internal:4317 or [::1]:4317"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_or_a_name_with_a_port() {
        let read = |text| parse_collector(text).ok();
        assert_eq!(read("127.0.0.1:4317"), Some(("127.0.0.1".to_owned(), 4317)));
        assert_eq!(read("[::1]:4317"), Some(("::1".to_owned(), 4317)));
        assert_eq!(read("collector.internal:4317"), Some(("collector.internal".to_owned(), 4317)));
        for other in
            ["", "collector", ":4317", "collector:0", "127.0.0.1:0", "http://collector:4317", "::1:4317", "a b:1"]
        {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
