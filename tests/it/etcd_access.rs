//! An etcd that does not let everybody in: TLS with certificates on both sides, and users.

use std::path::Path;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions};

use crate::harness::{eventually, tierflow as run};
use crate::kit::etcd::Etcd;
use crate::store::{SHOP, Store, document, key, serves_rate};
use crate::tls::certificate;

#[tokio::test]
async fn certificates_are_asked_for_on_both_sides() {
    let flags = [
        format!("--cert-file={}", certificate("server.crt")),
        format!("--key-file={}", certificate("server.key")),
        format!("--trusted-ca-file={}", certificate("authority.crt")),
        "--client-cert-auth".to_owned(),
    ];
    let folder = tempfile::tempdir().unwrap();
    let [address, peer] = [crate::harness::free_address(), crate::harness::free_address()];
    let etcd = Etcd::start(folder.path(), address, peer, &flags).unwrap();
    let read = |name: &str| std::fs::read(certificate(name)).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read("authority.crt")))
        .identity(Identity::from_pem(read("client.crt"), read("client.key")));
    let endpoint = format!("https://{address}");
    let client = Client::connect([&endpoint], Some(ConnectOptions::new().with_tls(tls))).await.unwrap();
    let store = Store { etcd, client, folder };
    store.answers().await;
    for (kind, name, fields) in SHOP {
        store.put(&key(kind, name), &document(kind, name, fields)).await;
    }

    let source = vec![
        format!("--etcd={endpoint}"),
        format!("--etcd-ca={}", certificate("authority.crt")),
        format!("--etcd-cert={}", certificate("client.crt")),
        format!("--etcd-key={}", certificate("client.key")),
    ];
    let tierflow = store.tierflow_at(source.clone(), &[]).await;
    serves_rate(&tierflow, 1).await;
    store.put_rate(2).await;
    serves_rate(&tierflow, 2).await;

    let strangers = store.tierflow_at(source[..2].to_vec(), &[]).await;
    let trouble = async || strangers.status().await["source"]["trouble"].as_str().map(str::to_owned);
    let trouble = eventually("it is not let in", trouble).await;
    assert!(trouble.contains(&endpoint), "{trouble}");
}

pub(crate) const PASSWORD: &str = "correct horse";

