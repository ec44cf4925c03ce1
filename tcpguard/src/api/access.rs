//! Access control: requests that change something must come over the Unix socket, which only root and the socket's group
//! can open (mode 0660).

use std::convert::Infallible;

use axum::{
    body::Bytes,
    extract::{FromRequestParts, rejection::BytesRejection},
    http::request::Parts,
};

use super::ApiError;

/// What a request may do, by the listener it came in on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It came over TCP: it may only read.
    Read,
    /// It came over the Unix socket: it may also change something.
    Change,
}

impl Access {
    /// Returns the access of a request; `Read` if the listener did not set it.
    pub(super) fn of(parts: &Parts) -> Self {
        parts.extensions.get().copied().unwrap_or(Self::Read)
    }
}

impl<S: Sync> FromRequestParts<S> for Access {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}

/// Permission to change something. Extracting it fails for requests over TCP, so the handler does not run.
pub(super) struct MayChange;

impl<S: Sync> FromRequestParts<S> for MayChange {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match Access::of(parts) {
            Access::Change => Ok(Self),
            Access::Read => Err(ApiError::NeedsSocket),
        }
    }
}

/// Returns the request's body, or an error if it was too long or could not be read.
pub(super) fn body(received: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    received.map_err(|rejection| match rejection.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLong,
        _ => ApiError::BadBody(rejection.body_text()),
    })
}
