//! Servers as processes of their own: what they take is told apart from what the others take, and from what the benchmark
//! does itself.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Longer than any server takes to start on a slow machine.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const PAGE_BYTES: u64 = 4096;

/// A process that ends with its handle.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts one that is to listen at `address`.
    pub(crate) fn spawn(command: &mut Command, address: SocketAddr) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, address }
    }

    /// Starts one on `cores`, as in `0` or `0,1`, and waits until it listens at `address`.
    pub(crate) fn start(command: &Command, cores: &str, address: SocketAddr) -> Self {
        let mut pinned = Command::new("taskset");
        pinned.args(["--cpu-list", cores]).arg(command.get_program()).args(command.get_args());
        pinned.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            pinned.current_dir(folder);
        }
        pinned.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Self::spawn(&mut pinned, address);
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert_eq!(process.child.try_wait().unwrap(), None, "{command:?} ended");
            assert!(started.elapsed() < STARTS_WITHIN, "{command:?} does not listen at {address}");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it was started with a pipe, and it is taken once")
    }

    /// The time that its threads have run.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }

    pub(crate) fn rss(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_BYTES
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone and waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time that the threads of this process have run.
pub(crate) fn own_cpu() -> Duration {
    cpu_of("self")
}

/// The time that the threads of a process have run. The scheduler's own figures: ticks of 10 ms would be too coarse for a
/// turn of a second.
pub(crate) fn cpu_of(process: &str) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanos = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// An address that nobody listens at, and never the same twice: the one who was given it may not listen yet.
pub(crate) fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<SocketAddr>> = Mutex::new(BTreeSet::new());
    loop {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        if GIVEN.lock().unwrap().insert(address) {
            return address;
        }
    }
}
