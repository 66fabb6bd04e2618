//! A Tierflow and an Envoy as people run them: the real programs on ports of their own, with an upstream behind.
//!
//! ```text
//! client -> Envoy (gateway `edge`) -> upstream
//!             \-> Tierflow (xDS, decisions)
//! ```
//!
//! The gateway denies what Tierflow does not decide, and waits for it long enough for a slow machine. So an answer
//! of 200 is always a decision, and a decision that fails shows as 503.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::kit::client::{Answer, Client};
use crate::kit::envoy::Envoy;
use crate::kit::tools;
use crate::kit::upstream::Upstream;

/// How long anything may take. Only a test that fails waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, ask).await
}

/// For what takes longer because it is meant to.
pub(crate) async fn eventually_within<T>(deadline: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(deadline, asking).await.unwrap_or_else(|_| panic!("never happened: {what}"))
}

pub(crate) fn send_signal(process: u32, signal: &str) {
    assert!(Command::new("kill").args(["-s", signal, &process.to_string()]).status().unwrap().success());
}

/// A port that nobody listens on. It is below those that systems give to outgoing connections, so that none of
/// these takes it before a program of the test does.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed).into());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10_000 + u16::try_from(offset % 20_000).unwrap()));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What a verb of the command prints and how it ends. One that does not end is killed, or a test of how it ends would
/// wait for ever instead of failing.
pub(crate) fn tierflow(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tierflow"));
    let child = command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let process = child.id();
    let (sender, ended) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    ended
        .recv_timeout(DEADLINE)
        .unwrap_or_else(|_| {
            send_signal(process, "KILL");
            panic!("tierflow {args:?} does not end")
        })
        .unwrap()
}

