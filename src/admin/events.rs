//! What happens, as server-sent events (HTML Living Standard, section 9.2), which a page in a browser reads by itself.

pub mod observer;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::Admin;
use super::counters::bad;
use super::error::ProblemDetails;
use super::extract::OfQuery;
use super::gate::Asker;
use super::openapi::Problem;
use crate::access::{Access, Caller};
use crate::clock::Clock;
use crate::events::{Event, Events, Followed, Follower};

/// The clients that may follow at the same time.
const STREAMS_MAX: usize = 64;
/// A comment after so much silence keeps whatever is in between from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
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

impl Following {
    pub fn new(events: Arc<Events>, shutdown: CancellationToken) -> Self {
        Self { events, streams: Arc::new(Semaphore::new(STREAMS_MAX)), shutdown }
    }
}

#[derive(Deserialize, IntoParams)]
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
    Asker(caller): Asker,
    OfQuery(parameters): OfQuery<Parameters>,
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
    let stream = EventStream { follower: events.follow(after), _permit: permit };
    let until = until_known_no_more(&admin.access, &caller, admin.clock);
    let events = futures_util::stream::unfold(stream, EventStream::next);
    let events = events.take_until(shutdown.cancelled_owned()).take_until(Box::pin(until));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Whoever follows for long shows its credentials once. It is asked for them again when it comes back: where these may be
/// others now, or have run out.
fn until_known_no_more(access: &Access, caller: &Caller, clock: Clock) -> impl Future<Output = ()> + Send + use<> {
    let (mut changes, until) = (access.changes(), caller.until);
    async move {
        let runs_out = async {
            match until {
                Some(until) => tokio::time::sleep(until.since(clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = changes.changed() => {}
            () = runs_out => {}
        }
    }
}

/// The events of one client. One that does not read is the connection's business.
struct EventStream {
    follower: Follower,
    _permit: OwnedSemaphorePermit,
}

impl EventStream {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        let event = to_sse(&self.follower.next().await);
        Some((Ok(event), self))
    }
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
