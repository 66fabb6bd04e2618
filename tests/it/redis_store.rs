//! Counters in a real Redis that hangs, dies, forgets its script, is full, or may not be written to.

use std::num::NonZeroU32;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tierflow::clock::Clock;
use tierflow::counters::redis::{Redis, RedisSettings, RedisTls, RedisUser, keys};
use tierflow::counters::{Admission, Outcome, StoreAway};
use tierflow::limiter::Charge;
use tierflow::limiter::key::KeyHasher;
use tierflow::metrics::Metrics;
use tierflow::policy::limit::{Algorithm, Mode};
use tierflow::policy::rate::Rate;
use tokio_util::sync::CancellationToken;

use crate::harness::{self, eventually, free_address};
use crate::kit;
use crate::tls::certificate;

/// Longer than usual, for a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_millis(250);

pub(crate) struct Server {
    pub(crate) redis: kit::redis::Redis,
    _folder: TempDir,
}

impl Server {
    pub(crate) fn start(extra: &[&str]) -> Self {
        Self::start_with(extra, &[])
    }

    pub(crate) fn start_with(extra: &[&str], env: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let extra: Vec<_> = extra.iter().map(|&arg| arg.to_owned()).collect();
        let redis = kit::redis::Redis::start_with(&folder.path().join("redis"), free_address(), &extra, env).unwrap();
        Self { redis, _folder: folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.redis.address)
    }

    /// A connection of the test's own.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        let connect = async || client.get_multiplexed_async_connection().await.ok();
        let mut connection = eventually("Redis answers", connect).await;
        connection.set_response_timeout(harness::DEADLINE);
        connection
    }

    pub(crate) async fn say(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| _ = command.arg(*word));
        let _: redis::Value = command.query_async(&mut self.connection().await).await.unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.redis.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    pub(crate) async fn store(&self) -> Arc<Redis> {
        let store = opening(settings(&self.url()));
        is_there(&store).await;
        store
    }
}

/// A store that opens its connections.
pub(crate) fn opening(settings: RedisSettings) -> Arc<Redis> {
    let store = Arc::new(Redis::new(settings, Clock::start(), Arc::new(Metrics::default())));
    let keep = Arc::clone(&store);
    tokio::spawn(async move { keep.keep(CancellationToken::new()).await });
    store
}

pub(crate) fn settings(url: &str) -> RedisSettings {
    RedisSettings {
        url: url.parse().unwrap(),
        user: None,
        sentinel_password_file: None,
        tls: RedisTls::default(),
        prefix: RedisSettings::PREFIX.to_owned(),
        connections: 2,
        deadline: DEADLINE,
        local_keys_max: 10_000,
        leases: false,
    }
}

pub(crate) async fn is_there(store: &Redis) {
    eventually("the store is there", async || store.is_there().then_some(())).await;
}

pub(crate) async fn is_away(store: &Redis) {
    // It is found out by asking.
    let closes = async || {
        let answer = store.admit(&[charge(0)]).await;
        (answer.is_err() && !store.is_there()).then_some(())
    };
    eventually("the store is away", closes).await;
    let at_once = store.admit(&[charge(0)]).now_or_never();
    assert_eq!(at_once.map(|answer| answer.err()), Some(Some(StoreAway)), "nobody waits for a store that is away");
}

pub(crate) fn charge(hits: u32) -> Charge {
    let key = KeyHasher::seeded([4; 16]).part(b"order").finish();
    let rate = Rate::parse("100/hour").unwrap();
    Charge { key, rate, algorithm: Algorithm::SlidingWindow, mode: Mode::Enforce, hits, is_exact: false }
}

pub(crate) fn algorithms() -> [Algorithm; 3] {
    let burst = NonZeroU32::new(90).unwrap();
    [Algorithm::SlidingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket { burst }]
}

pub(crate) fn remaining(admission: &Admission) -> u32 {
    match admission.outcomes[0] {
        Outcome::Judged(verdict) => verdict.remaining,
        Outcome::NoRoom => panic!("no room"),
    }
}

pub(crate) async fn left(store: &Redis) -> u32 {
    eventually("the store decides", async || store.admit(&[charge(0)]).await.ok().map(|told| remaining(&told))).await
}

pub(crate) async fn spend(store: &Redis, hits: u32) -> u32 {
    remaining(&store.admit(&[charge(hits)]).await.unwrap())
}

