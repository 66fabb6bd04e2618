//! Names of files and keys hold whatever a file system or etcd takes: they are shown on one line, and do nothing to a
//! terminal.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Program, Tierflow, eventually, tierflow};
use crate::store::{Store, document, serves_rate};

/// A name that would forge a line of the log and colour what follows.
const NAME: &str = "a\n2026 ERROR \u{1b}[31mb\u{202e}";
const SHOWN: &str = r"a\n2026 ERROR \u{1b}[31mb\u{202e}";

fn assert_shown(text: &str, name: &str) {
    assert!(text.contains(name), "{name} is not in:\n{text}");
    let is_raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    assert!(!text.contains(is_raw) && !text.contains("\n2026 ERROR"), "{text:?}");
}

#[tokio::test]
async fn a_file_name_is_shown_escaped_wherever_it_is_told() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(NAME);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(format!("{NAME}.yaml")), "kind: Plan\nname: standard\nlimits: [{ rate: often }]\n").unwrap();
    fs::write(folder.join(format!("{NAME}.good.yaml")), "kind: Plan\nname: good\nlimits: [{ rate: 1/h }]\n").unwrap();
    fs::write(folder.join(format!("{NAME}.YAML")), "").unwrap();
    symlink(root.path(), folder.join(format!("{NAME}.out"))).unwrap();
    let path = folder.to_str().unwrap();

    let output = tierflow(&["check", path]);
    let told = String::from_utf8(output.stderr).unwrap();
    for name in [".yaml:3:", ".YAML is not read", ".out"] {
        assert_shown(&told, &format!("{SHOWN}{name}"));
    }
    let nowhere = tierflow(&["check", &format!("{path}/nowhere")]);
    assert_shown(&String::from_utf8(nowhere.stderr).unwrap(), &format!("{SHOWN}/nowhere"));

    // In the log that people read.
    let log = root.path().join("text.log");
    let arguments = ["serve", "--log-format=text", "--xds-listen=127.0.0.1:0", "--rls-listen=127.0.0.1:0"];
    let child = Command::new(env!("CARGO_BIN_EXE_tierflow"))
        .args(arguments)
        .args(["--admin-listen=127.0.0.1:0", "--policies", path])
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn();
    let _serving = Program(child.unwrap());
    let told = eventually("everything is told", async || {
        let told = fs::read_to_string(&log).unwrap();
        (told.contains("document refused") && told.contains("is not read")).then_some(told)
    })
    .await;
    assert_shown(&told, &format!("{SHOWN}.yaml:3:"));
    assert_shown(&told, &format!("{SHOWN}.YAML is not read"));

    // And of a running server.
    let serving = Tierflow::serve(
        &root.path().join("json.log"),
        vec![format!("--policies={path}")],
        &[],
        crate::harness::any_addresses(),
    )
    .await;
    let status = serving.status().await;
    let locations = status["refused"].as_array().unwrap().iter().map(|refused| refused["origin"].as_str().unwrap());
    assert!(locations.clone().any(|origin| origin.ends_with(&format!("{SHOWN}.yaml:1"))), "{status:#}");
    locations.for_each(|origin| assert_shown(origin, SHOWN));
    let server = format!("--server=http://{}", serving.admin());
    for verb in ["status", "get"] {
        assert_shown(&String::from_utf8(tierflow(&[verb, &server]).stdout).unwrap(), &format!("{SHOWN}.yaml:"));
    }
}

#[test]
fn files_whose_names_are_told_apart_by_bytes_only_are_two_files() {
    let folder = tempfile::tempdir().unwrap();
    for (name, plan) in
        [(&b"\xfe.yaml"[..], "one"), (b"\xff.yaml", "two"), (b"\n.yaml", "three"), (br"\n.yaml", "four")]
    {
        let text = format!("kind: Plan\nname: {plan}\nlimits: [{{ rate: 1/h }}]\n");
        fs::write(folder.path().join(OsStr::from_bytes(name)), text).unwrap();
    }
    let output = tierflow(&["check", folder.path().to_str().unwrap()]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains(" 4 plans"), "{told}");
}

#[tokio::test]
async fn a_key_of_etcd_is_shown_escaped() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow().await;
    serves_rate(&tierflow, 1).await;
    store.put(&format!("/tierflow/policies/Plan/{NAME}"), &document("Plan", "x", "{limits: [{rate: 1/h}]}")).await;
    store.put(&format!("/tierflow/services/order/{NAME}"), "nonsense").await;
    let status = eventually("it is told", async || {
        let status = tierflow.status().await;
        let is_told = status["refused"] != json!([]) && status["source"]["strange_instances"] != json!([]);
        is_told.then_some(status)
    })
    .await;
    assert_shown(status["refused"][0]["origin"].as_str().unwrap(), SHOWN);
    assert_shown(status["refused"][0]["problems"][0]["location"].as_str().unwrap(), SHOWN);
    assert_shown(status["source"]["strange_instances"][0].as_str().unwrap(), SHOWN);
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["fields"]["message"].to_string();
    let log: Vec<String> = store.log().lines().map(line).collect();
    // Escaped once by Tierflow, and once more by JSON.
    assert!(log.iter().any(|message| message.contains(&SHOWN.replace('\\', r"\\"))), "{log:#?}");
}

/// A verb that waited for a writer would wait for ever.
#[test]
fn a_pipe_that_nobody_writes_to_is_told_and_not_waited_for_and_one_that_somebody_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    std::fs::create_dir(path("policies")).unwrap();
    let gateway = "{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}";
    std::fs::write(path("policies/gateway.yaml"), gateway).unwrap();
    let (pipe, policies, nowhere) =
        (path("pipe"), format!("--policies={}", path("policies")), "--server=http://127.0.0.1:1");
    for args in [
        &["audit", "verify", &pipe][..],
        &["apply", "-f", &pipe, nowhere],
        &["replay", &pipe, &policies],
        &["status", nowhere, &format!("--token-file={pipe}")],
    ] {
        let output = crate::harness::tierflow(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            output.status.code() == Some(1) && said.contains("is a pipe that nobody writes to"),
            "{args:?}: {said}"
        );
    }
    let replayed = std::process::Command::new("bash")
        .args([
            "-c",
            "\"$0\" replay <(sleep 0.2; echo '{\"time\": \"7\", \"method\": \"GET\", \"path\": \"/\"}') \"$1\" -o json",
        ])
        .args([env!("CARGO_BIN_EXE_tierflow"), &policies])
        .output()
        .unwrap();
    let told: serde_json::Value = serde_json::from_slice(&replayed.stdout).unwrap();
    assert_eq!(told["total"]["requests"], 1, "{}", String::from_utf8_lossy(&replayed.stderr));
    for (args, expected) in [
        (&["replay", &pipe, &format!("--policies={}", path("none"))][..], "none"),
        (&["replay", folder.path().to_str().unwrap(), &policies], "is a folder, expected a file"),
        (&["status", "--server=foo"], "found \"foo\", expected http://HOST:PORT or https://HOST:PORT"),
    ] {
        let said = String::from_utf8(crate::harness::tierflow(args).stderr).unwrap();
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    std::fs::remove_file(path("policies/gateway.yaml")).unwrap();
    let said = String::from_utf8(crate::harness::tierflow(&["replay", &pipe, &policies]).stderr).unwrap();
    assert!(said.contains(&format!("{}: there is no Gateway in it", policies.replace('=', " "))), "{said}");
}
