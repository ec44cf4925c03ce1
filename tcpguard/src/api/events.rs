//! `GET /events` and `GET /events/stream`.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{
        Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use super::{
    ApiError, ApiState,
    error::QueryRefused,
    heavy::{self, Turn},
    limit,
    schema::IdOrTime,
};
use crate::events::{Event, MOST_KEPT, Since};

const DEFAULT_LIMIT: usize = 100;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Only those after this id, or after this time; then the first of these, instead of the last of all.
    #[param(value_type = Option<IdOrTime>, inline)]
    since: Option<String>,
    /// How many; 100 without it.
    #[param(maximum = 10_000)]
    limit: Option<usize>,
}

impl Parameters {
    fn since(&self) -> Result<Option<Since>, ApiError> {
        self.since.as_deref().map(|text| text.parse().map_err(ApiError::BadQuery)).transpose()
    }
}

/// What happened
///
/// The last events, the oldest first.
#[utoipa::path(get, path = "/events", tag = "reading", params(Parameters), responses((status = OK, body = Vec<Event>), QueryRefused))]
pub(super) async fn list(
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    turn: Turn,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let limit = limit(parameters.limit, DEFAULT_LIMIT, MOST_KEPT)?;
    let since = parameters.since()?;
    heavy::answer(Some(turn), move || {
        let events = state.events.list(since, limit);
        Ok(events.iter().map(|event| Event::clone(event)).collect::<Vec<_>>())
    })
    .await
}

/// Events as they come; with `since`, or where a browser connects again (`Last-Event-ID`), those it missed first.
pub(super) async fn follow(
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let Query(parameters) = query?;
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok()).map(Since::Id);
    let followed = state.events.follow();
    let missed = match parameters.since()?.or(last_id) {
        Some(since) => state.events.list(Some(since), MOST_KEPT),
        None => Vec::new(),
    };
    let last = missed.last().map_or(0, |event| event.id);
    let coming = stream::unfold(followed, |mut followed| async move {
        loop {
            match followed.recv().await {
                Ok(event) => return Some((event, followed)),
                // Whoever reads too slowly misses some, and can ask for them by their ids.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    // What was recorded between following and listing comes twice, and is sent once.
    let coming = coming.filter(move |event| std::future::ready(event.id > last));
    let events = stream::iter(missed).chain(coming).map(|event| Ok(message(&event, event.kind.name())));
    let shutdown = state.shutdown.clone();
    let events = events.take_until(async move { shutdown.cancelled().await });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// An event as a message of this name.
pub(super) fn message(event: &Event, name: &str) -> sse::Event {
    let message = sse::Event::default().id(event.id.to_string()).event(name);
    message.json_data(event).unwrap_or_else(|_| sse::Event::default().comment("an event that cannot be shown"))
}
