//! An Envoy as a child process. It ends with its handle.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::tools;

pub struct Envoy {
    child: Child,
    log: PathBuf,
}

impl Envoy {
    /// Starts an Envoy with this bootstrap. Its log goes to a file beside the bootstrap's copy in `folder`.
    pub fn start(folder: &Path, name: &str, bootstrap: &str) -> Result<Self, String> {
        Self::start_program(tools::envoy()?, folder, name, bootstrap)
    }

    pub fn start_program(program: &Path, folder: &Path, name: &str, bootstrap: &str) -> Result<Self, String> {
        // Envoys of one machine share memory for hot restarts unless their base ids differ.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let config = folder.join(format!("{name}.yaml"));
        let log = folder.join(format!("{name}.log"));
        std::fs::write(&config, bootstrap).map_err(|error| format!("{}: {error}", config.display()))?;
        let output = std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| error.to_string())?;
        let child = Command::new(program)
            .arg("--config-path")
            .arg(&config)
            // Two workers show what workers share, and are few where several Envoys run on one machine.
            // Access logs are seen at once.
            .args(["--file-flush-interval-msec", "100"])
            .args(["--concurrency", "2", "--log-level", "info", "--drain-time-s", "2", "--base-id"])
            .arg((number % (1 << 30)).to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("Envoy: {error}"))?;
        Ok(Self { child, log })
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone and waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether Envoy accepts a bootstrap: nothing, or what it says against it.
pub fn validate(folder: &Path, bootstrap: &str) -> Result<(), String> {
    validate_with(tools::envoy()?, folder, bootstrap)
}

pub fn validate_with(program: &Path, folder: &Path, bootstrap: &str) -> Result<(), String> {
    // YAML that is JSON is read faster, and by the reader that xDS has as well.
    let config = folder.join(if bootstrap.starts_with('{') { "validate.json" } else { "validate.yaml" });
    std::fs::write(&config, bootstrap).map_err(|error| error.to_string())?;
    let output = Command::new(program)
        .args(["--mode", "validate", "--log-level", "error", "--config-path"])
        .arg(&config)
        .output()
        .map_err(|error| format!("Envoy: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() { Ok(()) } else { Err(said) }
}
