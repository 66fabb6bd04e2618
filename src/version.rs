//! Which Tierflow this is.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it is built of, with `-dirty` behind it where it is built of more. `unknown` where nobody said so to a build
/// of a source archive, and in builds for debugging, as `build.rs` says.
pub const COMMIT: &str = env!("TIERFLOW_COMMIT");

/// Both, for people.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("TIERFLOW_COMMIT"), ")");
