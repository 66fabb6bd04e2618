//! Counters in the master that Sentinels know, through failovers.

use std::sync::Arc;

use tempfile::TempDir;
use tierflow::counters::redis::{Redis, RedisSettings, RedisTls};

use crate::harness::{DEADLINE, eventually, eventually_within, free_address};
use crate::kit;
use crate::redis_store::{Server, is_there, left, opening, settings, spend};
use crate::tls::certificate;

const PASSWORD: &str = "sentinels-own";

/// Some Sentinels that watch a master, with a password of their own.
struct Sentinels {
    processes: Vec<kit::redis::Redis>,
    folder: TempDir,
}

impl Sentinels {
    fn start(count: usize, master: &Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        let port = master.redis.address.port();
        let quorum = count / 2 + 1;
        let lines = [
            format!("requirepass {PASSWORD}"),
            format!("sentinel monitor counters 127.0.0.1 {port} {quorum}"),
            "sentinel down-after-milliseconds counters 1000".to_owned(),
            "sentinel failover-timeout counters 5000".to_owned(),
        ];
        let start = |number: usize| {
            let folder = folder.path().join(format!("sentinel{number}"));
            kit::redis::Redis::sentinel(&folder, free_address(), &lines).unwrap()
        };
        Self { processes: (0..count).map(start).collect(), folder }
    }

    fn settings(&self) -> RedisSettings {
        let addresses: Vec<_> = self.processes.iter().map(|process| process.address.to_string()).collect();
        let url = format!("redis+sentinel://{}/counters", addresses.join(","));
        RedisSettings { sentinel_password_file: Some(self.folder.path().join("password")), ..settings(&url) }
    }

    /// What each says; none while one of them cannot say.
    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Option<Vec<T>> {
        let mut answers = Vec::new();
        for process in &self.processes {
            let client = redis::Client::open(format!("redis://:{PASSWORD}@{}", process.address)).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            let mut command = redis::cmd("SENTINEL");
            words.iter().for_each(|word| _ = command.arg(*word));
            answers.push(command.query_async(&mut connection).await.ok()?);
        }
        Some(answers)
    }

    /// They know each other, and a replica that could take over.
    async fn are_ready(&self) {
        eventually("the Sentinels know each other", async || {
            let all = self.processes.len().to_string();
            let quorum: Vec<String> = self.ask(&["CKQUORUM", "counters"]).await?;
            let replicas: Vec<Vec<redis::Value>> = self.ask(&["REPLICAS", "counters"]).await?;
            let is_ready = quorum.iter().all(|told| told.starts_with(&format!("OK {all} usable")))
                && replicas.iter().all(|replicas| replicas.len() == 1);
            is_ready.then_some(())
        })
        .await;
    }
}