#[tokio::test]
async fn what_was_asked_of_a_store_that_hangs_is_not_charged_when_it_goes_on() {
    let server = Server::start(&[]);
    let store = server.store().await;
    assert_eq!(spend(&store, 10).await, 90);
    server.signal("STOP");
    let one = [charge(1)];
    let answers = futures_util::future::join_all((0..50).map(|_| store.admit(&one))).await;
    assert!(answers.iter().all(Result::is_err));
    is_away(&store).await;
    // The promise begins with this time: what a store comes to earlier than that may be charged.
    tokio::time::sleep(2 * DEADLINE).await;
    server.signal("CONT");
    is_there(&store).await;
    assert_eq!(left(&store).await, 90);
    assert_eq!(spend(&store, 1).await, 89);
}

#[tokio::test]
async fn a_store_that_was_killed_and_is_empty_counts_again_from_nothing() {
    let mut server = Server::start(&[]);
    let store = server.store().await;
    assert_eq!(spend(&store, 10).await, 90);
    server.redis.kill();
    is_away(&store).await;
    server.redis.restart().unwrap();
    is_there(&store).await;
    assert_eq!(left(&store).await, 100);
}

#[tokio::test]
async fn a_store_that_forgot_its_script_is_told_it_again_by_the_same_question() {
    let server = Server::start(&[]);
    let store = server.store().await;
    for spent in 1..=3 {
        server.say(&["SCRIPT", "FLUSH"]).await;
        assert_eq!(spend(&store, 1).await, 100 - spent);
    }
}

