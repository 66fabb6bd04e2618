//! `tierflow replay`

mod log;
mod table;
mod value;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use super::checked::{Check, Typed};
use super::get::Output;
use super::output::{self, Format as OutputFormat, Streams};
use super::{Failure, complete};
use crate::clock::Clock;
use crate::compile::RateLimitService;
use crate::replay::Replay;
use crate::replay::entry::Entry;
use crate::replay::format::Format;
use crate::replay::order::Ordered;
use crate::replay::peaks::Peaks;
use crate::replay::report::Report;
use crate::shown;
use log::{Reading, UnreadLines};

/// Requests that are held back until those that began earlier have come: a line is written when its request ends.
const HELD_MAX: usize = 65_536;
/// Requests that are handed over at once.
const BATCH: usize = 1024;

/// Say what policies would have done with the requests in Envoy's access logs: how many they would have denied, by API,
/// limit, tenant and minute. Nothing is sent, and nothing is counted but here.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Access logs, plain or gzip; several are read in the order of their times. `-` is standard input.
    #[arg(required = true, value_name = "ACCESS_LOG")]
    logs: Vec<PathBuf>,
    /// A file or folder of policies.
    #[arg(long, value_name = "PATH", default_value = "policies")]
    policies: PathBuf,
    /// The gateway that the requests came to. Needed where there are several.
    #[arg(long, value_name = "NAME", add = complete::gateways())]
    gateway: Option<String>,
    /// The log's format as Envoy's configuration has it: a text_format, or a json_format as a JSON object. Default: each
    /// line is Envoy's own format, or a JSON object with usual names, where any other name is that of a header.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Propose numbers for limits, from how busy their counters were.
    #[arg(long)]
    suggest: bool,
    /// The most tenants and minutes to show.
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// The form of the output.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

impl Check for Args {
    fn check(&mut self, _: &Typed) -> Result<(), String> {
        output::read_once(self.logs.iter().chain([&self.policies]))
    }
}

/// All that there is to tell.
struct Told {
    gateway: String,
    report: Report,
    peaks: Option<Peaks>,
    reading: Reading,
    /// Headers that policies look at and the log does not have.
    unseen: Vec<String>,
}

pub(super) fn run(args: &Args, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let format = args.format.as_deref().map_or_else(|| Ok(Format::default()), Format::parse);
    let format = format.map_err(|error| format!("--format: {error}"))?;
    let generation = output::load(&args.policies, RateLimitService::default(), streams)?;
    if generation.policies.gateways.is_empty() {
        return Err(format!("--policies {}: there is no Gateway in it", shown::path(&args.policies)));
    }
    let gateway = output::of_gateway(&generation.policies.gateways, args.gateway.as_deref())?;
    let logs = log::open(&args.logs)?;
    let mut replay = Replay::new(&generation.policies, &generation.matcher, gateway);
    if args.suggest {
        replay = replay.with_peaks();
    }
    let reading = thread::scope(|scope| {
        let (sender, receiver) = sync_channel(4);
        let reader = scope.spawn(|| log::read(logs, &format, gateway, BATCH, sender));
        play(&mut replay, receiver, streams);
        reader.join().map_err(|_| "the log could not be read".to_owned())
    })?;
    let unseen = replay.unseen().map(str::to_owned).collect();
    let (report, peaks) = replay.finish();
    let told = Told { gateway: gateway.name.to_string(), report, peaks, reading, unseen };
    tell_what_is_missing(&told, streams)?;
    match args.output {
        Output::Table => streams.print(&table::of(&told, args.top)),
        Output::Json => streams.print_value(&value::of(&told, args.top), OutputFormat::Json),
        Output::Yaml => streams.print_value(&value::of(&told, args.top), OutputFormat::Yaml),
    }?;
    match told.reading.broken.is_empty() {
        true => Ok(()),
        false => Err("not all of the log was read: there were more requests than these numbers have".to_owned()),
    }
}

/// Tells what was not read. Fails where lines were, and none of them holds a request that could be read.
fn tell_what_is_missing(told: &Told, streams: &mut Streams<'_>) -> Result<(), Failure> {
    let Reading { lines, without_request, unread, broken } = &told.reading;
    broken.iter().for_each(|broken| streams.complain(&format!("warning: {broken}")));
    if told.report.total.requests > 0 {
        return Ok(());
    }
    match unread.iter().next() {
        Some((why, UnreadLines { first, .. })) => {
            return Err(format!("no line of the log could be read; {first}: {why}; --format says another format"));
        }
        None if *lines == 0 && broken.is_empty() => streams.complain("note: the log is empty, so nothing was replayed"),
        None if *without_request > 0 => streams.complain("note: no line of the log is about a request"),
        None => {}
    }
    Ok(())
}

fn play(replay: &mut Replay<'_>, batches: Receiver<Vec<Entry>>, streams: &mut Streams<'_>) {
    let mut progress = Progress::start();
    let mut ordered = Ordered::new(HELD_MAX);
    for batch in batches {
        progress.add(batch.len(), streams);
        for entry in batch {
            if let Some(entry) = ordered.push(entry.at, entry) {
                replay.play(&entry);
            }
        }
    }
    while let Some(entry) = ordered.pop() {
        replay.play(&entry);
    }
    // Nothing is under way any more.
    streams.complain_in_place("");
}

/// Says how far it is, to somebody who sits in front of it.
struct Progress {
    clock: Clock,
    said: u64,
    requests: usize,
}

impl Progress {
    fn start() -> Self {
        Self { clock: Clock::start(), said: 0, requests: 0 }
    }

    fn add(&mut self, requests: usize, streams: &mut Streams<'_>) {
        const SECOND: Duration = Duration::from_secs(1);
        self.requests += requests;
        let now = self.clock.now().as_nanos();
        if self.said == 0 {
            self.said = now;
        }
        if Duration::from_nanos(now - self.said) >= SECOND {
            self.said = now;
            streams.complain_in_place(&format!("{} requests", self.requests));
        }
    }
}
