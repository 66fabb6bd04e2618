//! One stream: carries what an Envoy says to its session, and what the session answers back.
//!
//! The transport asks for the next chunk of a response, or for the next response, when it has taken the one before. Only
//! then is looked what the Envoy is to have; so nothing is ever queued for a slow Envoy, and what it gets is the newest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::google::protobuf::value::Kind;
use prost::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Xds;
use super::admission::Place;
use super::response::Response;
use super::session::{Answer, Outgoing, Session, Step};
use super::unread::UnreadResponse;
use super::variant::{Variant, version};
use super::wire;
use crate::denials::Port;
use crate::frames::{Chunks, Requests};
use crate::live::Memberships;
use crate::metrics::{CountedStream, Metrics, TypeLabels};
use crate::names::certificate::{ClientCertificate, denial};
use crate::names::{Name, NodeIdentity};
use crate::nodes::{Node, Position, Seat, Sent, Standing, Subscribed};
use crate::rollout::{Member, Nack, Offer};
use crate::snapshot::feature::{EnvoyVersion, Need};
use crate::snapshot::resource::ResourceType;

/// The longest that a stream is open before it says who it is.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The most names of a type that an Envoy can ask for, at once and in all, and how long one can be.
const NAMES_MAX: usize = 100_000;
const NAME_BYTES_MAX: usize = 4096;
/// The longest `node.id`, `node.cluster` and version, and the most of its metadata that is looked at: the rest selects nothing.
const IDENTITY_BYTES_MAX: usize = 1024;
const METADATA_MAX: usize = 64;

/// Signals between a stream and the connection that it is on.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The connection is to go: the stream ends, and the Envoy connects again.
    pub closing: CancellationToken,
    /// Nobody reads it: it is closed without another word.
    pub stuck: CancellationToken,
}

pub(super) struct Stream<V: Variant> {
    xds: Xds,
    connection: Connection,
    /// What the Envoy's certificate says of it, where it had to show one.
    certificate: Option<Arc<ClientCertificate>>,
    _place: Place,
    requests: Requests<V::Request>,
    session: Session,
    /// From the first request on.
    envoy: Option<Envoy>,
    /// Responses that are to be sent next: one a type at most.
    responses: VecDeque<Outgoing>,
    not_served: Option<Response>,
    sending: Option<Sending>,
}

/// A response that the transport takes.
struct Sending {
    chunks: Chunks<Response>,
    unread: Arc<UnreadResponse>,
}

/// The node at the other end.
struct Envoy {
    member: Member,
    seat: Seat,
    /// Features of its gateways that it does not know.
    too_old_for: Vec<Arc<Need>>,
    /// The generation that responses are made from.
    generation: u64,
    gauge: StreamGauge,
}

impl<V: Variant> Stream<V> {
    pub(super) fn new(
        xds: Xds,
        connection: Connection,
        certificate: Option<Arc<ClientCertificate>>,
        place: Place,
        requests: Requests<V::Request>,
    ) -> Self {
        Self {
            xds,
            connection,
            certificate,
            _place: place,
            requests,
            session: Session::new(V::PROTOCOL),
            envoy: None,
            responses: VecDeque::new(),
            not_served: None,
            sending: None,
        }
    }

