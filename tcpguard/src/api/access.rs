//! Who may do what: whatever changes something needs the Unix socket, which only root can open.

use axum::{
    body::Bytes,
    extract::{FromRequestParts, rejection::BytesRejection},
    http::request::Parts,
};

use super::ApiError;

/// How a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Over TCP: it may only read.
    Read,
    /// Over the Unix socket: it may change something as well.
    Change,
}

/// Leave to change something: a handler that asks for it is not run without.
pub(super) struct MayChange;

impl<S: Sync> FromRequestParts<S> for MayChange {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.extensions.get::<Access>() {
            Some(Access::Change) => Ok(Self),
            Some(Access::Read) | None => Err(ApiError::NeedsSocket),
        }
    }
}

/// A request's body, where it was not too long.
pub(super) fn body(received: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    received.map_err(|rejection| match rejection.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLong,
        _ => ApiError::BadBody(rejection.body_text()),
    })
}
