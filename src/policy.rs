//! What the operator means.

pub mod limit;
pub mod rate;
