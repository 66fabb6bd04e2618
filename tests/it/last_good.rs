//! The last good set on disk, and a program that is killed while it writes it.

use std::collections::BTreeSet;
use std::path::Path;

use tierflow::last_good::StateDir;
use tokio::time::Instant;

use crate::harness::{DEADLINE, Tierflow, any_addresses, eventually};
use crate::store::{Store, document, key, rate, serves_rate};

/// So many kills are to meet a write...
const HITS: u32 = 20;
/// ...of this many.
const KILLS_MAX: u32 = 1000;
/// One transaction changes so many documents together...
const TENANTS: u32 = 100;
/// ...of this size each, so that writing them takes a while.
const PADDING: usize = 5000;

/// All of them tell the number of their set.
fn set(number: u32) -> Vec<(String, String)> {
    let padding = "x".repeat(PADDING);
    let tenant = |n: u32| {
        let name = format!("t{n}");
        let text = format!("kind: Tenant\nname: {name}\nlimits: [{{rate: {number}/h}}]\n# {padding}\n");
        (key("Tenant", &name), text)
    };
    (0..TENANTS).map(tenant).chain([(key("Plan", "standard"), plan(number))]).collect()
}

/// The numbers that the documents of the newest set tell.
fn kept(folder: &Path) -> BTreeSet<String> {
    let state = StateDir::open(folder, "etcd /tierflow".to_owned()).unwrap();
    let (kept, unusable) = state.load();
    assert!(unusable.is_empty(), "{unusable:?}");
    let documents = kept.unwrap().documents;
    let texts = documents.documents.values().map(|d| String::from_utf8(d.content.as_ref().unwrap().to_vec()).unwrap());
    let rates = texts.filter_map(|text| Some(text.split("rate: ").nth(1)?.split('/').next()?.to_owned()));
    rates.filter(|rate| rate != "1000").collect()
}

fn is_being_written(folder: &Path) -> bool {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().ends_with(".part"))
}

fn newest(folder: &Path) -> Option<String> {
    let files = std::fs::read_dir(folder).unwrap().flatten();
    files.map(|file| file.file_name().to_string_lossy().into_owned()).filter(|name| !name.starts_with('.')).max()
}

/// Looks without a pause: what is waited for is over within a millisecond.
fn spin_until(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "never happened");
    }
}

#[tokio::test]
async fn a_kill_while_it_is_written_leaves_a_whole_set() {
    let store = Store::start_shop().await;
    let state = store.path("state");
    store.put_all(&set(1)).await;
    let mut tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    eventually("a first set is kept", async || {
        (state.exists() && !is_being_written(&state) && std::fs::read_dir(&state).unwrap().next().is_some())
            .then_some(())
    })
    .await;
    let mut hits = 0;
    let mut last: u32 = 1;
    for number in 2.. {
        let begins = tokio::task::spawn_blocking({
            let (state, before) = (state.clone(), newest(&state));
            move || spin_until(|| is_being_written(&state) || newest(&state) != before)
        });
        store.put_all(&set(number)).await;
        begins.await.unwrap();
        // At another moment each time, while it is written or soon after.
        let _looks = (0..number * 7919 % 40).filter(|_| is_being_written(&state)).count();
        tierflow.kill();
        hits += u32::from(is_being_written(&state));
        let numbers = kept(&state);
        assert_eq!(numbers.len(), 1, "a part of one set and a part of another: {numbers:?}");
        let kept = numbers.first().unwrap().parse().unwrap();
        assert!((last..=number).contains(&kept), "{kept} after {last}, of {number}");
        if hits == HITS {
            break;
        }
        assert!(number < KILLS_MAX, "only {hits} kills met a write");
        last = kept;
        tierflow = start(&store, number).await;
    }
}

/// Now and then without etcd: what is served then is what was kept.
async fn start(store: &Store, number: u32) -> Tierflow {
    if number.is_multiple_of(20) {
        let kept: u32 = kept(&store.path("state")).first().unwrap().parse().unwrap();
        let source = vec![format!("--etcd=http://{}", crate::store::nowhere())];
        let log = store.path("without.log");
        let without = Tierflow::serve(&log, source, &store.state_dir(), any_addresses()).await;
        serves_rate(&without, kept).await;
        assert_eq!(without.status().await["documents"], 4 + TENANTS);
    }
    let tierflow = store.tierflow_at(store.endpoint(), &store.state_dir()).await;
    serves_rate(&tierflow, number).await;
    tierflow
}