fn replica_of(master: &Server) -> Server {
    let port = master.redis.address.port().to_string();
    Server::start(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"])
}

fn address_of(store: &Redis) -> Option<String> {
    store.report().nodes[0].address.clone()
}

/// What was written before is on the replica as well.
pub(crate) async fn replicated(master: &Server, key: &str) {
    let mut connection = master.connection().await;
    // It waits for what this connection wrote.
    redis::cmd("SET").arg(key).arg("").exec_async(&mut connection).await.unwrap();
    let caught_up = async || {
        let wait = redis::cmd("WAIT").arg(1).arg(100).query_async::<u32>(&mut connection.clone()).await;
        (wait.unwrap() == 1).then_some(())
    };
    eventually("the replica has it", caught_up).await;
}

async fn leads_to(store: &Redis, server: &Server) {
    let expected = server.redis.address.to_string();
    eventually("the store is at the new master", async || {
        (store.is_there() && address_of(store).as_ref() == Some(&expected)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn when_the_master_dies_counters_go_on_at_the_one_that_takes_over() {
    let mut master = Server::start(&[]);
    let replica = replica_of(&master);
    let sentinels = Sentinels::start(3, &master);
    sentinels.are_ready().await;
    let stores: Vec<Arc<Redis>> = (0..2).map(|_| opening(sentinels.settings())).collect();
    for store in &stores {
        is_there(store).await;
        spend(store, 5).await;
    }
    replicated(&master, "mark").await;
    master.redis.kill();
    for store in &stores {
        // It is found out by asking.
        eventually("the master is missed", async || {
            left(store).await;
            (address_of(store) == Some(replica.redis.address.to_string())).then_some(())
        })
        .await;
        leads_to(store, &replica).await;
    }
    assert_eq!(left(&stores[0]).await, 90, "what was replicated is not lost");
    assert_eq!([spend(&stores[0], 1).await, spend(&stores[1], 1).await], [89, 88], "they count together");
    master.redis.restart().unwrap();
    // A Sentinel asks each instance every 10 s what it is, and waits for another 8 s before it makes it what it should be, if it
    // has heard of the new master, too: on a busy machine more than one of these rounds.
    eventually_within(3 * DEADLINE, "the old master follows the new one", async || {
        let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(&mut master.connection().await).await.ok()?;
        (role[0] == redis::Value::BulkString(b"slave".to_vec())).then_some(())
    })
    .await;
    assert_eq!(left(&stores[0]).await, 88);
    assert_eq!(address_of(&stores[0]), Some(replica.redis.address.to_string()));
}

/// As it is for a master that is cut off from the Sentinels, and not from here: it goes on taking writes.
#[tokio::test]
async fn a_master_that_the_sentinels_have_replaced_is_left_though_it_answers() {
    let (first, second) = (Server::start(&[]), Server::start(&[]));
    second.connection().await;
    let sentinels = Sentinels::start(1, &first);
    let store = opening(sentinels.settings());
    // One that is still being opened would find the new master by itself, before the other is told.
    let all_open = async || (store.report().connections_open == 2).then_some(());
    eventually("all its connections are open", all_open).await;
    assert_eq!(spend(&store, 10).await, 90);
    let monitor = async |server: &Server| {
        let port = server.redis.address.port().to_string();
        sentinels.ask::<redis::Value>(&["REMOVE", "counters"]).await.unwrap();
        sentinels.ask::<redis::Value>(&["MONITOR", "counters", "127.0.0.1", &port, "1"]).await.unwrap();
    };
    monitor(&second).await;
    leads_to(&store, &second).await;
    assert_eq!(left(&store).await, 100);
    eventually("all its connections are open again", all_open).await;
}

#[tokio::test]
async fn a_replica_that_the_sentinels_take_for_the_master_is_not_counted_in() {
    let master = Server::start(&[]);
    let replica = replica_of(&master);
    // It would take the probe's write.
    replica.say(&["CONFIG", "SET", "replica-read-only", "no"]).await;
    let sentinel = Sentinels::start(1, &replica);
    let store = opening(sentinel.settings());
    let why = async || store.report().trouble.filter(|why| why.contains("is not a master"));
    eventually("it says why", why).await;
    assert!(!store.is_there());
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_told_with_what_each_of_them_says() {
    let master = Server::start(&[]);
    let sentinels = Sentinels::start(1, &master);
    let right = sentinels.settings();
    let refused = |settings: RedisSettings, expected: &'static str| async move {
        let store = opening(settings);
        let why = async || store.report().trouble.filter(|why| why.contains(expected));
        let why = eventually("it says why", why).await;
        assert!(why.starts_with("no Sentinel says who is master: "), "{why}");
    };
    let unknown = right.url.to_string().replace("/counters", "/other");
    refused(RedisSettings { url: unknown.parse().unwrap(), ..right.clone() }, "knows no master other").await;
    refused(RedisSettings { sentinel_password_file: None, ..right.clone() }, "NOAUTH").await;
    let away = format!("redis+sentinel://{}/counters", free_address());
    refused(RedisSettings { url: away.parse().unwrap(), ..right }, "refused").await;
}

#[tokio::test]
async fn sentinels_and_their_master_are_reached_over_tls() {
    let tls = [
        ("tls-cert-file", certificate("server.crt")),
        ("tls-key-file", certificate("server.key")),
        ("tls-ca-cert-file", certificate("authority.crt")),
    ];
    let port = free_address().port();
    let mut flags = vec!["--tls-port".to_owned(), port.to_string()];
    flags.extend(tls.iter().flat_map(|(flag, file)| [format!("--{flag}"), file.clone()]));
    let master = Server::start(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    master.connection().await;
    let folder = tempfile::tempdir().unwrap();
    let sentinel_port = free_address().port();
    let mut lines: Vec<_> = tls.iter().map(|(flag, file)| format!("{flag} {file}")).collect();
    lines.extend([
        format!("tls-port {sentinel_port}"),
        "tls-replication yes".to_owned(),
        format!("sentinel monitor counters 127.0.0.1 {port} 1"),
    ]);
    let _sentinel = kit::redis::Redis::sentinel(&folder.path().join("sentinel"), free_address(), &lines).unwrap();
    let store = opening(RedisSettings {
        tls: RedisTls {
            ca: Some(certificate("authority.crt").into()),
            identity: Some((certificate("client.crt").into(), certificate("client.key").into())),
        },
        ..settings(&format!("rediss+sentinel://127.0.0.1:{sentinel_port}/counters"))
    });
    is_there(&store).await;
    assert_eq!(spend(&store, 1).await, 99);
    assert_eq!(address_of(&store), Some(format!("127.0.0.1:{port}")));
}
