//! A Redis server as a child process. It ends with its handle.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::tools;

pub struct Redis {
    child: Child,
    folder: PathBuf,
    pub address: SocketAddr,
    extra: Vec<String>,
}

impl Redis {
    /// Starts one that keeps nothing on disk, but its log beside the folder. It may take a moment until it answers.
    pub fn start(folder: &Path, address: SocketAddr, extra: &[String]) -> Result<Self, String> {
        let child = spawn(folder, address, extra)?;
        Ok(Self { child, folder: folder.to_owned(), address, extra: extra.to_vec() })
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty.
    pub fn restart(&mut self) -> Result<(), String> {
        self.kill();
        self.child = spawn(&self.folder, self.address, &self.extra)?;
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, address: SocketAddr, extra: &[String]) -> Result<Child, String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let log = folder.with_extension("redis.log");
    let output = std::fs::File::options().create(true).append(true).open(&log);
    let output = output.map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| error.to_string())?;
    let program = tools::redis()?;
    let mut command = Command::new(program);
    if let Some(libraries) = tools::libraries_of(program).filter(|folder| !folder.starts_with("/usr/lib")) {
        command.env("LD_LIBRARY_PATH", libraries);
    }
    command
        .args(["--bind", &address.ip().to_string(), "--port", &address.port().to_string()])
        .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(extra)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("redis-server: {error}"))
}
