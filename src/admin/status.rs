//! The state of the whole in one answer.

mod held;
mod nodes;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::documents::RefusedDocument;
use super::health::Check;
use super::{Admin, Listeners, in_background, rfc3339, wall};
use crate::certificates::Certificate;
use crate::counters::Counters;
use crate::counters::redis::Report;
use crate::denials::Denial;
use crate::document::Instance;
use crate::names::Name;
use crate::shown;
use crate::source::board::Replica;
use crate::version::{COMMIT, VERSION};
use held::{HELD_MAX, HeldGateway};
use nodes::NodesStatus;

/// So many refused documents are told of. `/v1/policies` has all.
const REFUSED_MAX: usize = 100;
/// So many instances of services that register themselves are told of, and so many that make no sense.
const REGISTERED_MAX: usize = 1000;
const STRANGE_MAX: usize = 20;
/// So many of those who were denied are told of, and so many gateways that nobody can have.
const DENIED_MAX: usize = 20;

#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// The moment of all of this.
    #[schema(format = DateTime)]
    at: String,
    /// That of the program.
    version: &'static str,
    /// The commit that it is built of; `unknown` where the build was not told.
    commit: &'static str,
    /// Null before a first set is loaded.
    #[schema(required = true)]
    generation: Option<u64>,
    /// The source's name for the state that the generation was read at.
    #[schema(required = true)]
    revision: Option<u64>,
    ready: bool,
    /// The rows of `/readyz`, with what failed.
    checks: Vec<Check>,
    source: SourceStatus,
    /// The number of documents that are served.
    documents: usize,
    /// The first 100, in the order of where they stand; `/v1/policies?refused=true` has all.
    refused: Vec<RefusedDocument>,
    refused_more: usize,
    /// The instances of each service whose instances register themselves, the first 1000.
    registered: BTreeMap<String, Vec<Instance>>,
    registered_more: usize,
    /// The replicas of Tierflow that share the source, this one among them.
    replicas: Vec<Replica>,
    /// The addresses that Envoys are told to ask for decisions.
    #[schema(required = true)]
    rate_limit_service: Option<Vec<String>>,
    nodes: NodesStatus,
    /// What groups are kept from because an Envoy refused it; the first 20 gateways.
    held: Vec<HeldGateway>,
    held_more: usize,
    counters: CounterStore,
    /// Why the newest version of the files that say who may ask is not in use; the one before is. Null where it is.
    #[schema(required = true)]
    access_trouble: Option<String>,
    /// The file of the audit log; null where changes are noted in the log.
    #[schema(required = true)]
    audit: Option<crate::audit::Report>,
    listeners: Listeners,
    /// Whoever was refused a gateway because of its certificate: the last 20, the newest first.
    denied: Vec<Denied>,
    /// Gateways for some certificates only, where nobody is asked for one (`--tls-client-ca`): nobody can have them.
    gateways_without_envoys: Vec<String>,
    /// Those that this process shows and trusts, the first to end first.
    certificates: Vec<ServerCertificate>,
}

/// Somebody whose certificate is not for a gateway.
#[derive(Serialize, ToSchema)]
struct Denied {
    /// `xds` or `rls`.
    port: &'static str,
    gateway: String,
    /// What an Envoy says that it is; null on the rate limit port, where none says it.
    #[schema(required = true)]
    #[schema(value_type = Option<String>)]
    node: Option<Arc<str>>,
    reason: String,
    times: u64,
    #[schema(format = DateTime)]
    first_at: String,
    #[schema(format = DateTime)]
    last_at: String,
}

/// A file with certificates, by the flag that names it.
#[derive(Serialize, ToSchema)]
struct ServerCertificate {
    flag: &'static str,
    path: String,
    /// As RFC 4514 writes it, of the first certificate of a chain and of the authority that ends first; empty where it has none.
    subject: String,
    /// The URIs, DNS names and addresses that it is for; the first 20.
    names: Vec<String>,
    names_more: usize,
    #[schema(format = DateTime)]
    not_after: String,
    /// `valid`, `expiring` within 30 days, or `expired`.
    validity: &'static str,
}

/// Where the policies come from, and the age of what is served.
#[derive(Serialize, ToSchema)]
struct SourceStatus {
    place: String,
    /// The newest revision that it told of; for etcd that of the whole store.
    revision: u64,
    /// How long ago it last said that it is there. Null: never.
    #[schema(required = true)]
    lag_seconds: Option<f64>,
    /// How long ago all of it was last compared with what is known here.
    #[schema(required = true)]
    compared_seconds_ago: Option<f64>,
    /// Why it is not heard now, or that it holds nothing, which is taken for an accident.
    #[schema(required = true)]
    trouble: Option<String>,
    serves_last_good_of_earlier_run: bool,
    /// Instances that registered with a value that makes no sense, as `key: why`; the first 20.
    strange_instances: Vec<String>,
    strange_instances_more: usize,
    /// A large change that cannot be read, so that nobody serves it.
    #[schema(required = true)]
    unreadable_change: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct CounterStore {
    /// `memory` or `redis`.
    store: &'static str,
    /// The counters in memory, and the most that there may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys_max: Option<usize>,
    /// The store that replicas share.
    #[serde(skip_serializing_if = "Option::is_none")]
    redis: Option<Report>,
}

/// The state of the whole.
#[utoipa::path(
    get,
    path = "/v1/status",
    operation_id = "status",
    responses((status = 200, description = "The state.", body = Status)),
)]
pub(super) async fn status(State(admin): State<Admin>) -> Response {
    in_background(move || Json(Status::of(&admin)).into_response()).await
}

