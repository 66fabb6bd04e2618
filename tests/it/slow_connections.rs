//! Connections on which next to nothing comes take no answer from anybody else, and however many there are, nobody is
//! pushed out who waits for an answer.

pub(crate) mod kinds;

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::floods::{Others, assert_answers, start};
use crate::harness::{Tierflow, eventually};
use crate::store::check;
use kinds::keep_one;

/// To each port.
const SLOW: usize = 500;
/// More than the admin port has places for.
const MORE: usize = 1500;
/// Of these.
const BEYOND: u64 = 1500 - 1024;
/// The answers that a good client gets on each port meanwhile.
const ANSWERS: usize = 100;
/// Connects so many times, and goes on.
fn connect(to: SocketAddr, count: usize, others: &Others) {
    for number in 0..count {
        let io = std::net::TcpStream::connect(to).unwrap();
        io.set_nonblocking(true).unwrap();
        others.spawn(async move { keep_one(TcpStream::from_std(io).unwrap(), to, number).await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_slow_connections_to_each_port_keep_nobody_from_an_answer() {
    let (_folder, tierflow) = start().await;
    let slow = Others::start();
    for port in tierflow.addresses() {
        connect(port, SLOW, &slow);
    }
    assert_answers(&tierflow, ANSWERS, "500 slow connections to each port").await;
    assert_eq!(check(&tierflow, "connections").await["ok"], true);
    assert_eq!(sent_away(&tierflow).await, [0; 3]);
}

/// The connections of each port that were closed for others.
async fn sent_away(tierflow: &Tierflow) -> [u64; 3] {
    let metrics = tierflow.ask("/metrics").await.text();
    ["xds", "rls", "admin"].map(|port| {
        let series = format!("tierflow_connections_sent_away_total{{port=\"{port}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_an_answer_stays_however_many_come_that_ask_for_nothing() {
    let (folder, tierflow) = start().await;
    let mut asking = TcpStream::connect(tierflow.admin()).await.unwrap();
    let body = r#"{"kind":"Plan","name":"gold","limits":[{"rate":"1/h"}]}"#;
    let head = format!("POST /v1/check HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n", body.len());
    asking.write_all(head.as_bytes()).await.unwrap();
    let slow = Others::start();
    connect(tierflow.admin(), MORE, &slow);
    // Soon: its body may not take half a minute.
    let are_sent_away = async || (sent_away(&tierflow).await[2] >= BEYOND).then_some(());
    eventually("all that there are no places for are sent away", are_sent_away).await;
    asking.write_all(body.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    asking.read_exact(&mut answer).await.unwrap();
    assert_eq!(std::str::from_utf8(&answer), Ok("HTTP/1.1 200"));
    assert_answers(&tierflow, ANSWERS, "more slow connections than places").await;
    let row = check(&tierflow, "connections").await;
    assert_eq!(row, json!({ "name": "connections", "ok": false, "value": 1, "threshold": 0, "unit": "ports" }));
    assert_eq!(sent_away(&tierflow).await[..2], [0; 2]);
    let log = std::fs::read_to_string(folder.path().join("policies.log")).unwrap();
    let told = log.lines().find(|line| line.contains("all places of a port are taken")).unwrap();
    assert!(told.contains("\"port\":\"admin\"") && told.contains("\"places\":1024"), "{told}");
}
