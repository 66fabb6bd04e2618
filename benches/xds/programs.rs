//! The measured servers as processes of their own: what they take is told apart from what the fake Envoys take.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::{floor, tls};

/// USER_HZ, which is the same on all of Linux.
const TICKS_PER_SECOND: u64 = 100;
const PAGE_BYTES: u64 = 4096;

/// A server. It ends with its handle.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Program {
    /// `tierflow serve`, with its policies from etcd.
    pub(crate) fn tierflow(folder: &Path, etcd: SocketAddr) -> Self {
        let address = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
            .args(["serve", "--log=warn"])
            .arg(format!("--etcd=http://{etcd}"))
            .arg(format!("--xds-listen={address}"))
            .arg(format!("--rls-listen={}", free_address()))
            .arg(format!("--admin-listen={}", free_address()))
            .args(tls::flags())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("tierflow.log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// The bare server, which is this program again.
    pub(crate) fn floor(bytes: usize) -> Self {
        let address = free_address();
        let child = Command::new(std::env::current_exe().unwrap())
            .env(floor::VARIABLE, format!("{address} {bytes}"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it was started with a pipe, and it is taken once")
    }

    pub(crate) fn rss(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * PAGE_BYTES
    }

    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(&self.child.id().to_string())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone and waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the fake Envoys take.
pub(crate) fn own_cpu() -> Duration {
    cpu_of("self")
}

/// In user mode and in the kernel.
fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
