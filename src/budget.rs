//! Bytes of requests that have not come to their end: how many of them a port holds, over all its connections.
//!
//! A connection holds a few whatever others do: an Envoy, whose requests come at once, is refused nothing because of somebody
//! else. What it holds beyond them is of what all connections of the port have together.
//!
//! ```text
//! Budget, of a port <- Allowance, of a connection <- Held, of a request
//! ```
//!
//! A request that has come as a whole is not looked at here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Metrics, PortLabels};

/// What all connections of a port hold together, beyond what each may hold in any case...
const BYTES_MAX: usize = 256 * 1024 * 1024;
/// ...which is this, where nothing else is said of a port.
pub const ALLOWANCE_BYTES: usize = 64 * 1024;
/// What one connection holds: twice the largest request of any port.
const CONNECTION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of a port.
#[derive(Debug)]
pub struct Budget {
    /// What each connection holds in any case.
    allowance_bytes: usize,
    /// What is held beyond the allowances. The metric itself, so that the two are never told apart.
    beyond: Gauge,
    refused: Counter,
}

/// Of a connection.
#[derive(Debug, Default)]
pub struct Allowance {
    budget: Arc<Budget>,
    held: AtomicUsize,
}

/// Of a request, until it is dropped.
#[derive(Debug)]
pub struct Held {
    allowance: Arc<Allowance>,
    bytes: usize,
}

/// A request is to be refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("more bytes of requests that are not whole than there is room for")]
pub struct Full;

impl Default for Budget {
    /// Of a port that nobody measures.
    fn default() -> Self {
        Self { allowance_bytes: ALLOWANCE_BYTES, beyond: Gauge::default(), refused: Counter::default() }
    }
}

impl Budget {
    /// Of the port that metrics call so.
    pub fn new(metrics: &Metrics, port: &'static str, allowance_bytes: usize) -> Arc<Self> {
        let labels = PortLabels { port };
        Arc::new(Self {
            allowance_bytes,
            beyond: metrics.unfinished_request_bytes.get_or_create_owned(&labels),
            refused: metrics.unfinished_requests_refused.get_or_create_owned(&labels),
        })
    }

    /// Of a connection that comes.
    pub fn allowance(self: &Arc<Self>) -> Arc<Allowance> {
        Arc::new(Allowance { budget: Arc::clone(self), held: AtomicUsize::new(0) })
    }

    /// What a connection that holds so much holds of what is for all.
    fn share(&self, held: usize) -> usize {
        held.saturating_sub(self.allowance_bytes)
    }
}

impl Allowance {
    /// Of a request of which nothing is held yet.
    pub fn held(self: &Arc<Self>) -> Held {
        Held { allowance: Arc::clone(self), bytes: 0 }
    }

    fn take(&self, bytes: usize) -> Result<(), Full> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let held = before + bytes;
        let more = self.budget.share(held) - self.budget.share(before);
        if more == 0 {
            return Ok(());
        }
        let of_all = self.budget.beyond.inc_by(more as i64).unsigned_abs() as usize + more;
        match of_all > BYTES_MAX || held > CONNECTION_BYTES_MAX {
            true => Err(Full),
            false => Ok(()),
        }
    }

    fn give_back(&self, bytes: usize) {
        let before = self.held.fetch_sub(bytes, Ordering::Relaxed);
        let less = self.budget.share(before) - self.budget.share(before - bytes);
        if less > 0 {
            self.budget.beyond.dec_by(less as i64);
        }
    }
}

