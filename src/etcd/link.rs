//! A connection for single questions: opened when it is needed, and to the next endpoint after it failed.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::EtcdSettings;
use super::connection::Connection;
use super::failure::Failure;

#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    settings: EtcdSettings,
    state: Mutex<State>,
}

struct State {
    connection: Option<Connection>,
    /// The number of the endpoint that is next.
    turn: usize,
}

impl Link {
    pub fn new(settings: EtcdSettings) -> Self {
        let state = Mutex::new(State { connection: None, turn: fastrand::usize(..) });
        Self(Arc::new(Inner { settings, state }))
    }

    pub fn settings(&self) -> &EtcdSettings {
        &self.0.settings
    }

    /// Asks once. A question that is not answered, or not let in, costs the connection; whoever asks again gets another
    /// one, with the password as it is then.
    pub async fn ask<T>(&self, question: impl AsyncFnOnce(&Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let connection = self.connection().await?;
        let answer = question(&connection).await;
        if matches!(answer, Err(Failure::Unanswered(_) | Failure::NotLetIn(_))) {
            let mut state = self.0.state.lock().await;
            if state.connection.as_ref().is_some_and(|current| current.endpoint == connection.endpoint) {
                state.connection = None;
            }
        }
        answer
    }

    async fn connection(&self) -> Result<Connection, Failure> {
        let mut state = self.0.state.lock().await;
        if let Some(connection) = &state.connection {
            return Ok(connection.clone());
        }
        let endpoints = &self.0.settings.endpoints;
        let endpoint = endpoints.get(state.turn % endpoints.len().max(1));
        state.turn = state.turn.wrapping_add(1);
        let endpoint = endpoint.ok_or_else(|| Failure::Unanswered("there is no endpoint".to_owned()))?;
        let connection = Connection::open(&self.0.settings, endpoint).await?;
        state.connection = Some(connection.clone());
        Ok(connection)
    }
}
