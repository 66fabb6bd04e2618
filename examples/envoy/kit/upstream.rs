//! A small upstream: answers everything with 200, its name and the path, and counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Request;

pub struct Upstream {
    pub address: SocketAddr,
    requests: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    /// Port 0 takes a free one.
    pub async fn start(name: &str, address: SocketAddr) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        let name: Arc<str> = name.into();
        let app = Router::new().fallback(move |request: Request| {
            // Envoy's own health checks are no requests of anybody.
            if request.uri().path() != "/healthz" {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            let answer = format!("{name} {} {}\n", request.method(), request.uri());
            async move { answer }
        });
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, requests, task })
    }

    /// How many requests reached it.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}
