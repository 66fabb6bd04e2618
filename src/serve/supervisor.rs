//! What a service manager is told (sd_notify(3)): that Tierflow serves, that it goes on answering, that it ends. Where there
//! is none, as in a terminal or a container, nobody is told anything.

use std::convert::Infallible;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Tells when a first set of policies is served, and, where somebody watches, again and again that every runtime answers.
/// Never comes to an end.
pub(super) async fn attend(generations: watch::Receiver<u64>, runtimes: Vec<Handle>) -> Infallible {
    tokio::join!(greet(generations), reassure(silence_max(), &runtimes)).0
}

/// Calls under way may take a while to end: that is no reason to end them by force.
pub fn stopping() {
    tell("STOPPING=1\nSTATUS=stopping");
}

/// The ports are bound by now. Without policies they are of no use to anybody.
async fn greet(mut generations: watch::Receiver<u64>) -> Infallible {
    tell("STATUS=waiting for a first set of policies");
    if generations.wait_for(|number| *number > 0).await.is_ok() {
        tell("READY=1\nSTATUS=serving");
    }
    std::future::pending().await
}

/// Twice within the time after which the manager takes silence for a hang, as sd_watchdog_enabled(3) asks for.
async fn reassure(silence_max: Option<Duration>, runtimes: &[Handle]) {
    let Some(silence_max) = silence_max else { return };
    let mut beats = tokio::time::interval(silence_max / 2);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        if !answer(runtimes).await {
            return;
        }
        tell("WATCHDOG=1");
    }
}

/// Whether something that each runtime was given has run on it. Of one that hangs nothing comes.
async fn answer(runtimes: &[Handle]) -> bool {
    try_join_all(runtimes.iter().map(|runtime| runtime.spawn(async {}))).await.is_ok()
}

/// How long the manager takes silence for no hang. None: it does not listen for that, or to another process.
fn silence_max() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let is_ours = number("WATCHDOG_PID").is_none_or(|process| process == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|micros| is_ours && *micros > 0).map(Duration::from_micros)
}

fn tell(lines: &str) {
    if let Err(error) = send(lines) {
        tracing::warn!("NOTIFY_SOCKET: {error}");
    }
}

/// Sends it to the manager's socket: that of a path, or with an @ one that has only a name (unix(7)).
fn send(lines: &str) -> io::Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let manager = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(lines.as_bytes(), &manager).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::task::Poll;

    use futures_util::poll;

    use super::super::workers::Workers;
    use super::*;

    #[tokio::test]
    async fn a_runtime_that_hangs_does_not_answer_for_the_others_and_one_that_ended_never_will() {
        let workers = Workers::start("test", 2).unwrap();
        let runtimes = workers.handles().to_vec();
        let [one, other] = &runtimes[..] else { panic!("two") };
        let ((began, begins), (end, ends)) = (mpsc::channel(), mpsc::channel::<()>());
        one.spawn(async move {
            began.send(()).unwrap();
            let _ = ends.recv();
        });
        begins.recv().unwrap();
        let mut all = std::pin::pin!(answer(&runtimes));
        assert!(matches!(poll!(&mut all), Poll::Pending));
        assert!(answer(std::slice::from_ref(other)).await);
        assert!(matches!(poll!(&mut all), Poll::Pending), "it answers, although one hangs");
        drop(end);
        assert!(all.await);
        drop(workers);
        assert!(!answer(&runtimes).await);
    }
}
