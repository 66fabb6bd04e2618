//! Tierflow: a flow control plane for Envoy.

// words
pub mod clock;
pub mod document;
pub mod metrics;
pub mod names;
// policy
pub mod policy;
// results
pub mod compile;
pub mod snapshot;
// limiter
pub mod limiter;
// the outside
pub mod counters;
pub mod source;
// the served state
pub mod live;
pub mod nodes;
// servers: each translates, none knows another
pub mod admin;
pub mod rls;
pub mod xds;
// shell
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod explain;
pub mod serve;
pub mod telemetry;
