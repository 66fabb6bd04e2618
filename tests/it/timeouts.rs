//! How long a request may take. Nothing here measures time: a request that must not end is asked for before one that has
//! to, and is answered after that has ended.

use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::{Setup, World};
use crate::kit::client::{Answer, Client};

/// An upstream that answers nobody until it may.
struct Silent {
    address: SocketAddr,
    requests: watch::Sender<usize>,
    may_answer: watch::Sender<bool>,
}

impl Silent {
    async fn start() -> Self {
        let (requests, may_answer) = (watch::channel(0).0, watch::channel(false).0);
        let (arrived, allowed) = (requests.clone(), may_answer.clone());
        let app = Router::new().fallback(move || {
            arrived.send_modify(|requests| *requests += 1);
            let mut allowed = allowed.subscribe();
            async move { allowed.wait_for(|allowed| *allowed).await.map(drop).unwrap() }
        });
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, requests, may_answer }
    }

    /// Asks for a path and comes back once the request has reached the upstream.
    async fn ask(&self, world: &World, path: &str) -> JoinHandle<Result<Answer, String>> {
        let mut requests = self.requests.subscribe();
        let before = *requests.borrow_and_update();
        let url = world.edge.url(path);
        let asking = tokio::spawn(async move { Client::default().get(&url).await });
        requests.wait_for(|requests| *requests > before).await.unwrap();
        asking
    }
}

async fn world(silent: &Silent, apis: &[(&str, &str)], bootstrap: &str) -> World {
    let address = silent.address;
    let api = |(name, fields): &(&str, &str)| {
        format!("---\nkind: Api\nname: {name}\ngateway: edge\nmatch: {{ path: /{name} }}\nservice: silent\n{fields}\n")
    };
    let apis: String = apis.iter().map(api).collect();
    let policies = format!("kind: Service\nname: silent\nendpoints: [{address}]\n{apis}");
    World::start(Setup { policies: &policies, bootstrap, ..Default::default() }).await
}

#[tokio::test]
async fn a_request_that_stands_still_ends_after_the_idle_timeout_of_its_api() {
    let silent = Silent::start().await;
    let apis = [("patient", "timeout: 10m"), ("endless", "timeout: 0s"), ("idle", "timeout: 0s\nidle_timeout: 1s")];
    let world = world(&silent, &apis, "").await;
    let patient = silent.ask(&world, "/patient").await;
    let endless = silent.ask(&world, "/endless").await;
    assert_eq!(world.edge.get("/idle").await.status, 504);
    silent.may_answer.send_replace(true);
    assert_eq!(patient.await.unwrap().unwrap().status, 200);
    assert_eq!(endless.await.unwrap().unwrap().status, 200);
}

/// Envoy under pressure cuts its idle timeouts short (`envoy.overload_actions.reduce_timeouts`), here to a second: those
/// of routes and of the listener, so nobody has to wait for minutes.
#[tokio::test]
async fn the_idle_timeout_of_the_listener_ends_no_request_without_a_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let pressure = folder.path().join("pressure");
    std::fs::write(&pressure, "1").unwrap();
    let bootstrap = format!(
        "overload_manager:
  refresh_interval: 0.1s
  resource_monitors:
  - name: envoy.resource_monitors.injected_resource
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig
      filename: {}
  actions:
  - name: envoy.overload_actions.reduce_timeouts
    triggers:
    - {{ name: envoy.resource_monitors.injected_resource, threshold: {{ value: 0.5 }} }}
    typed_config:
      \"@type\": type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig
      timer_scale_factors: [{{ timer: HTTP_DOWNSTREAM_STREAM_IDLE, min_timeout: 1s }}]
",
        pressure.display()
    );
    let silent = Silent::start().await;
    let world = world(&silent, &[("endless", "timeout: 0s"), ("hour", "timeout: 1h")], &bootstrap).await;
    let endless = silent.ask(&world, "/endless").await;
    assert_eq!(world.edge.get("/hour").await.status, 504);
    silent.may_answer.send_replace(true);
    assert_eq!(endless.await.unwrap().unwrap().status, 200);
}
