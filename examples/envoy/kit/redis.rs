//! A Redis server as a child process. It ends with its handle.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::tools;

pub struct Redis {
    child: Child,
    folder: PathBuf,
    pub address: SocketAddr,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Redis {
    /// Starts one that keeps nothing on disk, but its log beside the folder. It may take a moment until it answers.
    pub fn start(folder: &Path, address: SocketAddr, extra: &[String]) -> Result<Self, String> {
        Self::start_with(folder, address, extra, &[])
    }

    /// The same with variables of its environment.
    pub fn start_with(
        folder: &Path,
        address: SocketAddr,
        extra: &[String],
        env: &[(String, String)],
    ) -> Result<Self, String> {
        let port = address.port().to_string();
        let ip = address.ip().to_string();
        let own = ["--bind", &ip, "--port", &port, "--save", "", "--appendonly", "no", "--daemonize", "no"];
        let args = own.map(str::to_owned).into_iter().chain(extra.iter().cloned()).collect();
        Self::run(folder, address, args, env)
    }

    /// Starts a Sentinel, which writes what it learns to its file of settings.
    pub fn sentinel(folder: &Path, address: SocketAddr, lines: &[String]) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let file = folder.join("sentinel.conf");
        let own = format!("bind {}\nport {}\ndaemonize no\n", address.ip(), address.port());
        std::fs::write(&file, own + &lines.join("\n") + "\n")
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Self::run(folder, address, vec!["sentinel.conf".to_owned(), "--sentinel".to_owned()], &[])
    }

    fn run(folder: &Path, address: SocketAddr, args: Vec<String>, env: &[(String, String)]) -> Result<Self, String> {
        let child = spawn(folder, &args, env)?;
        Ok(Self { child, folder: folder.to_owned(), address, args, env: env.to_vec() })
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty.
    pub fn restart(&mut self) -> Result<(), String> {
        self.kill();
        self.child = spawn(&self.folder, &self.args, &self.env)?;
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

fn spawn(folder: &Path, args: &[String], env: &[(String, String)]) -> Result<Child, String> {
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
        .args(args)
        .envs(env.iter().cloned())
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("redis-server: {error}"))
}
