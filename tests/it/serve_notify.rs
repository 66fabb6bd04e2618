//! What a service manager is told: the real program and a real socket, in the place of systemd.

use std::ffi::OsString;
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::UnixDatagram;

use crate::harness::{Program, eventually, free_address};
use crate::kit::client::Client;
use crate::kit::etcd::Etcd;

const POLICIES: &str = "kind: Plan\nname: standard\nlimits: [{ rate: 1/h }]\n";

/// Half of it is the time between two beats...
const SILENCE_MAX_MICROS: &str = "500000";
/// ...and in this some are due.
const BEATS_ARE_DUE: Duration = Duration::from_secs(2);

/// Who listens as systemd does.
struct Manager {
    folder: TempDir,
    /// As it is told in NOTIFY_SOCKET.
    address: OsString,
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let address = net::SocketAddr::from_pathname(&path).unwrap();
        Self::listen(folder, path.into(), &address)
    }

    /// One whose socket has a name that is no file's.
    fn without_a_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_str().unwrap().to_owned();
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        Self::listen(folder, format!("@{name}").into(), &address)
    }

    fn listen(folder: TempDir, address: OsString, bound: &net::SocketAddr) -> Self {
        let socket = net::UnixDatagram::bind_addr(bound).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { folder, address, socket: UnixDatagram::from_std(socket).unwrap(), heard: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, source: &str, env: &[(&str, &Path)]) -> Service {
        let ports = [free_address(), free_address(), free_address()];
        let [xds, rls, admin] = ports;
        let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
            .args(["serve", source, &format!("--xds-listen={xds}"), &format!("--rls-listen={rls}")])
            .arg(format!("--admin-listen={admin}"))
            .env("NOTIFY_SOCKET", &self.address)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(self.path("tierflow.log")).unwrap())
            .spawn();
        Service { program: Program(child.unwrap()), ports }
    }

    /// All that was said up to now.
    fn hear(&mut self) -> &[String] {
        let mut datagram = [0; 4096];
        while let Ok(length) = self.socket.try_recv(&mut datagram) {
            let said = String::from_utf8(datagram[..length].to_vec()).unwrap();
            self.heard.extend(said.lines().map(str::to_owned));
        }
        &self.heard
    }

    fn has_heard(&mut self, line: &str) -> bool {
        self.hear().iter().any(|heard| heard == line)
    }

    fn beats(&mut self) -> usize {
        self.hear().iter().filter(|heard| *heard == "WATCHDOG=1").count()
    }

    /// Policies that can be served at once.
    fn policies(&self) -> String {
        let policies = self.path("policies");
        std::fs::create_dir(&policies).unwrap();
        std::fs::write(policies.join("plan.yaml"), POLICIES).unwrap();
        format!("--policies={}", policies.display())
    }

    async fn waits_for(&mut self, line: &str) {
        eventually(line, async || self.has_heard(line).then_some(())).await;
    }
}

struct Service {
    program: Program,
    ports: [SocketAddr; 3],
}

impl Service {
    async fn ask(&self, path: &str) -> Option<(u16, String)> {
        let answer = Client::default().get(&format!("http://{}{path}", self.ports[2])).await.ok()?;
        Some((answer.status.as_u16(), answer.text()))
    }
}

#[tokio::test]
async fn it_is_ready_when_its_ports_are_bound_and_policies_are_served_and_tells_when_it_stops() {
    let mut manager = Manager::new();
    let etcd = free_address();
    let mut service = manager.start(&format!("--etcd=http://{etcd}"), &[]);
    manager.waits_for("STATUS=waiting for a first set of policies").await;
    // It answers, and has nothing to serve. That is no start that came to its end.
    let unready = eventually("it answers", async || service.ask("/readyz").await).await;
    assert_eq!((unready.0, manager.has_heard("READY=1")), (503, false), "{}", unready.1);

    let _etcd = Etcd::start(manager.folder.path(), etcd, free_address(), &[]).unwrap();
    let client = etcd_client::Client::connect([format!("http://{etcd}")], None).await.unwrap();
    let plan = "/tierflow/policies/Plan/standard";
    eventually("there are policies", async || client.clone().put(plan, POLICIES, None).await.ok()).await;
    manager.waits_for("READY=1").await;
    for port in service.ports {
        TcpStream::connect(port).unwrap();
    }
    assert_eq!(service.ask("/readyz").await.unwrap().0, 200);
    assert!(!manager.has_heard("STOPPING=1"));
    assert_eq!(manager.beats(), 0, "nobody asked for it");

    service.program.signal("TERM");
    manager.waits_for("STOPPING=1").await;
    let ended = eventually("it ends", async || service.program.0.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
    let states = manager.hear().iter().filter(|heard| !heard.starts_with("STATUS="));
    assert_eq!(states.collect::<Vec<_>>(), ["READY=1", "STOPPING=1"]);
}

#[tokio::test]
async fn a_manager_whose_socket_is_no_file_is_told_too() {
    let mut manager = Manager::without_a_file();
    let watched = [("WATCHDOG_USEC", Path::new(SILENCE_MAX_MICROS))];
    let service = manager.start(&manager.policies(), &watched);
    for line in ["READY=1", "STATUS=serving", "WATCHDOG=1"] {
        manager.waits_for(line).await;
    }
    service.program.signal("TERM");
    manager.waits_for("STOPPING=1").await;
}

/// Beats that another process was asked for are none of this one's business.
#[tokio::test]
async fn nobody_is_told_that_it_is_alive_who_asked_another_process() {
    let mut manager = Manager::new();
    let env = [("WATCHDOG_USEC", Path::new("1")), ("WATCHDOG_PID", Path::new("1"))];
    let service = manager.start(&manager.policies(), &env);
    manager.waits_for("READY=1").await;
    service.program.signal("TERM");
    manager.waits_for("STOPPING=1").await;
    assert_eq!(manager.beats(), 0);
}

/// A program in which nothing can be decided any more would look alive to whoever asks another of its ports.
#[tokio::test]
async fn the_watchdog_is_fed_only_while_every_runtime_answers() {
    let mut manager = Manager::new();
    let library = manager.path("hung_runtime.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/hung_runtime.c");
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-ldl", "-o"]).arg(&library).status();
    assert!(cc.unwrap().success());
    let policies = manager.policies();
    let hung = manager.path("hung");
    let env =
        [("LD_PRELOAD", library.as_path()), ("HUNG_THREADS", &hung), ("WATCHDOG_USEC", Path::new(SILENCE_MAX_MICROS))];
    let service = manager.start(&policies, &env);
    manager.waits_for("READY=1").await;
    let first = manager.beats();
    eventually("it is well", async || (manager.beats() > first + 2).then_some(())).await;

    for runtime in ["rls", "lease"] {
        std::fs::write(&hung, runtime).unwrap();
        let mark = manager.path(&format!("hung.{runtime}"));
        eventually("a runtime hangs", async || mark.exists().then_some(())).await;
        // One may have been on its way.
        let last = manager.beats() + 1;
        let since = tokio::time::Instant::now();
        let are_due = async || service.ask("/healthz").await.filter(|_| since.elapsed() >= BEATS_ARE_DUE);
        let (status, _) = eventually("many beats are due", are_due).await;
        assert_eq!((status, manager.beats().saturating_sub(last)), (200, 0), "{runtime} hangs");
        std::fs::remove_file(&hung).unwrap();
        eventually("it is well again", async || (manager.beats() > last + 1).then_some(())).await;
    }
}
