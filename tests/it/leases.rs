//! Keys under leases, against a real etcd: who holds one, who takes it from whom, and what becomes of it at the end.

use std::net::SocketAddr;
use std::time::Duration;

use tierflow::etcd::EtcdSettings;
use tierflow::etcd::lease::{Claim, Wanted, claim};
use tierflow::etcd::link::Link;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::forgetful::{Front, Part};
use crate::harness::eventually;
use crate::proxy::{Fault, Proxy};
use crate::store::Store;

const KEY: &str = "/tierflow/services/pay/one";
/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);
/// Whoever holds a key looks at it every third of this.
const SHORT: Duration = Duration::from_secs(6);
/// Whoever is not answered asks again every twentieth of this.
const MIDDLE: Duration = Duration::from_secs(20);

/// Somebody who wants the key.
struct Holder {
    claim: watch::Receiver<Option<Claim>>,
    value: watch::Sender<String>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Holder {
    fn start(etcd: SocketAddr, value: &str, takes_over: bool, ttl: Duration) -> Self {
        let endpoints = vec![format!("http://{etcd}")];
        let link = Link::new(EtcdSettings { endpoints, prefix: "/tierflow".to_owned(), user: None, tls: None });
        let wanted = Wanted { key: KEY.to_owned(), ttl, takes_over };
        let (value, values) = watch::channel(value.to_owned());
        let (claimed, claims) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(claim(link, wanted, values, claimed, shutdown.clone()));
        Self { claim: claims, value, shutdown, task }
    }

    /// Waits until it holds the key, and gives the lease.
    async fn holds(&mut self) -> i64 {
        let claim = async || self.claim.borrow_and_update().map(|claim| claim.lease);
        eventually("it holds the key", claim).await
    }

    async fn holds_under_another_lease(&mut self, lease: i64) {
        let claim = async || self.claim.borrow_and_update().filter(|claim| claim.lease != lease).map(drop);
        eventually("it holds the key anew", claim).await;
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// The value of the key and its lease.
async fn held(store: &Store) -> Option<(String, i64)> {
    let answer = store.client.clone().get(KEY, None).await.unwrap();
    let key = answer.kvs().first()?;
    Some((key.value_str().unwrap().to_owned(), key.lease()))
}

async fn is_of(store: &Store, value: &str) -> i64 {
    let held = async || held(store).await.filter(|(own, _)| own == value).map(|(_, lease)| lease);
    eventually(&format!("the key is of {value}"), held).await
}

/// Until somebody behind the front has tried again, and again after that. Whoever takes the key puts it twice: if there was
/// none, and in the place of what is there. After that it has no reason to.
async fn tries_again(front: &Front) {
    let before = front.seen(KEY);
    eventually("it tries again and again", async || (front.seen(KEY) > before + 3).then_some(())).await;
}

#[tokio::test]
async fn who_was_never_told_that_it_held_a_key_takes_it_from_nobody() {
    let store = Store::start().await;
    let front = Front::start(store.etcd.address).await;
    front.lose(KEY, Part::Answer);
    let mut first = Holder::start(front.address, "first", true, LONG);
    is_of(&store, "first").await;
    // Whoever comes next takes it for an earlier run that is gone.
    let mut second = Holder::start(store.etcd.address, "second", true, LONG);
    let lease = second.holds().await;
    tries_again(&front).await;
    assert_eq!(held(&store).await, Some(("second".to_owned(), lease)));
    assert_eq!(*first.claim.borrow(), None);
    second.end().await;
    first.holds().await;
    first.end().await;
}

#[tokio::test]
async fn a_key_that_was_taken_over_is_not_taken_back() {
    let store = Store::start().await;
    let front = Front::start(store.etcd.address).await;
    let mut first = Holder::start(front.address, "same", true, SHORT);
    first.holds().await;
    let mut second = Holder::start(store.etcd.address, "same", true, LONG);
    let lease = second.holds().await;
    eventually("the first knows that it lost", async || first.claim.borrow().is_none().then_some(())).await;
    tries_again(&front).await;
    assert_eq!(held(&store).await, Some(("same".to_owned(), lease)));
    second.end().await;
    first.holds().await;
    first.end().await;
}

#[tokio::test]
async fn who_takes_nothing_over_waits_until_the_key_is_free() {
    let store = Store::start().await;
    let front = Front::start(store.etcd.address).await;
    let mut first = Holder::start(store.etcd.address, "first", false, LONG);
    let lease = first.holds().await;
    let mut second = Holder::start(front.address, "second", false, LONG);
    tries_again(&front).await;
    assert_eq!(held(&store).await, Some(("first".to_owned(), lease)));
    first.end().await;
    second.holds().await;
    second.end().await;
}

#[tokio::test]
async fn attempts_that_fail_leave_no_lease_behind() {
    let store = Store::start().await;
    let front = Front::start(store.etcd.address).await;
    let mut first = Holder::start(store.etcd.address, "first", false, LONG);
    let lease = first.holds().await;
    let second = Holder::start(front.address, "second", false, LONG);
    tries_again(&front).await;
    second.end().await;
    let left = async || {
        let leases = store.client.clone().leases().await.unwrap();
        // The last attempt may have been cut off between its grant and its end.
        let others = leases.leases().iter().filter(|other| other.id() != lease).count();
        (others <= 1).then_some(())
    };
    eventually("the leases of failed attempts are given back", left).await;
    first.end().await;
}

#[tokio::test]
async fn what_is_held_has_the_value_that_is_wanted_now() {
    let store = Store::start().await;
    let mut holder = Holder::start(store.etcd.address, "old", false, LONG);
    let lease = holder.holds().await;
    assert_eq!(held(&store).await, Some(("old".to_owned(), lease)));
    holder.value.send_replace("new".to_owned());
    assert_eq!(is_of(&store, "new").await, lease);
    holder.end().await;
    assert_eq!(held(&store).await, None, "it is given back, long before its lease ends");
    let leases = store.client.clone().leases().await.unwrap();
    assert!(leases.leases().is_empty());
}

#[tokio::test]
async fn a_key_that_is_lost_is_held_anew() {
    let store = Store::start().await;
    let mut holder = Holder::start(store.etcd.address, "mine", false, SHORT);
    let first = holder.holds().await;
    store.client.clone().lease_revoke(first).await.unwrap();
    holder.holds_under_another_lease(first).await;
    let second = is_of(&store, "mine").await;
    store.delete(KEY).await;
    holder.holds_under_another_lease(second).await;
    is_of(&store, "mine").await;
    holder.end().await;
}

#[tokio::test]
async fn a_network_that_is_away_for_less_than_the_lease_costs_nothing() {
    let store = Store::start().await;
    let proxy = Proxy::start(store.etcd.address).await;
    let mut holder = Holder::start(proxy.address, "mine", false, MIDDLE);
    let lease = holder.holds().await;
    let until = holder.claim.borrow().unwrap().until;
    proxy.set(Fault::Cut);
    // A value that cannot be told yet is told once it can be.
    holder.value.send_replace("next".to_owned());
    proxy.set_until_met(Fault::Cut).await;
    assert_eq!(is_of(&store, "next").await, lease);
    let renewed = async || holder.claim.borrow().filter(|claim| claim.until > until).map(|claim| claim.lease);
    assert_eq!(eventually("the lease is renewed", renewed).await, lease);
    holder.end().await;
}

#[tokio::test]
async fn who_was_cut_off_for_longer_than_its_lease_takes_its_own_key_again() {
    let store = Store::start().await;
    let proxy = Proxy::start(store.etcd.address).await;
    let mut holder = Holder::start(proxy.address, "mine", false, SHORT);
    let lease = holder.holds().await;
    proxy.set(Fault::Cut);
    // etcd may know it for longer: whoever leads it next begins to count anew.
    let (mut keeper, mut kept) = store.client.clone().lease_keep_alive(lease).await.unwrap();
    eventually("the key is not relied on any more", async || {
        keeper.keep_alive().await.unwrap();
        assert!(kept.message().await.unwrap().unwrap().ttl() > 0);
        holder.claim.borrow().is_none().then_some(())
    })
    .await;
    assert_eq!(held(&store).await, Some(("mine".to_owned(), lease)));
    let again = async {
        proxy.set(Fault::None);
        holder.holds_under_another_lease(lease).await;
    };
    let keeping = async {
        loop {
            keeper.keep_alive().await.unwrap();
            kept.message().await.unwrap();
        }
    };
    tokio::select! {
        () = again => {}
        () = keeping => {}
    }
    assert_ne!(is_of(&store, "mine").await, lease);
    holder.end().await;
}
