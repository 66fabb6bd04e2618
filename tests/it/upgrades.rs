//! Connections that are handed over to WebSocket (RFC 6455, section 1.7): what Envoy makes of the request, and of the
//! bytes after it. What the bytes mean makes no difference here, so they are plain text.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Setup, World, eventually};

const APIS: &str = "
kind: Api
name: live
gateway: edge
match: { path: /live }
service: talker
upgrades: [websocket]
limits: [{ rate: 2/h }]
---
kind: Api
name: plain
gateway: edge
match: { path: /plain }
service: talker
---
kind: Api
name: long
gateway: edge
match: { path_prefix: /long }
service: talker
timeout: 1s
idle_timeout: 0s
upgrades: [websocket]
---
kind: Api
name: quiet
gateway: edge
match: { path: /quiet }
service: talker
timeout: 0s
idle_timeout: 1s
upgrades: [websocket]
";

/// An upstream that greets on a connection that is handed over, and says again what it hears. It answers nothing else.
async fn talker() -> SocketAddr {
    async fn talk(mut connection: TcpStream) -> std::io::Result<()> {
        let head = read_head(&mut connection).await?.to_ascii_lowercase();
        if !head.contains("upgrade: websocket") {
            std::future::pending::<()>().await;
        }
        connection
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            .await?;
        connection.write_all(b"hello").await?;
        let (mut heard, mut said) = connection.split();
        tokio::io::copy(&mut heard, &mut said).await.map(drop)
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(talk(connection));
        }
    });
    address
}

async fn read_head(connection: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn world() -> World {
    let policies = format!("kind: Service\nname: talker\nendpoints: [{}]\n---{APIS}", talker().await);
    World::start(Setup { policies: &policies, ..Default::default() }).await
}

/// A connection after these lines of a request, and the status of the answer.
async fn ask(world: &World, lines: &str) -> (TcpStream, u16) {
    let mut connection = TcpStream::connect(world.edge.listen).await.unwrap();
    connection.write_all(format!("{lines}\r\n\r\n").as_bytes()).await.unwrap();
    let head = read_head(&mut connection).await.unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (connection, status)
}

async fn upgrade(world: &World, path: &str) -> (TcpStream, u16) {
    ask(world, &format!("GET {path} HTTP/1.1\r\nhost: edge.test\r\nconnection: upgrade\r\nupgrade: websocket")).await
}

/// Waits for these bytes.
async fn hear(connection: &mut TcpStream, expected: &str) {
    let mut heard = vec![0; expected.len()];
    connection.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), expected);
}

#[tokio::test]
async fn a_websocket_carries_bytes_both_ways_and_its_request_is_limited() {
    let world = world().await;
    for _ in 0..2 {
        let (mut connection, status) = upgrade(&world, "/live").await;
        assert_eq!(status, 101);
        hear(&mut connection, "hello").await;
        connection.write_all(b"and you?").await.unwrap();
        hear(&mut connection, "and you?").await;
    }
    assert_eq!(upgrade(&world, "/live").await.1, 429);
}

#[tokio::test]
async fn without_upgrades_a_websocket_is_refused_and_so_is_any_other_upgrade_with_them() {
    let world = world().await;
    assert_eq!(upgrade(&world, "/plain").await.1, 403);
    let other = "GET /live HTTP/1.1\r\nhost: edge.test\r\nconnection: upgrade\r\nupgrade: other";
    assert_eq!(ask(&world, other).await.1, 403);
    for target in ["edge.test:80", "127.0.0.1:80"] {
        let tunnel = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}");
        assert_eq!(ask(&world, &tunnel).await.1, 404);
    }
}

/// A plain request to the same Api begins later and does end.
#[tokio::test]
async fn a_timeout_is_of_the_answer_and_ends_no_websocket() {
    let world = world().await;
    let (mut connection, status) = upgrade(&world, "/long/live").await;
    assert_eq!(status, 101);
    assert_eq!(world.edge.get("/long/answer").await.status, 504);
    connection.write_all(b", still there?").await.unwrap();
    hear(&mut connection, "hello, still there?").await;
}

#[tokio::test]
async fn an_idle_timeout_ends_a_websocket_on_which_nobody_speaks() {
    let world = world().await;
    let (mut connection, status) = upgrade(&world, "/quiet").await;
    assert_eq!(status, 101);
    let mut heard = Vec::new();
    eventually("the connection ends", async || connection.read_buf(&mut heard).await.ok().filter(|read| *read == 0))
        .await;
    assert_eq!(heard, b"hello");
}
