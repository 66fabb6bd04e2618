//! HTTP/1.1 as bytes: ordinary clients and servers tidy up what they are given, and these tests are about that.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::DEADLINE;

/// An answer, read to the end of the connection.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl RawAnswer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The limit that the request met.
    pub(crate) fn limit(&self) -> Option<&str> {
        self.header("x-ratelimit-limit")?.split('"').nth(1)
    }

    /// The request target that the echo saw.
    pub(crate) fn echoed_target(&self) -> Option<&str> {
        self.body.lines().next()?.split(' ').nth(1)
    }

    /// A line of the request's head, as the echo saw it.
    pub(crate) fn echoed(&self, name: &str) -> Option<&str> {
        self.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request with this target and these lines, byte by byte as they are.
pub(crate) async fn send(to: SocketAddr, method: &str, target: &[u8], lines: &[&[u8]]) -> RawAnswer {
    let mut request = [method.as_bytes(), b" ", target, b" HTTP/1.1\r\n"].concat();
    for line in lines.iter().copied().chain([b"connection: close".as_slice(), b""]) {
        request.extend([line, b"\r\n"].concat());
    }
    let asking = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        // Whoever refuses a request may end the connection roughly.
        while !is_whole(&answer) && stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
        answer
    };
    let answer = tokio::time::timeout(DEADLINE, asking).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let headers = lines.filter_map(|line| line.split_once(": "));
    RawAnswer {
        status: status.unwrap_or_else(|| panic!("no status: {answer:?}")),
        headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect(),
        body: body.to_owned(),
    }
}

/// Whether the answer's end is there. Envoy leaves a connection open for a second after some, so its end is no sign.
fn is_whole(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// An upstream that answers with the head of the request, as it came. It ends with the test's runtime.
pub(crate) async fn start_echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    address
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        if head.ends_with(b"\r\n\r\n") {
            let start = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
            stream.write_all(&[start.as_bytes(), &head].concat()).await?;
            head.clear();
        }
    }
}
