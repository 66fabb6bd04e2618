//! Which streams wake when something changes: the server's own, polled by hand.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt;
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message;
use prost::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::stream::{Connection, Stream};
use super::variant::Delta;
use super::wire::{self, DeltaDiscoveryRequest};
use super::{Admission, AdmissionLimits, UNREAD_BYTES_MAX, Unread, Xds, pace};
use crate::budget::Allowance;
use crate::clock::{Clock, Timestamp};
use crate::compile::RateLimitService;
use crate::denials::Denials;
use crate::document::{Documents, split};
use crate::frames::Requests;
use crate::limiter::key::KeyHasher;
use crate::live::{Live, Settings, Writer};
use crate::metrics::Metrics;
use crate::names::Revision;
use crate::nodes::Node;
use crate::rollout::Rollout;
use crate::snapshot::resource::ResourceType;

/// A stream of the server, and what has become of it.
struct Connected {
    task: Pin<Box<dyn Future<Output = ()>>>,
    wakes: Arc<Wakes>,
    chunks: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The server without its port, and its streams, each of a group.
struct World {
    xds: Xds,
    writer: Writer,
    streams: Vec<Vec<Connected>>,
    timers: tokio::runtime::Runtime,
}

impl World {
    /// So many groups of so many streams, each of which has acknowledged its clusters.
    fn new(groups: usize, streams: usize) -> Self {
        let timers = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let entered = timers.enter();
        let rate_limit_service = RateLimitService::default();
        let (live, writer) =
            Live::new(Settings { rate_limit_service, counter_keys: KeyHasher::seeded([5; 16]), allow_empty: false });
        let (clock, metrics) = (Clock::start(), Arc::new(Metrics::default()));
        let limits = AdmissionLimits { streams_max: groups * streams, streams_per_second: u32::MAX };
        let xds = Xds {
            rollout: Arc::new(Rollout::new(Arc::clone(&live.forms))),
            live,
            nodes: Arc::default(),
            denials: Arc::new(Denials::new(Arc::clone(&metrics), clock)),
            unread: Arc::new(Unread::new(UNREAD_BYTES_MAX, Arc::clone(&metrics))),
            metrics,
            admission: Arc::new(Admission::new(limits, clock)),
            clock,
            identifier: Bytes::new(),
            shutdown: CancellationToken::new(),
        };
        drop(entered);
        let mut world = Self { xds, writer, streams: Vec::new(), timers };
        world.serve(&documents(groups));
        for group in 0..groups {
            world.streams.push((0..streams).map(|stream| connect(&world.xds, group, stream)).collect());
        }
        world.settle();
        world
    }

    fn serve(&mut self, documents: &str) {
        let documents = Documents::new(Revision::default(), split(&"p.yaml".into(), documents.as_bytes()));
        self.writer.adopt(&documents, Timestamp::default());
        assert!(self.xds.live.refused().is_empty());
        pace::offer(&self.xds.live, &self.xds.rollout, &self.xds.nodes);
    }

    /// Polls whoever is awake, until all sleep. Gives how many of each group woke, where any did.
    fn settle(&mut self) -> Vec<(usize, usize)> {
        let _entered = self.timers.enter();
        let mut woken = Vec::new();
        for (group, streams) in self.streams.iter_mut().enumerate() {
            let of_group = streams.iter_mut().filter_map(Connected::run).count();
            woken.extend((of_group > 0).then_some((group, of_group)));
        }
        woken
    }

    /// The standing of a group's Envoys and the generation that is live on them, each once.
    fn positions(&self, group: usize) -> BTreeSet<(&'static str, u64)> {
        let of_group = |node: &Node| node.groups.iter().any(|gateway| gateway.as_str() == name(group));
        let nodes = self.xds.nodes.all().into_iter().filter(of_group);
        nodes.map(|node| (node.position.standing.as_str(), node.position.live)).collect()
    }

