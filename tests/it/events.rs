//! What happens, as a browser follows it: from a real `tierflow serve`, over a connection of its own.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;

use crate::harness::{DEADLINE, Tierflow, save};

const POLICIES: &str = "\
{kind: Gateway, name: edge, nodes: {clusters: [edge]}, listen: '127.0.0.1:1'}
---
{kind: Service, name: upstream, endpoints: ['127.0.0.1:2']}
---
{kind: Api, name: pay, gateway: edge, match: {path: /pay}, service: upstream, limits: [{name: all, rate: 5/h}]}
";

struct Following(Lines<BufReader<TcpStream>>);

impl Following {
    async fn start(tierflow: &Tierflow) -> Self {
        let mut stream = TcpStream::connect(tierflow.admin()).await.unwrap();
        let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("HTTP/1.1 200 OK"));
        Self(lines)
    }

    /// What the next event of this name tells. Lines in between are of other events, and of how HTTP cuts a body.
    async fn event(&mut self, name: &str) -> Value {
        let reading = async {
            while self.line().await != format!("event: {name}") {}
            loop {
                if let Some(data) = self.line().await.strip_prefix("data: ") {
                    return serde_json::from_str(data).unwrap();
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap_or_else(|_| panic!("no {name}"))
    }

    async fn line(&mut self) -> String {
        self.0.next_line().await.unwrap().expect("the stream goes on")
    }
}

fn policies(folder: &Path) -> std::path::PathBuf {
    let policies = folder.join("policies");
    std::fs::create_dir(&policies).unwrap();
    save(&policies, "all.yaml", POLICIES);
    policies
}

#[tokio::test]
async fn what_happens_is_followed_and_following_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let policies = policies(folder.path());
    let tierflow = Tierflow::start(&policies).await;
    let mut following = Following::start(&tierflow).await;
    let second = following.event("traffic").await;
    assert_eq!((&second["decisions"], second.get("p99_us")), (&json!(0), None), "{second}");

    save(&policies, "all.yaml", &POLICIES.replace("5/h", "6/h"));
    let generation = following.event("generation").await;
    assert_eq!(generation["generation"], 2);
    save(&policies, "all.yaml", &POLICIES.replace("5/h", "often"));
    let refused = following.event("refused").await;
    assert_eq!((&refused["count"], &refused["documents"][0]["name"]), (&json!(1), &json!("pay")));
    assert_eq!(tierflow.send("DELETE", "/v1/counters?api=pay&limit=all", &[], "").await.status, 200);
    let change = following.event("change").await;
    assert_eq!((&change["who"], &change["result"]), (&json!("loopback"), &json!({ "reset": 0 })));

    tierflow.signal("TERM");
    let ended = async { while let Ok(Some(_)) = following.0.next_line().await {} };
    tokio::time::timeout(DEADLINE, ended).await.expect("the stream ends");
    assert!(tierflow.ended().await.success());
    let log = std::fs::read_to_string(policies.with_extension("log")).unwrap();
    assert!(!log.contains("cut off"), "{log}");
}
