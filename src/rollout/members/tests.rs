//! Whom an offer reaches: everybody for whom it is another one, and nobody else.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use proptest::prelude::*;

use super::super::*;
use crate::compile::RateLimitService;
use crate::document::{Documents, split};
use crate::limiter::key::KeyHasher;
use crate::live::{Live, Settings, Writer};
use crate::names::Revision;
use crate::names::certificate::{ClientCertificate, San};
use crate::snapshot::Resources;

const GATEWAYS: [&str; 3] = ["a", "b", "c"];
/// So many are made while other threads look.
const OFFERS: usize = 100;

/// A gateway as a set of documents has it.
#[derive(Clone, Copy, Debug)]
enum Gateway {
    Missing,
    /// Where there is no good version of it, nobody knows which nodes it selects.
    Broken,
    /// The nodes that it selects, as an index, and the version of its routes.
    There(usize, u32),
}

#[derive(Clone, Debug)]
enum Step {
    Serve([Gateway; 3]),
    /// The routes of one gateway.
    ServeVersion(usize, u32),
    /// A rate changes, which no Envoy is told.
    ServeRate(u32),
    /// An Envoy acknowledges all of a gateway's resources, or refuses its routes.
    Acknowledge(usize),
    Refuse(usize),
    Retry,
    /// A node of this kind comes, or the one that has been there for the longest goes.
    Join(usize),
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    let gateway = prop_oneof![
        1 => Just(Gateway::Missing),
        1 => Just(Gateway::Broken),
        6 => (0..6_usize, 0..3_u32).prop_map(|(nodes, version)| Gateway::There(nodes, version)),
    ];
    prop_oneof![
        3 => prop::array::uniform3(gateway).prop_map(Step::Serve),
        4 => (0..3_usize, 0..2_u32).prop_map(|(gateway, version)| Step::ServeVersion(gateway, version)),
        1 => (1..9_u32).prop_map(Step::ServeRate),
        4 => (0..3_usize).prop_map(Step::Acknowledge),
        3 => (0..3_usize).prop_map(Step::Refuse),
        1 => Just(Step::Retry),
        2 => (0..6_usize).prop_map(Step::Join),
        1 => Just(Step::Leave),
    ]
}

fn text(gateways: [Gateway; 3], rate: u32) -> String {
    let mut text = format!(
        "{{kind: Service, name: s, endpoints: ['127.0.0.1:9101']}}\n---\n{{kind: Plan, name: p, limits: [{{rate: {rate}/m}}]}}\n"
    );
    for (index, (name, gateway)) in GATEWAYS.into_iter().zip(gateways).enumerate() {
        match gateway {
            Gateway::Missing => {}
            Gateway::Broken => text.push_str(&format!("---\n{{kind: Gateway, name: {name}, lsten: 1}}\n")),
            Gateway::There(nodes, version) => {
                let nodes = [
                    "{clusters: [x]}",
                    "{clusters: [y]}",
                    "{clusters: ['*']}",
                    "{ids: ['n-1*'], clusters: [x]}",
                    "{clusters: ['*']}, identities: [n-0.shop]",
                    "{clusters: [x]}, identities: [n-1.shop]",
                ][nodes];
                text.push_str(&format!(
                    "---
{{kind: Gateway, name: {name}, nodes: {nodes}, listen: '127.0.0.1:{}'}}
---
{{kind: Api, name: of-{name}, gateway: {name}, match: {{path: /{name}/{version}}}, service: s}}
",
                    index + 1
                ));
            }
        }
    }
    text
}

/// State of a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    gateways: Vec<Name>,
    denied: Vec<Name>,
    resources: Option<Arc<Resources>>,
    held: Vec<Name>,
}

/// A stream, but for what it sends.
struct Stream {
    member: Member,
    seen: Seen,
}

impl Stream {
    fn join(rollout: &Rollout, number: u64, kind: usize) -> Self {
        let cluster = ["x", "y", "z"][kind % 3].to_owned();
        let sans = San::parse(&format!("n-{}.shop", kind / 3)).into_iter().collect();
        let certificate = Some(Arc::new(ClientCertificate { sans, not_after: None }));
        let identity = NodeIdentity { id: format!("n-{}", kind / 3), cluster, certificate, ..NodeIdentity::default() };
        let mut member = rollout.join(StreamId(number), Arc::new(identity), None);
        let seen = look(rollout, &mut member);
        Self { member, seen }
    }

