//! What a set of many tenants costs: to read it at the start, to change one tenant, a plan or an API in it, and to keep
//! it. A change of one tenant should cost the same whether there are a thousand others or a hundred thousand.
//!
//! `cargo bench --bench tenants`

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "a benchmark prints times"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use tierflow::clock::Timestamp;
use tierflow::compile::RateLimitService;
use tierflow::document::{Document, Documents, Origin};
use tierflow::limiter::key::KeyHasher;
use tierflow::live::{Adopted, Live, Settings, Writer};
use tierflow::names::{DocumentId, Kind, Revision};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CHANGES: u64 = 200;

fn main() {
    println!(
        "{:>8}  {:>9}  {:>12}  {:>12}  {:>12}  {:>12}",
        "tenants", "start", "a tenant", "a plan", "an API", "a tenant takes"
    );
    for tenants in [1_000, 10_000, 100_000] {
        measure(tenants);
    }
    println!("\n{:>8}  {:>9}  {:>9}  {:>12}  {:>12}", "tenants", "refused", "start", "a tenant", "of them");
    for refused in [0, 1_000, 10_000] {
        measure_refused(100_000, refused);
    }
}

/// What documents that are refused cost the others: every second of them cannot be read, the others name a plan that
/// is not there.
fn measure_refused(tenants: u64, refused: u64) {
    let mut set = Set::new(tenants);
    for n in 0..refused {
        let name = format!("t{}", tenants - 1 - n);
        set.put(Kind::Tenant, &name, ["limits: [{rate: often}]", "plan: silver"][n as usize % 2]);
    }
    let (live, mut writer) = Live::new(settings());
    let start = set.adopt(&mut writer);
    assert_eq!(live.refused().len() as u64, refused);
    let tenant = median(&mut set, &mut writer, |set, n| {
        set.put(Kind::Tenant, &format!("t{}", n * 37 % 1000), &format!("plan: gold, limits: [{{rate: {}/m}}]", n + 1))
    });
    // A refused one that stays refused, and another one that is mended with it.
    let of_them = median(&mut set, &mut writer, |set, n| {
        let name = |n: u64| format!("t{}", tenants - 1 - n % refused.max(1));
        set.put(Kind::Tenant, &name(n + CHANGES), &format!("plan: bronze, limits: [{{rate: {}/m}}]", n + 1));
        set.put(Kind::Tenant, &name(n), &format!("plan: gold, limits: [{{rate: {}/m}}]", n + 1))
    });
    println!("{tenants:>8}  {refused:>9}  {:>9}  {tenant:>12}  {of_them:>12}", format!("{start:.2?}"));
}

fn measure(tenants: u64) {
    let rss_before = rss();
    let mut set = Set::new(tenants);
    let (live, mut writer) = Live::new(settings());
    let start = set.adopt(&mut writer);
    assert!(live.refused().is_empty());
    let growth = rss().saturating_sub(rss_before) / tenants;
    let tenant = median(&mut set, &mut writer, |set, n| {
        set.put(Kind::Tenant, &format!("t{}", n * 37 % 1000), &format!("plan: gold, limits: [{{rate: {}/m}}]", n + 1))
    });
    let plan = median(&mut set, &mut writer, |set, n| {
        set.put(Kind::Plan, "gold", &format!("limits: [{{rate: {}/m}}]", n + 1))
    });
    let api = median(&mut set, &mut writer, |set, n| set.put(Kind::Api, "create", &api(n + 1)));
    println!("{tenants:>8}  {:>9}  {tenant:>12}  {plan:>12}  {api:>12}  {growth:>8} bytes", format!("{start:.2?}"));
}

fn settings() -> Settings {
    Settings {
        rate_limit_service: RateLimitService::default(),
        counter_keys: KeyHasher::seeded([7; 16]),
        allow_empty: false,
    }
}

fn median(set: &mut Set, writer: &mut Writer, change: impl Fn(&mut Set, u64)) -> String {
    let mut times: Vec<Duration> = (0..CHANGES)
        .map(|n| {
            change(set, n);
            set.adopt(writer)
        })
        .collect();
    times.sort();
    format!("{:.2?}", times[times.len() / 2])
}

fn api(rate: u64) -> String {
    format!("gateway: shop, match: {{path: /create}}, service: order, limits: [{{rate: {rate}/m}}]")
}

/// Documents as they would be in etcd.
struct Set(Documents);

impl Set {
    fn new(tenants: u64) -> Self {
        let mut set = Self(Documents::default());
        let tenant = "tenant: {from: {header: x-tenant-id}, default_plan: gold}";
        set.put(Kind::Gateway, "shop", &format!("nodes: {{clusters: [edge]}}, listen: '127.0.0.1:1', {tenant}"));
        set.put(Kind::Service, "order", "endpoints: ['127.0.0.1:9101']");
        set.put(Kind::Api, "create", &api(1));
        set.put(Kind::Plan, "gold", "limits: [{rate: 1/m}]");
        for n in 0..tenants {
            let limits = format!("plan: gold, limits: [{{rate: {n}/m}}], apis: {{create: [{{rate: 800/m}}]}}");
            set.put(Kind::Tenant, &format!("t{n}"), &limits);
        }
        set
    }

    fn put(&mut self, kind: Kind, name: &str, fields: &str) {
        self.0.revision.0 += 1;
        let origin = Origin::Key {
            key: format!("/tierflow/policies/{kind}/{name}").into(),
            id: Some(DocumentId::new(kind, name)),
        };
        let content = format!("{{kind: {kind}, name: {name}, {fields}}}").into_bytes();
        let document = Document {
            origin: origin.clone(),
            revision: Some(Revision(self.0.revision.0)),
            content: Ok(content.into()),
        };
        self.0.documents.insert(origin, Arc::new(document));
    }

    fn adopt(&self, writer: &mut Writer) -> Duration {
        let started = Instant::now();
        assert_eq!(writer.adopt(&self.0, Timestamp::default()), Adopted::Served);
        started.elapsed()
    }
}

/// Of this process, in bytes.
fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}
