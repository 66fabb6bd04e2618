//! The shop's own copy of `policies/`, which the story edits and so may you.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ports::Ports;

#[derive(Debug)]
pub(crate) struct Policies {
    pub(crate) folder: PathBuf,
}

impl Policies {
    /// Copies the worked examples and gives them the addresses that were found.
    pub(super) fn copy_to(folder: PathBuf, ports: &Ports) -> Result<Self, String> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        copy(&examples, &folder).map_err(|error| format!("{}: {error}", examples.display()))?;
        let policies = Self { folder };
        policies.edit("gateways.yaml", "127.0.0.1:10000", &ports.shop.to_string())?;
        policies.edit("gateways.yaml", "127.0.0.1:10001", &ports.sidecar.to_string())?;
        policies.edit("gateways.yaml", "/dev/stdout", &policies.access_log().display().to_string())?;
        // A machine that is busy with other things must not make the shop let requests pass uncounted.
        policies.edit("gateways.yaml", "timeout: 20ms", "timeout: 1s")?;
        let [first, second] = ports.upstreams;
        policies.edit("services.yaml", "127.0.0.1:9101", &first.to_string())?;
        policies.edit("services.yaml", "127.0.0.1:9102", &second.to_string())?;
        Ok(policies)
    }

    /// Beside the folder, which has only policies.
    pub(super) fn access_log(&self) -> PathBuf {
        self.folder.with_extension("access.log")
    }

    /// Another folder of the same, which nobody serves.
    pub(crate) fn copy(&self, name: &str) -> Result<Self, String> {
        let folder = self.folder.with_file_name(name);
        copy(&self.folder, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Replaces a text of a file, as a person with an editor would.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) -> Result<(), String> {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !text.contains(from) {
            return Err(format!("{}: {from:?} is not there any more, which was to become {to:?}", path.display()));
        }
        fs::write(&path, text.replace(from, to)).map_err(|error| format!("{}: {error}", path.display()))
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