    /// Looks at the newest offer as often as it is woken. Gives whether it was.
    fn run(&mut self, rollout: &Rollout) -> bool {
        let mut is_woken = false;
        while self.member.reached().now_or_never().is_some() {
            is_woken = true;
            self.seen = look(rollout, &mut self.member);
        }
        is_woken
    }
}

fn look(rollout: &Rollout, member: &mut Member) -> Seen {
    let offer = rollout.offer();
    offer.assign(member);
    let resources = offer.select(member).map(|selection| selection.resources);
    let gateways = member.gateways().to_vec();
    let held = gateways.iter().filter(|gateway| offer.is_held(gateway)).cloned().collect();
    Seen { gateways, denied: member.memberships().denied.clone(), resources, held }
}

struct World {
    rollout: Arc<Rollout>,
    live: Arc<Live>,
    writer: Writer,
    gateways: [Gateway; 3],
    streams: Vec<Stream>,
    joined: u64,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let rate_limit_service = RateLimitService::default();
        let (live, writer) =
            Live::new(Settings { rate_limit_service, counter_keys: KeyHasher::seeded([5; 16]), allow_empty: false });
        let (rollout, gateways, now) = (Arc::default(), [Gateway::Missing; 3], Timestamp::default());
        let mut world = Self { rollout, live, writer, gateways, streams: Vec::new(), joined: 0, now };
        (0..6).for_each(|kind| world.act(&Step::Join(kind)));
        world
    }

    fn act(&mut self, step: &Step) {
        match *step {
            Step::Serve(gateways) => {
                self.gateways = gateways;
                self.serve(1);
            }
            Step::ServeVersion(gateway, version) => {
                let there = self.gateways.get_mut(gateway);
                if let Some(Gateway::There(_, there)) = there {
                    *there = version;
                }
                self.serve(1);
            }
            Step::ServeRate(rate) => self.serve(rate),
            Step::Acknowledge(gateway) => {
                let Some(group) = self.group(gateway) else { return };
                ResourceType::ALL.into_iter().for_each(|of_type| self.rollout.acknowledged(&group, of_type));
            }
            Step::Refuse(gateway) => {
                let Some(group) = self.group(gateway) else { return };
                let routes = group.resources().of_type(ResourceType::Route).by_name.values();
                let resources = routes.map(|route| (Arc::clone(&route.name), route.version)).collect();
                let (node, message, at) = ("n".to_owned(), "no".to_owned(), self.now);
                let nack = Nack { node, resource_type: ResourceType::Route, resources, message, at };
                self.rollout.refused(&group.gateway, &nack);
            }
            Step::Retry => {
                self.now = self.now + std::time::Duration::from_secs(3600);
                self.rollout.retry(self.now);
            }
            Step::Join(kind) => {
                self.joined += 1;
                self.streams.push(Stream::join(&self.rollout, self.joined, kind));
            }
            Step::Leave if self.streams.is_empty() => {}
            Step::Leave => drop(self.streams.remove(0)),
        }
    }

    fn serve(&mut self, rate: u32) {
        let text = text(self.gateways, rate);
        let documents = Documents::new(Revision::default(), split(&"p.yaml".into(), text.as_bytes()));
        self.writer.adopt(&documents, self.now);
        self.rollout.advance(self.live.served(), |_, _| ());
    }

    fn group(&self, gateway: usize) -> Option<Arc<GroupOffer>> {
        self.rollout.offer().group(GATEWAYS[gateway]).map(Arc::clone)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_stream_is_woken_to_what_is_new_for_it_and_to_nothing_else(
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.act(step);
            let World { rollout, streams, .. } = &mut world;
            for stream in streams {
                let now = look_again(rollout, stream);
                let is_other = now != stream.seen;
                let is_woken = stream.run(rollout);
                prop_assert_eq!(is_woken, is_other, "{:?} after {:?}", stream.member.identity, step);
                prop_assert_eq!(&stream.seen, &now);
                let places = [&now, &stream.seen].map(|seen| seen.resources.as_ref().map(Arc::as_ptr));
                prop_assert_eq!(places[0], places[1], "all streams share the same resources");
            }
        }
        world.streams.clear();
        prop_assert!(world.rollout.members.lock().is_empty(), "who is gone leaves nothing behind");
    }
}