/// What a verb prints that succeeds.
pub(crate) fn printed(args: &[&str]) -> String {
    let output = tierflow(args);
    assert!(output.status.success(), "tierflow {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A program that ends with its handle.
pub(crate) struct Program(pub(crate) Child);

impl Program {
    pub(crate) fn signal(&self, signal: &str) {
        send_signal(self.0.id(), signal);
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `tierflow serve`.
pub(crate) struct Tierflow {
    program: Program,
    client: Client,
    /// How verbs are told where the policies are, and what else they have to know.
    verb_flags: Vec<String>,
    pub(crate) xds: SocketAddr,
    pub(crate) rls: SocketAddr,
    admin: SocketAddr,
}

impl Tierflow {
    /// Takes whatever ports are free.
    pub(crate) async fn start(policies: &Path) -> Self {
        Self::start_on(policies, any_addresses()).await
    }

    /// With the addresses of xDS, the rate limit service and admin.
    pub(crate) async fn start_on(policies: &Path, addresses: [SocketAddr; 3]) -> Self {
        let source = vec![format!("--policies={}", policies.display())];
        Self::serve(&policies.with_extension("log"), source, &[], addresses).await
    }

    /// With policies from any source, and further flags.
    pub(crate) async fn serve(log: &Path, source: Vec<String>, flags: &[String], addresses: [SocketAddr; 3]) -> Self {
        Self::serve_with_env(&[], log, source, flags, addresses).await
    }

    /// As [`Self::serve`], with further variables of the environment.
    pub(crate) async fn serve_with_env(
        env: &[(&str, &Path)],
        log: &Path,
        source: Vec<String>,
        flags: &[String],
        [xds, rls, admin]: [SocketAddr; 3],
    ) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
            .envs(env.iter().copied())
            .args(["serve", "--log-format", "json"])
            .args(&source)
            .args(flags)
            .args(["--xds-listen", &xds.to_string(), "--rls-listen", &rls.to_string()])
            .args(["--admin-listen", &admin.to_string()])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(log.with_extension("out")).unwrap())
            .stderr(std::fs::File::create(log).unwrap())
            .spawn();
        let mut program = Program(child.unwrap());
        let bound = eventually("Tierflow serves", async || {
            assert!(program.0.try_wait().unwrap().is_none(), "{}", std::fs::read_to_string(log).unwrap());
            bound_addresses(log)
        });
        let [xds, rls, admin] = bound.await;
        Self { program, client: Client::default(), verb_flags: source, xds, rls, admin }
    }

    /// Flags for the verbs that tests use with it.
    #[must_use]
    pub(crate) fn with_verb_flags(mut self, flags: &[String]) -> Self {
        self.verb_flags.extend_from_slice(flags);
        self
    }

    /// As [`Self::with_verb_flags`], in the place of all that there were.
    #[must_use]
    pub(crate) fn with_only_verb_flags(self, verb_flags: Vec<String>) -> Self {
        Self { verb_flags, ..self }
    }

    pub(crate) fn addresses(&self) -> [SocketAddr; 3] {
        [self.xds, self.rls, self.admin]
    }

    pub(crate) async fn ask(&self, path: &str) -> Answer {
        self.client.get(&format!("http://{}{path}", self.admin)).await.unwrap()
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.client.send_body(method, &format!("http://{}{path}", self.admin), headers, body).await.unwrap()
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&self.ask(path).await.body).unwrap()
    }

    pub(crate) async fn status(&self) -> Value {
        self.json("/v1/status").await
    }

    pub(crate) async fn generation(&self) -> u64 {
        self.status().await["generation"].as_u64().unwrap()
    }

    /// How many responses it sent, by type.
    pub(crate) async fn pushes(&self) -> Pushes {
        let metrics = self.ask("/metrics").await.text();
        let of_type = |resource_type: &str| {
            let name = format!("tierflow_xds_push_total{{type=\"{resource_type}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
        };
        ["cluster", "endpoint", "secret", "listener", "route"].map(of_type)
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.program.signal(signal);
    }

    pub(crate) fn process(&self) -> u32 {
        self.program.0.id()
    }

    /// The handle is left for another.
    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// Waits for it to end by itself.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        eventually("Tierflow ends", async || self.program.0.try_wait().unwrap()).await
    }
}

/// Free ones for xDS, the rate limit service and admin.
pub(crate) fn any_addresses() -> [SocketAddr; 3] {
    [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3]
}

/// Responses sent: clusters, endpoints, secrets, listeners, routes.
pub(crate) type Pushes = [u64; 5];

fn bound_addresses(log: &Path) -> Option<[SocketAddr; 3]> {
    let log = std::fs::read_to_string(log).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let serving = lines.map(|line| line["fields"].clone()).find(|fields| fields["message"] == "serving")?;
    Some(["xds", "rls", "admin"].map(|server| serving[server].as_str().unwrap().parse().unwrap()))
}

/// An Envoy that got its bootstrap from `tierflow bootstrap`.
pub(crate) struct Edge {
    envoy: Envoy,
    client: Client,
    admin: SocketAddr,
    pub(crate) listen: SocketAddr,
}

impl Edge {
    pub(crate) fn start(folder: &Path, tierflow: &Tierflow, id: &str, xds: &str, listen: SocketAddr) -> Self {
        Self::start_for("edge", folder, tierflow, id, xds, listen)
    }

    pub(crate) fn start_for(
        gateway: &str,
        folder: &Path,
        tierflow: &Tierflow,
        id: &str,
        xds: &str,
        listen: SocketAddr,
    ) -> Self {
        Self::start_with(gateway, folder, tierflow, (id, xds, ""), listen)
    }

    /// The oldest Envoy that is supported.
    pub(crate) fn start_oldest(folder: &Path, tierflow: &Tierflow, id: &str, listen: SocketAddr) -> Self {
        Self::start_program(tools::oldest_envoy().unwrap(), "edge", folder, tierflow, (id, "delta", ""), listen)
    }

    /// The Envoy that everything is tested with.
    pub(crate) fn start_newest(folder: &Path, tierflow: &Tierflow, id: &str, listen: SocketAddr) -> Self {
        Self::start(folder, tierflow, id, "delta", listen)
    }

    /// As a node of some id, with a variant of the protocol and further fields of its bootstrap.
    fn start_with(
        gateway: &str,
        folder: &Path,
        tierflow: &Tierflow,
        node: (&str, &str, &str),
        listen: SocketAddr,
    ) -> Self {
        Self::start_program(tools::envoy().unwrap(), gateway, folder, tierflow, node, listen)
    }

    fn start_program(
        program: &Path,
        gateway: &str,
        folder: &Path,
        tierflow: &Tierflow,
        (id, xds, fields): (&str, &str, &str),
        listen: SocketAddr,
    ) -> Self {
        let admin = free_address();
        let bootstrap = printed(
            &[
                "bootstrap",
                &format!("--gateway={gateway}"),
                &format!("--server={}", tierflow.xds),
                &format!("--envoy-admin={admin}"),
                &format!("--node-id={id}"),
                &format!("--xds={xds}"),
            ]
            .into_iter()
            .chain(tierflow.verb_flags.iter().map(String::as_str))
            .collect::<Vec<_>>(),
        );
        let envoy = Envoy::start_program(program, folder, id, &(bootstrap + fields)).unwrap();
        Self { envoy, client: Client::default(), admin, listen }
    }

    /// Until it listens and its limiter is well.
    pub(crate) async fn ready(&self) {
        let wanted = ["listener_manager.total_listeners_active", "cluster.tierflow_rls.membership_healthy"];
        eventually("Envoy is ready", async || {
            let is_live = self.client.get(&format!("http://{}/ready", self.admin)).await.ok()?.status == 200;
            let [listeners, limiters] = self.stats(wanted).await;
            (is_live && listeners > 0 && limiters > 0).then_some(())
        })
        .await;
    }

    /// Until it can be asked how it is.
    pub(crate) async fn starts(&self) {
        let ready = format!("http://{}/ready", self.admin);
        eventually("Envoy starts", async || self.client.get(&ready).await.ok()).await;
    }

    pub(crate) async fn admin(&self, path: &str) -> String {
        self.client.get(&format!("http://{}{path}", self.admin)).await.unwrap().text()
    }

    /// Sets a key of Envoy's runtime.
    pub(crate) async fn set_runtime(&self, key: &str, value: &str) {
        let url = format!("http://{}/runtime_modify?{key}={value}", self.admin);
        assert_eq!(self.client.send("POST", &url, &[]).await.unwrap().status, 200);
    }

    /// Counters and gauges of Envoy's; 0 where there is none of the name.
    pub(crate) async fn stats<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let stats = self.admin("/stats").await;
        names.map(|name| {
            let of_line = |line: &str| line.strip_prefix(name)?.strip_prefix(": ")?.parse().ok();
            stats.lines().find_map(of_line).unwrap_or(0)
        })
    }

    pub(crate) fn log(&self) -> String {
        self.envoy.log()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// For somebody who goes on by themselves.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// GET.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.try_send(method, path, headers).await.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub(crate) async fn try_send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        self.client.send(method, &self.url(path), headers).await
    }
}

