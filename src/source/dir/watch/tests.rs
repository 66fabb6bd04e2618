//! Time is virtual here: it stands still while a folder is read, and passes at once where everybody waits.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A folder whose notifications the test gives itself.
struct Folder {
    root: tempfile::TempDir,
    /// `None` where the system gives no notifications.
    notify: Option<mpsc::Sender<()>>,
}

impl Folder {
    fn watched(has_notifications: bool) -> (Self, Watcher) {
        let root = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::channel(1);
        let watcher = Watcher::woken_by(None, events, root.path(), Arc::default(), Clock::start());
        (Self { root, notify: has_notifications.then_some(sender) }, watcher)
    }

    /// One step of a save, and the pause until the next.
    async fn step(&self, step: impl FnOnce(&Path), pause: Duration) {
        step(self.root.path());
        if let Some(notify) = &self.notify {
            let _ = notify.try_send(());
        }
        sleep(pause).await;
    }
}

/// Nearly long enough for the save to be taken for finished.
const PAUSE: Duration = Duration::from_millis(45);

fn plan(rate: u32) -> String {
    format!("kind: Plan\nname: standard\nlimits: [{{ rate: {rate}/h }}]\n")
}

/// A document's text, of the only file.
fn text(documents: &Documents) -> String {
    let documents: Vec<_> = documents.documents.values().collect();
    let [document] = documents[..] else { panic!("{documents:?}") };
    String::from_utf8(document.content.as_ref().unwrap().to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_save_in_several_steps_is_read_when_it_is_over() {
    let (folder, mut watcher) = Folder::watched(true);
    fs::write(folder.root.path().join("plan.yaml"), plan(1)).unwrap();
    assert_eq!(text(&watcher.next().await), plan(1));

    let as_vi_does = async {
        folder.step(|root| fs::rename(root.join("plan.yaml"), root.join("plan.yaml~")).unwrap(), PAUSE).await;
        folder.step(|root| fs::write(root.join(".plan.yaml.swp"), plan(2)).unwrap(), PAUSE).await;
        folder.step(|root| fs::rename(root.join(".plan.yaml.swp"), root.join("plan.yaml")).unwrap(), PAUSE).await;
        folder.step(|root| fs::remove_file(root.join("plan.yaml~")).unwrap(), PAUSE).await;
    };
    let (documents, ()) = tokio::join!(watcher.next(), as_vi_does);
    assert_eq!((text(&documents), documents.revision), (plan(2), Revision(2)));

    let in_pieces = async {
        let whole = plan(3);
        for end in [0, 10, 20, whole.len()] {
            folder.step(|root| fs::write(root.join("plan.yaml"), &whole[..end]).unwrap(), PAUSE).await;
        }
    };
    let (documents, ()) = tokio::join!(watcher.next(), in_pieces);
    assert_eq!((text(&documents), documents.revision), (plan(3), Revision(3)));
}

#[tokio::test(start_paused = true)]
async fn a_config_map_is_read_when_it_is_swapped() {
    let (folder, mut watcher) = Folder::watched(true);
    let swap = async |rate: u32| {
        let version = format!("..version-{rate}");
        folder.step(|root| fs::create_dir(root.join(&version)).unwrap(), PAUSE).await;
        folder.step(|root| fs::write(root.join(&version).join("plan.yaml"), plan(rate)).unwrap(), PAUSE).await;
        folder.step(|root| symlink(&version, root.join("..data_tmp")).unwrap(), PAUSE).await;
        folder.step(|root| fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap(), PAUSE).await;
        // The first time only: later versions are found by the same link.
        folder.step(|root| drop(symlink("..data/plan.yaml", root.join("plan.yaml"))), PAUSE).await;
        folder.step(|root| drop(fs::remove_dir_all(root.join(format!("..version-{}", rate - 1)))), PAUSE).await;
    };
    for rate in 1..4 {
        let (documents, ()) = tokio::join!(watcher.next(), swap(rate));
        assert_eq!((text(&documents), documents.revision), (plan(rate), Revision(rate.into())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_never_quiet_is_read_all_the_same() {
    let (folder, mut watcher) = Folder::watched(true);
    let saved_for_ever = async {
        for rate in 1.. {
            folder.step(|root| fs::write(root.join("plan.yaml"), plan(rate)).unwrap(), PAUSE).await;
        }
    };
    let began = Instant::now();
    tokio::select! {
        _ = watcher.next() => {}
        () = saved_for_ever => {}
    }
    assert!(began.elapsed() <= QUIET_MAX + QUIET, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_notifications_a_change_is_found_all_the_same() {
    let (folder, mut watcher) = Folder::watched(false);
    for rate in 1..4 {
        folder.step(|root| fs::write(root.join("plan.yaml"), plan(rate)).unwrap(), Duration::ZERO).await;
        assert_eq!(text(&watcher.next().await), plan(rate));
    }
}

#[test]
fn what_reading_causes_is_no_change() {
    let is_change = |kind| may_be_a_change(&Ok(notify::Event::new(EventKind::Access(kind))));
    assert!(!is_change(AccessKind::Open(AccessMode::Any)));
    assert!(!is_change(AccessKind::Close(AccessMode::Read)));
    assert!(is_change(AccessKind::Close(AccessMode::Write)));
}

#[test]
fn a_lost_event_is_taken_for_a_change() {
    assert!(may_be_a_change(&Err(notify::Error::generic("queue overflow"))));
    assert!(may_be_a_change(&Ok(notify::Event::new(EventKind::Other))));
}
