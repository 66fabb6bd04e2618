//! Events as a client sees them, and sets of documents that several send at the same time.

use std::convert::Infallible;

use axum::response::Response;
use futures_util::{FutureExt as _, StreamExt as _};

use super::*;
use crate::admin::events::observer::Observer;
use crate::audit::{Entry, Outcome};
use crate::traffic::Second;

async fn follow(world: &World, headers: &[(&str, &str)]) -> Response {
    follow_at(world, "/v1/events", headers).await
}

async fn follow_at(world: &World, path: &str, headers: &[(&str, &str)]) -> Response {
    let peer = ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000)));
    let mut request = Request::builder().uri(path).header(header::HOST, "localhost").extension(peer);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).unwrap();
    world.admin.clone().into_router().call(request).await.unwrap()
}

/// The next event, as its lines.
async fn next(stream: &mut Response) -> String {
    let frame = stream.body_mut().frame().await.expect("the stream goes on").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

/// The name of the next event, and what it tells.
async fn event(stream: &mut Response) -> (String, Value) {
    let text = next(stream).await;
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let data = line("data").unwrap_or_else(|| panic!("{text}"));
    let mut data: Value = serde_json::from_str(data).unwrap();
    let name = line("event").unwrap().to_owned();
    if ["generation", "refused", "node", "nodes"].contains(&&*name) {
        // What a test has published by itself is a number.
        let at = data.as_object_mut().map(|members| members.remove("at"));
        assert!(at.is_none_or(|at| at.is_some_and(|at| at.as_str().unwrap().ends_with('Z'))), "{text}");
    }
    (name, data)
}

fn second() -> Second {
    Second { at: Timestamp::from_nanos(10_000_000_000), decisions: 2, denied: 1, failed: 0, p99: None }
}

#[tokio::test]
async fn what_happens_is_told_to_who_follows() {
    let mut world = World::shop();
    let seat = world.join("edge-1", &["edge"]);
    let mut observer = Observer::new(&world.admin);
    let mut stream = follow(&world, &[]).await;
    assert_eq!(stream.headers()[header::CONTENT_TYPE], "text/event-stream");
    observer.look();
    observer.tell_traffic(second());
    let traffic = json!({ "at": "1970-01-01T00:00:10.000Z", "decisions": 2, "denied": 1, "failed": 0 });
    assert_eq!(event(&mut stream).await, ("traffic".to_owned(), traffic), "nothing else has happened");

    world.load(&SHOP.replace("10/m", "20/m"));
    seat.stands(Standing::Live, 2, world.admin.clock.now());
    observer.look();
    let generation = json!({ "generation": 2, "revision": 7 });
    assert_eq!(event(&mut stream).await, ("generation".to_owned(), generation));
    let node = |state: &str| ("node".to_owned(), json!({ "id": "edge-1", "gateways": ["edge"], "state": state }));
    assert_eq!(event(&mut stream).await, node("SYNCED"));

    world.load(&SHOP.replace("10/m", "often"));
    seat.refused(ResourceType::Route, Vec::new(), "no", world.admin.clock.now());
    observer.look();
    let (name, refused) = event(&mut stream).await;
    assert_eq!((&*name, &refused["count"], &refused["documents"][0]["name"]), ("refused", &json!(1), &json!("create")));
    assert!(refused["documents"][0]["message"].as_str().unwrap().contains("often"), "{refused}");
    assert_eq!(event(&mut stream).await, node("REFUSED"));
    world.load(&SHOP.replace("10/m", "20/m"));
    drop(seat);
    observer.look();
    assert_eq!(event(&mut stream).await, ("refused".to_owned(), json!({ "count": 0, "documents": [] })));
    assert_eq!(event(&mut stream).await, node("GONE"));

    let asked = Entry {
        change: "c1".to_owned(),
        who: "ann".to_owned(),
        what: vec!["put Api pay".to_owned()],
        base: Some(7),
        force: None,
        result: None,
    };
    let done = Entry { result: Some(Outcome::Revision(8)), ..asked.clone() };
    for entry in [&asked, &done] {
        world.admin.audit.note(entry, Timestamp::default()).await.unwrap();
        observer.look();
    }
    let (name, change) = event(&mut stream).await;
    assert_eq!((&*name, &change["who"], &change["result"]), ("change", &json!("ann"), &json!({ "revision": 8 })));
    assert_eq!(change, world.json("/v1/audit").await["entries"][0]);
}

#[tokio::test]
async fn where_many_envoys_change_at_once_their_number_is_told() {
    let world = World::shop();
    let mut observer = Observer::new(&world.admin);
    let mut stream = follow(&world, &[]).await;
    let _seats: Vec<Seat> = (0..51).map(|n| world.join(&format!("edge-{n}"), &["edge"])).collect();
    observer.look();
    assert_eq!(event(&mut stream).await, ("nodes".to_owned(), json!({ "changed": 51 })));
}

#[tokio::test]
async fn who_comes_back_has_what_it_missed() {
    let world = World::shop();
    let events = &world.admin.following.events;
    let mut stream = follow(&world, &[]).await;
    events.publish("node", "1".to_owned());
    let first = next(&mut stream).await;
    let id = first.lines().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    drop(stream);
    events.publish("node", "2".to_owned());
    let mut stream = follow(&world, &[("last-event-id", &id)]).await;
    assert_eq!(event(&mut stream).await, ("node".to_owned(), json!(2)));
    let mut stream = follow(&world, &[("last-event-id", "7")]).await;
    assert_eq!(event(&mut stream).await, ("lost".to_owned(), json!({})));
    assert_eq!(event(&mut stream).await, ("node".to_owned(), json!(1)));
    let mut stream = follow_at(&world, "/v1/events?after=0", &[]).await;
    assert_eq!(event(&mut stream).await, ("node".to_owned(), json!(1)), "the oldest that is kept");
    let mut stream = follow_at(&world, "/v1/events?after=0", &[("last-event-id", &id)]).await;
    assert_eq!(event(&mut stream).await, ("node".to_owned(), json!(2)), "a browser that comes back");
    assert_eq!(problem(&world.get("/v1/events?after=x").await).0, 400);
    let (status, detail) = problem(&world.send("GET", "/v1/events", &[("last-event-id", "x")], "").await);
    assert_eq!((status, detail.starts_with("Last-Event-ID: expected")), (400, true), "{detail}");
}

#[tokio::test]
async fn more_than_so_many_do_not_follow_and_all_end_with_the_process() {
    let mut world = World::shop();
    let shutdown = CancellationToken::new();
    world.admin.following = Following::new(Arc::clone(&world.admin.following.events), shutdown.clone());
    let mut streams = Vec::new();
    for _ in 0..64 {
        streams.push(follow(&world, &[]).await);
    }
    let refused = follow(&world, &[]).await;
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "5");
    assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/problem+json");
    streams.pop();
    let mut again = follow(&world, &[]).await;
    assert_eq!(again.status(), 200);
    shutdown.cancel();
    for stream in streams.iter_mut().chain([&mut again]) {
        let ended = stream.body_mut().frame().now_or_never().map(|frame| frame.is_none());
        assert_eq!(ended, Some(true), "it goes on");
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_sets_of_documents_are_looked_at_at_once_and_none_takes_its_time_to_come() {
    let world = World::shop();
    let send = async |path: &str, body: Body| world.send("POST", path, &[], body).await;
    let after = |bytes: usize| {
        let begun = futures_util::stream::iter([Ok::<_, Infallible>(vec![b'#'; bytes])]);
        Body::from_stream(begun.chain(futures_util::stream::pending()))
    };
    let slow = |bytes| send("/v1/diff", after(bytes));
    let is_refused = |refused: &Answer| {
        assert_eq!((problem(refused).0, &refused.headers[header::RETRY_AFTER]), (503, &"1".parse().unwrap()));
    };

    // Whoever takes its time takes nobody's turn.
    let meanwhile = async {
        tokio::task::yield_now().await;
        assert_eq!(send("/v1/check", Body::from(SHOP)).await.status, 200);
    };
    let late = futures_util::future::join_all((0..8).map(|_| slow(1)));
    for answer in tokio::join!(late, meanwhile).0 {
        assert_eq!(problem(&answer), (408, "the body did not come within 30 s".to_owned()));
    }

    // What came of them takes room.
    let meanwhile = async {
        tokio::task::yield_now().await;
        is_refused(&send("/v1/check", Body::from(vec![b'#'; 9 << 20])).await);
        let rest = send("/v1/check", after(3 << 20));
        let meanwhile = async {
            tokio::task::yield_now().await;
            for (method, path) in [("POST", "/v1/apply"), ("PUT", "/v1/policies/Plan/gold"), ("POST", "/v1/explain")] {
                let body = Body::from(vec![b' '; 3 << 19]);
                is_refused(&world.send(method, path, &[("content-type", "application/json")], body).await);
            }
        };
        tokio::join!(rest, meanwhile);
    };
    let late = futures_util::future::join_all((0..4).map(|_| slow(15 << 20)));
    assert!(tokio::join!(late, meanwhile).0.iter().all(|answer| answer.status == 408));

    // Each set that is made takes a turn.
    let turns: Vec<_> = std::iter::from_fn(|| world.admin.turns.take()).collect();
    assert_eq!(turns.len(), 4);
    is_refused(&send("/v1/check", Body::from(SHOP)).await);
    drop(turns);
    assert_eq!(send("/v1/check", Body::from(SHOP)).await.status, 200, "it is its turn now");
    assert_eq!(problem(&send("/v1/check", Body::from(vec![b'#'; 17 << 20])).await).0, 413);
}
