//! An etcd that forgets to tell of events, tells of them twice, or late: a real one behind a front that reads what its
//! watches say. Versions before 3.4.42 do all of this by themselves, but not on command.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

const WATCH: &str = "/etcdserverpb.Watch/Watch";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// Pause between looks at a rule that is to be lifted.
const POLL: Duration = Duration::from_millis(10);

/// What is done to a message of a watch that tells of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    Forget,
    /// Each message again after the next one.
    Repeat,
    /// Neither this message nor one after it before the rule is lifted.
    Hold,
}

pub(crate) struct Front {
    pub(crate) address: SocketAddr,
    rule: Rule,
    forgotten: Arc<AtomicUsize>,
    is_holding: Arc<AtomicBool>,
    is_open: watch::Sender<bool>,
    waiting: Arc<AtomicUsize>,
    lose: Lose,
    lost: Lost,
    before: Before,
    puts: Puts,
    fences: Fences,
    etcd: Arc<Mutex<SocketAddr>>,
    client: HttpClient,
    task: JoinHandle<()>,
}

/// Done before the next transaction that puts something with this text.
type Before = Arc<Mutex<Option<(String, BoxFuture)>>>;
type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The keys that transactions put, each as often as one did.
type Puts = Arc<Mutex<Vec<String>>>;

type HttpClient = Client<HttpConnector, Body>;

/// For each transaction that put something: the keys that it wanted to be there since a revision, and that revision.
type Fences = Arc<Mutex<Vec<Vec<(String, i64)>>>>;

/// What is lost of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// etcd does it, and nobody hears of it.
    Answer,
    /// etcd is asked only when the test says so, and nobody waits any more.
    Question,
    /// It is done and answered, and all that come after it hang.
    Following,
}

/// The next transaction that puts something with this text.
type Lose = Arc<Mutex<Option<(String, Part)>>>;

/// The questions that etcd was not asked yet.
type Lost = Arc<Mutex<Vec<Request>>>;

/// Which keys, by a part of their names.
type Rule = Arc<Mutex<Option<(Manner, String)>>>;

