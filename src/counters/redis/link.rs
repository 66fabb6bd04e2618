//! One connection to the store, opened again whenever it is closed.
//!
//! It counts as open after the script has decided something over it: a server that answers, and may not be written to,
//! is as good as none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::Failure;
use super::roll::{self, Entry, Errand, Roll};
use super::script::{self, Answer, Question};
use super::sentinel::Sentinels;
use super::settings::RedisSettings;
use super::settle::{self, Settlement};
use super::store_clock::{self, StoreClock, Told};
use super::url::{RedisForm, ServerAddress};
use crate::clock::Timestamp;
use crate::limiter::kept::Kept;
use crate::limiter::key::KeyHasher;
use crate::limiter::{Algorithm, Charge, LIMIT_MAX, Mode, Rate, Window};

/// The time that it may take to connect and to decide something.
const CONNECT: Duration = Duration::from_millis(500);
/// The pause between two attempts: at first, and at most. Each is cut by up to a half at random.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The time between two probes of an open link.
const PROBE: Duration = Duration::from_secs(1);

/// The time that settling may take: no request waits for it.
const SETTLE: Duration = Duration::from_millis(500);

/// The server that a link leads to.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Fixed(ServerAddress),
    /// Whoever is the master when it connects.
    Master(Arc<Sentinels>),
}

/// Is told what the store keeps for each counter, as of the store's time.
pub(super) type Follow<'a> = &'a (dyn Fn(&Charge, &Kept, Timestamp) + Sync);

/// How a node of a Cluster is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    Usual,
    /// As one that is just taking the slot over, which another node said (`ASKING`).
    Asking,
}

#[derive(Debug)]
pub(super) struct Link {
    settings: Arc<RedisSettings>,
    place: Place,
    /// The home of the key that it is probed by.
    probe_home: Arc<AtomicU16>,
    time: Arc<StoreClock>,
    connection: ArcSwapOption<MultiplexedConnection>,
    /// The server that it was last opened to.
    address: ArcSwapOption<ServerAddress>,
    closed: Notify,
    trouble: Mutex<Option<String>>,
}

impl Link {
    pub(super) fn new(
        settings: Arc<RedisSettings>,
        place: Place,
        probe_home: Arc<AtomicU16>,
        time: Arc<StoreClock>,
    ) -> Self {
        Self {
            settings,
            place,
            probe_home,
            time,
            connection: ArcSwapOption::empty(),
            address: ArcSwapOption::empty(),
            closed: Notify::new(),
            trouble: Mutex::default(),
        }
    }

    /// The server that it was last opened to.
    pub(super) fn address(&self) -> Option<Arc<ServerAddress>> {
        self.address.load_full()
    }

