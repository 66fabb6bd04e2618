//! The demo: a little shop on one machine, with Tierflow, real Envoys and upstreams, and a story told about it.
//!
//! ```text
//! shop   opens it: ports, a copy of policies/, upstreams, Tierflow in process, two Envoys
//! story  eight acts, each with numbers; every line with a mark is an assertion
//! watch  what to try next, and a line for every edit of a policy until Ctrl-C
//! ```

mod kit;
mod screen;
mod shop;
mod story;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use kit::tools;
use kit::upstream::Upstream;
use screen::Screen;
use shop::Shop;

/// A little shop on one machine: Tierflow, two real Envoys, two upstreams, and a story told about them.
#[derive(Parser)]
#[command(name = "envoy")]
struct Args {
    /// Exit when the story ends: with 0 if everything in it was as it should be, else with 1.
    #[arg(long)]
    check: bool,
    /// Run nothing but the upstreams of policies/services.yaml: see examples/envoy/README.md.
    #[arg(long, conflicts_with = "check")]
    upstreams: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut screen = Screen::new();
    let result = if args.upstreams { run_upstreams(&screen) } else { run_shop(&mut screen, args.check) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run_shop(screen: &mut Screen, is_check: bool) -> Result<(), String> {
    // First, and before signals are caught: it may be a long download, and Ctrl-C ends that at once.
    tools::envoy()?;
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let mut interrupt = Interrupt::new(&runtime)?;
    let mut shop = Shop::open(&runtime)?;
    let result = runtime.block_on(async {
        tokio::select! {
            biased;
            () = interrupt.comes() => if is_check { Err("interrupted".to_owned()) } else { Ok(()) },
            result = perform(screen, &mut shop, is_check) => result,
        }
    });
    shop.close();
    screen.blank();
    screen.say("closed; nothing is left running");
    result
}

async fn perform(screen: &mut Screen, shop: &mut Shop, is_check: bool) -> Result<(), String> {
    story::tell(screen, shop).await?;
    if !is_check {
        return watch::until_something_ends(screen, shop).await;
    }
    if let Err(error) = &shop.sale {
        return Err(error.clone());
    }
    match screen.untrue() {
        0 => Ok(()),
        count => Err(format!("{count} of the lines above were not as they should be")),
    }
}

fn run_upstreams(screen: &Screen) -> Result<(), String> {
    let runtime = Runtime::new().map_err(|error| error.to_string())?;
    let mut interrupt = Interrupt::new(&runtime)?;
    runtime.block_on(async {
        let mut upstreams = Vec::new();
        for port in shop::UPSTREAM_PORTS {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let upstream = Upstream::start(&format!("upstream {port}"), address).await;
            upstreams.push(upstream.map_err(|error| format!("{address}: {error}"))?);
            screen.say(&format!("an upstream answers on {address}"));
        }
        interrupt.comes().await;
        Ok(())
    })
}

/// Ctrl-C, a polite kill, or the terminal's end: each of them closes the shop in order.
struct Interrupt([Signal; 3]);

impl Interrupt {
    fn new(runtime: &Runtime) -> Result<Self, String> {
        let _guard = runtime.enter();
        let caught = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(caught);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn comes(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