#[test]
fn the_end_of_a_hold_wakes_its_group_although_no_resource_changes() {
    let mut world = World::new();
    let mut woken_by = |step| {
        world.act(&step);
        let woken = world.streams.iter_mut().filter_map(|stream| stream.run(&world.rollout).then_some(&stream.seen));
        woken.map(|seen| (seen.gateways.len(), seen.held.len())).collect::<Vec<_>>()
    };
    woken_by(Step::Serve([Gateway::There(0, 0), Gateway::There(1, 0), Gateway::Missing]));
    assert_eq!(woken_by(Step::Acknowledge(0)), []);
    let resources_change = woken_by(Step::ServeVersion(0, 1));
    assert_eq!(resources_change, [(1, 0), (1, 0)]);
    assert_eq!(woken_by(Step::Refuse(0)), [(1, 1), (1, 1)], "they go back");
    assert_eq!(woken_by(Step::ServeRate(7)), []);
    assert_eq!(woken_by(Step::ServeVersion(0, 0)), [(1, 0), (1, 0)], "what they have is the generation");
}

/// The state that the stream would see if it was woken now.
fn look_again(rollout: &Rollout, stream: &Stream) -> Seen {
    let Member { identity, release, stream, .. } = &stream.member;
    let mut other = rollout.join(StreamId(u64::MAX - stream.0), Arc::clone(identity), *release);
    look(rollout, &mut other)
}

/// Offers are made while streams come, look and go; and after each offer every stream has what it is to have.
#[test]
fn no_wake_up_is_lost_between_threads() {
    let mut world = World::new();
    let (rollout, offers, all) = (Arc::clone(&world.rollout), AtomicUsize::new(0), Barrier::new(4));
    let (wakes, lost, looks) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (rollout, offers, all, wakes, lost, looks) = (&rollout, &offers, &all, &wakes, &lost, &looks);
            scope.spawn(move || {
                let mut numbers = (1000..).step_by(3).map(|number| number + thread);
                let mut join = || numbers.next().map(|number| Stream::join(rollout, number, number as usize % 6));
                let mut streams: VecDeque<_> = (0..12).filter_map(|_| join()).collect();
                for offer in 0..OFFERS {
                    while offers.load(Ordering::Acquire) == offer {
                        let woken = streams.iter_mut().map(|stream| usize::from(stream.run(rollout))).sum();
                        wakes.fetch_add(woken, Ordering::Relaxed);
                        looks.fetch_add(1, Ordering::Release);
                        streams.pop_front();
                        streams.extend(join());
                    }
                    for stream in &mut streams {
                        stream.run(rollout);
                        let is_lost = stream.seen != look_again(rollout, stream);
                        lost.fetch_add(usize::from(is_lost), Ordering::Relaxed);
                    }
                    all.wait();
                }
            });
        }
        for offer in 0..OFFERS {
            let gateway = |gateway: usize| Gateway::There((offer + gateway) / (gateway + 1) % 4, offer as u32 % 7);
            let step = match offer % 4 {
                0 | 2 => Step::Serve([0, 1, 2].map(gateway)),
                1 => Step::Acknowledge(offer % 3),
                _ => Step::Refuse(offer % 3),
            };
            world.act(&step);
            // Of four looks of three threads, one began after the offer: some are awake meanwhile however busy the machine is.
            let looked = looks.load(Ordering::Acquire);
            while offer % 2 == 0 && looks.load(Ordering::Acquire) < looked + 4 {
                std::thread::yield_now();
            }
            offers.store(offer + 1, Ordering::Release);
            all.wait();
        }
    });
    assert!(wakes.into_inner() > 0, "some were awake while offers were made");
    assert_eq!(lost.into_inner(), 0);
}
