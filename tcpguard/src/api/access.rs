//! Who may do what: whatever changes something needs the Unix socket, which only root can open.

use std::convert::Infallible;

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

impl Access {
    /// How a request came in; whatever does not say so may only read.
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

/// Leave to change something: a handler that asks for it is not run without.
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

/// A request's body, where it was not too long.
pub(super) fn body(received: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    received.map_err(|rejection| match rejection.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => ApiError::TooLong,
        _ => ApiError::BadBody(rejection.body_text()),
    })
}
