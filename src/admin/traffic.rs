//! What the last minutes were like.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Admin, rfc3339};
use crate::traffic;

#[derive(Serialize, ToSchema)]
pub(super) struct Traffic {
    /// The last 300 whole seconds at most, the oldest first.
    seconds: Vec<Second>,
}

/// What was decided within a second.
#[derive(Serialize, ToSchema)]
#[schema(as = TrafficSecond)]
pub(super) struct Second {
    /// Its beginning.
    at: String,
    /// Requests that were decided.
    decisions: u64,
    /// Of these, those that a limit denied, or whose tenant is not served.
    denied: u64,
    /// Those that no counter, or not that of each limit, decided, and those that were answered with an error instead.
    failed: u64,
    /// The time that 99 of 100 decisions did not take longer than, in microseconds. Absent where there was no decision.
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<u64>,
}

/// What was decided in each of the last seconds.
#[utoipa::path(
    get,
    path = "/v1/traffic",
    operation_id = "get_traffic",
    responses((status = 200, description = "The oldest first.", body = Traffic)),
)]
pub(super) async fn seconds(State(admin): State<Admin>) -> Json<Traffic> {
    Json(Traffic { seconds: admin.traffic.seconds().into_iter().map(Second::of).collect() })
}

impl Second {
    pub(super) fn of(second: traffic::Second) -> Self {
        let traffic::Second { at, decisions, denied, failed, p99 } = second;
        let p99_us = p99.map(|p99| u64::try_from(p99.as_micros()).unwrap_or(u64::MAX));
        Self { at: rfc3339(at), decisions, denied, failed, p99_us }
    }
}
