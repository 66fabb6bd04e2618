//! Tests that see Tierflow as its users do.

mod golden;
mod refused;
