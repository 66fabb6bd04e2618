//! What a thread has noted of its decisions, until that is collected: three lists that are made once and never grow, so that a
//! note puts nothing on the heap.

use smallvec::SmallVec;

use crate::names::{Name, spelling};
use crate::shown;

/// The longest name of a tenant, and the longest value that a counter is split by, in bytes. The rest of a longer one is cut off.
pub const TEXT_BYTES_MAX: usize = 128;
/// The values of a counter that are told.
pub const VALUES_MAX: usize = 4;
/// The counters of a decision that are noted.
const COUNTERS_MAX: usize = 8;

/// What there is room for, which is more than is noted in a second ([`super::pace`]). What comes beyond it is not counted.
const DECISIONS_ROOM: usize = 7 * 1024;
const COUNTERS_ROOM: usize = 14 * 1024;
const TEXT_ROOM: usize = 512 * 1024;
/// What the notes of a thread take, in bytes. Of this, memory that was never written takes none.
pub const BYTES_MAX: usize =
    DECISIONS_ROOM * size_of::<DecisionNote>() + COUNTERS_ROOM * size_of::<CounterNote>() + TEXT_ROOM;

/// The notes of a thread since they were collected.
#[derive(Debug)]
pub struct Notes {
    decisions: Vec<DecisionNote>,
    /// Those of the first decision, of the second, and so on.
    counters: Vec<CounterNote>,
    /// Of each decision its tenant and the values of its counters; each after its length.
    texts: Vec<u8>,
    /// What the note stands for that is made now.
    weight: u32,
    is_thinned: bool,
}

#[derive(Debug)]
struct DecisionNote {
    gateway: Name,
    has_tenant: bool,
    is_denied: bool,
    weight: u32,
    counters: u8,
}

#[derive(Debug)]
pub(super) struct CounterNote {
    pub(super) key: u128,
    api: Option<Name>,
    tier: &'static str,
    limit: Name,
    is_of_tenant: bool,
    pub(super) has_no_room: bool,
    is_shadow: bool,
    values: u8,
}

/// A counter that a decision asked.
#[derive(Clone, Copy, Debug)]
pub struct Counter<'a> {
    pub key: u128,
    /// `None`: it counts requests to every Api of the gateway.
    pub api: Option<&'a Name>,
    pub tier: &'static str,
    pub limit: &'a Name,
    pub is_of_tenant: bool,
    pub has_no_room: bool,
    /// Nothing is denied by it.
    pub is_shadow: bool,
}

/// A counter, as people know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CounterName {
    pub gateway: Name,
    /// As in [`Counter`].
    pub api: Option<Name>,
    /// `None`: it is no tenant's.
    pub tenant: Option<Box<str>>,
    pub tier: &'static str,
    pub limit: Name,
    /// The values of what the limit counts by, in its order.
    pub values: Vec<Box<str>>,
    pub is_shadow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId {
    pub gateway: Name,
    pub tenant: Box<str>,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            decisions: Vec::with_capacity(DECISIONS_ROOM),
            counters: Vec::with_capacity(COUNTERS_ROOM),
            texts: Vec::with_capacity(TEXT_ROOM),
            weight: 1,
            is_thinned: false,
        }
    }
}

impl Notes {
    /// To be asked before a decision: whether there is room for it.
    pub(super) fn begin(&mut self, weight: u32) -> bool {
        const TEXTS_MAX: usize = 1 + COUNTERS_MAX * VALUES_MAX;
        let has_room = self.decisions.len() < DECISIONS_ROOM
            && self.counters.len() + COUNTERS_MAX <= COUNTERS_ROOM
            && self.texts.len() + TEXTS_MAX * (1 + TEXT_BYTES_MAX) <= TEXT_ROOM;
        self.weight = weight;
        self.is_thinned |= weight > 1 || !has_room;
        has_room
    }

    /// Notes a decision; its counters come next. `tenant` is `None` where the gateway does not tell tenants apart, or the
    /// request has none.
    pub fn decision(&mut self, gateway: &Name, tenant: Option<&[u8]>, is_denied: bool) {
        if let Some(tenant) = tenant {
            self.push_text(&[tenant]);
        }
        let (gateway, has_tenant, weight) = (gateway.clone(), tenant.is_some(), self.weight);
        self.decisions.push(DecisionNote { gateway, has_tenant, is_denied, weight, counters: 0 });
    }

