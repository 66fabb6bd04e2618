//! Tierflow: a flow control plane for Envoy.

pub mod clock;
pub mod counters;
pub mod limiter;
pub mod names;
pub mod policy;
