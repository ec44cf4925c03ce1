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
    heavy::{self, Permit, StreamPermit},
    limit,
    schema::IdOrTime,
};
use crate::events::{Event, MAX_KEPT, Since};

const DEFAULT_LIMIT: usize = 100;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Parameters {
    /// Only events after this id or time. The limit then keeps the first of these; without `since` it keeps the last
    /// events.
    #[param(value_type = Option<IdOrTime>, inline)]
    since: Option<String>,
    /// Maximum number of events; default 100.
    #[param(maximum = 10_000)]
    limit: Option<usize>,
}

impl Parameters {
    fn since(&self) -> Result<Option<Since>, ApiError> {
        self.since.as_deref().map(|text| text.parse().map_err(ApiError::BadQuery)).transpose()
    }
}

/// Events
///
/// The oldest first. Without `since`, the latest events.
#[utoipa::path(get, path = "/events", tag = "reading", params(Parameters), responses((status = OK, body = Vec<Event>), QueryRefused))]
pub(super) async fn list(
    State(state): State<ApiState>,
    query: Result<Query<Parameters>, QueryRejection>,
    permit: Permit,
) -> Result<Response, ApiError> {
    let Query(parameters) = query?;
    let limit = limit(parameters.limit, DEFAULT_LIMIT, MAX_KEPT)?;
    let since = parameters.since()?;
    heavy::answer(Some(permit), move || {
        let events = state.events.list(since, limit);
        Ok(events.iter().map(|event| Event::clone(event)).collect::<Vec<_>>())
    })
    .await
}

/// Streams events as they are recorded. With `since`, or when a browser reconnects (`Last-Event-ID`), starts with the
/// missed ones.
pub(super) async fn follow(
    State(state): State<ApiState>,
    permit: StreamPermit,
    query: Result<Query<Parameters>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let Query(parameters) = query?;
    let last_id = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok()).map(Since::Id);
    let followed = state.events.follow();
    let missed = match parameters.since()?.or(last_id) {
        Some(since) => state.events.list(Some(since), MAX_KEPT),
        None => Vec::new(),
    };
    let last = missed.last().map_or(0, |event| event.id);
    let coming = stream::unfold((followed, permit), |(mut followed, permit)| async move {
        loop {
            match followed.recv().await {
                Ok(event) => return Some((event, (followed, permit))),
                // A client that reads too slowly misses events; it can request them by id.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    // Events recorded between subscribing and listing are in both; send them once.
    let coming = coming.filter(move |event| std::future::ready(event.id > last));
    let events = stream::iter(missed).chain(coming).map(|event| Ok(message(&event, event.kind.name())));
    let shutdown = state.shutdown.clone();
    let events = events.take_until(async move { shutdown.cancelled().await });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

/// Returns a server-sent event called `name` with `event` as its data.
pub(super) fn message(event: &Event, name: &str) -> sse::Event {
    let message = sse::Event::default().id(event.id.to_string()).event(name);
    message.json_data(event).unwrap_or_else(|_| sse::Event::default().comment("an event cannot be written as JSON"))
}
