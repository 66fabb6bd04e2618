//! The API answers as its description says, whatever it is asked: schemathesis makes requests of `/openapi.json`, those that
//! make sense and those that do not, and looks at what comes back.

use std::path::Path;
use std::process::Stdio;

use crate::harness::{Tierflow, eventually};
use crate::kit::tools;
use crate::store::Store;

/// What is looked at in each answer: no 5xx; nothing that is not described: statuses, types, headers and bodies; and that no
/// request is taken that the description does not allow.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,allow_header_conformance,negative_data_rejection,\
                      missing_required_header";

/// Whoever is told that what it changes is another one by now was not taken either.
const SETTINGS: &str = "[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 408, 409, 412, 413, 415, 422, 428]
";

/// Requests of each kind to each operation; `SCHEMATHESIS_EXAMPLES` asks for more.
const EXAMPLES: &str = "20";

/// The same requests in each run.
async fn answers_as_it_is_described(tierflow: &Tierflow, folder: &Path) {
    let examples = std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    std::fs::write(folder.join("schemathesis.toml"), SETTINGS).unwrap();
    let mut command = tools::schemathesis().unwrap();
    command
        .current_dir(folder)
        .args(["run", &format!("http://{}/openapi.json", tierflow.admin())])
        .args([&format!("--checks={CHECKS}"), &format!("--max-examples={examples}")])
        // A stream has no end that could be waited for.
        .args(["--generation-deterministic", "--no-color", "--continue-on-failure", "--exclude-path=/v1/events"])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains(" passed") && told.contains("Fuzzing"), "{told}");
    // It is still there, and served nothing else meanwhile.
    assert_eq!(tierflow.ask("/readyz").await.status, 200);
}

#[tokio::test]
async fn openapi_is_kept_to_with_policies_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies")).unwrap() {
        let file = file.unwrap();
        if file.path().is_file() {
            std::fs::copy(file.path(), policies.join(file.file_name())).unwrap();
        }
    }
    let tierflow = Tierflow::start(&policies).await;
    answers_as_it_is_described(&tierflow, folder.path()).await;
}

/// Here changes are made, and refused for many more reasons.
#[tokio::test]
async fn openapi_is_kept_to_with_policies_from_etcd() {
    let store = Store::start_shop().await;
    let tierflow = store.tierflow_at(store.endpoint(), &[]).await;
    eventually("it may write", async || {
        let replicas = tierflow.status().await["replicas"].as_array().unwrap().len();
        (replicas == 1).then_some(())
    })
    .await;
    let revision = async || tierflow.status().await["source"]["revision"].as_u64().unwrap();
    let before = revision().await;
    let folder = tempfile::tempdir().unwrap();
    answers_as_it_is_described(&tierflow, folder.path()).await;
    assert!(revision().await > before, "some change was made");
}
