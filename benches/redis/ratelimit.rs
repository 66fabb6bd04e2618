//! envoyproxy/ratelimit, where RATELIMIT_BIN names its program: the same limits, as its fixed windows.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::SERVER_CORES;
use crate::asked::{Asked, Calls};
use crate::process::{Process, free_address};
use crate::tierflow_server::{descriptor, framed};

const UNITS: [&str; 4] = ["minute", "hour", "day", "month"];
/// Limits that count the calls of all tenants.
const API_LIMITS: usize = 2;

/// How it pipelines: the time that commands wait for others, and how many go together at most. Without, as by default, each
/// of its connections has one command under way.
pub(crate) struct Pipeline {
    pub(crate) window: &'static str,
    pub(crate) limit: &'static str,
}

/// Starts it with its counters in the Redis at an address.
pub(crate) fn start(program: &OsStr, folder: &Path, redis: SocketAddr, pipeline: &Pipeline) -> Process {
    let config = folder.join("ratelimit").join("config");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("bench.yaml"), limits()).unwrap();
    let (grpc, http, debug) = (free_address(), free_address(), free_address());
    let mut command = Command::new(program);
    for (name, address) in [("GRPC_", grpc), ("", http), ("DEBUG_", debug)] {
        command.env(format!("{name}HOST"), address.ip().to_string());
        command.env(format!("{name}PORT"), address.port().to_string());
    }
    command.env("RUNTIME_ROOT", folder).env("RUNTIME_SUBDIRECTORY", "ratelimit").env("RUNTIME_WATCH_ROOT", "false");
    command.env("REDIS_SOCKET_TYPE", "tcp").env("REDIS_URL", redis.to_string());
    command.env("REDIS_PIPELINE_WINDOW", pipeline.window).env("REDIS_PIPELINE_LIMIT", pipeline.limit);
    command.env("USE_STATSD", "false").env("LOG_LEVEL", "error");
    Process::start(&command, SERVER_CORES, grpc)
}

/// The calls that ask it: a descriptor for each limit.
pub(crate) fn calls(asked: Asked) -> Calls {
    asked.calls(|tenant, hits| {
        let tenant = format!("tenant-{tenant}");
        let of_api = (0..asked.api_limits()).map(|number| descriptor(&[(&key("api", number), "order")]));
        let of_tenant =
            (0..asked.limits - asked.api_limits()).map(|number| descriptor(&[(&key("tenant", number), &tenant)]));
        framed("bench", of_api.chain(of_tenant).collect(), hits)
    })
}

fn key(tier: &str, number: usize) -> String {
    format!("{tier}_{}", UNITS[number])
}

fn limits() -> String {
    let limit = |tier: &str, number: usize| {
        format!(
            "- {{key: {}, rate_limit: {{unit: {}, requests_per_unit: 1000000000}}}}\n",
            key(tier, number),
            UNITS[number]
        )
    };
    let of_api = (0..API_LIMITS).map(|number| limit("api", number));
    let of_tenant = (0..UNITS.len()).map(|number| limit("tenant", number));
    format!("domain: bench\ndescriptors:\n{}", of_api.chain(of_tenant).collect::<String>())
}