    /// The next bytes for the Envoy; `None` once it has ended the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(chunk) = self.next_chunk()? {
                return Ok(Some(chunk));
            }
            if !self.step().await? {
                return Ok(None);
            }
        }
    }

    /// A response is sent to its end before another is made.
    fn next_chunk(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let Some(Sending { chunks, unread }) = &mut self.sending else {
                // It may have waited for the one before, and be for somebody who may not have it any more.
                let offer = self.xds.rollout.offer();
                self.belong_by(&offer)?;
                let Some(response) = self.take_response() else { return Ok(None) };
                self.sending = Some(response);
                continue;
            };
            match chunks.next_chunk() {
                Some(chunk) => return Ok(Some(unread.watch(chunk, self.connection.stuck.clone()))),
                None => self.sending = None,
            }
        }
    }

    fn take_response(&mut self) -> Option<Sending> {
        if let Some(response) = self.not_served.take() {
            return Some(Sending { chunks: Chunks::new(response), unread: self.xds.unread.begin(&[]) });
        }
        let response = self.responses.pop_front()?;
        let (resource_type, version) = (response.resource_type, response.version);
        let bytes: usize = response.resources.iter().map(|resource| resource.body.len()).sum();
        let label = type_label(resource_type);
        self.xds.metrics.xds_pushes.get_or_create(&label).inc();
        self.xds.metrics.xds_push_bytes.get_or_create(&label).inc_by(bytes as u64);
        if let Some(envoy) = &self.envoy {
            let at = self.xds.clock.now();
            envoy.seat.sent(resource_type, Sent { generation: envoy.generation, version, at });
        }
        let unread = self.xds.unread.begin(&response.resources);
        Some(Sending { chunks: Chunks::new(V::encode(response, &self.xds.identifier)), unread })
    }

    /// Waits until something happens, and looks what follows from it. False once the Envoy has ended the stream.
    async fn step(&mut self) -> Result<bool, Status> {
        let now = self.xds.clock.now();
        let deadline = match &self.envoy {
            Some(_) => self.session.deadline().map(|deadline| deadline.since(now)),
            None => Some(FIRST_REQUEST_TIMEOUT),
        };
        let (member, is_known) = (self.envoy.as_ref().map(|envoy| &envoy.member), self.envoy.is_some());
        tokio::select! {
            request = self.requests.next() => match request? {
                Some(request) => self.on_request(request)?,
                None => return Ok(false),
            },
            () = reached(member), if is_known => self.advance()?,
            () = sleep(deadline), if deadline.is_some() => match is_known {
                true => self.advance()?,
                false => return Err(Status::deadline_exceeded("no request, so nobody knows who this is")),
            },
            () = self.connection.closing.cancelled() => return Err(Status::unavailable("closing; connect again")),
        }
        Ok(true)
    }

    fn on_request(&mut self, mut request: V::Request) -> Result<(), Status> {
        let node = V::node(&mut request);
        if self.envoy.is_none() {
            self.join(node)?;
        }
        check::<V>(&request)?;
        let Some(resource_type) = ResourceType::from_type_url(V::type_url(&request)) else {
            // A type that nobody serves is no reason to end what is served (xDS rule 6).
            let nonce = self.session.next_nonce();
            self.not_served = V::not_served(request, nonce, &self.xds.identifier);
            return Ok(());
        };
        let step = V::on_request(&mut self.session, resource_type, request);
        if step.is_stale {
            self.xds.metrics.xds_stale_nonces.get_or_create(&type_label(resource_type)).inc();
        }
        self.note(resource_type, step);
        let names = self.session.get(resource_type).map_or(0, |one| one.subscription.names().len());
        if names > NAMES_MAX {
            return Err(Status::resource_exhausted(format!("more than {NAMES_MAX} names of one type")));
        }
        self.advance()
    }

    /// Only the first request of a stream has to say who asks (xDS rules 1 to 3).
    fn join(&mut self, node: Option<wire::Node>) -> Result<(), Status> {
        let node = node.filter(|node| !node.id.is_empty());
        let node = node.ok_or_else(|| Status::invalid_argument("the first request of a stream needs node.id"))?;
        let envoy_version = version(&node);
        if [&node.id, &node.cluster, &envoy_version].iter().any(|text| text.len() > IDENTITY_BYTES_MAX) {
            let message = format!(
                "node.id, node.cluster and node.user_agent_version have at most {IDENTITY_BYTES_MAX} bytes each"
            );
            return Err(Status::invalid_argument(message));
        }
        let release = EnvoyVersion::parse(&envoy_version);
        let identity = Arc::new(identity(node, self.certificate.clone()));
        // Before anybody sees it on the board: it may have the name of another.
        let memberships = self.xds.rollout.offer().memberships(&identity);
        self.admit(&identity, &memberships)?;
        tracing::info!(
            node = identity.id,
            cluster = identity.cluster,
            protocol = V::PROTOCOL.as_str(),
            "Envoy connected"
        );
        let now = self.xds.clock.now();
        let seat = self.xds.nodes.join(Node {
            identity: Arc::clone(&identity),
            envoy_version,
            too_old_for: Vec::new(),
            protocol: V::PROTOCOL,
            connected_at: now,
            gone_at: None,
            groups: Vec::new(),
            position: Position { standing: Standing::Pending, live: 0, since: now },
            types: Default::default(),
        });
        let member = self.xds.rollout.join(seat.stream(), identity, release);
        if *member.memberships() != memberships {
            self.admit(&member.identity, member.memberships())?;
        }
        let gauge = StreamGauge::new(&self.xds.metrics);
        let mut envoy = Envoy { member, seat, too_old_for: Vec::new(), generation: 0, gauge };
        envoy.join_groups();
        self.envoy = Some(envoy);
        Ok(())
    }

    /// What an Envoy says of itself is a claim, and its certificate has to bear it out (xDS rule 98). Fails where it is for
    /// none of the gateways that the Envoy says it belongs to; those of several that it is not for are not the Envoy's.
    fn admit(&self, identity: &NodeIdentity, memberships: &Memberships) -> Result<(), Status> {
        for gateway in &memberships.denied {
            self.xds.denials.note(Port::Xds, gateway, Some(&identity.id), identity.certificate.as_ref());
        }
        match memberships.are_denied() {
            true => Err(Status::permission_denied(denial(&memberships.denied, identity.certificate.as_deref()))),
            false => Ok(()),
        }
    }

    /// Looks up the gateways of the Envoy in the offer, where they may be others than before.
    fn belong_by(&mut self, offer: &Offer) -> Result<(), Status> {
        let Some(envoy) = &mut self.envoy else { return Ok(()) };
        if !offer.assign(&mut envoy.member) {
            return Ok(());
        }
        envoy.join_groups();
        let Some(Envoy { member, .. }) = &self.envoy else { return Ok(()) };
        self.admit(&member.identity, member.memberships())
    }

    /// Compares what the Envoy has with what it is to have now. Where that is not known it keeps what it has.
    fn advance(&mut self) -> Result<(), Status> {
        let offer = self.xds.rollout.offer();
        self.belong_by(&offer)?;
        let Some(envoy) = &mut self.envoy else { return Ok(()) };
        let Some(selection) = offer.select(&envoy.member) else { return Ok(()) };
        envoy.compare_release(&offer);
        let now = self.xds.clock.now();
        self.responses.extend(self.session.advance(&selection.resources, now));
        for group in &selection.groups {
            for resource_type in ResourceType::ALL {
                let has_all = || self.session.has_all(resource_type, group.resources().of_type(resource_type));
                if !group.is_acknowledged(resource_type) && has_all() {
                    self.xds.rollout.acknowledged(group, resource_type);
                }
            }
        }
        let is_held = selection.groups.iter().any(|group| group.hold.is_some());
        let standing = match self.session.standing() {
            Standing::Live if is_held => Standing::Held,
            standing => standing,
        };
        for duration in envoy.seat.stands(standing, offer.number, now) {
            self.xds.metrics.xds_convergence_seconds.observe(duration.as_secs_f64());
        }
        envoy.generation = offer.number;
        Ok(())
    }

    fn note(&mut self, resource_type: ResourceType, Step { answer, answered, .. }: Step) {
        let (Some(envoy), Some(one)) = (&self.envoy, self.session.get(resource_type)) else { return };
        let subscription = &one.subscription;
        envoy
            .seat
            .subscribed(resource_type, Subscribed { all: subscription.wants_all(), names: subscription.names().len() });
        let gateways = envoy.member.gateways();
        match answer {
            None => {}
            Some(Answer::Acknowledged) => {
                envoy.seat.acknowledged(resource_type);
                if !one.is_refusing() {
                    envoy.seat.no_longer_refuses(resource_type);
                }
                let offer = self.xds.rollout.offer();
                for gateway in gateways.iter().filter(|gateway| offer.is_held(gateway)) {
                    self.xds.rollout.acknowledged_held(gateway, resource_type, &answered);
                }
            }
            Some(Answer::Refused(message)) => {
                let node = &envoy.member.identity.id;
                tracing::warn!(node, r#type = resource_type.as_str(), message, "Envoy refused a response");
                self.xds.metrics.xds_nacks.get_or_create(&type_label(resource_type)).inc();
                let names = answered.iter().map(|(name, _)| Arc::clone(name)).collect();
                let at = self.xds.clock.now();
                envoy.seat.refused(resource_type, names, &message, at);
                let nack = Nack { node: node.clone(), resource_type, resources: answered, message, at };
                for gateway in gateways {
                    let hold = self.xds.rollout.refused(gateway, &nack);
                    if let Some(hold) = hold {
                        let documents: Vec<_> = hold.documents.keys().map(ToString::to_string).collect();
                        let gateway = gateway.as_str();
                        tracing::warn!(gateway, node, ?documents, "the gateway's Envoys go on with what they had");
                    }
                }
            }
        }
    }
}

