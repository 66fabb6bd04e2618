//! Forms that are not the newest: what requests are counted by that come by routes of older policies.
//!
//! An Envoy has such routes for a moment after every change, for as long as clusters are not ready, and for good where it
//! is held, refuses, or is away. Its requests are counted by the newest limits that fit their form, and by what only the
//! form has: the last limits that it had when it was the newest, which are remembered here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::OnError;
use super::matcher::{LastLimits, Matcher};
use crate::names::Name;

/// By gateway and by the id that routes report.
#[derive(Clone, Debug, Default)]
pub struct OlderForms(HashMap<Name, HashMap<Box<str>, Arc<OlderForm>>>);

#[derive(Debug)]
pub struct OlderForm {
    gateway: Name,
    on_error: OnError,
    last_limits: LastLimits,
    /// Since this was asked last. So an Envoy that nobody here hears of keeps what its requests need.
    is_used: AtomicBool,
}

impl OlderForms {
    pub fn len(&self) -> usize {
        self.0.values().map(HashMap::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn has(&self, gateway: &Name, id: &str) -> bool {
        self.0.get(gateway).is_some_and(|forms| forms.contains_key(id))
    }

    /// Remembers what the matcher counts the id by. Takes the place of what was remembered before.
    pub fn remember(&mut self, matcher: &Matcher, gateway: &Name, id: &str) {
        let Some((on_error, last_limits)) = matcher.last_limits(gateway, id) else { return };
        let form = OlderForm { gateway: gateway.clone(), on_error, last_limits, is_used: AtomicBool::new(false) };
        self.0.entry(gateway.clone()).or_default().insert(id.into(), Arc::new(form));
    }

    /// Forgets those that are not to be kept. `keep` is told whether requests came since it was asked last.
    pub fn retain(&mut self, mut keep: impl FnMut(&Name, &str, bool) -> bool) {
        for (gateway, forms) in &mut self.0 {
            forms.retain(|id, form| keep(gateway, id, form.is_used.swap(false, Ordering::Relaxed)));
        }
        self.0.retain(|_, forms| !forms.is_empty());
    }

    pub(super) fn get(&self, gateway: &str, id: &str) -> Option<&OlderForm> {
        let form = self.0.get(gateway)?.get(id)?;
        if !form.is_used.load(Ordering::Relaxed) {
            form.is_used.store(true, Ordering::Relaxed);
        }
        Some(form)
    }
}

impl OlderForm {
    pub(super) fn gateway(&self) -> &Name {
        &self.gateway
    }

    pub(super) fn on_error(&self) -> OnError {
        self.on_error
    }

    pub(super) fn last_limits(&self) -> &LastLimits {
        &self.last_limits
    }
}
