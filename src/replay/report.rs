//! What came of the requests of a log, counted by API, limit, tenant and minute.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::entry::Entry;
use crate::clock::Timestamp;
use crate::explain::{ExplainedLimit, Explanation};

/// The most tenants that are told apart, and the most minutes (ten weeks). Those that come later are one.
const TENANTS_MAX: usize = 100_000;
const MINUTES_MAX: usize = 100_800;
const SECONDS_PER_MINUTE: u64 = 60;

/// What came of a request.
#[derive(Clone, Debug)]
pub enum Verdict<'a> {
    /// By the gateway itself, before any limit.
    Answered { status: u16, reason: &'static str },
    /// Its tenant is denied whatever the counters say.
    Tenant(&'static str),
    Judged {
        admitted: bool,
        /// False where a limit has room, and there is none to count in.
        is_counted: bool,
        over: Vec<Over<'a>>,
    },
}

/// A limit that had no room for a request.
#[derive(Clone, Copy, Debug)]
pub struct Over<'a> {
    pub limit: &'a ExplainedLimit,
    pub is_enforced: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub requests: u64,
    /// By a limit, or because of the tenant.
    pub denied: u64,
    /// Admitted, and over a limit in shadow: they would be denied too if that were enforced.
    pub over_in_shadow: u64,
    /// Denied by a limit when they were made, as the log has it.
    pub denied_in_log: u64,
}

/// Names a limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LimitName {
    pub tier: &'static str,
    /// Of limits of an API.
    pub api: Option<String>,
    pub limit: String,
    pub rate: String,
    pub mode: &'static str,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitTally {
    pub requests: u64,
    pub over_limit: u64,
}

#[derive(Debug, Default)]
pub struct Report {
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    pub total: Tally,
    pub apis: BTreeMap<String, Tally>,
    pub limits: BTreeMap<LimitName, LimitTally>,
    pub tenants: Bounded<String, TENANTS_MAX>,
    /// By minutes since the Unix epoch.
    pub minutes: Bounded<u64, MINUTES_MAX>,
    /// Answers that are no limit's, by status and reason.
    pub answers: BTreeMap<String, u64>,
    /// Requests of which nobody knows whose they are.
    pub without_client: u64,
    /// Requests for whose counters there was no room.
    pub uncounted: u64,
    /// Requests that came later than others could be held back for.
    pub late: u64,
}

/// So many tallies, and one for all that have no place.
#[derive(Debug)]
pub struct Bounded<K, const MAX: usize> {
    pub known: HashMap<K, Tally>,
    pub others: Tally,
}

impl<K, const MAX: usize> Default for Bounded<K, MAX> {
    fn default() -> Self {
        Self { known: HashMap::new(), others: Tally::default() }
    }
}

impl<K: Clone + Eq + std::hash::Hash, const MAX: usize> Bounded<K, MAX> {
    fn add<Q>(&mut self, key: &Q, tally: Tally)
    where
        Q: ?Sized + Eq + std::hash::Hash + ToOwned<Owned = K>,
        K: std::borrow::Borrow<Q>,
    {
        if let Some(known) = self.known.get_mut(key) {
            known.add(tally);
        } else if self.known.len() < MAX {
            self.known.insert(key.to_owned(), tally);
        } else {
            self.others.add(tally);
        }
    }
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.denied += other.denied;
        self.over_in_shadow += other.over_in_shadow;
        self.denied_in_log += other.denied_in_log;
    }
}

impl LimitName {
    pub(super) fn of(limit: &ExplainedLimit, explanation: &Explanation) -> Self {
        let api = explanation.api.clone().filter(|_| limit.tier == "api");
        Self { tier: limit.tier, api, limit: limit.name.clone(), rate: limit.rate.clone(), mode: limit.mode }
    }
}

impl Report {
    pub(super) fn note(&mut self, explanation: &Explanation, entry: &Entry, verdict: Verdict<'_>) {
        self.from = self.from.or(Some(entry.at));
        self.late += u64::from(self.to.is_some_and(|to| entry.at < to));
        self.to = self.to.max(Some(entry.at));
        self.without_client += u64::from(!entry.is_client_known);
        let mut tally = Tally { requests: 1, denied_in_log: entry.was_denied.into(), ..Tally::default() };
        match verdict {
            Verdict::Answered { status, reason } => self.answered(&format!("{status}: {reason}")),
            Verdict::Tenant(reason) => {
                tally.denied = 1;
                self.answered(reason);
            }
            Verdict::Judged { admitted, is_counted, over } => {
                self.uncounted += u64::from(!is_counted);
                tally.denied = (!admitted).into();
                tally.over_in_shadow = (admitted && over.iter().any(|over| !over.is_enforced)).into();
                self.count_limits(explanation, &over);
            }
        }
        self.total.add(tally);
        if let Some(api) = &explanation.api {
            self.apis.entry(api.clone()).or_default().add(tally);
        }
        if let Some(tenant) = &explanation.tenant {
            self.tenants.add(tenant.as_str(), tally);
        }
        self.minutes.add(&(entry.at.as_secs() / SECONDS_PER_MINUTE), tally);
    }

    fn answered(&mut self, reason: &str) {
        match self.answers.get_mut(reason) {
            Some(count) => *count += 1,
            None => drop(self.answers.insert(reason.to_owned(), 1)),
        }
    }

    fn count_limits(&mut self, explanation: &Explanation, over: &[Over<'_>]) {
        for limit in &explanation.limits {
            let tally = self.limits.entry(LimitName::of(limit, explanation)).or_default();
            tally.requests += 1;
            tally.over_limit += u64::from(over.iter().any(|over| std::ptr::eq(over.limit, limit)));
        }
    }
}
