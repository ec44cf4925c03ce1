//! Responses that take long or need much memory. They are built and serialized on blocking threads, and only a few at
//! a time: a client that disconnects or reads slowly cannot have further ones built meanwhile. Streams, which last, may
//! not take up all connections either.

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

/// Maximum number of such responses at a time, for each kind of access.
const AT_ONCE: usize = 2;

/// Maximum number of streams at a time, for each kind of access. There are more connections than that
/// ([`super::serve::MAX_CONNECTIONS`]), so that other requests are answered beside them.
const STREAMS_AT_ONCE: usize = 256;

/// Semaphores that limit such responses. Requests over TCP and over the Unix socket have one each, so that readers
/// over TCP do not delay the administrator.
#[derive(Clone)]
pub struct Permits {
    read: Arc<Semaphore>,
    change: Arc<Semaphore>,
    read_streams: Arc<Semaphore>,
    change_streams: Arc<Semaphore>,
}

impl Default for Permits {
    fn default() -> Self {
        let [read, change] = [AT_ONCE; 2].map(|permits| Arc::new(Semaphore::new(permits)));
        let [read_streams, change_streams] = [STREAMS_AT_ONCE; 2].map(|permits| Arc::new(Semaphore::new(permits)));
        Self { read, change, read_streams, change_streams }
    }
}

/// Permission to build one such response, held until it has been sent.
pub(super) struct Permit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Permits {
    /// Waits for a permit.
    pub(super) async fn take(&self, access: Access) -> Result<Permit, ApiError> {
        let permits = match access {
            Access::Read => &self.read,
            Access::Change => &self.change,
        };
        let permit = Arc::clone(permits).acquire_owned().await;
        permit.map(Permit).map_err(|_| ApiError::NotReady("the daemon is shutting down"))
    }

    fn take_stream(&self, access: Access) -> Result<StreamPermit, ApiError> {
        let permits = match access {
            Access::Read => &self.read_streams,
            Access::Change => &self.change_streams,
        };
        let permit = Arc::clone(permits).try_acquire_owned();
        permit.map(StreamPermit).map_err(|_| ApiError::NotReady("too many streams are open: close some, and try again"))
    }
}

/// Permission to send a stream, held until it ends.
pub(super) struct StreamPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// A handler with a `StreamPermit` argument refuses the request if there are too many streams.
impl FromRequestParts<ApiState> for StreamPermit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        state.permits.take_stream(Access::of(parts))
    }
}

/// A handler with a `Permit` argument waits for a permit first.
impl FromRequestParts<ApiState> for Permit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        state.permits.take(Access::of(parts)).await
    }
}

/// Returns the JSON of the result of `work`. `permit` is released when the response has been sent.
pub(super) async fn answer<T: Serialize>(
    permit: Option<Permit>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<Response, ApiError> {
    let made = super::blocking(move || {
        let json = serde_json::to_vec(&work()?).map_err(ApiError::Unwritable)?;
        Ok::<_, ApiError>(Held { body: Full::new(json.into()), _turn: permit })
    });
    let body = Body::new(made.await??);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A body together with the permit it was built under.
struct Held {
    body: Full<Bytes>,
    _turn: Option<Permit>,
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
