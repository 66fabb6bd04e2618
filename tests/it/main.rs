//! Tests that see Tierflow as its users do.

mod descriptors;
mod golden;
mod refused;
mod tidy;
