//! What servers are asked: by how many limits a call is counted, and how calls spread over keys.

use std::rc::Rc;

use bytes::Bytes;

/// Calls of the Zipf distribution before they repeat.
const DRAWN: usize = 1 << 16;

/// How calls spread over tenants.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keys {
    /// One tenant makes all calls.
    Hot,
    /// So many make as many each.
    Uniform(usize),
    /// Tenants by their rank, the n-th of them an n-th as many as the first; and one Api that all of them call, which has
    /// a counter of its own.
    Zipf(usize),
}

#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) keys: Keys,
    pub(crate) limits: usize,
}

/// The calls of all of a turn, and those that make each counter's first hits.
pub(crate) struct Calls {
    pub(crate) bodies: Rc<Vec<Bytes>>,
    pub(crate) first: Vec<Bytes>,
}

impl Asked {
    pub(crate) fn name(&self) -> String {
        let keys = match self.keys {
            Keys::Hot => "one key".to_owned(),
            Keys::Uniform(tenants) => format!("{tenants} alike"),
            Keys::Zipf(tenants) => format!("Zipf, {tenants}"),
        };
        let limits = if self.limits == 1 { "limit" } else { "limits" };
        format!("{keys}; {} {limits}", self.limits)
    }

    /// The limits that count the calls of all tenants together. The others count each tenant's.
    pub(crate) fn api_limits(&self) -> usize {
        if let Keys::Zipf(_) = self.keys { self.limits / 2 } else { 0 }
    }

    /// The calls, of which `call` makes one by a tenant at a cost. At first each tenant has as many hits as make its
    /// counters what they are when they are used for long.
    pub(crate) fn calls(&self, call: impl Fn(usize, u32) -> Bytes) -> Calls {
        const FIRST_HITS: u32 = 15;
        let tenants = match self.keys {
            Keys::Hot => 1,
            Keys::Uniform(tenants) | Keys::Zipf(tenants) => tenants,
        };
        let of_tenants: Vec<Bytes> = (0..tenants).map(|tenant| call(tenant, 1)).collect();
        let bodies = match self.keys {
            Keys::Hot | Keys::Uniform(_) => of_tenants,
            Keys::Zipf(_) => zipf(tenants).map(|tenant| of_tenants[tenant].clone()).collect(),
        };
        Calls { bodies: Rc::new(bodies), first: (0..tenants).map(|tenant| call(tenant, FIRST_HITS)).collect() }
    }
}

/// Ranks below `count`, by Zipf's law with an exponent of 1; the same each time.
fn zipf(count: usize) -> impl Iterator<Item = usize> {
    let mut dice = fastrand::Rng::with_seed(7);
    let up_to: Vec<f64> = (1..=count)
        .scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        })
        .collect();
    let all = up_to[count - 1];
    (0..DRAWN).map(move |_| {
        let drawn = dice.f64() * all;
        up_to.partition_point(|sum| *sum <= drawn).min(count - 1)
    })
}
