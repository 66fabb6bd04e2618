//! The script that decides in the store: what it is asked, and what its answer means.
//!
//! A counter is two keys: a *head*, which a decision reads and writes, and for a sliding window of more than a few hits
//! a *ring* of its sub-buckets. Numbers are little endian; times and windows are whole microseconds as doubles, which is
//! what Lua has.
//!
//! | | bytes |
//! |---|---|
//! | question | time after which nobody waits f64, skew of the clock f64, each charge, and where hits are wanted in advance: divisor u32, each want u32 |
//! | charge | algorithm (8 more in shadow) u8, room f64, hits u32, limit u32, window f64 |
//! | answer | time f64, admitted (1, or 0, or 2: too late) u8, a flag u8 for each counter, each counter, and where hits were wanted: those given of each u32 |
//! | counter | head, and its ring where the flag says so |
//! | head of a log | `l`, length u8, times f64 |
//! | head of a ring | `r`, current sub-bucket f64, age of the oldest one with hits u8, sum u32, current count u32 |
//! | ring | 60 counts u32, sub-bucket n at n % 60 |
//! | head of a fixed window | `f`, number f64, count u32 |
//! | head of a token bucket | `b`, time f64, limit u32, debt in hits u32, rest f64, time until which it is kept f64 |

use std::sync::LazyLock;

use redis::{Cmd, Script};
use smallvec::SmallVec;

use super::keys;
use super::settle::Settlement;
use crate::clock::Timestamp;
use crate::counters::{Admission, Outcome};
use crate::limiter::kept::{Kept, KeptRing, SLOTS};
use crate::limiter::key::CounterKey;
use crate::limiter::{Algorithm, Charge, Verdict};

pub const TEXT: &str = include_str!("admit.lua");

/// The name that Redis gives it.
pub fn hash() -> &'static str {
    static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));
    SCRIPT.get_hash()
}

const ADMITTED: u8 = 1;
const LATE: u8 = 2;
const SHADOW: u8 = 8;
const CHARGED: u8 = 1;
const WITH_RING: u8 = 2;
const NANOS_PER_MICRO: u64 = 1000;

/// The question to the script about one request.
#[derive(Debug)]
pub struct Question<'a> {
    /// The charges of each counter, by the first of each. More than one is rare: the same limit, found twice.
    counters: SmallVec<[&'a Charge; 8]>,
    charges: &'a [Charge],
    /// True where nothing is charged but limits in shadow.
    is_look: bool,
    wants: Option<Wants<'a>>,
}

/// Hits that are to be charged in advance, if the request is.
#[derive(Clone, Copy, Debug)]
pub struct Wants<'a> {
    /// The hits of each charge. All charges have keys of their own then.
    pub hits: &'a [u32],
    /// Of what a counter has left, no more than this part is given: 2 for a half.
    pub divisor: u32,
}

/// The script's answer.
#[derive(Debug)]
pub struct Answer {
    /// The time of the decision.
    pub at: Timestamp,
    /// `None`: the store came to the question too late, and charged nothing.
    pub admission: Option<Admission>,
    /// The counters that were charged, and the time that the hits are counted at.
    pub(super) charged: SmallVec<[(CounterKey, Timestamp); 4]>,
    /// The hits that were charged in advance to each counter. What is left of a counter is left beside them.
    pub given: SmallVec<[u32; 8]>,
}

impl Answer {
    /// The time that hits are counted at which were charged to a counter.
    pub(super) fn counted_at(&self, key: CounterKey) -> Option<Timestamp> {
        self.charged.iter().find(|(charged, _)| *charged == key).map(|(_, at)| *at)
    }
}

impl<'a> Question<'a> {
    pub fn new(charges: &'a [Charge]) -> Self {
        let mut counters: SmallVec<[&Charge; 8]> = SmallVec::new();
        for charge in charges {
            if counters.iter().all(|counter| counter.key != charge.key) {
                counters.push(charge);
            }
        }
        Self { counters, charges, is_look: false, wants: None }
    }

