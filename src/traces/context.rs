//! Of which trace a call is: W3C Trace Context, section 3.2 (`traceparent`).

use opentelemetry::{SpanId, TraceId};

pub const TRACEPARENT: &str = "traceparent";

/// What a caller says of the trace that it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace: TraceId,
    /// The span that the caller makes of its call.
    pub span: SpanId,
    /// The caller records the trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads the value of the header. `None` where it is none: a trace begins anew then.
    pub fn read(traceparent: &[u8]) -> Option<Self> {
        /// `00-<32 digits>-<16 digits>-<2 digits>`
        const LENGTH: usize = 55;
        let (known, rest) = traceparent.split_at_checked(LENGTH)?;
        let text = std::str::from_utf8(known).ok()?;
        let is_lower_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_well_formed = text.bytes().enumerate().all(|(index, byte)| match index {
            2 | 35 | 52 => byte == b'-',
            _ => is_lower_hex(byte),
        });
        // A later version may say more behind what this one has.
        let is_version_known = match text.get(..2)? {
            "00" => rest.is_empty(),
            version => version != "ff" && matches!(rest.first(), None | Some(b'-')),
        };
        if !is_well_formed || !is_version_known {
            return None;
        }
        let trace = TraceId::from_hex(text.get(3..35)?).ok()?;
        let span = SpanId::from_hex(text.get(36..52)?).ok()?;
        let flags = u8::from_str_radix(text.get(53..)?, 16).ok()?;
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        is_valid.then_some(Self { trace, span, is_sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use opentelemetry::propagation::TextMapPropagator;
    use opentelemetry::trace::TraceContextExt;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use proptest::prelude::*;

    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_examples_of_the_standard_are_read() {
        let read = |text: &str| TraceContext::read(text.as_bytes());
        let context = read(SAMPLED).unwrap();
        assert_eq!(context.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.span.to_string().as_str(), context.is_sampled), ("00f067aa0ba902b7", true));
        assert!(!read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap().is_sampled);
        // Of a later version, with more flags and more behind them.
        assert_eq!(read(&(SAMPLED.replacen("00", "cc", 1) + "-what-comes-later")), Some(context));
        for other in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
            "00-4bf92f3577b34da6a3ce929d0e0e473--00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    proptest! {
        /// Where each part has its length, which that of the OpenTelemetry SDK does not ask for.
        #[test]
        fn what_is_read_is_what_the_propagator_of_opentelemetry_reads(
            text in "00-(0{32}|[0-9a-f]{32}|[0-9a-fA-F]{32})-(0{16}|[0-9a-f]{16}|[0-9a-fg]{16})-0[0-9a-f]",
        ) {
            let carrier = HashMap::from([(TRACEPARENT.to_owned(), text.clone())]);
            let context = TraceContextPropagator::new().extract(&carrier);
            let theirs = context.span().span_context().clone();
            let theirs = theirs.is_valid().then(|| (theirs.trace_id(), theirs.span_id(), theirs.is_sampled()));
            let ours = TraceContext::read(text.as_bytes()).map(|ours| (ours.trace, ours.span, ours.is_sampled));
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn whatever_is_sent_is_read_or_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = TraceContext::read(&bytes);
        }
    }
}
