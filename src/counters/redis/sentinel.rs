//! The master, as the Sentinels know it. <https://redis.io/docs/latest/develop/reference/sentinel-clients/>

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::failure::Failure;
use super::link::Link;
use super::settings::RedisSettings;
use super::url::ServerAddress;

/// The time that one Sentinel has to say who is master.
const ANSWER: Duration = Duration::from_millis(200);
/// The time between two questions for a master that seems to be well.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Sentinels {
    settings: Arc<RedisSettings>,
    sentinels: Vec<ServerAddress>,
    /// The name that they know the master by.
    master: String,
    /// The number of the Sentinel that answered last, which is asked first.
    first: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(settings: Arc<RedisSettings>, sentinels: Vec<ServerAddress>, master: String) -> Self {
        Self { settings, sentinels, master, first: AtomicUsize::new(0) }
    }

    /// Asks them in turn. The first that knows the master is believed.
    pub(super) async fn master(&self) -> Result<ServerAddress, Failure> {
        let sentinels = &self.sentinels;
        let first = self.first.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for number in (first..first + sentinels.len()).map(|number| number % sentinels.len()) {
            let Some(sentinel) = sentinels.get(number) else { continue };
            let answer = timeout(ANSWER, self.ask(sentinel)).await.unwrap_or(Err(Failure::Unanswered));
            match answer {
                Ok(Some(master)) => {
                    self.first.store(number, Ordering::Relaxed);
                    return Ok(master);
                }
                Ok(None) => failures.push(format!("{sentinel} knows no master {}", self.master)),
                Err(failure) => failures.push(format!("{sentinel}: {failure}")),
            }
        }
        Err(Failure::NoMaster(failures.join("; ")))
    }

    async fn ask(&self, sentinel: &ServerAddress) -> Result<Option<ServerAddress>, Failure> {
        let (settings, sentinel) = (Arc::clone(&self.settings), sentinel.clone());
        // It reads files, which may take long, on a runtime that decides requests.
        let client = spawn_blocking(move || settings.sentinel_client(&sentinel)).await;
        let client = client.map_err(|error| Failure::File(error.to_string()))??;
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(Failure::Refused)?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let answer: Option<(String, u16)> = question.query_async(&mut connection).await.map_err(Failure::Refused)?;
        Ok(answer.map(|(host, port)| ServerAddress { host, port }))
    }

    /// Closes the connections to a server that is the master no more. Most masters that are replaced close them by
    /// themselves; one that is cut off from the Sentinels, and not from here, does not.
    pub(super) async fn watch(&self, links: &[Link]) {
        loop {
            sleep(WATCH).await;
            let Ok(master) = self.master().await else { continue };
            for link in links {
                if link.address().is_some_and(|address| *address != master) {
                    link.close(&Failure::Replaced(master.to_string()));
                }
            }
        }
    }
}