    #[must_use]
    pub fn wanting(self, wants: Wants<'a>) -> Self {
        Self { wants: Some(wants), ..self }
    }

    /// A question about a request that is denied already, which charges no limit that enforces.
    pub fn of_look(charges: &'a [Charge]) -> Self {
        Self { is_look: true, ..Self::new(charges) }
    }

    /// What takes back that the request was charged, but for limits in shadow, which stand alone.
    pub(super) fn refund(&self, answer: &Answer) -> impl Iterator<Item = Settlement> {
        let enforcing = self.counters.iter().filter(|counter| counter.is_enforced());
        enforcing.filter_map(|counter| {
            let Charge { key, rate, algorithm, .. } = **counter;
            Some(Settlement { key, rate, algorithm, at: answer.counted_at(key)?, hits: -i64::from(self.hits(key)) })
        })
    }

    /// The command that asks the script, by its text or its hash. It goes by the store's clock less the skew, in
    /// microseconds; a store that comes to it after `latest` does nothing.
    pub fn command(&self, verb: &'static str, script: &str, prefix: &str, latest: Timestamp, skew: i64) -> Cmd {
        let counters = self.counters.len();
        let mut command = Cmd::with_capacity(4 + 2 * counters, 128 + counters * (2 * prefix.len() + 128));
        command.arg(verb).arg(script).arg(2 * counters);
        let heads: SmallVec<[String; 8]> =
            self.counters.iter().map(|counter| keys::head(prefix, counter.key)).collect();
        heads.iter().for_each(|head| _ = command.arg(head));
        heads.into_iter().for_each(|head| _ = command.arg(keys::ring_of(head)));
        command.arg(self.packed(latest, skew).as_slice());
        command
    }

    fn packed(&self, latest: Timestamp, skew: i64) -> SmallVec<[u8; 128]> {
        let mut packed = SmallVec::from_slice(&micros(latest).to_le_bytes());
        packed.extend_from_slice(&(skew as f64).to_le_bytes());
        for counter in &self.counters {
            let hits = if self.is_look && counter.is_enforced() { 0 } else { self.hits(counter.key) };
            packed.extend_from_slice(&pack(counter, self.asked(counter.key), hits));
        }
        if let Some(wants) = self.wants {
            packed.extend_from_slice(&wants.divisor.to_le_bytes());
            wants.hits.iter().for_each(|hits| packed.extend_from_slice(&hits.to_le_bytes()));
        }
        packed
    }

    /// Reads the script's answer. None where it is none of this script.
    pub fn read(&self, answer: &[u8]) -> Option<Answer> {
        self.read_and(answer, |_, _, _| {})
    }

    /// The same, and tells what is kept for each counter, as of the store's time.
    pub fn read_and(&self, answer: &[u8], follow: impl Fn(&Charge, &Kept, Timestamp)) -> Option<Answer> {
        let mut reader = Reader(answer);
        let at = reader.time()?;
        let admitted = match reader.u8()? {
            LATE => return Some(Answer { at, admission: None, charged: SmallVec::new(), given: SmallVec::new() }),
            admitted => admitted == ADMITTED,
        };
        let flags = reader.take(self.counters.len())?;
        let mut verdicts: SmallVec<[(CounterKey, bool, Kept); 4]> = SmallVec::new();
        let mut charged = SmallVec::new();
        for (counter, flag) in self.counters.iter().zip(flags) {
            let kept = reader.counter(flag & WITH_RING != 0)?;
            follow(counter, &kept, at);
            if flag & CHARGED != 0 {
                charged.push((counter.key, kept.counted_at(counter.rate.window)));
            }
            verdicts.push((counter.key, flag & CHARGED != 0, kept));
        }
        let verdict = |charge: &Charge| {
            let (_, is_charged, kept) = verdicts.iter().find(|(key, ..)| *key == charge.key)?;
            let mut cell = kept.clone().into_cell(charge.rate, charge.algorithm);
            let mut judge = |hits| cell.judge(charge.rate.limit, charge.algorithm, hits, at);
            Some(match is_charged {
                true => Verdict { allowed: true, ..judge(charge.hits) },
                false => judge(self.hits(charge.key)),
            })
        };
        let outcomes = self.charges.iter().map(|charge| verdict(charge).map(Outcome::Judged)).collect::<Option<_>>()?;
        let given = match self.wants {
            Some(wants) => wants.hits.iter().map(|_| reader.u32()).collect::<Option<_>>()?,
            None => SmallVec::new(),
        };
        let admission = Some(Admission { admitted, outcomes });
        reader.0.is_empty().then_some(Answer { at, admission, charged, given })
    }

