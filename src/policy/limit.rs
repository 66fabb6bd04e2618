//! One limit: how much passes, counted by what, and what happens past it.

use std::fmt;
use std::num::NonZeroU32;

use super::rate::Rate;
use crate::names::{Name, descriptor};

/// The statuses that a denial may have. The list is closed because each is a fixed row of the
/// listener's local replies: a limit's status can then change without a new listener.
pub const DENIAL_STATUSES: [u16; 13] = [400, 401, 402, 403, 404, 409, 413, 429, 451, 500, 502, 503, 504];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Unique among the limits of its list; shows in headers, metrics and answers.
    pub name: Name,
    pub rate: Rate,
    /// What splits the counter, in the order written. Empty: one counter for all.
    pub by: Vec<Dimension>,
    pub algorithm: Algorithm,
    pub mode: Mode,
    /// The HTTP status of a denial, one of [`DENIAL_STATUSES`].
    pub status: u16,
    pub cost: Cost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Never more than the limit in any interval of the window's length.
    SlidingWindow,
    /// Refills evenly at the rate; `burst` hits can be saved up.
    TokenBucket { burst: NonZeroU32 },
    /// Windows aligned to UTC; up to twice the limit may pass around an edge.
    FixedWindow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    Enforce,
    /// Counted and reported, never denied.
    Shadow,
}

/// How many hits a request costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    Hits(NonZeroU32),
    /// The number in this request header; 1 where it is missing or is no whole number above 0.
    Header(String),
}

/// A property of a request that splits a counter: one counter for each value.
/// A request that lacks it counts as the empty value, in one shared counter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// The whole address, or the network of `prefix` bits that an IPv4 address is in
    /// (an IPv6 address then counts by its /64).
    ClientIp {
        prefix: Option<u8>,
    },
    Header(String),
    Query(String),
    Cookie(String),
    /// Without the query.
    Path,
    Method,
    Host,
    JwtClaim(String),
}

impl Dimension {
    /// The key of the descriptor entry that carries this dimension's value.
    /// The network of a client's address is cut out by the limiter, so every prefix shares one entry.
    pub fn descriptor_key(&self) -> String {
        match self {
            Self::ClientIp { .. } => descriptor::CLIENT_IP.to_owned(),
            Self::Header(name) => format!("header:{name}"),
            Self::Query(name) => format!("query:{name}"),
            Self::Cookie(name) => format!("cookie:{name}"),
            Self::Path => descriptor::PATH.to_owned(),
            Self::Method => descriptor::METHOD.to_owned(),
            Self::Host => descriptor::HOST.to_owned(),
            Self::JwtClaim(claim) => format!("jwt_claim:{claim}"),
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp { prefix: Some(bits) } => write!(f, "client_ip/{bits}"),
            _ => f.write_str(&self.descriptor_key()),
        }
    }
}