impl Held {
    /// Notes how much of the request is held now. Where it fails the request is to be refused, and this to be dropped with it:
    /// what was noted is held until then.
    pub fn set(&mut self, bytes: usize) -> Result<(), Full> {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes == before {
            return Ok(());
        }
        if bytes < before {
            self.allowance.give_back(before - bytes);
            return Ok(());
        }
        self.allowance.take(bytes - before).inspect_err(|_| {
            self.allowance.budget.refused.inc();
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.allowance.give_back(self.bytes);
    }
}

/// Requests on connections of their own that hold all of it.
#[cfg(test)]
pub(crate) fn use_up(budget: &Arc<Budget>) -> Vec<Held> {
    let of_one = budget.share(CONNECTION_BYTES_MAX);
    let whole = std::iter::repeat_n(of_one, BYTES_MAX / of_one);
    let held = whole.chain([BYTES_MAX % of_one]).map(|bytes| {
        let mut held = budget.allowance().held();
        held.set(budget.allowance_bytes + bytes).expect("there is room");
        held
    });
    held.collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn port() -> (Arc<Budget>, Metrics) {
        let metrics = Metrics::default();
        (Budget::new(&metrics, "xds", ALLOWANCE_BYTES), metrics)
    }

    /// A connection that holds so much in one request.
    fn holding(budget: &Arc<Budget>, bytes: usize) -> Held {
        let mut held = budget.allowance().held();
        held.set(bytes).unwrap();
        held
    }

    #[test]
    fn connections_hold_so_much_together_and_each_its_allowance_whatever_others_hold() {
        let (budget, _) = port();
        let all = use_up(&budget);
        assert_eq!(budget.beyond.get(), BYTES_MAX as i64);
        let mut good = budget.allowance().held();
        assert_eq!(good.set(ALLOWANCE_BYTES), Ok(()), "it is touched by nobody");
        assert_eq!(good.set(ALLOWANCE_BYTES + 1), Err(Full));
        drop(good);
        assert_eq!(budget.refused.get(), 1);
        drop(all);
        assert_eq!(budget.allowance().held().set(ALLOWANCE_BYTES + 1), Ok(()), "there is room again");
    }

    #[test]
    fn one_connection_holds_a_part_of_it() {
        let (budget, _) = port();
        let allowance = budget.allowance();
        let [mut one, mut other] = [allowance.held(), allowance.held()];
        assert_eq!(one.set(CONNECTION_BYTES_MAX), Ok(()));
        assert_eq!(other.set(1), Err(Full));
        drop(other);
        assert_eq!(one.set(CONNECTION_BYTES_MAX + 1), Err(Full));
    }

    #[test]
    fn both_are_told_by_the_port_from_the_start() {
        let (budget, metrics) = port();
        let _held = holding(&budget, ALLOWANCE_BYTES + 7);
        let _ = holding(&budget, 0).set(CONNECTION_BYTES_MAX + 1);
        let _other = Budget::new(&metrics, "rls", ALLOWANCE_BYTES);
        let text = metrics.render();
        for (name, xds, rls) in
            [("tierflow_unfinished_request_bytes", 7, 0), ("tierflow_unfinished_requests_refused_total", 1, 0)]
        {
            for (port, value) in [("xds", xds), ("rls", rls)] {
                let line = format!("{name}{{port=\"{port}\"}} {value}");
                assert!(text.lines().any(|own| own == line), "{line}: {text}");
            }
        }
    }

    /// What becomes of a request: of one of some connections, more or less is held of it, or it ends.
    #[derive(Clone, Debug)]
    struct Act {
        connection: usize,
        request: usize,
        /// `None` where it ends.
        bytes: Option<usize>,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let bytes = prop_oneof![
            2 => Just(None),
            3 => (0..2 * ALLOWANCE_BYTES).prop_map(Some),
            2 => (0..2 * CONNECTION_BYTES_MAX).prop_map(Some),
        ];
        let act = (0..8_usize, 0..4_usize, bytes);
        vec(act.prop_map(|(connection, request, bytes)| Act { connection, request, bytes }), 0..200)
    }

    proptest! {
        /// In the model each connection has a list of what its requests hold.
        #[test]
        fn whatever_becomes_of_requests_the_budget_is_whole_after_them(acts in acts()) {
            let (budget, _) = port();
            let connections: Vec<_> = (0..8).map(|_| budget.allowance()).collect();
            let mut all: Vec<[Option<Held>; 4]> = connections.iter().map(|_| Default::default()).collect();
            for Act { connection, request, bytes } in acts {
                let place = &mut all[connection][request];
                let is_refused = bytes.is_some_and(|bytes| {
                    place.get_or_insert_with(|| connections[connection].held()).set(bytes).is_err()
                });
                let sums = all.iter().map(|requests| requests.iter().flatten().map(|held| held.bytes).sum::<usize>());
                let sums: Vec<usize> = sums.collect();
                let of_all: usize = sums.iter().map(|sum| budget.share(*sum)).sum();
                prop_assert_eq!(budget.beyond.get(), of_all as i64);
                let own = sums[connection];
                let is_too_much = own > ALLOWANCE_BYTES && (of_all > BYTES_MAX || own > CONNECTION_BYTES_MAX);
                prop_assert!(!is_refused || is_too_much, "{own} {of_all}");
                if is_refused || bytes.is_none() {
                    all[connection][request] = None;
                }
                let beyond: i64 = budget.beyond.get();
                prop_assert!(beyond <= BYTES_MAX as i64, "{beyond}");
            }
            drop(all);
            prop_assert_eq!(budget.beyond.get(), 0);
            prop_assert!(connections.iter().all(|allowance| allowance.held.load(Ordering::Relaxed) == 0));
        }
    }

    /// On several threads, as calls of one connection to the xDS port are.
    #[test]
    fn requests_that_grow_and_end_at_once_leave_nothing() {
        let (budget, _) = port();
        let allowance = budget.allowance();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10_000 {
                        let mut held = allowance.held();
                        let _ = held.set(number % 7 * ALLOWANCE_BYTES / 4);
                        let _ = held.set(number % 5 * ALLOWANCE_BYTES / 3);
                    }
                });
            }
        });
        assert_eq!((budget.beyond.get(), allowance.held.load(Ordering::Relaxed)), (0, 0));
    }
}
