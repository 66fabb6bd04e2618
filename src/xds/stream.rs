//! One stream: carries what an Envoy says to its session, and what the session answers back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Xds;
use super::session::{Answer, Outgoing, Step};
use super::variant::{Variant, identity, version};
use crate::live::{Generation, Served};
use crate::metrics::{GroupLabels, Metrics, TypeLabels};
use crate::names::NodeIdentity;
use crate::nodes::{Node, Seat, Sent};
use crate::snapshot::Resources;
use crate::snapshot::resource::ResourceType;

/// Responses that wait for the transport. The Envoy's window is behind it, so this is not where slowness shows.
const RESPONSES_WAITING_MAX: usize = 8;
/// How long an Envoy may leave a response unread before its stream is ended. It will come back.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may have happened before clusters that nobody refers to any more are taken away: enough for
/// requests that were under way when the routes changed.
const QUIET: Duration = Duration::from_secs(5);
/// The most names that an Envoy can ask for of one type.
const NAMES_MAX: usize = 100_000;

type Responses<V> = mpsc::Sender<Result<<V as Variant>::Response, Status>>;

pub(super) fn open<V: Variant>(
    xds: Xds,
    requests: Streaming<V::Request>,
) -> ReceiverStream<Result<V::Response, Status>> {
    let (sender, receiver) = mpsc::channel(RESPONSES_WAITING_MAX);
    tokio::spawn(async move {
        if let Err(status) = run::<V>(xds, requests, &sender).await {
            tracing::debug!(%status, "ADS stream ended");
            // Nobody may be there to hear it.
            let _ = sender.try_send(Err(status));
        }
    });
    ReceiverStream::new(receiver)
}

async fn run<V: Variant>(xds: Xds, mut requests: Streaming<V::Request>, sender: &Responses<V>) -> Result<(), Status> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    // Only the first request of a stream has to say who asks.
    let node = V::node(&first).filter(|node| !node.id.is_empty());
    let node = node.ok_or_else(|| Status::invalid_argument("the first request of a stream needs node.id"))?;
    let changes = xds.live.subscribe();
    let shutdown = xds.shutdown.clone();
    let mut stream = Stream::<V> {
        seat: xds.nodes.join(Node {
            identity: identity(node),
            envoy_version: version(node),
            protocol: V::PROTOCOL,
            connected_at: xds.clock.now(),
            groups: Vec::new(),
            types: Default::default(),
        }),
        node: identity(node),
        session: V::default(),
        group: StreamGauge::new(&xds.metrics),
        changes,
        xds,
        sender,
    };
    tracing::info!(
        node = stream.node.id,
        cluster = stream.node.cluster,
        protocol = V::PROTOCOL.as_str(),
        "Envoy connected"
    );
    stream.on_request(first).await?;
    let quiet = tokio::time::sleep(QUIET);
    tokio::pin!(quiet);
    let mut is_quiet = false;
    loop {
        tokio::select! {
            () = &mut quiet, if !is_quiet => {
                is_quiet = true;
                stream.on_quiet().await?;
                continue;
            }
            request = requests.message() => match request? {
                Some(request) => stream.on_request(request).await?,
                None => return Ok(()),
            },
            Ok(()) = stream.changes.changed() => stream.on_change().await?,
            () = shutdown.cancelled() => return Err(Status::unavailable("shutting down; connect again")),
            () = sender.closed() => return Ok(()),
        }
        is_quiet = false;
        quiet.as_mut().reset(tokio::time::Instant::now() + QUIET);
    }
}

struct Stream<'a, V: Variant> {
    xds: Xds,
    node: NodeIdentity,
    session: V,
    seat: Seat,
    group: StreamGauge,
    changes: watch::Receiver<u64>,
    sender: &'a Responses<V>,
}

