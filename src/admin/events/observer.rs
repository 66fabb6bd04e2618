//! Sees what has changed from one look to the next, and tells it as events.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::audit::AuditEntry;
use crate::admin::nodes::Look;
use crate::admin::traffic::Second;
use crate::admin::{Admin, rfc3339};
use crate::live::{Refusal, Refusals};
use crate::nodes::Node;
use crate::nodes::state::NodeState;
use crate::traffic;

/// Of so many documents that are refused it is told why.
const REFUSED_MAX: usize = 20;
/// Where more Envoys change their state between two looks, their number is told and not their names.
const NODES_MAX: usize = 50;
/// So many Envoys are looked at each second; where there are more, not all seconds have a look.
const NODES_PER_SECOND: usize = 2000;

pub struct Observer {
    admin: Admin,
    generation: u64,
    refused: Arc<Refusals>,
    /// What each Envoy was like.
    envoys: BTreeMap<String, Envoy>,
    /// Looks to leave out, so that thousands of Envoys cost no more than so much.
    looks_left_out: usize,
    /// The number of changes that had ended.
    ended: u64,
}

#[derive(Clone, PartialEq, Eq)]
struct Envoy {
    state: NodeState,
    gateways: Vec<String>,
}

impl Observer {
    /// What there is by now is no news.
    pub fn new(admin: &Admin) -> Self {
        let served = admin.live.served();
        let mut observer = Self {
            admin: admin.clone(),
            generation: served.generation.as_ref().map_or(0, |generation| generation.number),
            refused: Arc::clone(&served.refused),
            envoys: BTreeMap::new(),
            looks_left_out: 0,
            ended: admin.audit.ended(),
        };
        observer.envoys = observer.envoys_now();
        observer
    }

    /// Tells what has changed since the look before. To be called each second.
    pub fn look(&mut self) {
        self.look_at_policies();
        match self.looks_left_out {
            0 => self.look_at_envoys(),
            left_out => self.looks_left_out = left_out - 1,
        }
        self.look_at_changes();
    }

    /// Tells of a second that is over.
    pub fn tell_traffic(&self, second: traffic::Second) {
        self.admin.following.events.publish_traffic(text(&Second::of(second)));
    }

    /// The part of it that people wait for.
    pub fn look_at_policies(&mut self) {
        let served = self.admin.live.served();
        if let Some(generation) = served.generation.as_ref().filter(|generation| generation.number != self.generation) {
            self.generation = generation.number;
            self.tell("generation", json!({ "generation": generation.number, "revision": generation.revision.0 }));
        }
        let before = std::mem::replace(&mut self.refused, Arc::clone(&served.refused));
        let mut news: Vec<_> = served.refused.new_since(&before).collect();
        if news.is_empty() && served.refused.len() == before.len() {
            return;
        }
        news.sort_by(|a, b| (&a.origin, &a.id).cmp(&(&b.origin, &b.id)));
        let documents: Vec<_> = news.into_iter().take(REFUSED_MAX).map(|refusal| refused(refusal)).collect();
        self.tell("refused", json!({ "count": served.refused.len(), "documents": documents }));
    }

    fn look_at_envoys(&mut self) {
        let now = self.envoys_now();
        self.looks_left_out = now.len() / NODES_PER_SECOND;
        let before = std::mem::replace(&mut self.envoys, now);
        let changed = self.envoys.iter().filter(|(id, envoy)| before.get(*id) != Some(envoy));
        let is_forgotten =
            |(id, envoy): &(&String, &Envoy)| !self.envoys.contains_key(*id) && envoy.state != NodeState::Gone;
        let gone = before.iter().filter(is_forgotten);
        let gone = gone.map(|(id, envoy)| (id, Envoy { state: NodeState::Gone, ..envoy.clone() }));
        let changed: Vec<_> = changed.map(|(id, envoy)| (id, envoy.clone())).chain(gone).collect();
        if changed.len() > NODES_MAX {
            self.tell("nodes", json!({ "changed": changed.len() }));
            return;
        }
        for (id, Envoy { state, gateways }) in changed {
            self.tell("node", json!({ "id": id, "gateways": gateways, "state": state.as_str() }));
        }
    }

    /// An Envoy that reconnects has two streams: the newer one says how it is.
    fn envoys_now(&self) -> BTreeMap<String, Envoy> {
        let look = Look::of(&self.admin);
        let envoy = |node: Node| {
            let gateways = node.groups.iter().map(ToString::to_string).collect();
            (node.identity.id.clone(), Envoy { state: look.at(&node).state, gateways })
        };
        self.admin.nodes.after(None).map(|(_, node)| envoy(node)).collect()
    }

    fn look_at_changes(&mut self) {
        for change in self.admin.audit.ended_since(self.ended) {
            self.ended = change.ended.unwrap_or(self.ended);
            self.admin.following.events.publish("change", text(&AuditEntry::of(change)));
        }
    }

    /// With when it was seen: who comes back hears of it later.
    fn tell(&self, name: &'static str, mut data: Value) {
        if let Some(members) = data.as_object_mut() {
            members.insert("at".to_owned(), rfc3339(self.admin.clock.now()).into());
        }
        self.admin.following.events.publish(name, text(&data));
    }
}

fn refused(refusal: &Refusal) -> Value {
    json!({
        "kind": refusal.id.as_ref().map(|id| id.kind.as_str()),
        "name": refusal.id.as_ref().map(|id| &id.name),
        "message": refusal.problems.first().map_or("", |problem| &problem.message),
    })
}

/// In one line.
fn text(data: &impl Serialize) -> String {
    // What events are made of is never refused.
    serde_json::to_string(data).unwrap_or_default()
}