    /// All that the request is charged to one counter.
    fn hits(&self, key: CounterKey) -> u32 {
        let of_key = self.charges.iter().filter(|charge| charge.key == key);
        of_key.fold(0, |hits, charge| hits.saturating_add(charge.hits))
    }

    /// All that has to fit in it: one hit, where it is a look.
    fn asked(&self, key: CounterKey) -> u32 {
        self.hits(key).max(1)
    }
}

/// A time as the scripts have it.
pub(super) fn micros(at: Timestamp) -> f64 {
    (at.as_nanos() / NANOS_PER_MICRO) as f64
}

/// Reads a counter from its head and its ring. None where the head is none.
pub(super) fn read_kept(head: &[u8], ring: Option<&[u8]>) -> Option<Kept> {
    let has_ring = head.first() == Some(&b'r') && ring.is_some_and(|ring| ring.len() == 4 * SLOTS);
    let bytes = [head, ring.filter(|_| has_ring).unwrap_or_default()].concat();
    let mut reader = Reader(&bytes);
    let kept = reader.counter(has_ring)?;
    reader.0.is_empty().then_some(kept)
}

fn pack(charge: &Charge, asked: u32, hits: u32) -> [u8; 25] {
    let algorithm = match charge.algorithm {
        Algorithm::SlidingWindow => 0,
        Algorithm::FixedWindow => 1,
        Algorithm::TokenBucket { .. } => 2,
    };
    let room = f64::from(charge.capacity()) - f64::from(asked);
    let window = f64::from(charge.rate.window.secs()) * 1e6;
    let mut packed = [0; 25];
    let parts: [&[u8]; 5] = [
        &[if charge.is_enforced() { algorithm } else { algorithm + SHADOW }],
        &room.to_le_bytes(),
        &hits.to_le_bytes(),
        &charge.rate.limit.to_le_bytes(),
        &window.to_le_bytes(),
    ];
    packed.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
    packed
}

/// The rest of an answer.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A whole number that Lua had as a double.
    fn whole(&mut self) -> Option<u64> {
        self.array().map(|bytes| f64::from_le_bytes(bytes) as u64)
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp::from_nanos(self.whole()?.saturating_mul(NANOS_PER_MICRO)))
    }

    fn counter(&mut self, has_ring: bool) -> Option<Kept> {
        Some(match self.u8()? {
            b'l' => {
                let length = self.u8()?;
                Kept::Log((0..length).map(|_| self.time()).collect::<Option<_>>()?)
            }
            b'r' => {
                let (index, oldest) = (self.whole()?, self.u8()?.into());
                let (sum, current) = (self.u32()?, self.u32()?);
                let slots = if has_ring { Some(Box::new(self.slots()?)) } else { None };
                Kept::Ring(KeptRing { index, oldest, sum, current, slots })
            }
            b'f' => Kept::FixedWindow { number: self.whole()?, count: self.u32()? },
            b'b' => {
                let (newest, limit, hits) = (self.time()?, self.u32()?, self.u32()?);
                let rest_nanos = self.whole()?.saturating_mul(NANOS_PER_MICRO);
                let _kept_until = self.time()?;
                Kept::TokenBucket { newest, limit, hits, rest_nanos }
            }
            b'-' => Kept::Nothing,
            _ => return None,
        })
    }

    fn slots(&mut self) -> Option<[u32; SLOTS]> {
        let mut slots = [0; SLOTS];
        for slot in &mut slots {
            *slot = self.u32()?;
        }
        Some(slots)
    }
}
