//! Retries: what is held is offered again after a while.
//!
//! What an Envoy refused may be mended where no document tells of it: a file on its host is there now, a port is free. So
//! a hold is lifted now and then, and holds again if an Envoy still refuses.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::names::Name;

/// The first pause, which doubles with each refusal. It is longer than Envoys keep what is gone (`xds::session`): an Envoy
/// that still had a refused secret would acknowledge it unread.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The groups whose holds are to be lifted, by gateway.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<Name, Retry>);

#[derive(Debug)]
struct Retry {
    pause: Duration,
    /// `None`: offered again, and not refused since.
    due: Option<Timestamp>,
}

impl Retries {
    pub(super) fn held(&mut self, gateway: &Name, now: Timestamp) {
        match self.0.get_mut(gateway) {
            None => {
                self.0.insert(gateway.clone(), Retry { pause: PAUSE_MIN, due: Some(now + PAUSE_MIN) });
            }
            Some(retry) if retry.due.is_none() => {
                retry.pause = PAUSE_MAX.min(retry.pause * 2);
                retry.due = Some(now + retry.pause);
            }
            // One more refusal of what is held already.
            Some(_) => {}
        }
    }

    /// The groups to try again now.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Name> {
        let is_due = |retry: &Retry| retry.due.is_some_and(|due| due <= now);
        let due = self.0.iter_mut().filter(|(_, retry)| is_due(retry));
        due.map(|(gateway, retry)| {
            retry.due = None;
            gateway.clone()
        })
        .collect()
    }

    /// Every group of which something is held is among them.
    pub(super) fn gateways(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    /// Forgets groups of which nothing is held any more: the next hold begins with the first pause.
    pub(super) fn retain(&mut self, is_held: impl Fn(&Name) -> bool) {
        self.0.retain(|gateway, _| is_held(gateway));
    }
}
