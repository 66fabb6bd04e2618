//! An etcd of one member as a child process. It ends with its handle.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::tools;

pub struct Etcd {
    child: Child,
    folder: PathBuf,
    pub address: SocketAddr,
    peer: SocketAddr,
    extra: Vec<String>,
}

impl Etcd {
    /// Starts one that keeps its data in the folder. It may take a while until it answers.
    pub fn start(folder: &Path, address: SocketAddr, peer: SocketAddr, extra: &[String]) -> Result<Self, String> {
        let child = spawn(folder, address, peer, extra)?;
        Ok(Self { child, folder: folder.to_owned(), address, peer, extra: extra.to_vec() })
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// As SIGTERM does: what it knows is on disk when it is gone.
    pub fn end(&mut self) {
        let _ = Command::new("kill").args(["-s", "TERM", &self.id().to_string()]).status();
        let _ = self.child.wait();
    }

    /// Starts it again with what it had.
    pub fn restart(&mut self) -> Result<(), String> {
        self.kill();
        self.child = spawn(&self.folder, self.address, self.peer, &self.extra)?;
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, address: SocketAddr, peer: SocketAddr, extra: &[String]) -> Result<Child, String> {
    let scheme = if extra.iter().any(|arg| arg.starts_with("--cert-file")) { "https" } else { "http" };
    let log = folder.with_extension("etcd.log");
    let output = std::fs::File::options().create(true).append(true).open(&log);
    let output = output.map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    Command::new(tools::etcd()?)
        .arg(format!("--data-dir={}", folder.join("etcd").display()))
        .arg(format!("--listen-client-urls={scheme}://{address}"))
        .arg(format!("--advertise-client-urls={scheme}://{address}"))
        .arg(format!("--listen-peer-urls=http://{peer}"))
        .arg(format!("--initial-advertise-peer-urls=http://{peer}"))
        .arg(format!("--initial-cluster=default=http://{peer}"))
        .args(extra)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("etcd: {error}"))
}
