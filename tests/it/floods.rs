//! Whoever sends frames of HTTP/2 without end keeps nobody else from an answer, on any of the three ports, and makes the process no
//! larger than so much. Where that takes it, the connection is ended.

pub(crate) mod kinds;

use std::io::Write;
use std::net::SocketAddr;

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use tierflow::snapshot::resource::ResourceType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, timeout};

use crate::ads::{Sotw, first};
use crate::harness::{DEADLINE, Tierflow, eventually};
use crate::kit::client::Client;
use kinds::{Flood, PREFACE, SETTINGS, floods, frame};
pub(crate) use kinds::{POLICIES, question};

/// Connections that flood each port at once.
const FLOODING: usize = 4;
/// The answers that a good client gets on each port meanwhile.
const ANSWERS: usize = 3;
/// More than the process may take with all floods together.
const RESIDENT_MAX: u64 = 400 << 20;
/// More than the log may tell of all of them.
const LOG_MAX: u64 = 1 << 20;
/// What a flood may send on one connection before that is ended, where it is.
const SENT_MAX: usize = 32 << 20;
/// Floods on one connection, until it is ended or so much is sent. It reads what comes, so that nothing but the server slows it.
/// True where it was ended.
async fn send(to: SocketAddr, flood: &Flood, sent_max: usize) -> bool {
    let Ok(mut io) = TcpStream::connect(to).await else { return true };
    let (mut reading, mut writing) = io.split();
    let read = async {
        let mut heard = vec![0; 64 * 1024];
        while reading.read(&mut heard).await.is_ok_and(|length| length > 0) {}
    };
    let write = async {
        let settings = frame(SETTINGS, 0, 0, &[]);
        let mut sent = [PREFACE, &settings, &flood.begin].concat();
        let mut all = 0;
        for number in 0.. {
            sent.extend((flood.more)(number));
            if sent.len() > 32 * 1024 {
                if all > sent_max || writing.write_all(&sent).await.is_err() {
                    break;
                }
                all += sent.len();
                sent.clear();
            }
        }
        all > sent_max
    };
    tokio::select! {
        () = read => true,
        is_open = write => !is_open,
    }
}

pub(crate) async fn start() -> (tempfile::TempDir, Tierflow) {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("policies.yaml"), POLICIES).unwrap();
    let tierflow = Tierflow::start(&policies).await;
    eventually("it is ready", async || (tierflow.ask("/readyz").await.status == 200).then_some(())).await;
    (folder, tierflow)
}

/// Those who do what a good client does not. They have a thread of their own, so that nobody waits for them but the server.
pub(crate) struct Others(Option<Runtime>);

impl Others {
    pub(crate) fn start() -> Self {
        Self(Some(Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()))
    }

    pub(crate) fn spawn(&self, one: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.as_ref().unwrap().spawn(one));
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        // It may not be waited for within another runtime.
        self.0.take().unwrap().shutdown_background();
    }
}

/// What a good client asks the three ports for, on a connection of its own: whether the answer is right.
async fn resources(tierflow: &Tierflow) -> bool {
    let mut stream = Sotw::open(tierflow).await;
    stream.say(first("good", ResourceType::Listener, &[])).await;
    stream.hear().await.is_ok_and(|response| response.resources.len() == 1)
}

async fn decision(tierflow: &Tierflow) -> bool {
    let Ok(mut client) = RateLimitServiceClient::connect(format!("http://{}", tierflow.rls)).await else {
        return false;
    };
    let answer = client.should_rate_limit(question()).await.map(tonic::Response::into_inner);
    answer.is_ok_and(|answer| answer.overall_code == Code::Ok as i32 && answer.statuses.len() == 1)
}

async fn readiness(tierflow: &Tierflow) -> bool {
    let answer = Client::default().get(&format!("http://{}/readyz", tierflow.admin())).await;
    answer.is_ok_and(|answer| answer.status == 200)
}

/// For people to look at.
fn tell(figures: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{figures}");
}

/// A good client gets the right answer on each port every time that it asks. How long it takes is for people to look at.
pub(crate) async fn assert_answers(tierflow: &Tierflow, times: usize, meanwhile: &str) {
    let mut took = [(); 3].map(|()| Vec::new());
    for _ in 0..times {
        let [xds, rls, admin] = &mut took;
        for (port, took, is_right) in [
            ("xDS", xds, Box::pin(resources(tierflow)) as std::pin::Pin<Box<dyn Future<Output = bool>>>),
            ("rate limit", rls, Box::pin(decision(tierflow))),
            ("admin", admin, Box::pin(readiness(tierflow))),
        ] {
            let asked = Instant::now();
            let is_right = timeout(DEADLINE, is_right).await;
            took.push(asked.elapsed());
            assert_eq!(is_right, Ok(true), "{meanwhile}: the answer on the {port} port");
        }
    }
    for (port, mut took) in ["xDS", "rate limit", "admin"].into_iter().zip(took) {
        took.sort();
        let [median, p99] = [50, 99].map(|percent| took[took.len() * percent / 100]);
        tell(format_args!("{meanwhile}, {port}: median {median:?}, p99 {p99:?}, max {:?}", took.last().unwrap()));
    }
}

/// The most memory that a process has had, in bytes.
pub(crate) fn resident_max(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    kilobytes.unwrap().trim().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_floods_a_port_keeps_nobody_from_an_answer_and_takes_no_more_memory_than_so_much() {
    let (folder, tierflow) = start().await;
    for flood in floods() {
        let name = flood.name;
        let flood = std::sync::Arc::new(flood);
        let others = Others::start();
        for port in tierflow.addresses() {
            for _ in 0..FLOODING {
                let flood = std::sync::Arc::clone(&flood);
                others.spawn(async move {
                    loop {
                        send(port, &flood, usize::MAX).await;
                    }
                });
            }
        }
        assert_answers(&tierflow, ANSWERS, name).await;
        let resident = resident_max(tierflow.process());
        tell(format_args!("{name}: {} MB", resident >> 20));
        assert!(resident < RESIDENT_MAX, "{name}: {resident} bytes");
        let logged = std::fs::metadata(folder.path().join("policies.log")).unwrap().len();
        assert!(logged < LOG_MAX, "{name}: {logged} bytes of log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_that_costs_more_than_its_bytes_ends_its_connection() {
    let (_folder, tierflow) = start().await;
    for flood in floods() {
        for (port, ends) in tierflow.addresses().into_iter().zip(flood.ends).filter(|(_, ends)| *ends) {
            let asked = Instant::now();
            let ended = timeout(DEADLINE, send(port, &flood, SENT_MAX)).await;
            tell(format_args!("{}, {port}: {ended:?} after {:?}", flood.name, asked.elapsed()));
            assert_eq!(ended, Ok(ends), "{}, {port}", flood.name);
        }
    }
}
