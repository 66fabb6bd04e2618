//! Tierflow: a flow control plane for Envoy.

pub mod clock;
pub mod compile;
pub mod document;
pub mod names;
pub mod policy;
pub mod snapshot;
