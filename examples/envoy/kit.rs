//! What the demo and the integration tests share: a real Envoy, a real etcd, small upstreams, and a client.

#![allow(dead_code, unreachable_pub, reason = "the demo and the tests each use a part of it")]

#[path = "kit/client.rs"]
pub mod client;
#[path = "kit/envoy.rs"]
pub mod envoy;
#[path = "kit/etcd.rs"]
pub mod etcd;
#[path = "kit/redis.rs"]
pub mod redis;
#[path = "kit/tools.rs"]
pub mod tools;
#[path = "kit/upstream.rs"]
pub mod upstream;