/// What a restart meets where the policies were, and that it goes on with what was served.
async fn is_served_again(source: Vec<String>, empty: impl AsyncFnOnce(), fill: impl AsyncFnOnce()) {
    let root = tempfile::tempdir().unwrap();
    let flags = [format!("--state-dir={}", root.path().join("state").display())];
    let log = root.path().join("log");
    let tierflow = Tierflow::serve(&log, source.clone(), &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());
    empty().await;
    let tierflow = Tierflow::serve(&log, source, &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
    assert_eq!(tierflow.ask("/readyz").await.status, 200);
    // It is told a moment after it is served.
    eventually("one of the two is the reason", async || {
        let status = tierflow.status().await;
        let is_refused = status["refused"].as_array().unwrap().len() == 1;
        (status["source"]["serves_last_good_of_earlier_run"] != is_refused).then_some(())
    })
    .await;
    fill().await;
    serves_rate(&tierflow, 9).await;
    let is_told = async || {
        let status = tierflow.status().await;
        (status["source"]["serves_last_good_of_earlier_run"] == false).then_some(())
    };
    eventually("the source is served again", is_told).await;
}

#[tokio::test]
async fn a_set_that_is_cut_off_while_it_is_served_is_written_anew() {
    let root = tempfile::tempdir().unwrap();
    let (policies, state, log) = (root.path().join("policies"), root.path().join("state"), root.path().join("log"));
    std::fs::create_dir(&policies).unwrap();
    std::fs::write(policies.join("plan.yaml"), plan(7)).unwrap();
    let source = vec![format!("--policies={}", policies.display())];
    let flags = [format!("--state-dir={}", state.display())];
    let mut tierflow = Tierflow::serve(&log, source.clone(), &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
    let first = eventually("a set is kept", async || newest(&state)).await;
    let file = std::fs::OpenOptions::new().write(true).open(state.join(&first)).unwrap();
    file.set_len(100).unwrap();
    eventually("it is kept again", async || (newest(&state)? != first).then_some(())).await;
    assert!(std::fs::read_to_string(&log).unwrap().contains(&format!("{first}: somebody changed or removed it")));
    tierflow.kill();
    std::fs::remove_dir_all(&policies).unwrap();
    let tierflow = Tierflow::serve(&log, source, &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
}

fn plan(rate: u32) -> String {
    document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"))
}

#[tokio::test]
async fn a_folder_that_is_empty_is_replaced_by_what_was_kept() {
    for left in [None, Some("--- # all of it was taken out\n"), Some("nobody: [knows what this was\n")] {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("plan.yaml");
        std::fs::write(&file, plan(7)).unwrap();
        let source = vec![format!("--policies={}", root.path().display())];
        let empty = async || match left {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => std::fs::write(&file, text).unwrap(),
        };
        is_served_again(source, empty, async || std::fs::write(&file, plan(9)).unwrap()).await;
    }
}

#[tokio::test]
async fn an_etcd_that_is_empty_is_replaced_by_what_was_kept() {
    let store = Store::start().await;
    let key = key("Plan", "standard");
    store.put(&key, &plan(7)).await;
    let fill = async || {
        store.put(&key, &plan(9)).await;
    };
    is_served_again(store.endpoint(), async || store.delete(&key).await, fill).await;
}

#[tokio::test]
async fn a_folder_that_is_gone_is_replaced_by_what_was_kept() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("plan.yaml"), plan(7)).unwrap();
    let source = vec![format!("--policies={}", folder.display())];
    let flags = [format!("--state-dir={}", root.path().join("state").display())];
    let log = root.path().join("log");
    let tierflow = Tierflow::serve(&log, source.clone(), &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
    tierflow.signal("TERM");
    assert!(tierflow.ended().await.success());

    // A mistake that was made meanwhile goes back to what was good.
    std::fs::write(folder.join("plan.yaml"), plan(7).replace("7/h", "8/fortnight")).unwrap();
    let tierflow = Tierflow::serve(&log, source.clone(), &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
    assert_eq!(tierflow.status().await["refused"][0]["served"], true);
    drop(tierflow);

    std::fs::rename(&folder, root.path().join("elsewhere")).unwrap();
    let tierflow = Tierflow::serve(&log, source, &flags, any_addresses()).await;
    serves_rate(&tierflow, 7).await;
    let status = tierflow.status().await;
    assert_eq!(status["source"]["serves_last_good_of_earlier_run"], true);
    assert!(status["source"]["trouble"].as_str().unwrap().contains("No such file"), "{status}");
    std::fs::rename(root.path().join("elsewhere"), &folder).unwrap();
    std::fs::write(folder.join("plan.yaml"), plan(9)).unwrap();
    serves_rate(&tierflow, 9).await;
    assert_eq!(rate(&tierflow).await, Some(9));
}
