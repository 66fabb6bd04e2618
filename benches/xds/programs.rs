//! The measured servers.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::{Process, free_address};
use crate::{floor, tls};

/// `tierflow serve`, with its policies from etcd.
pub(crate) fn tierflow(folder: &Path, etcd: SocketAddr) -> Process {
    let address = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tierflow"));
    command
        .args(["serve", "--log=warn"])
        .arg(format!("--etcd=http://{etcd}"))
        .arg(format!("--xds-listen={address}"))
        .arg(format!("--rls-listen={}", free_address()))
        .arg(format!("--admin-listen={}", free_address()))
        .args(tls::flags())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.join("tierflow.log")).unwrap());
    Process::spawn(&mut command, address)
}

/// The bare server, which is this program again.
pub(crate) fn floor(bytes: usize) -> Process {
    let address = free_address();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(floor::VARIABLE, format!("{address} {bytes}")).stdin(Stdio::piped());
    Process::spawn(&mut command, address)
}
