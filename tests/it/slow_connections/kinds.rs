//! Connections on which next to nothing comes. Also for `benches/slow.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::floods::kinds::{PREFACE, SETTINGS, begun_call, frame};

/// Between two bytes of one of them.
const PAUSE: Duration = Duration::from_millis(250);
/// A frame of DATA for the first call of a connection, with one byte.
const BYTE_OF_CALL: &[u8] = &[0, 0, 1, 0, 0, 0, 0, 0, 1, 0];

/// What they send at first, and byte by byte from then on.
fn begun(number: usize) -> (Vec<u8>, &'static [u8]) {
    let head = "host: 127.0.0.1\r\ncontent-length: 1000000\r\n\r\n";
    match number % 6 {
        // Nothing, or a part of a head that never ends.
        0 => (Vec::new(), b""),
        1 => (PREFACE[..10].to_vec(), b""),
        2 => (b"GET / HTTP/1.1\r\nho".to_vec(), b"o"),
        // One question, whose answer they do not read, and nothing after it.
        3 => (b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".to_vec(), b""),
        // A body that is never there.
        4 => (format!("POST /v1/check HTTP/1.1\r\n{head}").into_bytes(), b"{"),
        _ => ([PREFACE, &frame(SETTINGS, 0, 0, &[]), &begun_call(1)].concat(), BYTE_OF_CALL),
    }
}

/// Goes on with a connection, of the kind that its number says. Whoever is sent away comes back.
pub(crate) async fn keep_one(mut io: TcpStream, to: SocketAddr, number: usize) {
    loop {
        dribble(&mut io, begun(number)).await;
        match TcpStream::connect(to).await {
            Ok(next) => io = next,
            Err(_) => return,
        }
    }
}

/// Until the connection is closed.
async fn dribble(io: &mut TcpStream, (first, more): (Vec<u8>, &[u8])) {
    let mut more = more.iter().cycle();
    let mut is_open = io.write_all(&first).await.is_ok();
    while is_open {
        is_open = match timeout(PAUSE, io.read(&mut [0; 1024])).await {
            Ok(read) => read.is_ok_and(|length| length > 0),
            Err(_) => match more.next() {
                Some(byte) => io.write_all(&[*byte]).await.is_ok(),
                None => true,
            },
        };
    }
}
