//! Forms that are not the newest: what requests are counted by that come by routes of older policies.
//!
//! An Envoy has such routes for a moment after every change, for as long as clusters are not ready, and for good where it
//! is held, refuses, or is away. Its requests are counted by the newest limits that fit their form, and by what only the
//! form has: the last limits that it had when it was the newest, which are remembered here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::OnError;
use super::matcher::{Denied, LastLimits, Matcher};
use crate::names::Name;
use crate::names::certificate::{ClientCertificate, San, allows};

/// By gateway and by the id that routes report.
#[derive(Clone, Debug, Default)]
pub struct OlderForms(HashMap<Name, OlderGateway>);

#[derive(Clone, Debug, Default)]
struct OlderGateway {
    /// The certificates that it was last for, as [`Matcher::find_for`] asks where the newest policies have no such gateway.
    identities: Arc<[San]>,
    forms: HashMap<Box<str>, Arc<OlderForm>>,
}

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
        self.0.values().map(|gateway| gateway.forms.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn has(&self, gateway: &Name, id: &str) -> bool {
        self.0.get(gateway).is_some_and(|gateway| gateway.forms.contains_key(id))
    }

    /// Remembers what the matcher counts the id by. Takes the place of what was remembered before.
    pub fn remember(&mut self, matcher: &Matcher, gateway: &Name, id: &str) {
        let Some((on_error, last_limits)) = matcher.last_limits(gateway, id) else { return };
        let form = OlderForm { gateway: gateway.clone(), on_error, last_limits, is_used: AtomicBool::new(false) };
        self.0.entry(gateway.clone()).or_default().forms.insert(id.into(), Arc::new(form));
        self.remember_identities(matcher, gateway);
    }

    /// Remembers whom the gateway is for, where something of it is remembered. To be called with the last policies that have
    /// the gateway.
    pub fn remember_identities(&mut self, matcher: &Matcher, gateway: &Name) {
        if let (Some(of_gateway), Some(identities)) = (self.0.get_mut(gateway), matcher.identities(gateway)) {
            of_gateway.identities = Arc::clone(identities);
        }
    }

    /// The gateways of which something is remembered.
    pub fn gateways(&self) -> impl Iterator<Item = &Name> {
        self.0.keys()
    }

    pub(super) fn check(&self, gateway: &str, certificate: Option<&ClientCertificate>) -> Result<(), Denied<'_>> {
        match self.0.get_key_value(gateway) {
            Some((gateway, last)) if !allows(&last.identities, certificate) => Err(Denied { gateway }),
            _ => Ok(()),
        }
    }

    /// Forgets those that are not to be kept. `keep` is told whether requests came since it was asked last.
    pub fn retain(&mut self, mut keep: impl FnMut(&Name, &str, bool) -> bool) {
        for (gateway, OlderGateway { forms, .. }) in &mut self.0 {
            forms.retain(|id, form| keep(gateway, id, form.is_used.swap(false, Ordering::Relaxed)));
        }
        self.0.retain(|_, gateway| !gateway.forms.is_empty());
    }

    pub(super) fn get(&self, gateway: &str, id: &str) -> Option<&OlderForm> {
        let form = self.0.get(gateway)?.forms.get(id)?;
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