impl Front {
    pub(crate) async fn start(etcd: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule = Rule::default();
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
        let forgotten = Arc::new(AtomicUsize::new(0));
        let is_holding = Arc::new(AtomicBool::new(false));
        let (is_open, opened) = watch::channel(true);
        let waiting = Arc::new(AtomicUsize::new(0));
        let (lose, lost, fences) = (Lose::default(), Lost::default(), Fences::default());
        let (before, puts) = (Before::default(), Puts::default());
        let etcd = Arc::new(Mutex::new(etcd));
        let behind = Behind {
            etcd: Arc::clone(&etcd),
            rule: Arc::clone(&rule),
            forgotten: Arc::clone(&forgotten),
            is_holding: Arc::clone(&is_holding),
            opened,
            waiting: Arc::clone(&waiting),
            lose: Arc::clone(&lose),
            lost: Arc::clone(&lost),
            before: Arc::clone(&before),
            puts: Arc::clone(&puts),
            hangs: Arc::default(),
            fences: Arc::clone(&fences),
            client: client.clone(),
        };
        let app = axum::Router::new().fallback(forward).with_state(behind);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            rule,
            forgotten,
            is_holding,
            is_open,
            waiting,
            lose,
            lost,
            before,
            puts,
            fences,
            etcd,
            client,
            task,
        }
    }

    /// Asks another etcd from now on. Watches stay where they are.
    pub(crate) fn lead_to(&self, etcd: SocketAddr) {
        *self.etcd.lock().unwrap() = etcd;
    }

    pub(crate) fn set(&self, manner: Manner, key_part: &str) {
        *self.rule.lock().unwrap() = Some((manner, key_part.to_owned()));
    }

    /// How many messages it did not hand on.
    pub(crate) fn forgotten(&self) -> usize {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Whether there are watches, or those that are begun have to wait.
    pub(crate) fn open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }

    /// How many watches have had to wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Loses a part of the next transaction that puts something with this text.
    pub(crate) fn lose(&self, text: &str, part: Part) {
        *self.lose.lock().unwrap() = Some((text.to_owned(), part));
    }

    /// Does something right before the next transaction that puts something with this text.
    pub(crate) fn before(&self, text: &str, action: impl Future<Output = ()> + Send + 'static) {
        *self.before.lock().unwrap() = Some((text.to_owned(), Box::pin(action)));
    }

    pub(crate) fn is_before_done(&self) -> bool {
        self.before.lock().unwrap().is_none()
    }

    /// How often transactions put keys with this part, with a value.
    pub(crate) fn seen(&self, key_part: &str) -> usize {
        self.puts.lock().unwrap().iter().filter(|key| key.contains(key_part)).count()
    }

    /// Asks etcd the questions that were lost, until it has answered.
    pub(crate) async fn ask_lost(&self) -> usize {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap());
        let count = lost.len();
        for question in lost {
            self.client.request(question).await.unwrap().into_body().collect().await.unwrap();
        }
        count
    }

    pub(crate) fn fences(&self) -> Vec<Vec<(String, i64)>> {
        self.fences.lock().unwrap().clone()
    }

    /// Whether it keeps a message back.
    pub(crate) fn is_holding(&self) -> bool {
        self.is_holding.load(Ordering::Relaxed)
    }

    pub(crate) fn behave(&self) {
        *self.rule.lock().unwrap() = None;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Behind {
    etcd: Arc<Mutex<SocketAddr>>,
    rule: Rule,
    forgotten: Arc<AtomicUsize>,
    is_holding: Arc<AtomicBool>,
    opened: watch::Receiver<bool>,
    waiting: Arc<AtomicUsize>,
    lose: Lose,
    lost: Lost,
    before: Before,
    puts: Puts,
    hangs: Arc<AtomicBool>,
    fences: Fences,
    client: HttpClient,
}

impl Behind {
    fn note(&self, question: &[u8]) {
        let txn = TxnRequest::decode(&question[5..]).unwrap();
        let puts = txn.success.iter().filter_map(|operation| PutRequest::decode(operation.put.as_deref()?).ok());
        let puts = puts.filter(|put| !put.ignore_value).map(|put| String::from_utf8(put.key).unwrap());
        self.puts.lock().unwrap().extend(puts);
        if txn.success.iter().any(|operation| operation.put.is_some()) {
            let fences = txn.compare.into_iter().filter(|compare| compare.target == CREATE);
            let fences = fences.map(|compare| (String::from_utf8(compare.key).unwrap(), compare.create_revision));
            self.fences.lock().unwrap().push(fences.collect());
        }
    }

    fn loses(&self, question: &[u8]) -> Option<Part> {
        take(&self.lose, question)
    }
}

/// What is wanted of a transaction with a text, if this is it.
fn take<T>(wanted: &Mutex<Option<(String, T)>>, question: &[u8]) -> Option<T> {
    let is_it = |(text, _): &mut (String, T)| String::from_utf8_lossy(question).contains(&**text);
    wanted.lock().unwrap().take_if(is_it).map(|(_, what)| what)
}

async fn forward(State(mut behind): State<Behind>, mut request: Request) -> Response {
    let path = request.uri().path().to_owned();
    if path == WATCH {
        let is_open = *behind.opened.borrow();
        behind.waiting.fetch_add(usize::from(!is_open), Ordering::Relaxed);
        let _ = behind.opened.wait_for(|is_open| *is_open).await;
    }
    let mut lost = None;
    if path == TXN {
        if behind.hangs.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        let (parts, body) = request.into_parts();
        let question = body.collect().await.unwrap().to_bytes();
        lost = behind.loses(&question);
        behind.note(&question);
        if let Some(action) = take(&behind.before, &question) {
            action.await;
        }
        behind.hangs.store(lost == Some(Part::Following), Ordering::Relaxed);
        request = Request::from_parts(parts, Body::from(question));
    }
    let etcd = *behind.etcd.lock().unwrap();
    *request.uri_mut() = format!("http://{etcd}{path}").parse().unwrap();
    if lost == Some(Part::Question) {
        behind.lost.lock().unwrap().push(request);
        return std::future::pending().await;
    }
    let Ok(response) = behind.client.request(request).await else {
        return axum::http::StatusCode::BAD_GATEWAY.into_response();
    };
    if lost == Some(Part::Answer) {
        std::future::pending::<()>().await;
    }
    let (parts, body) = response.into_parts();
    match path.as_str() {
        WATCH => Response::from_parts(parts, Body::new(StreamBody::new(told(body, behind)))),
        _ => Response::from_parts(parts, Body::new(body)),
    }
}

/// The messages of a watch, but for what the rule does to them.
fn told(mut body: Incoming, behind: Behind) -> impl tokio_stream::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let mut opened = behind.opened.clone();
    let telling = async move {
        let mut buffer = Vec::new();
        let mut again: Option<Vec<u8>> = None;
        while let Some(Ok(frame)) = body.frame().await {
            match frame.into_data() {
                Ok(data) => buffer.extend_from_slice(&data),
                Err(trailers) => drop(sender.send(trailers).await),
            }
            while let Some(message) = next_message(&mut buffer) {
                if manner(&behind.rule, &message) == Some(Manner::Hold) {
                    behind.is_holding.store(true, Ordering::Relaxed);
                    while manner(&behind.rule, &message).is_some() {
                        tokio::time::sleep(POLL).await;
                    }
                }
                let mut messages = vec![message.clone()];
                messages.extend(again.take());
                match manner(&behind.rule, &message) {
                    Some(Manner::Forget) => {
                        messages.clear();
                        behind.forgotten.fetch_add(1, Ordering::Relaxed);
                    }
                    Some(Manner::Repeat) => again = Some(message),
                    Some(Manner::Hold) | None => {}
                }
                for message in messages {
                    if sender.send(Frame::data(message.into())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = telling => {}
            _ = opened.wait_for(|is_open| !is_open) => {}
        }
    });
    ReceiverStream::new(receiver).map(Ok)
}

/// Takes a gRPC message from the front of the buffer: a flag, a length of 4 bytes, and so many bytes.
fn next_message(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(buffer.get(1..5)?.try_into().unwrap()) as usize;
    (buffer.len() >= 5 + length).then(|| buffer.drain(..5 + length).collect())
}

fn manner(rule: &Rule, message: &[u8]) -> Option<Manner> {
    let (manner, part) = rule.lock().unwrap().clone()?;
    let response = WatchResponse::decode(&message[5..]).unwrap();
    let keys = response.events.into_iter().filter_map(|event| event.kv);
    keys.into_iter().any(|kv| String::from_utf8_lossy(&kv.key).contains(&part)).then_some(manner)
}

/// `Compare.CompareTarget.CREATE`
const CREATE: i32 = 1;

/// What of etcd's rpc.proto and kv.proto is looked at.
#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    success: Vec<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Compare {
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, tag = "5")]
    create_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(bytes = "vec", optional, tag = "2")]
    put: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bool, tag = "5")]
    ignore_value: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}
