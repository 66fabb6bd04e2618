//! Tests that see Tierflow as its users do: the real program, a real Envoy, real sockets.

// Tests may be blunt: a failed unwrap is a failed test, in a helper as much as in a test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../examples/envoy/kit.rs"]
#[allow(dead_code, unreachable_pub, reason = "the demo shares it, and uses the rest")]
mod kit;

mod golden;
mod harness;

mod cli_compile;
mod descriptors;
mod refused;
mod reload_edit;
mod tidy;
mod xds_variants;
