//! Answers that take a while, or much room. They are made and written on threads where nobody waits for them, and
//! only so many at a time: whoever hangs up, or reads slowly, does not get another one made meanwhile.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    extract::FromRequestParts,
    http::{header, request::Parts},
    response::{IntoResponse, Response},
};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Access, ApiError, ApiState};

/// How many there are at a time, of each of both ways in.
const AT_ONCE: usize = 2;

/// Whose turn it is. Readers by TCP do not keep the administrator waiting.
#[derive(Clone)]
pub struct Turns {
    read: Arc<Semaphore>,
    change: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let turns = || Arc::new(Semaphore::new(AT_ONCE));
        Self { read: turns(), change: turns() }
    }
}

/// Leave to make one such answer, until it has been sent.
pub(super) struct Turn(#[expect(dead_code, reason = "it is held, not looked at")] OwnedSemaphorePermit);

impl Turns {
    /// Waits for a turn.
    pub(super) async fn take(&self, access: Access) -> Result<Turn, ApiError> {
        let turns = match access {
            Access::Read => &self.read,
            Access::Change => &self.change,
        };
        let turn = Arc::clone(turns).acquire_owned().await;
        turn.map(Turn).map_err(|_| ApiError::NotReady("the daemon is shutting down"))
    }
}

/// A handler that asks for it waits for its turn first.
impl FromRequestParts<ApiState> for Turn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        state.turns.take(Access::of(parts)).await
    }
}

/// The JSON of what `work` returns. `turn` ends when the last of it has been sent.
pub(super) async fn answer<T: Serialize>(
    turn: Option<Turn>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let made = super::blocking(move || {
        let json = serde_json::to_vec(&work()?).map_err(ApiError::Unwritable)?;
        Ok::<_, ApiError>(Held { body: Full::new(json.into()), _turn: turn })
    });
    let body = Body::new(made.await??);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A body with the turn that it was made in.
struct Held {
    body: Full<Bytes>,
    _turn: Option<Turn>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
