//! However a file is saved, a change is found, is one generation, and nothing in between is served. How the watcher waits
//! for the end of a save is tested beside it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Tierflow, eventually};

fn plan(name: &str, rate: u32) -> String {
    format!("kind: Plan\nname: {name}\nlimits: [{{ rate: {rate}/h }}]\n")
}

/// Whether the plan is served with this rate, and nothing is wrong.
async fn serves(tierflow: &Tierflow, rate: u32) -> bool {
    let document = tierflow.json("/v1/policies/Plan/standard").await;
    let has_rate = document["text"].as_str().is_some_and(|text| text.contains(&format!("{rate}/h")));
    has_rate && document["refused"].is_null()
}

/// Saves rate after rate. A neighbour makes sure that a file that is empty for a moment would be seen as a change. Tierflow
/// stands still during a save, so that none takes longer than it waits for.
async fn each_save_is_one_generation(save: impl Fn(&Path, u32)) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("neighbour.yaml"), plan("neighbour", 1)).unwrap();
    save(&folder, 1);
    let tierflow = Tierflow::start(&folder).await;
    for rate in 2..=6 {
        let generation = tierflow.generation().await;
        tierflow.signal("STOP");
        save(&folder, rate);
        tierflow.signal("CONT");
        eventually("the save is served", async || serves(&tierflow, rate).await.then_some(())).await;
        assert_eq!(tierflow.generation().await, generation + 1, "rate {rate}");
    }
    let log = fs::read_to_string(folder.with_extension("log")).unwrap();
    assert!(!log.contains("watch descriptor"), "what is of no use to an operator is in the log: {log}");
}

#[tokio::test]
async fn a_file_that_is_renamed_over_is_one_generation() {
    each_save_is_one_generation(|folder, rate| {
        // As vi does it: the old file becomes a backup, the new one takes its name.
        let _ = fs::rename(folder.join("plan.yaml"), folder.join("plan.yaml~"));
        fs::write(folder.join(".plan.yaml.swp"), plan("standard", rate)).unwrap();
        fs::rename(folder.join(".plan.yaml.swp"), folder.join("plan.yaml")).unwrap();
        let _ = fs::remove_file(folder.join("plan.yaml~"));
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_truncated_and_written_in_pieces_is_one_generation() {
    each_save_is_one_generation(|folder, rate| {
        let mut file = fs::File::create(folder.join("plan.yaml")).unwrap();
        for piece in plan("standard", rate).as_bytes().chunks(20) {
            file.write_all(piece).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_config_map_that_kubernetes_swaps_is_one_generation() {
    each_save_is_one_generation(|folder, rate| {
        let version = format!("..version-{rate}");
        fs::create_dir(folder.join(&version)).unwrap();
        fs::write(folder.join(&version).join("plan.yaml"), plan("standard", rate)).unwrap();
        symlink(&version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        // The first time only: later versions are found by the same link.
        let _ = symlink("..data/plan.yaml", folder.join("plan.yaml"));
        let _ = fs::remove_dir_all(folder.join(format!("..version-{}", rate - 1)));
    })
    .await;
}