    /// The reason why it is not open.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(super) fn is_open(&self) -> bool {
        self.connection.load().is_some()
    }

    /// Asks once, over the connection as it is.
    pub(super) async fn ask(
        &self,
        question: &Question<'_>,
        by: Instant,
        way: Way,
        follow: Follow<'_>,
    ) -> Result<Answer, Failure> {
        let connection = self.connection.load_full().ok_or(Failure::Away)?;
        let answer =
            self.decide(&connection, question, self.time.latest(self.settings.deadline), by, way, follow).await;
        self.close_after(&answer);
        answer
    }

    /// Has the store settle, over the connection as it is.
    pub(super) async fn settle(&self, settlements: &[Settlement], way: Way) -> Result<(), Failure> {
        let connection = self.connection.load_full().ok_or(Failure::Away)?;
        let (prefix, latest, skew) = (&self.settings.prefix, self.time.latest(SETTLE), self.time.skew());
        let by_hash = settle::command("EVALSHA", settle::hash(), prefix, settlements, latest, skew);
        let by_text = || settle::command("EVAL", settle::TEXT, prefix, settlements, latest, skew);
        let answer = evaluate(&connection, by_hash, by_text, Instant::now() + SETTLE, way).await;
        self.close_after(&answer);
        let bytes = answer?;
        match settle::read(&bytes) {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::Late),
            None => Err(Failure::Nonsense(bytes.len())),
        }
    }

    /// Goes to the roll of replicas, over the connection as it is.
    pub(super) async fn call_roll(&self, roll: &Roll, errand: Errand, way: Way) -> Result<Entry, Failure> {
        let connection = self.connection.load_full().ok_or(Failure::Away)?;
        let key = roll::key(&self.settings.prefix);
        let by_hash = roll.command("EVALSHA", roll::hash(), &key, errand);
        let by_text = || roll.command("EVAL", roll::TEXT, &key, errand);
        let answer = evaluate(&connection, by_hash, by_text, Instant::now() + SETTLE, way).await;
        self.close_after(&answer);
        let bytes = answer?;
        roll::read(&bytes).ok_or(Failure::Nonsense(bytes.len()))
    }

    fn close_after<T>(&self, answer: &Result<T, Failure>) {
        if let Err(failure) = answer
            && failure.ends_connection()
        {
            self.close(failure);
        }
    }

    /// Asks something else than for a decision, which says nothing of how quick the store is with those.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        command: &Cmd,
        patience: Duration,
        way: Way,
    ) -> Result<T, Failure> {
        let connection = self.connection.load_full().ok_or(Failure::Away)?;
        let answer = timeout(patience, send(&connection, command, way)).await;
        let answer = answer.map_err(|_| Failure::Unanswered).and_then(|answer| answer.map_err(Failure::Refused));
        self.close_after(&answer);
        answer
    }

    /// Closes it, to be opened again by [`Link::keep`].
    pub(super) fn close(&self, failure: &Failure) {
        // The connection ends with its last question. What the store has not read of it by then is gone.
        if self.connection.swap(None).is_some() {
            tracing::warn!("a connection to the counter store is closed: {failure}");
            *self.trouble.lock() = Some(failure.to_string());
            self.closed.notify_one();
        }
    }

    async fn decide(
        &self,
        connection: &MultiplexedConnection,
        question: &Question<'_>,
        latest: Timestamp,
        by: Instant,
        way: Way,
        follow: Follow<'_>,
    ) -> Result<Answer, Failure> {
        let (prefix, skew) = (&self.settings.prefix, self.time.skew());
        let by_hash = question.command("EVALSHA", script::hash(), prefix, latest, skew);
        let by_text = || question.command("EVAL", script::TEXT, prefix, latest, skew);
        let bytes = evaluate(connection, by_hash, by_text, by, way).await?;
        let answer = question.read_and(&bytes, follow).ok_or(Failure::Nonsense(bytes.len()))?;
        self.time.learn(answer.at, skew);
        if answer.admission.is_some() { Ok(answer) } else { Err(Failure::Late) }
    }

    /// Opens it, and again whenever it is closed.
    pub(super) async fn keep(&self) {
        let mut pause = PAUSE;
        let mut is_told = false;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    tracing::info!("a connection to the counter store is open");
                    (pause, is_told) = (PAUSE, false);
                    *self.trouble.lock() = None;
                    self.connection.store(Some(Arc::new(connection)));
                    self.watch().await;
                }
                Err(failure) => {
                    if !is_told {
                        tracing::warn!("no connection to the counter store: {failure}");
                        is_told = true;
                    }
                    *self.trouble.lock() = Some(failure.to_string());
                }
            }
            sleep(pause.mul_f64(1.0 - fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Probes the open link until it is closed.
    async fn watch(&self) {
        loop {
            match timeout(PROBE, self.closed.notified()).await {
                Ok(()) => return,
                Err(_) => self.probe().await,
            }
        }
    }

    /// Finds out what no request does where there are none.
    async fn probe(&self) {
        let Some(connection) = self.connection.load_full() else { return };
        if let Err(failure) = self.decides(&connection).await {
            self.close(&failure);
        }
    }

    /// Has the server tell its time and decide something. The deadline is a long one: a busy machine closes nothing.
    async fn decides(&self, connection: &MultiplexedConnection) -> Result<(), Failure> {
        let decided = async {
            self.agree(connection).await?;
            let probe = [probe(self.probe_home.load(Ordering::Relaxed))];
            let (latest, by) = (Timestamp::from_nanos(u64::MAX), Instant::now() + CONNECT);
            self.decide(connection, &Question::new(&probe), latest, by, Way::Usual, &|_, _, _| {}).await
        };
        match decided.await {
            // A node of a Cluster that serves another slot than it did is well.
            Err(failure) if failure.is_redirect() => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Agrees with the other replicas on the skew of the server's clock.
    async fn agree(&self, connection: &MultiplexedConnection) -> Result<(), Failure> {
        // Another link is just at it.
        let Ok(_turn) = self.time.turn.try_lock() else { return Ok(()) };
        let (known, asked) = (self.time.skew(), self.time.now());
        let mut told = self.tell_time(connection, known, known).await?;
        if let Some(jump) = self.time.jump(told, asked) {
            let seconds = Duration::from_micros(jump.unsigned_abs()).as_secs_f64().copysign(jump as f64);
            tracing::warn!(
                "the clock of the counter store has jumped by {seconds} s, and counters go on as if it had not"
            );
            told = self.tell_time(connection, told.skew, told.skew.saturating_add(jump)).await?;
        }
        self.time.adopt(told);
        Ok(())
    }

    async fn tell_time(&self, connection: &MultiplexedConnection, known: i64, wanted: i64) -> Result<Told, Failure> {
        let key = self.skew_key();
        let by_hash = store_clock::command("EVALSHA", store_clock::hash(), &key, known, wanted);
        let by_text = || store_clock::command("EVAL", store_clock::TEXT, &key, known, wanted);
        let bytes = evaluate(connection, by_hash, by_text, Instant::now() + CONNECT, Way::Usual).await?;
        store_clock::read(&bytes).ok_or(Failure::Nonsense(bytes.len()))
    }

    /// All servers that take over from each other have one; each node of a Cluster has its own, in a slot that it serves.
    fn skew_key(&self) -> String {
        let (prefix, home) = (&self.settings.prefix, self.probe_home.load(Ordering::Relaxed));
        match (&self.settings.url.form, &self.place) {
            (RedisForm::Cluster { .. }, Place::Fixed(server)) => format!("{prefix}{{{home:04x}}}skew:{server}"),
            _ => format!("{prefix}{{{home:04x}}}skew"),
        }
    }

    /// Opens a connection over which the script decides.
    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let server = match &self.place {
            Place::Fixed(server) => server.clone(),
            Place::Master(sentinels) => sentinels.master().await?,
        };
        timeout(CONNECT, self.connect_to(server)).await.map_err(|_| Failure::Unanswered)?
    }

    async fn connect_to(&self, server: ServerAddress) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let (settings, to) = (Arc::clone(&self.settings), server.clone());
        // It reads files, which may take long, on a runtime that decides requests.
        let client = spawn_blocking(move || settings.client(&to)).await;
        let client = client.map_err(|error| Failure::File(error.to_string()))??;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connection.map_err(Failure::Refused)?;
        if let Place::Master(_) = self.place {
            check_role(&mut connection, &server).await?;
        }
        self.address.store(Some(Arc::new(server)));
        self.decides(&connection).await?;
        Ok(connection)
    }
}

/// Sentinels may know of a failover later than the servers, and a replica that takes writes loses them.
async fn check_role(connection: &mut MultiplexedConnection, server: &ServerAddress) -> Result<(), Failure> {
    let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await.map_err(Failure::Refused)?;
    let is_master = matches!(role.first(), Some(Value::BulkString(role)) if role == b"master");
    if is_master { Ok(()) } else { Err(Failure::NotMaster(server.to_string())) }
}

/// Runs a script by its hash, and by its text where the store does not know it.
async fn evaluate(
    connection: &MultiplexedConnection,
    by_hash: Cmd,
    by_text: impl FnOnce() -> Cmd,
    by: Instant,
    way: Way,
) -> Result<Vec<u8>, Failure> {
    let asked = async {
        match send(connection, &by_hash, way).await {
            Err(error) if is_unknown_script(&error) => send(connection, &by_text(), way).await,
            answer => answer,
        }
    };
    timeout_at(by, asked).await.map_err(|_| Failure::Unanswered)?.map_err(Failure::Refused)
}

/// Sends a command. A node that is to answer for a slot that it is just taking over is told so right before.
async fn send<T: FromRedisValue>(connection: &MultiplexedConnection, command: &Cmd, way: Way) -> RedisResult<T> {
    let mut connection = connection.clone();
    match way {
        Way::Usual => command.query_async(&mut connection).await,
        Way::Asking => {
            let mut pipeline = redis::pipe();
            pipeline.cmd("ASKING").ignore().add_command(command.clone());
            let (answer,) = pipeline.query_async(&mut connection).await?;
            Ok(answer)
        }
    }
}

/// A charge that is always admitted, and writes.
fn probe(home: u16) -> Charge {
    let rate = Rate { limit: LIMIT_MAX, window: Window::SECOND };
    let key = KeyHasher::seeded([0; 16]).part(b"probe").finish().at_home(home);
    Charge { key, rate, algorithm: Algorithm::FixedWindow, mode: Mode::Enforce, hits: 1, is_exact: true }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
