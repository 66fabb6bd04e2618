//! What many Envoys cost the xDS port, and how long a change takes until all of them have it; and what one that behaves
//! badly costs the others. `tierflow serve` is a process of its own, with a real etcd; the Envoys are fake ones, here:
//! connections with nothing behind them that speak as Envoy does. The floor is a bare server of the same transport.
//!
//! `cargo bench --bench xds`; with other numbers of streams than `100,1000,10000` in TIERFLOW_BENCH_STREAMS, with other first
//! requests than those of an Envoy with 510 extensions in TIERFLOW_BENCH_EXTENSIONS, over TLS with TIERFLOW_BENCH_TLS=1;
//! with TIERFLOW_BENCH_SLOW=1 only what Envoys cost that do not read, with TIERFLOW_BENCH_GROUPS=1 only what a change of one
//! group costs among many

#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::indexing_slicing, clippy::unwrap_used)]
#![allow(clippy::panic, reason = "a benchmark prints times, and ends where something is missing")]

#[path = "xds/board.rs"]
mod board;
#[path = "xds/envoy.rs"]
mod envoy;
#[path = "xds/fleet.rs"]
mod fleet;
#[path = "xds/floor.rs"]
mod floor;
#[path = "xds/groups.rs"]
mod groups;
#[path = "../examples/envoy/kit.rs"]
mod kit;
#[path = "load/process.rs"]
mod process;
#[path = "xds/programs.rs"]
mod programs;
#[path = "xds/slow.rs"]
mod slow;
#[path = "xds/store.rs"]
mod store;
#[path = "xds/tls.rs"]
mod tls;
#[path = "xds/unwell.rs"]
mod unwell;
#[path = "xds/well.rs"]
mod well;
#[path = "xds/wire.rs"]
mod wire;

use std::path::Path;
use std::time::Duration;

use tierflow::bootstrap::XdsVariant;
use tokio::runtime::Runtime;

use crate::envoy::Envoy;
use crate::groups::OneOfMany;
use crate::process::Process;
use crate::slow::Slow;
use crate::store::Store;
use crate::unwell::{Stopped, Updates};
use crate::well::{Changes, Figures};

/// The program's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VARIANTS: [XdsVariant; 2] = [XdsVariant::Delta, XdsVariant::Sotw];
/// So many reconnect at once, besides the largest number.
const RECONNECTED: usize = 1000;
/// So many do not read.
const SLOW: usize = 500;

fn main() {
    match floor::asked_for() {
        Some((address, bytes)) => floor::serve(address, bytes),
        None => Runtime::new().unwrap().block_on(measure()),
    }
}

async fn measure() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::start(folder.path()).await;
    if std::env::var("TIERFLOW_BENCH_SLOW").is_ok() {
        return measure_slow(&store, folder.path()).await;
    }
    if std::env::var("TIERFLOW_BENCH_GROUPS").is_ok() {
        return measure_groups(&store, folder.path()).await;
    }
    let counts = counts();
    let mut figures = Vec::new();
    for variant in VARIANTS {
        for &streams in &counts {
            // Another process for each: what one number of streams left behind is not the next one's.
            let server = serve(&store, folder.path(), variant).await;
            let is_reconnected = streams == RECONNECTED || Some(&streams) == counts.iter().max();
            let one = well::tierflow(&store, &server, variant, streams, is_reconnected).await;
            figures.push((name(variant), one));
        }
    }
    let bytes = figures[0].1.routes.bytes;
    for &streams in &counts {
        figures.push(("floor", well::bare(streams, bytes).await));
    }
    print_connected(&figures);
    print_changes("route", figures.iter().map(|(name, one)| (*name, one.streams, &one.routes)));
    let endpoints = figures.iter().filter_map(|(name, one)| Some((*name, one.streams, one.endpoints.as_ref()?)));
    print_changes("endpoint", endpoints);
    print_reconnected(&figures);
    measure_unwell(&store, folder.path()).await;
    measure_groups(&store, folder.path()).await;
    measure_slow(&store, folder.path()).await;
}

async fn measure_groups(store: &Store, folder: &Path) {
    store.put_groups(groups::GROUPS).await;
    let server = serve(store, folder, XdsVariant::Delta).await;
    println!(
        "\n{:<14} {:>8} {:>9} {:>9} {:>9} {:>11} {:>10}",
        "one group", "streams", "p50", "p99", "max", "CPU a push", "to others"
    );
    for OneOfMany { streams, changes, others } in groups::measure(store, &server).await {
        let [p50, p99, max] = percentiles(&changes.times);
        let cpu = format!("{:.1?}", changes.server_cpu_per_push);
        println!("{:<14} {streams:>8} {p50:>9} {p99:>9} {max:>9} {cpu:>11} {others:>10}", "route");
    }
}

