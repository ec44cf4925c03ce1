//! `GET /live`: the stream behind the dashboard and `tcpguard top`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event as Message, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};

use super::{ApiState, events, heavy::StreamPermit};
use crate::{daemon::TickReport, events::Event};

/// Streams server-sent events: `stats`, with the content of `/stats`, once a second and whenever the state changes;
/// and `event`, with each event as it is recorded. A client that reads slowly misses messages instead of falling
/// behind.
pub(super) async fn live(
    State(state): State<ApiState>,
    permit: StreamPermit,
) -> Sse<impl Stream<Item = Result<Message, Infallible>>> {
    let mut beat = state.beat.clone();
    // The latest report is sent immediately.
    beat.mark_changed();
    let shutdown = state.shutdown.clone();
    let follower = Follower { beat, events: state.events.follow(), state, _permit: permit };
    let messages = stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
    let messages = messages.map(Ok).take_until(async move { shutdown.cancelled().await });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

struct Follower {
    beat: watch::Receiver<Option<Arc<TickReport>>>,
    events: broadcast::Receiver<Arc<Event>>,
    state: ApiState,
    _permit: StreamPermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Message> {
        loop {
            tokio::select! {
                changed = self.beat.changed() => {
                    changed.ok()?;
                    self.beat.borrow_and_update();
                    // Before the first snapshot there is nothing to send.
                    if let Ok(rendered) = self.state.stats().await
                        && let Ok(text) = std::str::from_utf8(&rendered.json)
                    {
                        return Some(Message::default().event("stats").data(text));
                    }
                }
                event = self.events.recv() => match event {
                    Ok(event) => return Some(events::message(&event, "event")),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
