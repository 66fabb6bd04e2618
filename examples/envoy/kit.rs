//! What the demo and the integration tests share: a real Envoy, small upstreams, and a client.

pub mod client;
pub mod envoy;
pub mod tools;
pub mod upstream;