/// What a test wants to differ.
pub(crate) struct Setup<'a> {
    /// Documents besides the gateway `edge` and the service `upstream`.
    pub(crate) policies: &'a str,
    /// Further fields of the gateway.
    pub(crate) gateway: &'a str,
    pub(crate) on_error: &'a str,
    /// The variant of the protocol.
    pub(crate) xds: &'a str,
    /// Further fields of Envoy's bootstrap.
    pub(crate) bootstrap: &'a str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { policies: "", gateway: "", on_error: "deny", xds: "delta", bootstrap: "" }
    }
}

/// All of it. The programs end before their folder goes.
pub(crate) struct World {
    pub(crate) edge: Edge,
    pub(crate) tierflow: Tierflow,
    pub(crate) upstream: Upstream,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) async fn start(setup: Setup<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir(&policies).unwrap();
        let upstream = Upstream::start("upstream", (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let listen = free_address();
        std::fs::write(policies.join("gateway.yaml"), gateway(&setup, listen, upstream.address)).unwrap();
        std::fs::write(policies.join("policies.yaml"), setup.policies).unwrap();
        let tierflow = Tierflow::start(&policies).await;
        assert_eq!(tierflow.status().await["refused"], Value::Array(Vec::new()));
        let node = ("edge-1", setup.xds, setup.bootstrap);
        let edge = Edge::start_with("edge", folder.path(), &tierflow, node, listen);
        edge.ready().await;
        Self { edge, tierflow, upstream, folder }
    }

    /// Where a file of the policy folder is.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("policies").join(file)
    }

    pub(crate) fn save(&self, file: &str, text: &str) {
        save(&self.path(""), file, text);
    }
}

/// Puts a file in the place of another in one step, as editors do.
pub(crate) fn save(folder: &Path, file: &str, text: &str) {
    let beside = folder.join(format!(".{file}.swp"));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, folder.join(file)).unwrap();
}

pub(crate) fn gateway(setup: &Setup<'_>, listen: SocketAddr, upstream: SocketAddr) -> String {
    let Setup { gateway, on_error, .. } = setup;
    format!(
        "kind: Gateway
name: edge
nodes: {{ clusters: [edge] }}
listen: {listen}
limiter: {{ timeout: 5s, on_error: {on_error} }}
{gateway}
---
kind: Service
name: upstream
endpoints: [{upstream}]
"
    )
}

/// Four clients that ask without a pause.
pub(crate) struct Load {
    stop: CancellationToken,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    pub(crate) fn start(url: String) -> Self {
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            clients.spawn(ask_until(stop.clone(), url.clone()));
        }
        Self { stop, clients }
    }

    /// What was answered other than 200.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.cancel();
        self.clients.join_all().await.concat()
    }
}

async fn ask_until(stop: CancellationToken, url: String) -> Vec<String> {
    let client = Client::default();
    let mut failures = Vec::new();
    while !stop.is_cancelled() {
        match client.get(&url).await {
            Ok(answer) if answer.status == 200 => {}
            failure => failures.push(format!("{failure:?}")),
        }
    }
    failures
}
