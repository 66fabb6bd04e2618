//! What the operator means.

pub mod access_log;
pub mod api;
pub mod apis;
pub mod cors;
mod decode;
pub mod form;
pub mod gateway;
mod identities;
mod index;
pub mod limit;
pub mod matches;
pub mod normalize;
pub mod parse;
pub mod problem;
pub mod rate;
pub mod rate_limits;
pub mod raw;
mod re2;
pub mod service;
pub mod services;
pub mod set;
pub mod tenant;
mod text;
pub mod tracing;
pub mod tree;