impl Envoy {
    /// Shows which gateways select it now.
    fn join_groups(&mut self) {
        let gateways = self.member.gateways();
        self.gauge.move_to(gateways.first());
        self.seat.set_groups(gateways.to_vec());
    }

    /// Tells what the Envoy is too old for before it refuses or passes over it.
    fn compare_release(&mut self, offer: &Offer) {
        let Some(release) = self.member.release else { return };
        let too_old_for = offer.unknown_to(&self.member);
        if too_old_for == self.too_old_for {
            return;
        }
        for need in too_old_for.iter().filter(|need| !self.too_old_for.contains(need)) {
            let Need { feature, documents, others } = &**need;
            tracing::warn!(
                node = self.member.identity.id,
                envoy = %release,
                feature = feature.name,
                since = %feature.since,
                ?documents,
                others,
                "Envoy is too old: it {} what its policies need",
                feature.older.as_str(),
            );
        }
        self.seat.set_too_old_for(too_old_for.clone());
        self.too_old_for = too_old_for;
    }
}

/// A request that is more than any Envoy would send is refused (xDS rule 99).
fn check<V: Variant>(request: &V::Request) -> Result<(), Status> {
    if V::type_url(request).is_empty() {
        return Err(Status::invalid_argument("an aggregated stream needs type_url in every request"));
    }
    if V::names(request).count() > NAMES_MAX {
        return Err(Status::resource_exhausted(format!("more than {NAMES_MAX} names in a request")));
    }
    if V::names(request).any(|name| name.len() > NAME_BYTES_MAX) {
        return Err(Status::resource_exhausted(format!("a name of more than {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The identity that an Envoy gives itself.
fn identity(node: wire::Node, certificate: Option<Arc<ClientCertificate>>) -> NodeIdentity {
    let fields = node.metadata.into_iter().flat_map(|metadata| metadata.fields);
    let text = |(key, value): (String, envoy_types::pb::google::protobuf::Value)| match value.kind {
        Some(Kind::StringValue(text)) if key.len().max(text.len()) <= IDENTITY_BYTES_MAX => Some((key, text)),
        _ => None,
    };
    let metadata = fields.filter_map(text).take(METADATA_MAX).collect();
    NodeIdentity { certificate, id: node.id, cluster: node.cluster, metadata }
}

/// Waits for an offer that is another one for the node.
async fn reached(member: Option<&Member>) {
    if let Some(member) = member {
        member.reached().await;
    }
}

async fn sleep(duration: Option<Duration>) {
    if let Some(duration) = duration {
        tokio::time::sleep(duration).await;
    }
}

fn type_label(resource_type: ResourceType) -> TypeLabels {
    TypeLabels { r#type: resource_type.as_str() }
}

/// Counts the stream under its group for as long as it lives.
struct StreamGauge {
    metrics: Arc<Metrics>,
    counted: CountedStream,
}

impl StreamGauge {
    fn new(metrics: &Arc<Metrics>) -> Self {
        Self { counted: metrics.xds_streams.count(None), metrics: Arc::clone(metrics) }
    }

    fn move_to(&mut self, group: Option<&Name>) {
        if self.counted.group() != group {
            self.counted = self.metrics.xds_streams.count(group);
        }
    }
}
