//! What happens, as server-sent events (HTML Living Standard, section 9.2), which a page in a browser reads by itself.

pub mod observer;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use utoipa::IntoParams;

use super::Admin;
use super::counters::bad;
use super::error::ProblemDetails;
use super::extract::OfQuery;
use super::openapi::Problem;
use crate::events::{Event, Events, Followed, Follower};

/// The clients that may follow at the same time.
const STREAMS_MAX: usize = 64;
/// A comment after so much silence keeps whatever is in between from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A client that has not read what was sent to it for so long is cut off: it holds one of those places.
const UNREAD_MAX: Duration = Duration::from_secs(30);
const LAST_EVENT_ID: &str = "last-event-id";
/// After so many seconds a client that found no place may ask again.
const RETRY_AFTER_SECONDS: u16 = 5;

/// The events, and the places of those who follow them.
#[derive(Clone, Debug)]
pub struct Following {
    pub events: Arc<Events>,
    streams: Arc<Semaphore>,
    /// Streams end with it, or the last of them would hold up the end of the process.
    shutdown: CancellationToken,
}

/// Closes the connection that a request came by.
#[derive(Clone, Debug)]
pub struct Cut(pub CancellationToken);

impl Following {
    pub fn new(events: Arc<Events>, shutdown: CancellationToken) -> Self {
        Self { events, streams: Arc::new(Semaphore::new(STREAMS_MAX)), shutdown }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// As `Last-Event-ID`, which counts where both are there. 0: from the oldest event that is kept. Default: from now on.
    after: Option<u64>,
}

/// What happens, as server-sent events.
///
/// All but `traffic` have an id and say when they were seen (`at`).
///
/// `traffic`: a second of `/v1/traffic`, without an id. `generation`: `{generation, revision}`. `refused`:
/// `{count, documents: [{kind, name, message}]}`, the documents those that are refused since the event before. `node`:
/// `{id, gateways, state}`; where many change at once, `nodes`: `{changed}`. `change`: an entry of `/v1/audit`. `lost`: more
/// has happened since `Last-Event-ID` than is kept, or the server is another one; what is known is to be asked for anew.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "follow_events",
    params(
        Parameters,
        ("last-event-id" = Option<u64>, Header, description = "The id of the last event that the client has."),
    ),
    responses((status = 200, description = "Events, until one of both ends it.", content_type = "text/event-stream", body = String), Problem<400>, Problem<503>),
)]
pub(super) async fn follow(
    State(admin): State<Admin>,
    OfQuery(parameters): OfQuery<Parameters>,
    cut: Option<Extension<Cut>>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ProblemDetails> {
    let after = headers.get(LAST_EVENT_ID).map(|id| {
        let id = id.to_str().ok().and_then(|id| id.parse().ok());
        id.ok_or_else(|| bad("Last-Event-ID: expected the id of an event, a whole number"))
    });
    let after = after.transpose()?.or(parameters.after);
    let Following { events, streams, shutdown } = admin.following.clone();
    let permit = streams.try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS_MAX} clients follow the events, and more may not");
        ProblemDetails::unavailable(&detail).retry_after(RETRY_AFTER_SECONDS)
    })?;
    let unread = Arc::<Unread>::default();
    let guard = CancellationToken::new();
    if let Some(Extension(cut)) = cut {
        tokio::spawn(guard.clone().run_until_cancelled_owned(watch(Arc::clone(&unread), cut)));
    }
    let stream = EventStream { follower: events.follow(after), unread, _held: (permit, guard.drop_guard()) };
    let events = futures_util::stream::unfold(stream, EventStream::next).take_until(shutdown.cancelled_owned());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The events of one client.
struct EventStream {
    follower: Follower,
    unread: Arc<Unread>,
    /// They end with it.
    _held: (OwnedSemaphorePermit, DropGuard),
}

/// Since when what was handed over is not written. `None`: all is.
#[derive(Debug, Default)]
struct Unread(Mutex<Option<Instant>>);

impl EventStream {
    /// It is asked for the next event when there is room for it: until then, the client has not read.
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        *self.unread.0.lock() = None;
        let event = to_sse(&self.follower.next().await);
        *self.unread.0.lock() = Some(Instant::now());
        Some((Ok(event), self))
    }
}

impl Unread {
    fn is_stuck(&self) -> bool {
        self.0.lock().is_some_and(|since| since.elapsed() > UNREAD_MAX)
    }
}

/// Cuts a client off that does not read any more.
async fn watch(unread: Arc<Unread>, Cut(cut): Cut) {
    while !unread.is_stuck() {
        tokio::time::sleep(UNREAD_MAX / 3).await;
    }
    cut.cancel();
}

fn to_sse(followed: &Followed) -> sse::Event {
    match followed {
        Followed::Event(event) => {
            let Event { id, name, data } = &**event;
            let own = sse::Event::default().event(name).data(data);
            match id {
                Some(id) => own.id(id.to_string()),
                None => own,
            }
        }
        Followed::Lost(id) => sse::Event::default().event("lost").data("{}").id(id.to_string()),
    }
}
