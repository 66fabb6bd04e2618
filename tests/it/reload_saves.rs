//! However a file is saved, a change is one generation, and nothing in between is served.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::{Tierflow, eventually};

fn plan(rate: u32) -> String {
    format!("kind: Plan\nname: standard\nlimits: [{{ rate: {rate}/h }}]\n")
}

/// Whether the plan is served with this rate, and nothing is wrong.
async fn serves(tierflow: &Tierflow, rate: u32) -> bool {
    let document = tierflow.json("/v1/policies/Plan/standard").await;
    let has_rate = document["text"].as_str().is_some_and(|text| text.contains(&format!("{rate}/h")));
    has_rate && document["refused"].is_null()
}

/// Saves rates 1, 2, 3... The generation that each is served in tells whether there was another in between.
async fn each_save_is_one_generation(folder: &Path, save: impl Fn(u32)) {
    save(1);
    let tierflow = Tierflow::start(folder).await;
    for rate in 1..=4 {
        save(rate);
        eventually("the save is served", async || serves(&tierflow, rate).await.then_some(())).await;
        assert_eq!(tierflow.generation().await, u64::from(rate));
    }
}

#[tokio::test]
async fn a_file_that_is_renamed_over_is_one_generation() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    fs::create_dir(&folder).unwrap();
    each_save_is_one_generation(&folder, |rate| {
        // As vi does it: the old file becomes a backup, the new one takes its name.
        let file = folder.join("plan.yaml");
        let _ = fs::rename(&file, folder.join("plan.yaml~"));
        fs::write(folder.join(".plan.yaml.swp"), plan(rate)).unwrap();
        fs::rename(folder.join(".plan.yaml.swp"), file).unwrap();
        let _ = fs::remove_file(folder.join("plan.yaml~"));
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_truncated_and_written_in_pieces_is_one_generation() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    fs::create_dir(&folder).unwrap();
    each_save_is_one_generation(&folder, |rate| {
        let mut file = fs::File::create(folder.join("plan.yaml")).unwrap();
        for piece in plan(rate).as_bytes().chunks(7) {
            file.write_all(piece).unwrap();
        }
        file.sync_all().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_config_map_that_kubernetes_swaps_is_one_generation() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("policies");
    fs::create_dir(&folder).unwrap();
    symlink("..data/plan.yaml", folder.join("plan.yaml")).unwrap();
    each_save_is_one_generation(&folder, |rate| {
        let version = format!("..version-{rate}");
        fs::create_dir_all(folder.join(&version)).unwrap();
        fs::write(folder.join(&version).join("plan.yaml"), plan(rate)).unwrap();
        let _ = fs::remove_file(folder.join("..data_tmp"));
        symlink(&version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
        let _ = fs::remove_dir_all(folder.join(format!("..version-{}", rate - 1)));
    })
    .await;
}
