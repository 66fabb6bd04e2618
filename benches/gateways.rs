//! What a change costs among many gateways: one instance registers itself, one endpoint or one Api changes. It should
//! cost what it costs with one gateway, from the documents to what is served.
//!
//! `cargo bench --bench gateways`

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing)]
#![allow(clippy::unwrap_used, reason = "a benchmark prints times, and ends where something is wrong")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tierflow::clock::Timestamp;
use tierflow::compile::RateLimitService;
use tierflow::document::{Document, Documents, Instance, Origin};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Adopted, Live, Settings, Writer};
use tierflow::names::{DocumentId, Kind, Revision};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const APIS: usize = 100;
const CHANGES: usize = 40;

fn main() {
    println!(
        "{:>8}  {:>8}  {:>9}  {:>12}  {:>12}  {:>12}",
        "gateways", "APIs", "start", "an instance", "an endpoint", "an API"
    );
    for gateways in [1, 100, 1_000] {
        measure(gateways);
    }
}

fn measure(gateways: usize) {
    let settings = Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::seeded([7; 16]),
        allow_empty: false,
    };
    let (live, mut writer) = Live::new(settings);
    let mut set = Documents { instances: Some(Arc::default()), ..Default::default() };
    for g in 0..gateways {
        put(&mut set, Kind::Gateway, &format!("g{g}"), &format!("nodes: {{clusters: [c{g}]}}, listen: '127.0.0.1:1'"));
        put(&mut set, Kind::Service, &format!("r{g}"), &format!("registry: r{g}"));
        put(&mut set, Kind::Service, &format!("s{g}"), "endpoints: ['127.0.0.1:9101']");
        (0..APIS).for_each(|n| put(&mut set, Kind::Api, &format!("a{g}-{n}"), &api(g, n, 1)));
    }
    let start = adopt(&mut writer, &set);
    assert!(live.refused().is_empty());
    let instance = median(&mut writer, &mut set, |set, n| {
        let address = format!("127.0.0.1:{}", 1000 + n).parse().unwrap();
        let instances = vec![Instance { address, weight: 1, zone: None }];
        set.instances = Some(Arc::new(BTreeMap::from([("r0".into(), instances)])));
    });
    let endpoint = median(&mut writer, &mut set, |set, n| {
        put(set, Kind::Service, "s0", &format!("endpoints: ['127.0.0.1:{}']", 1000 + n));
    });
    let one_api = median(&mut writer, &mut set, |set, n| put(set, Kind::Api, "a0-0", &api(0, 0, n + 2)));
    let apis = gateways * APIS;
    println!("{gateways:>8}  {apis:>8}  {:>9}  {instance:>12}  {endpoint:>12}  {one_api:>12}", format!("{start:.2?}"));
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

fn adopt(writer: &mut Writer, set: &Documents) -> Duration {
    let started = Instant::now();
    assert_eq!(writer.adopt(set, Timestamp::default()), Adopted::Served);
    started.elapsed()
}

fn median(writer: &mut Writer, set: &mut Documents, change: impl Fn(&mut Documents, usize)) -> String {
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|n| {
            change(set, n);
            adopt(writer, set)
        })
        .collect();
    times.sort();
    format!("{:.2?}", times[times.len() / 2])
}