    fn chunks(&self, group: usize) -> usize {
        self.streams[group].iter().map(|stream| stream.chunks.load(Ordering::Relaxed)).sum()
    }
}

impl Connected {
    /// `None` if it sleeps.
    fn run(&mut self) -> Option<()> {
        let mut has_run = None;
        while self.wakes.0.swap(0, Ordering::Relaxed) > 0 {
            has_run = Some(());
            let waker = Waker::from(Arc::clone(&self.wakes));
            assert_eq!(self.task.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending);
        }
        has_run
    }
}

/// An Envoy that asks for clusters, and acknowledges the first.
fn connect(xds: &Xds, group: usize, stream: usize) -> Connected {
    let cluster = name(group);
    let node = wire::Node { id: format!("{cluster}-{stream}"), cluster, ..Default::default() };
    let first = DeltaDiscoveryRequest { node: Some(node), ..request("") };
    let frames = [first, request("1")].map(|request| Ok::<_, Status>(Frame::data(Bytes::from(message(&request)))));
    let frames = futures_util::stream::iter(frames).chain(futures_util::stream::pending());
    let place = futures_util::FutureExt::now_or_never(xds.admission.admit()).unwrap().unwrap();
    let requests = Requests::new(Body::new(StreamBody::new(frames)), Arc::<Allowance>::default().held());
    let mut stream = Stream::<Delta>::new(xds.clone(), Connection::default(), None, place, requests);
    let chunks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&chunks);
    let task = Box::pin(async move {
        while stream.next().await.unwrap().is_some() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    Connected { task, wakes: Arc::new(Wakes(AtomicUsize::new(1))), chunks }
}

fn request(nonce: &str) -> DeltaDiscoveryRequest {
    let type_url = ResourceType::Cluster.type_url().to_owned();
    DeltaDiscoveryRequest { type_url, response_nonce: nonce.to_owned(), ..Default::default() }
}

fn message(request: &DeltaDiscoveryRequest) -> Vec<u8> {
    let message = request.encode_to_vec();
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), &message].concat()
}

fn name(group: usize) -> String {
    format!("g{group:02}")
}

/// A gateway with a service for each group.
fn documents(groups: usize) -> String {
    let mut text = "{kind: Plan, name: standard, limits: [{rate: 600/m}]}\n".to_owned();
    for group in 0..groups {
        let (name, port) = (name(group), 1000 + group);
        text.push_str(&format!(
            "---
{{kind: Gateway, name: {name}, nodes: {{clusters: [{name}]}}, listen: '127.0.0.1:{port}'}}
---
{{kind: Service, name: of-{name}, endpoints: ['127.0.0.1:9100']}}
---
{{kind: Api, name: {name}, gateway: {name}, match: {{path: /a}}, service: of-{name}}}
"
        ));
    }
    text
}

#[test]
fn a_change_wakes_the_streams_of_its_group_and_none_of_ten_thousand_others() {
    let mut world = World::new(100, 100);
    let before = world.chunks(7);
    let changed =
        documents(100).replace("name: of-g07, endpoints: ['127.0.0.1:9100']", "name: of-g07, dns: a.example:80");
    world.serve(&changed);
    assert_eq!(world.settle(), [(7, 100)]);
    assert!(world.chunks(7) >= before + 100, "each was sent the cluster");
    // What no Envoy is told wakes nobody.
    world.serve(&changed.replace("600/m", "700/m"));
    assert_eq!(world.settle(), []);
    assert_eq!(world.positions(7), [("pending", 1)].into(), "nobody has answered yet");
    assert_eq!(
        world.positions(8),
        [("live", 3)].into(),
        "whom no change reaches has the newest generation all the same"
    );
}

#[test]
fn a_gateway_that_comes_or_goes_wakes_whom_it_selects_or_selected() {
    let mut world = World::new(10, 3);
    let more = |selected: &str| {
        let gateway =
            format!("{{kind: Gateway, name: more, nodes: {{clusters: [{selected}]}}, listen: '127.0.0.1:2'}}");
        format!("{}---\n{gateway}\n", documents(10))
    };
    let steps = [
        (more("g08"), &[(8, 3)][..]),
        (more("g0*"), &[(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 3), (7, 3), (9, 3)]),
        (more("g09"), &[(0, 3), (1, 3), (2, 3), (3, 3), (4, 3), (5, 3), (6, 3), (7, 3), (8, 3)]),
        (more("none"), &[(9, 3)]),
        (documents(10), &[]),
        (documents(10).replace("clusters: [g03]", "clusters: [g04]"), &[(3, 3), (4, 3)]),
    ];
    for (documents, woken) in steps {
        world.serve(&documents);
        assert_eq!(world.settle(), woken, "{documents}");
    }
}