impl<V: Variant> Stream<'_, V> {
    async fn on_request(&mut self, request: V::Request) -> Result<(), Status> {
        let type_url = V::type_url(&request);
        if type_url.is_empty() {
            return Err(Status::invalid_argument("an aggregated stream needs type_url in every request"));
        }
        // A type that nobody serves is no reason to end what is served.
        let Some(resource_type) = ResourceType::from_type_url(type_url) else {
            tracing::debug!(node = self.node.id, type_url, "type of resources that is not served");
            return Ok(());
        };
        let served = self.xds.live.served();
        let resources = self.resources(&served);
        let Step { answer, subscribed, responses } =
            self.session.on_request(resource_type, request, resources.as_deref());
        if subscribed > NAMES_MAX {
            return Err(Status::resource_exhausted(format!("more than {NAMES_MAX} names of one type")));
        }
        if let Some((resource_type, answer)) = answer {
            self.note(resource_type, answer);
        }
        self.send(served.generation.as_deref(), responses).await
    }

    async fn on_change(&mut self) -> Result<(), Status> {
        let served = self.xds.live.served();
        let Some(resources) = self.resources(&served) else { return Ok(()) };
        let responses = self.session.on_change(&resources);
        self.send(served.generation.as_deref(), responses).await
    }

    async fn on_quiet(&mut self) -> Result<(), Status> {
        let served = self.xds.live.served();
        let Some(resources) = self.resources(&served) else { return Ok(()) };
        let responses = self.session.on_quiet(&resources);
        self.send(served.generation.as_deref(), responses).await
    }

    /// What the Envoy is to have. `None` where that is not known: before a first set is loaded; and where no gateway
    /// selects it, which means nothing, unless its gateway may be missing because its document is broken. It keeps what
    /// it has then.
    fn resources(&mut self, served: &Served) -> Option<Arc<Resources>> {
        let generation = served.generation.as_ref()?;
        let groups: Vec<String> = generation.gateways_of(&self.node).into_iter().map(str::to_owned).collect();
        let is_known = !groups.is_empty() || !served.may_miss_gateways();
        self.group.move_to(groups.first());
        self.seat.set_groups(groups);
        is_known.then(|| generation.resources_of(&self.node))
    }

    fn note(&self, resource_type: ResourceType, answer: Answer) {
        match answer {
            Answer::Acknowledged => self.seat.acknowledged(resource_type),
            Answer::Refused(message) => {
                tracing::warn!(
                    node = self.node.id,
                    r#type = resource_type.as_str(),
                    message,
                    "Envoy refused a response"
                );
                self.xds.metrics.xds_nacks.get_or_create(&type_label(resource_type)).inc();
                self.seat.refused(resource_type, message, self.xds.clock.now());
            }
        }
    }

    async fn send(&self, generation: Option<&Generation>, responses: Vec<Outgoing>) -> Result<(), Status> {
        for response in responses {
            let bytes: usize = response.resources.iter().map(|resource| resource.body.len()).sum();
            let encoded = V::encode(&response, &self.xds.identifier);
            let sent = self.sender.send_timeout(Ok(encoded), WRITE_TIMEOUT).await;
            sent.map_err(|_| Status::deadline_exceeded("the Envoy does not read what it is sent"))?;
            let label = type_label(response.resource_type);
            self.xds.metrics.xds_pushes.get_or_create(&label).inc();
            self.xds.metrics.xds_push_bytes.get_or_create(&label).inc_by(bytes as u64);
            let generation = generation.map_or(0, |generation| generation.number);
            self.seat
                .sent(response.resource_type, Sent { generation, version: response.version, at: self.xds.clock.now() });
        }
        Ok(())
    }
}

fn type_label(resource_type: ResourceType) -> TypeLabels {
    TypeLabels { r#type: resource_type.as_str() }
}

/// Counts the stream under its group for as long as it lives.
struct StreamGauge {
    metrics: Arc<Metrics>,
    group: Option<String>,
}

impl StreamGauge {
    fn new(metrics: &Arc<Metrics>) -> Self {
        Self { metrics: Arc::clone(metrics), group: None }
    }

    fn move_to(&mut self, group: Option<&String>) {
        if self.group.as_ref() == group {
            return;
        }
        self.leave();
        self.group = group.cloned();
        if let Some(group) = group {
            self.metrics.xds_streams.get_or_create(&GroupLabels { group: group.clone() }).inc();
        }
    }

    fn leave(&self) {
        if let Some(group) = &self.group {
            self.metrics.xds_streams.get_or_create(&GroupLabels { group: group.clone() }).dec();
        }
    }
}

impl Drop for StreamGauge {
    fn drop(&mut self) {
        self.leave();
    }
}