    /// Notes a counter that it asked. `tell_values` is given who takes the values that split the limit's counters, each of them
    /// in parts.
    pub fn counter(&mut self, counter: Counter<'_>, tell_values: impl FnOnce(&mut dyn FnMut(&[&[u8]]))) {
        match self.decisions.last_mut() {
            Some(decision) if usize::from(decision.counters) < COUNTERS_MAX => decision.counters += 1,
            _ => return,
        }
        let mut values = 0;
        tell_values(&mut |parts| {
            if usize::from(values) < VALUES_MAX {
                values += 1;
                self.push_text(parts);
            }
        });
        let Counter { key, api, tier, limit, is_of_tenant, has_no_room, is_shadow } = counter;
        let (api, limit) = (api.cloned(), limit.clone());
        self.counters.push(CounterNote { key, api, tier, limit, is_of_tenant, has_no_room, is_shadow, values });
    }

    fn push_text(&mut self, parts: &[&[u8]]) {
        let place_of_length = self.texts.len();
        self.texts.push(0);
        self.texts.extend(parts.iter().copied().flatten().take(TEXT_BYTES_MAX));
        let length = self.texts.len() - place_of_length - 1;
        if let Some(place) = self.texts.get_mut(place_of_length) {
            *place = u8::try_from(length).unwrap_or_default();
        }
    }

    /// Some decisions were not noted.
    pub(super) fn is_thinned(&self) -> bool {
        self.is_thinned
    }

    pub(super) fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// Tells all of them, and is empty then.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Noted<'_>)) {
        let mut texts = Texts(&self.texts);
        let mut counters = self.counters.iter();
        for DecisionNote { gateway, has_tenant, is_denied, weight, counters: count } in &self.decisions {
            let tenant = has_tenant.then(|| texts.next()).flatten();
            if let Some(tenant) = tenant {
                take(Noted::Tenant { gateway, tenant, is_denied: *is_denied, weight: *weight });
            }
            for note in counters.by_ref().take((*count).into()) {
                let values = texts.by_ref().take(note.values.into()).collect();
                let tenant = tenant.filter(|_| note.is_of_tenant);
                take(Noted::Counter { gateway, tenant, note, values, weight: *weight });
            }
        }
        self.decisions.clear();
        self.counters.clear();
        self.texts.clear();
        self.is_thinned = false;
    }
}

/// A note, as it is told.
pub(super) enum Noted<'a> {
    Tenant {
        gateway: &'a Name,
        tenant: &'a [u8],
        is_denied: bool,
        weight: u32,
    },
    Counter {
        gateway: &'a Name,
        tenant: Option<&'a [u8]>,
        note: &'a CounterNote,
        values: SmallVec<[&'a [u8]; VALUES_MAX]>,
        weight: u32,
    },
}

/// Texts, each after its length.
struct Texts<'a>(&'a [u8]);

impl<'a> Iterator for Texts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        let (text, rest) = rest.split_at_checked((*length).into())?;
        self.0 = rest;
        Some(text)
    }
}

impl TenantId {
    /// What one takes at most with its place in a sketch and what allocators add.
    pub(super) const BYTES_MAX: usize = 128 + TEXT_BYTES_MAX;

    pub(super) fn new(gateway: &Name, tenant: &[u8]) -> Self {
        Self { gateway: gateway.clone(), tenant: text(tenant) }
    }
}

impl CounterName {
    /// As [`TenantId::BYTES_MAX`].
    pub(super) const BYTES_MAX: usize = 384 + TEXT_BYTES_MAX + VALUES_MAX * (32 + TEXT_BYTES_MAX);

    pub(super) fn new(gateway: &Name, tenant: Option<&[u8]>, note: &CounterNote, values: &[&[u8]]) -> Self {
        Self {
            gateway: gateway.clone(),
            api: note.api.clone(),
            tenant: tenant.map(text),
            tier: note.tier,
            limit: note.limit.clone(),
            values: values.iter().map(|value| text(value)).collect(),
            is_shadow: note.is_shadow,
        }
    }
}

