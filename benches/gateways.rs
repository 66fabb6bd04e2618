//! What a change costs among many gateways: one instance registers itself, one endpoint or one Api changes. It should
//! cost what it costs with one gateway, from the documents to what is served, and to what its Envoys are offered.
//!
//! `cargo bench --bench gateways`

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing)]
#![allow(clippy::unwrap_used, reason = "a benchmark prints times, and ends where something is wrong")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tierflow::clock::Timestamp;
use tierflow::compile::RateLimitService;
use tierflow::document::{Document, Documents, Instance, Origin};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Adopted, Live, Settings, Writer};
use tierflow::names::{DocumentId, Kind, Revision};
use tierflow::rollout::Rollout;

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APIS: usize = 100;
const CHANGES: usize = 40;

fn main() {
    println!("{:>8}  {:>8}  {:>9}  {:^20}  {:^20}  {:^20}", "", "", "", "an instance", "an endpoint", "an API");
    print!("{:>8}  {:>8}  {:>9}", "gateways", "APIs", "start");
    (0..3).for_each(|_| print!("  {:>9}  {:>9}", "served", "offered"));
    println!();
    for gateways in [1, 100, 1_000] {
        measure(gateways);
    }
}

fn measure(gateways: usize) {
    let mut server = Server::new();
    let mut set = Documents::default();
    for g in 0..gateways {
        put(&mut set, Kind::Gateway, &format!("g{g}"), &format!("nodes: {{clusters: [c{g}]}}, listen: '127.0.0.1:1'"));
        put(&mut set, Kind::Service, &format!("r{g}"), &format!("registry: r{g}"));
        put(&mut set, Kind::Service, &format!("s{g}"), "endpoints: ['127.0.0.1:9101']");
        (0..APIS).for_each(|n| put(&mut set, Kind::Api, &format!("a{g}-{n}"), &api(g, n, 1)));
    }
    set.instances = Some((0..gateways).map(|g| (format!("r{g}").into(), [instance(0)].into())).collect());
    let [start, _] = server.take(&set);
    assert!(server.live.refused().is_empty());
    print!("{gateways:>8}  {:>8}  {:>9}", gateways * APIS, format!("{start:.2?}"));
    server.change(&mut set, |set, n| {
        set.instances.as_mut().unwrap().insert("r0".into(), [instance(n + 1)].into());
    });
    server.change(&mut set, |set, n| {
        put(set, Kind::Service, "s0", &format!("endpoints: ['127.0.0.1:{}']", 1000 + n));
    });
    server.change(&mut set, |set, n| put(set, Kind::Api, "a0-0", &api(0, 0, n + 2)));
    println!();
}

fn instance(n: usize) -> Instance {
    Instance { address: format!("127.0.0.1:{}", 1001 + n).parse().unwrap(), weight: 1, zone: None }
}

/// What is between a source and the streams of Envoys.
struct Server {
    live: Arc<Live>,
    writer: Writer,
    rollout: Rollout,
}

impl Server {
    fn new() -> Self {
        let (live, writer) = Live::new(Settings {
            rate_limit_service: RateLimitService::default(),
            counter_keys: KeyHasher::seeded([7; 16]),
            allow_empty: false,
        });
        let rollout = Rollout::new(Arc::clone(&live.forms));
        Self { live, writer, rollout }
    }

    /// How long it takes until the set is served, and until it is offered.
    fn take(&mut self, set: &Documents) -> [Duration; 2] {
        let started = Instant::now();
        assert_eq!(self.writer.adopt(set, Timestamp::default()), Adopted::Served);
        let served = started.elapsed();
        self.rollout.advance(self.live.served(), |_, _| ());
        [served, started.elapsed()]
    }

    /// Prints the medians of some changes.
    fn change(&mut self, set: &mut Documents, change: impl Fn(&mut Documents, usize)) {
        let times: Vec<[Duration; 2]> = (0..CHANGES)
            .map(|n| {
                change(set, n);
                self.take(set)
            })
            .collect();
        for until in 0..2 {
            let mut times: Vec<Duration> = times.iter().map(|times| times[until]).collect();
            times.sort();
            print!("  {:>9}", format!("{:.2?}", times[times.len() / 2]));
        }
    }
}

fn api(gateway: usize, n: usize, rate: usize) -> String {
    let service = ["r", "s"][n % 2];
    format!("gateway: g{gateway}, match: {{path: /a{n}}}, service: {service}{gateway}, limits: [{{rate: {rate}/m}}]")
}

fn put(set: &mut Documents, kind: Kind, name: &str, fields: &str) {
    set.revision.0 += 1;
    let id = DocumentId::new(kind, name);
    let origin = Origin::Key { key: format!("/tierflow/policies/{kind}/{name}").into(), id: Some(id) };
    let content = format!("{{kind: {kind}, name: {name}, {fields}}}").into_bytes();
    let revision = Some(Revision(set.revision.0));
    set.documents.insert(origin.clone(), Arc::new(Document { origin, revision, content: Ok(content.into()) }));
}