/// From here on etcd asks everybody who they are. The client is root's, and authenticates again where that is needed.
pub(crate) async fn let_in_with_passwords(store: &Store, permission: Permission) -> Client {
    let mut client = store.client.clone();
    client.user_add("root", "root", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("policies").await.unwrap();
    client.role_grant_permission("policies", permission).await.unwrap();
    client.user_add("tierflow", PASSWORD, None).await.unwrap();
    client.user_grant_role("tierflow", "policies").await.unwrap();
    client.auth_enable().await.unwrap();
    let root = ConnectOptions::new().with_user("root", "root").with_auto_token_refresh(true);
    Client::connect([format!("http://{}", store.etcd.address)], Some(root)).await.unwrap()
}

/// How Tierflow is told of etcd, its user there, and the file with the password.
pub(crate) fn as_user(store: &Store, password_file: &Path) -> Vec<String> {
    let user = ["--etcd-user=tierflow".to_owned(), format!("--etcd-password-file={}", password_file.display())];
    [store.endpoint(), user.to_vec()].concat()
}

#[tokio::test]
async fn a_changed_password_is_taken_without_a_restart() {
    const NEXT: &str = "battery staple";
    let store = Store::start_shop().await;
    let root = let_in_with_passwords(&store, Permission::read_write("/tierflow/").with_prefix()).await;
    let mut store = Store { client: root, ..store };
    let file = store.path("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let tierflow = store.tierflow_at(as_user(&store, &file), &[]).await;
    serves_rate(&tierflow, 1).await;
    let plan = |rate: u32| document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"));
    // Both ways are changed: what the policies come in by, and what changes and the lease go out by.
    let edits = async |rate: u32| {
        let put = async || {
            let base = tierflow.status().await["revision"].to_string();
            let headers = [("x-config-base-version", base.as_str())];
            let answer = tierflow.send("PUT", "/v1/policies/Plan/standard", &headers, &plan(rate)).await;
            (answer.status == 200).then_some(())
        };
        eventually("the change is made", put).await;
        serves_rate(&tierflow, rate).await;
    };
    edits(2).await;

    store.client.clone().user_change_password("tierflow", NEXT).await.unwrap();
    std::fs::write(&file, NEXT).unwrap();
    store.etcd.end();
    store.etcd.restart().unwrap();
    store.answers().await;
    store.put_rate(3).await;
    serves_rate(&tierflow, 3).await;
    edits(4).await;
    assert!(![PASSWORD, NEXT].iter().any(|password| store.log().contains(password)));
}

/// A token of etcd that carries its claims is of one revision of etcd's users and roles.
#[tokio::test]
async fn roles_that_change_in_etcd_lock_nobody_out() {
    let flags = [format!("--auth-token=jwt,priv-key={},sign-method=HS256", certificate("server.key"))];
    let store = Store::start_with(&flags).await;
    let shop = SHOP.map(|(kind, name, fields)| (key(kind, name), document(kind, name, fields)));
    store.put_all(&shop).await;
    let mut root = let_in_with_passwords(&store, Permission::read_write("/tierflow/").with_prefix()).await;
    let file = store.path("password");
    std::fs::write(&file, PASSWORD).unwrap();
    let tierflow = store.tierflow_at(as_user(&store, &file), &[]).await;
    serves_rate(&tierflow, 1).await;
    let edits = async |rate: u32| {
        let plan = document("Plan", "standard", &format!("{{limits: [{{rate: {rate}/h}}]}}"));
        let put = async || {
            let base = tierflow.status().await["revision"].to_string();
            let headers = [("x-config-base-version", base.as_str())];
            let answer = tierflow.send("PUT", "/v1/policies/Plan/standard", &headers, &plan).await;
            (answer.status == 200).then_some(())
        };
        eventually("the change is made", put).await;
        serves_rate(&tierflow, rate).await;
    };
    edits(2).await;
    root.role_add("another").await.unwrap();
    edits(3).await;
}

#[tokio::test]
async fn a_user_may_only_read_what_it_was_given_and_its_password_stays_a_secret() {
    let store = Store::start_shop().await;
    let permission = Permission::read("/tierflow/").with_prefix();
    let root = let_in_with_passwords(&store, permission).await;

    let file = store.path("password");
    let source = as_user(&store, &file);
    std::fs::write(&file, "wrong\n").unwrap();
    let tierflow = store.tierflow_at(source.clone(), &[]).await;
    let trouble = async || tierflow.status().await["source"]["trouble"].as_str().map(str::to_owned);
    let trouble = eventually("it is not let in", trouble).await;
    assert!(trouble.contains("authentication failed"), "{trouble}");
    drop(tierflow);

    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let tierflow = store.tierflow_at(source, &["--log=trace".to_owned()]).await;
    serves_rate(&tierflow, 1).await;
    let options = ConnectOptions::new().with_user("root", "root");
    let forgotten = Client::connect([format!("http://{}", store.etcd.address)], Some(options)).await.unwrap();
    let mut store = Store { client: root, ..store };
    store.put_rate(2).await;
    serves_rate(&tierflow, 2).await;
    // An etcd that ended in order knows no token of before. One that was killed may: it replays the log entries that its
    // database had not taken over yet, and with them the latest authentications.
    store.etcd.end();
    store.etcd.restart().unwrap();
    store.answers().await;
    let refused = forgotten.clone().get("x", None).await.unwrap_err();
    assert!(refused.to_string().contains("invalid auth token"), "{refused}");
    store.put_rate(3).await;
    serves_rate(&tierflow, 3).await;
    assert!(!store.log().contains(PASSWORD));
}

#[test]
fn flags_that_make_no_sense_together_are_refused() {
    let refused = |flags: &[&str]| {
        let output = run(&[&["serve"], flags].concat());
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused(&["--etcd=https://127.0.0.1:1"]).contains("needs --etcd-ca"));
    assert!(refused(&["--etcd=127.0.0.1:1", "--policies=x"]).contains("cannot be used with"));
    assert!(refused(&["--etcd=127.0.0.1:1", "--etcd-user=x"]).contains("--etcd-password-file"));
    assert!(refused(&["--etcd=nonsense"]).contains("expected http://HOST:PORT"));
}
