//! Who was refused a gateway because of its certificate: counted, told in the log once a while, and kept for whoever looks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Timestamp};
use crate::metrics::{Metrics, PortLabels};
use crate::names::Name;
use crate::names::certificate::{ClientCertificate, denial};
use crate::shown;

/// So many are kept, those that were seen last, ...
const KEPT_MAX: usize = 100;
/// ...for so long, as Envoys are that are gone.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);
/// The shortest time from one line of the log to the next.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Denials {
    metrics: Arc<Metrics>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// From the one that was seen the longest ago to the last one.
    kept: Vec<Denial>,
    logged_at: Option<Timestamp>,
    /// Denials since then.
    unlogged: u64,
}

/// Somebody who may not have a gateway, on one port, since the first time.
#[derive(Clone, Debug)]
pub struct Denial {
    pub port: Port,
    pub gateway: Name,
    /// What an Envoy says that it is; the rate limit service is not told.
    pub node: Option<Arc<str>>,
    pub certificate: Option<Arc<ClientCertificate>>,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub times: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Xds,
    RateLimit,
}

impl Port {
    const ALL: [Self; 2] = [Self::Xds, Self::RateLimit];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xds => "xds",
            Self::RateLimit => "rls",
        }
    }
}

impl Denial {
    pub fn reason(&self) -> String {
        denial(std::slice::from_ref(&self.gateway), self.certificate.as_deref())
    }
}

impl Denials {
    pub fn new(metrics: Arc<Metrics>, clock: Clock) -> Self {
        // An alarm on denials needs the series before the first one.
        for port in Port::ALL {
            let _ = metrics.identity_denials.get_or_create(&PortLabels { port: port.as_str() });
        }
        Self { metrics, clock, state: Mutex::default() }
    }

    /// Notes that somebody was refused the gateway.
    pub fn note(&self, port: Port, gateway: &Name, node: Option<&str>, certificate: Option<&Arc<ClientCertificate>>) {
        self.metrics.identity_denials.get_or_create(&PortLabels { port: port.as_str() }).inc();
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.keep(port, gateway, node, certificate, now);
        if state.logged_at.is_some_and(|at| now.since(at) < PAUSE) {
            state.unlogged += 1;
            return;
        }
        state.logged_at = Some(now);
        let others = std::mem::take(&mut state.unlogged);
        drop(state);
        let (port, node) = (port.as_str(), node.map(shown::text));
        let reason = denial(std::slice::from_ref(gateway), certificate.map(|certificate| &**certificate));
        tracing::warn!(port, node = node.as_deref(), others, "denied: {reason}");
    }

    /// The last ones, the newest first.
    pub fn last(&self) -> Vec<Denial> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        state.kept.retain(|denial| now.since(denial.last_at) < KEPT_FOR);
        state.kept.iter().rev().cloned().collect()
    }
}

impl State {
    fn keep(
        &mut self,
        port: Port,
        gateway: &Name,
        node: Option<&str>,
        certificate: Option<&Arc<ClientCertificate>>,
        now: Timestamp,
    ) {
        let is_same = |denial: &Denial| {
            let has_same_names = match (&denial.certificate, certificate) {
                (Some(own), Some(other)) => Arc::ptr_eq(own, other) || own.sans == other.sans,
                (own, other) => own.is_none() && other.is_none(),
            };
            denial.port == port && denial.gateway == *gateway && denial.node.as_deref() == node && has_same_names
        };
        // Whoever comes again and again is at the end.
        let denial = match self.kept.iter().rposition(is_same).map(|place| self.kept.remove(place)) {
            Some(before) => Denial { last_at: now, times: before.times + 1, ..before },
            None => {
                let (gateway, node, certificate) = (gateway.clone(), node.map(Arc::from), certificate.cloned());
                Denial { port, gateway, node, certificate, first_at: now, last_at: now, times: 1 }
            }
        };
        if self.kept.len() == KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push(denial);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::certificate::San;

    fn certificate(name: &str) -> Arc<ClientCertificate> {
        Arc::new(ClientCertificate { sans: vec![San::parse(name).unwrap()], not_after: None })
    }

    fn told(denials: &Denials) -> Vec<(Option<String>, u64, String)> {
        let told = |denial: &Denial| (denial.node.as_deref().map(str::to_owned), denial.times, denial.reason());
        denials.last().iter().map(told).collect()
    }

    #[test]
    fn who_is_denied_again_and_again_is_told_once_with_the_number_of_times() {
        let denials = Denials::new(Arc::default(), Clock::default());
        let shop = Name::parse("shop").unwrap();
        let other = certificate("spiffe://other/edge");
        for _ in 0..3 {
            denials.note(Port::Xds, &shop, Some("edge-1"), Some(&other));
            // A new connection has its certificate anew.
            denials.note(Port::Xds, &shop, Some("edge-1"), Some(&certificate("spiffe://other/edge")));
        }
        denials.note(Port::RateLimit, &shop, None, None);
        let reason = "gateway shop is not for the certificate of spiffe://other/edge".to_owned();
        let asked_for_none =
            "gateway shop is for some certificates only, and this port asks for none (--tls-client-ca)";
        assert_eq!(told(&denials), [(None, 1, asked_for_none.to_owned()), (Some("edge-1".to_owned()), 6, reason)]);
        let counted = |port| denials.metrics.identity_denials.get_or_create(&PortLabels { port }).get();
        assert_eq!([counted("xds"), counted("rls")], [6, 1]);
    }

    #[test]
    fn only_the_last_denials_are_kept() {
        let denials = Denials::new(Arc::default(), Clock::default());
        let shop = Name::parse("shop").unwrap();
        let note = |node: usize| denials.note(Port::Xds, &shop, Some(&format!("edge-{node}")), None);
        (0..=KEPT_MAX + 10).for_each(note);
        note(20);
        let kept: Vec<_> = told(&denials).into_iter().filter_map(|(node, times, _)| Some((node?, times))).collect();
        assert_eq!((kept.len(), &kept[0]), (KEPT_MAX, &("edge-20".to_owned(), 2)));
        assert_eq!((&*kept[1].0, &*kept[KEPT_MAX - 1].0), ("edge-110", "edge-11"));
    }

    #[test]
    fn both_ports_have_a_series_before_the_first_denial() {
        let metrics: Arc<Metrics> = Arc::default();
        Denials::new(Arc::clone(&metrics), Clock::default());
        for port in ["xds", "rls"] {
            let series = format!("tierflow_identity_denials_total{{port=\"{port}\"}} 0");
            assert!(metrics.render().lines().any(|line| line == series), "{series}");
        }
    }
}