#[tokio::test]
async fn a_store_that_may_not_be_written_to_is_away_until_it_may() {
    let server = Server::start(&[]);
    let store = server.store().await;
    assert_eq!(spend(&store, 10).await, 90);
    let nobody = free_address();
    let states: [(&[&str], &[&str]); 2] = [
        (&["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
        (&["REPLICAOF", "127.0.0.1", &nobody.port().to_string()], &["REPLICAOF", "NO", "ONE"]),
    ];
    for (broken, mended) in states {
        server.say(broken).await;
        let refused = async || store.admit(&[charge(1)]).await.err();
        eventually("it refuses", refused).await;
        eventually("it is away", async || {
            (store.admit(&[charge(1)]).await.is_err() && !store.is_there()).then_some(())
        })
        .await;
        server.say(mended).await;
        is_there(&store).await;
    }
    assert_eq!(left(&store).await, 90);
}

#[tokio::test]
async fn a_store_that_is_not_there_at_the_start_is_taken_when_it_comes() {
    let mut server = Server::start(&[]);
    server.redis.kill();
    let store = opening(settings(&server.url()));
    is_away(&store).await;
    server.redis.restart().unwrap();
    is_there(&store).await;
    assert_eq!(spend(&store, 1).await, 99);
}

#[tokio::test]
async fn no_key_stays_for_ever() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let mut connection = server.connection().await;
    for hits in [1, 1, 40, 1] {
        for (number, algorithm) in algorithms().into_iter().enumerate() {
            let key = KeyHasher::seeded([6; 16]).part(&number.to_le_bytes()).finish();
            store.admit(&[Charge { key, algorithm, ..charge(hits) }]).await.unwrap();
        }
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        assert!(keys.len() >= 3, "{keys:?}");
        for key in keys {
            let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
            assert!(left > 0 && left < longest(&key), "{key}: {left} ms");
        }
    }
}

/// The most milliseconds that a key may be kept for. The skew of the clock outlives all counters.
pub(crate) fn longest(key: &str) -> i64 {
    let days = if key.ends_with("}skew") { 401 } else { 1 };
    days * 24 * 3_600_000
}

/// The commands that the manual says a user needs.
const RIGHTS: [&str; 14] = [
    "~tierflow:*",
    "+evalsha",
    "+eval",
    "+time",
    "+mget",
    "+get",
    "+set",
    "+setrange",
    "+zadd",
    "+zrem",
    "+zrange",
    "+zscore",
    "+zremrangebyscore",
    "+pexpire",
];

#[tokio::test]
async fn a_user_with_few_rights_is_enough_and_its_password_may_change() {
    let server = Server::start(&[]);
    let password = async |password: &str| {
        let password = format!(">{password}");
        let user = ["ACL", "SETUSER", "tierflow", "reset", "on", &password];
        server.say(&[user.as_slice(), RIGHTS.as_slice()].concat()).await;
    };
    password("first").await;
    let folder = tempfile::tempdir().unwrap();
    let password_file = folder.path().join("password");
    std::fs::write(&password_file, "first\n").unwrap();
    let user = RedisUser { name: Some("tierflow".to_owned()), password_file: password_file.clone() };
    let store = opening(RedisSettings { user: Some(user), ..settings(&server.url()) });
    is_there(&store).await;
    for hits in [1, 13, 20] {
        assert!(store.admit(&[charge(hits)]).await.unwrap().admitted);
    }
    password("second").await;
    server.say(&["CLIENT", "KILL", "USER", "tierflow"]).await;
    is_away(&store).await;
    let why = async || store.report().trouble.filter(|why| why.contains("uthentication failed"));
    eventually("it says why", why).await;
    std::fs::write(&password_file, "second").unwrap();
    is_there(&store).await;
    assert_eq!(left(&store).await, 66);
}

#[tokio::test]
async fn a_store_is_reached_over_tls_with_a_certificate_of_ones_own() {
    let file = |flag: &str, name: &str| [flag.to_owned(), certificate(name)];
    let tls = free_address();
    let flags = [
        ["--tls-port".to_owned(), tls.port().to_string()],
        file("--tls-cert-file", "server.crt"),
        file("--tls-key-file", "server.key"),
        file("--tls-ca-cert-file", "authority.crt"),
    ];
    let flags: Vec<_> = flags.as_flattened().iter().map(String::as_str).collect();
    let server = Server::start(&flags);
    let secured = |ca: &str, identity: Option<(&str, &str)>| RedisSettings {
        tls: RedisTls {
            ca: Some(certificate(ca).into()),
            identity: identity.map(|(cert, key)| (certificate(cert).into(), certificate(key).into())),
        },
        ..settings(&format!("rediss://{tls}"))
    };
    let store = opening(secured("authority.crt", Some(("client.crt", "client.key"))));
    is_there(&store).await;
    assert_eq!(spend(&store, 1).await, 99);
    for stranger in [secured("authority.crt", None), secured("first.crt", Some(("client.crt", "client.key")))] {
        let store = opening(stranger);
        eventually("it is not let in", async || store.report().trouble).await;
        assert!(!store.is_there());
    }
    drop(server);
}

#[tokio::test]
async fn what_else_stands_under_a_counters_key_counts_as_nothing_and_harms_no_other() {
    let server = Server::start(&[]);
    let store = server.store().await;
    let mut connection = server.connection().await;
    let list: &[&str] = &["LPUSH", "KEY", "x"];
    let garbage: [&[&str]; 7] = [
        &["SET", "KEY", "hello"],
        &["SET", "KEY", ""],
        &["SET", "KEY", "r"],
        &["SET", "KEY", "l\u{1}short"],
        &["SET", "KEY", "42"],
        &["SETRANGE", "KEY", "300", "long"],
        list,
    ];
    for (number, algorithm) in algorithms().into_iter().enumerate() {
        for (variant, words) in garbage.iter().enumerate() {
            let key = KeyHasher::seeded([6; 16]).part(&[number as u8, variant as u8]).finish();
            let charge = |hits| Charge { key, algorithm, ..charge(hits) };
            // A sliding window of more than a few hits has a ring.
            for hits in [1, 20] {
                store.admit(&[charge(hits)]).await.unwrap();
            }
            for name in [keys::head("tierflow:", key), keys::ring("tierflow:", key)] {
                let mut command = redis::cmd(words[0]);
                if words == &list {
                    let _: redis::Value = redis::cmd("DEL").arg(&name).query_async(&mut connection).await.unwrap();
                }
                words[1..].iter().for_each(|word| _ = command.arg(if *word == "KEY" { name.as_str() } else { *word }));
                let _: redis::Value = command.query_async(&mut connection).await.unwrap();
                for _ in 0..20 {
                    store.admit(&[charge(3)]).await.unwrap_or_else(|_| panic!("{algorithm:?} {words:?} {name}"));
                }
            }
        }
    }
    assert_eq!(store.report().connections_open, 2);
    assert_eq!(spend(&store, 10).await, 90);
}

#[test]
fn a_store_that_cannot_be_meant_is_refused_at_the_start_without_its_password() {
    let refused: [(&[&str], &str); 8] = [
        (&["--counters=memcached://a:1"], "expected memory, redis://HOST:PORT"),
        (&["--counters=redis://tierflow:s3cr3t@a:1"], "use --counters-password-file"),
        (&["--counters=redis://a:1?password=s3cr3t"], "it has parameters"),
        (&["--counters=redis://a:1", "--counters-ca=ca.crt"], "need rediss://"),
        (&["--counters=redis://a:1", "--counters-password-file=/nowhere"], "/nowhere: "),
        (&["--counters=redis://a:1", "--counters-sentinel-password-file=/nowhere"], "needs redis+sentinel://"),
        (&["--counters=redis+sentinel://a:1/m", "--counters-sentinel-password-file=/nowhere"], "/nowhere: "),
        (&["--counters-password-file=/nowhere"], "--counters-password-file needs --counters"),
    ];
    for (flags, expected) in refused {
        let output = crate::harness::tierflow(&[&["serve"], flags].concat());
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(expected) && !told.contains("s3cr3t"), "{flags:?}: {told}");
    }
}