async fn measure_slow(store: &Store, folder: &Path) {
    store.put_large_gateway().await;
    let server = serve(store, folder, XdsVariant::Delta).await;
    let Slow { rss_per_stream, bytes } = slow::measure(&server, SLOW).await;
    let (routes, rss) = (bytes >> 10, rss_per_stream >> 10);
    println!("\n{SLOW} that do not read their routes of {routes} KiB: RSS of {rss} KiB a stream");
}

async fn measure_unwell(store: &Store, folder: &Path) {
    println!("\n{:<9} {:>9} {:>9}", "refuses", "changes", "responses");
    for variant in VARIANTS {
        let server = serve(store, folder, variant).await;
        let (responses, changes) = unwell::refusing(store, &server, variant).await;
        println!("{:<9} {changes:>9} {responses:>9}", name(variant));
    }
    println!(
        "\n{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>11} {:>12}",
        "3 x 1000 quick updates", "all took", "p50", "p99", "max", "responses", "RSS grew by", "it gets then"
    );
    for variant in VARIANTS {
        let server = serve(store, folder, variant).await;
        let Stopped { without, with, responses } = unwell::stopped(store, &server, variant).await;
        print_updates(&format!("{}, all read", name(variant)), &without, "");
        let responses: Vec<String> = responses.iter().map(u64::to_string).collect();
        print_updates(&format!("{}, one does not", name(variant)), &with, &responses.join(", "));
    }
}

async fn serve(store: &Store, folder: &Path, variant: XdsVariant) -> Process {
    let server = programs::tierflow(folder, store.address);
    well::warm_up(&server, |number| Envoy::new(number, variant)).await;
    server
}

fn print_connected(figures: &[(&str, Figures)]) {
    println!(
        "{:<9} {:>8} {:>12} {:>14} {:>14} {:>9}",
        "connected", "streams", "all current", "CPU a stream", "RSS a stream", "RSS"
    );
    for (name, Figures { streams, connected, .. }) in figures {
        let time = format!("{:.2?}", connected.time);
        let cpu = format!("{:.2?}", connected.cpu_per_stream);
        let kib = format!("{:.1} KiB", connected.rss_per_stream as f64 / 1024.0);
        let rss = format!("{} MiB", connected.rss >> 20);
        println!("{name:<9} {streams:>8} {time:>12} {cpu:>14} {kib:>14} {rss:>9}");
    }
}

fn print_changes<'a>(what: &str, rows: impl Iterator<Item = (&'a str, usize, &'a Changes)>) {
    println!(
        "\n{what:<9} {:>8} {:>9} {:>9} {:>9} {:>12} {:>13} {:>13}",
        "streams", "p50", "p99", "max", "bytes a push", "CPU a push", "the Envoys'"
    );
    for (name, streams, changes) in rows {
        let [p50, p99, max] = percentiles(&changes.times);
        let server = format!("{:.1?}", changes.server_cpu_per_push);
        let envoys = format!("{:.1?}", changes.envoys_cpu_per_push);
        let bytes = changes.bytes;
        println!("{name:<9} {streams:>8} {p50:>9} {p99:>9} {max:>9} {bytes:>12} {server:>13} {envoys:>13}");
    }
}

fn print_reconnected(figures: &[(&str, Figures)]) {
    println!(
        "\n{:<9} {:>8} {:>12} {:>14} {:>18} {:>11}",
        "all again", "streams", "all current", "CPU a stream", "responses a stream", "tried again"
    );
    for (name, Figures { streams, reconnected, .. }) in figures {
        let Some(reconnected) = reconnected else { continue };
        let time = format!("{:.2?}", reconnected.time);
        let cpu = format!("{:.2?}", reconnected.cpu_per_stream);
        let responses = format!("{:.2}", reconnected.responses_per_stream);
        let retries = reconnected.retries;
        println!("{name:<9} {streams:>8} {time:>12} {cpu:>14} {responses:>18} {retries:>11}");
    }
}

fn print_updates(name: &str, updates: &Updates, responses_of_one: &str) {
    let [p50, p99, max] = percentiles(&updates.times);
    let time = format!("{:.2?}", updates.time);
    let growth = format!("{} KiB", updates.rss_growth >> 10);
    let responses = updates.responses;
    println!("{name:<22} {time:>9} {p50:>9} {p99:>9} {max:>9} {responses:>9} {growth:>11} {responses_of_one:>12}");
}

fn percentiles(times: &[Duration]) -> [String; 3] {
    let mut times = times.to_vec();
    times.sort();
    [0.5, 0.99, 1.0].map(|share| format!("{:.2?}", times[((times.len() - 1) as f64 * share) as usize]))
}

fn name(variant: XdsVariant) -> &'static str {
    match variant {
        XdsVariant::Delta => "delta",
        XdsVariant::Sotw => "sotw",
    }
}

fn counts() -> Vec<usize> {
    let counts = std::env::var("TIERFLOW_BENCH_STREAMS").unwrap_or_else(|_| "100,1000,10000".to_owned());
    counts
        .split(',')
        .map(|count| count.trim().parse().expect("TIERFLOW_BENCH_STREAMS is numbers with commas"))
        .collect()
}
