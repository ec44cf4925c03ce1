//! `GET /live`: what the dashboard and `tcpguard top` follow.

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

use super::{ApiState, events};
use crate::{Report, events::Event};

/// Server-sent events: `stats` with `/stats` once a second and whenever the state changes, and `event` with
/// each event as it is recorded. Who reads slowly is sent less, never late.
pub(super) async fn live(State(state): State<ApiState>) -> Sse<impl Stream<Item = Result<Message, Infallible>>> {
    let mut beat = state.beat.clone();
    // What there is already comes at once.
    beat.mark_changed();
    let shutdown = state.shutdown.clone();
    let follower = Follower { beat, events: state.events.follow(), state };
    let messages = stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
    let messages = messages.map(Ok).take_until(async move { shutdown.cancelled().await });
    Sse::new(messages).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

struct Follower {
    beat: watch::Receiver<Option<Arc<Report>>>,
    events: broadcast::Receiver<Arc<Event>>,
    state: ApiState,
}

impl Follower {
    async fn next(&mut self) -> Option<Message> {
        loop {
            tokio::select! {
                changed = self.beat.changed() => {
                    changed.ok()?;
                    self.beat.borrow_and_update();
                    // Before the first snapshot there is nothing to tell.
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
