//! The commit of a checkout, as git says it.

use std::path::Path;
use std::process::Command;

/// What the program is built of. A change to anything else makes no other program.
pub(crate) const BUILT_OF: [&str; 6] = ["src", "proto", "build", "build.rs", "Cargo.toml", "Cargo.lock"];

/// The commit that is checked out in the folder, with `-dirty` where what is built is not all of that commit. `None`: the
/// folder is no checkout by itself, as a source archive is none, even if it was unpacked within one.
pub(crate) fn of_checkout(folder: &Path) -> Option<String> {
    let commit = git(folder, &["rev-parse", "HEAD"])?;
    let changed = git(folder, &[["status", "--porcelain", "--"].as_slice(), &BUILT_OF].concat())?;
    Some(if changed.is_empty() { commit } else { commit + "-dirty" })
}

/// The file that changes whenever another commit is checked out.
pub(crate) fn log_of_checkouts(folder: &Path) -> Option<String> {
    git(folder, &["rev-parse", "--git-path", "logs/HEAD"])
}

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    // Where the folder itself is no checkout, the one around it is another project's.
    if let Some(parent) = folder.parent() {
        git.env("GIT_CEILING_DIRECTORIES", parent);
    }
    // A hook of git's sets these, and they go before the folder.
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        git.env_remove(variable);
    }
    let output = git.args(args).current_dir(folder).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
