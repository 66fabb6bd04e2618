//! A server that gives answers which a real one gives seldom or never, and keeps what it was asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

pub(super) struct StandIn {
    address: SocketAddr,
    serving: JoinHandle<Vec<Asked>>,
}

/// A request as it came.
pub(super) struct Asked {
    /// Method and path.
    pub(super) line: String,
    /// As `name: value`, the name in lower case.
    pub(super) headers: Vec<String>,
    pub(super) body: String,
}

impl StandIn {
    /// Answers so many requests, each on a connection of its own, with a status and a body.
    pub(super) fn answering(answers: &[(u16, &str)]) -> Self {
        let answers: Vec<_> = answers.iter().map(|(status, body)| (*status, (*body).to_owned())).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let answer = |(status, body): (u16, String)| {
                let (mut stream, _) = listener.accept().unwrap();
                let asked = read(&mut BufReader::new(&stream));
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
                asked
            };
            answers.into_iter().map(answer).collect()
        });
        Self { address, serving }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked, once it has given all its answers.
    pub(super) fn asked(self) -> Vec<Asked> {
        self.serving.join().unwrap()
    }
}

fn read(stream: &mut impl BufRead) -> Asked {
    let mut lines = stream.by_ref().lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let line = lines.next().unwrap();
    let headers: Vec<String> = lines
        .filter_map(|line| line.split_once(": ").map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())))
        .collect();
    let length = headers.iter().find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    Asked { line, headers, body: String::from_utf8(body).unwrap() }
}