impl Status {
    fn of(admin: &Admin) -> Self {
        let served = admin.live.served();
        let generation = served.generation.as_ref();
        let registered = generation.iter().flat_map(|generation| generation.registered.iter());
        let (registered, registered_more) = first_instances(registered);
        let refused = served.refused.sorted();
        let (refused, refused_more) =
            first(refused.into_iter(), REFUSED_MAX, |refusal| RefusedDocument::listed(refusal));
        let offer = admin.rollout.offer();
        let holds: Vec<_> = offer.holds().collect();
        let (held, held_more) = first(holds.into_iter(), HELD_MAX, |(gateway, hold)| HeldGateway::of(gateway, hold));
        Self {
            at: rfc3339(admin.clock.now()),
            version: VERSION,
            commit: COMMIT,
            generation: generation.map(|generation| generation.number),
            revision: generation.map(|generation| generation.revision.0),
            ready: generation.is_some(),
            checks: Check::all(admin),
            source: SourceStatus::of(admin),
            documents: generation.map_or(0, |generation| generation.documents.len()),
            refused,
            refused_more,
            registered,
            registered_more,
            replicas: admin.board.read().replicas,
            rate_limit_service: generation
                .map(|generation| generation.rate_limit_service.addresses.iter().map(ToString::to_string).collect()),
            nodes: NodesStatus::of(admin),
            held,
            held_more,
            counters: CounterStore::of(&admin.counters),
            access_trouble: admin.access.trouble(),
            audit: admin.audit.report(admin.clock.now()),
            listeners: admin.listeners,
            denied: admin.denials.last().into_iter().take(DENIED_MAX).map(Denied::of).collect(),
            gateways_without_envoys: admin
                .unidentifiable_gateways()
                .iter()
                .take(DENIED_MAX)
                .map(Name::to_string)
                .collect(),
            certificates: admin.certificates.all().iter().map(|of| ServerCertificate::of(of, admin)).collect(),
        }
    }
}

impl Denied {
    fn of(denial: Denial) -> Self {
        Self {
            port: denial.port.as_str(),
            gateway: denial.gateway.to_string(),
            reason: denial.reason(),
            node: denial.node,
            times: denial.times,
            first_at: rfc3339(denial.first_at),
            last_at: rfc3339(denial.last_at),
        }
    }
}

impl ServerCertificate {
    fn of(certificate: &Certificate, admin: &Admin) -> Self {
        Self {
            flag: certificate.flag,
            path: shown::path(&certificate.path),
            subject: certificate.subject.clone(),
            names: certificate.names.clone(),
            names_more: certificate.names_more,
            not_after: humantime::format_rfc3339_seconds(certificate.not_after).to_string(),
            validity: certificate.validity(wall(admin.clock.now())).as_str(),
        }
    }
}

/// The beginning of a list, and the number of the rest.
fn first<T, U>(all: impl ExactSizeIterator<Item = T>, max: usize, told: impl FnMut(T) -> U) -> (Vec<U>, usize) {
    let more = all.len().saturating_sub(max);
    (all.take(max).map(told).collect(), more)
}

fn first_instances<'a>(
    registered: impl Iterator<Item = (&'a Name, &'a Arc<[Instance]>)>,
) -> (BTreeMap<String, Vec<Instance>>, usize) {
    let (mut told, mut room, mut more) = (BTreeMap::new(), REGISTERED_MAX, 0);
    for (service, instances) in registered {
        let (of_service, others) = first(instances.iter(), room, Clone::clone);
        room -= of_service.len();
        more += others;
        told.insert(service.to_string(), of_service);
    }
    (told, more)
}

impl CounterStore {
    fn of(counters: &Counters) -> Self {
        let store = super::counters::store(counters);
        match counters {
            Counters::Memory(memory) => {
                Self { store, keys: Some(memory.len()), keys_max: Some(memory.keys_max()), redis: None }
            }
            Counters::Redis(redis) => Self { store, keys: None, keys_max: None, redis: Some(redis.report()) },
            #[cfg(test)]
            Counters::Away => Self { store, keys: None, keys_max: None, redis: None },
        }
    }
}

impl SourceStatus {
    fn of(admin: &Admin) -> Self {
        let health = admin.board.read();
        let now = admin.clock.now();
        let (strange_instances, strange_instances_more) =
            first(health.strange_instances.iter(), STRANGE_MAX, String::clone);
        Self {
            lag_seconds: health.lag(now).map(|lag| lag.as_secs_f64()),
            compared_seconds_ago: health.compared_at.map(|at| now.since(at).as_secs_f64()),
            trouble: health.trouble().map(str::to_owned),
            place: health.place,
            revision: health.revision.0,
            serves_last_good_of_earlier_run: health.is_restored,
            strange_instances,
            strange_instances_more,
            unreadable_change: health.unreadable_change,
        }
    }
}