/// A tenant's name, by its spelling, as it is told here, which of a long one is its beginning.
pub(super) fn told(tenant: &str) -> Box<str> {
    let tenant = spelling::read(tenant);
    text(tenant.get(..TEXT_BYTES_MAX).unwrap_or(&tenant))
}

/// Whatever a client sent, as text of a bounded length.
fn text(bytes: &[u8]) -> Box<str> {
    let whole = match std::str::from_utf8(bytes) {
        // It was cut within a letter.
        Err(error) if error.error_len().is_none() && bytes.len() == TEXT_BYTES_MAX => {
            bytes.get(..error.valid_up_to()).unwrap_or(bytes)
        }
        _ => bytes,
    };
    // What is no UTF-8 becomes longer.
    shown::beginning(&spelling::spelled(whole), TEXT_BYTES_MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(notes: &mut Notes, tenant: &[u8], counters: usize, value: &[u8]) -> bool {
        let name = Name::parse("shop").unwrap();
        let has_room = notes.begin(1);
        if has_room {
            notes.decision(&name, Some(tenant), false);
            for key in 0..counters {
                let counter = Counter {
                    key: key as u128,
                    api: None,
                    tier: "api",
                    limit: &name,
                    is_of_tenant: key == 0,
                    has_no_room: false,
                    is_shadow: false,
                };
                notes.counter(counter, |tell| (0..2 * VALUES_MAX).for_each(|_| tell(&[b"x=", value])));
            }
        }
        has_room
    }

    /// As `tenant`, and `tenant?.key values`.
    fn told(notes: &mut Notes) -> Vec<String> {
        let mut told = Vec::new();
        notes.drain(|noted| {
            told.push(match noted {
                Noted::Tenant { tenant, .. } => text(tenant).into(),
                Noted::Counter { gateway, tenant, note, values, .. } => {
                    let name = CounterName::new(gateway, tenant, note, &values);
                    format!("{}.{} {}", name.tenant.as_deref().unwrap_or("-"), note.key, name.values.join(" "))
                }
            });
        });
        told
    }

    #[test]
    fn notes_are_told_as_they_were_made() {
        let mut notes = Notes::default();
        add(&mut notes, b"acme", 2, b"1");
        add(&mut notes, b"", 0, b"");
        add(&mut notes, b"b\xff", 1, b"");
        let expected = ["acme", "acme.0 x=1 x=1 x=1 x=1", "-.1 x=1 x=1 x=1 x=1", "", r"b\xff", r"b\xff.0 x= x= x= x="];
        assert_eq!(told(&mut notes), expected);
        assert_eq!(told(&mut notes), [""; 0]);
    }

    #[test]
    fn whatever_a_client_sends_becomes_a_text_of_a_bounded_length() {
        let mut notes = Notes::default();
        let (long, broken) = (vec![b'x'; 60 * 1024], vec![0xff; 60 * 1024]);
        let cut_within_a_letter = "xä".repeat(TEXT_BYTES_MAX);
        for bytes in [&long[..], &broken, cut_within_a_letter.as_bytes()] {
            add(&mut notes, bytes, 0, b"");
        }
        for told in told(&mut notes) {
            assert!((TEXT_BYTES_MAX - 2..=TEXT_BYTES_MAX).contains(&told.len()), "{told}");
        }
    }

    #[test]
    fn notes_that_nobody_collects_do_not_grow() {
        let mut notes = Notes::default();
        let capacities =
            |notes: &Notes| [notes.decisions.capacity(), notes.counters.capacity(), notes.texts.capacity()];
        let at_first = capacities(&notes);
        let long = [b'x'; 1000];
        for counters in [0, 1, 100] {
            for value in [&b""[..], &long] {
                let added = (0..100_000).take_while(|_| add(&mut notes, &long, counters, value)).count();
                assert!((100..=DECISIONS_ROOM).contains(&added), "{counters}: {added}");
                assert!(notes.is_thinned() && capacities(&notes) == at_first);
                notes.drain(|_| {});
                assert!(!notes.is_thinned());
            }
        }
    }
}
