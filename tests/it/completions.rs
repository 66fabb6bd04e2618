//! Completions in a real shell, with the names that a running server knows.

use std::process::Command;

use tierflow::snapshot::resource::ResourceType;

use crate::ads::{Sotw, first};
use crate::harness::{eventually, free_address};
use crate::page::Files;
use crate::store::document;

/// What bash offers for the last word of a line.
fn offered(line: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let program = env!("CARGO_BIN_EXE_tierflow");
    let words: Vec<&str> = line.split(' ').collect();
    let last = words.last().unwrap();
    let script = format!(
        "source <('{program}' completions bash); COMP_WORDS=({}); COMP_CWORD={}; COMP_TYPE=9
         _clap_complete_tierflow tierflow '{last}' ''; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &script]).env_remove("TIERFLOW_SERVER_URL").envs(environment.iter().copied());
    let output = bash.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
    String::from_utf8(output.stdout).unwrap().lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_shell_offers_the_names_that_a_server_knows() {
    let odd = document("Tenant", "'acme $(reboot)'", "{plan: gold}");
    let files = Files::serve(&[odd, document("Tenant", "acme-2", "{plan: gold}")].join("\n---\n")).await;
    let mut envoys = Vec::new();
    for id in ["edge-7", "edge-8; reboot"] {
        let envoy = Sotw::open(&files.tierflow).await;
        envoy.say(first(id, ResourceType::Cluster, &[])).await;
        envoys.push(envoy);
    }
    eventually("they are known", async || (files.tierflow.status().await["nodes"]["connected"] == 2).then_some(()))
        .await;
    let url = format!("http://{}", files.tierflow.admin());
    let asked = |line: &str| offered(line, &[("TIERFLOW_SERVER_URL", &url)]);
    // What a shell would take for more than a word is not offered.
    assert_eq!(asked("tierflow counters --tenant ac"), ["acme", "acme-2"]);
    assert_eq!(asked("tierflow bootstrap --gateway edge --node-id ed"), ["edge-7"]);
    assert_eq!(asked("tierflow top --gateway "), ["edge"]);
    assert_eq!(asked("tierflow counters --api or"), ["order-create"]);
    assert_eq!(asked("tierflow get Pl"), ["Plan"]);
    assert_eq!(asked("tierflow get plan g"), ["gold"]);
    assert_eq!(asked("tierflow delete Tenant hoo"), ["hooli"]);
    assert_eq!(asked("tierflow check --out"), ["--output"]);
    let named = format!("tierflow counters --server {url} --tenant hoo");
    assert_eq!(offered(&named, &[]), ["hooli"], "the line's server");

    // Where nobody answers nothing is offered, and nothing said.
    let nobody = format!("http://{}", free_address());
    assert_eq!(offered("tierflow counters --tenant ac", &[("TIERFLOW_SERVER_URL", &nobody)]), [""; 0]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    assert_eq!(offered("tierflow counters --tenant ac", &[("TIERFLOW_SERVER_URL", &silent)]), [""; 0]);
}
