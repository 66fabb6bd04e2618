//! Tests that see Tierflow as its users do.

// clippy.toml lets tests be blunt; what tests have in common is no test to clippy.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod descriptors;
mod example;
mod golden;
mod refused;
