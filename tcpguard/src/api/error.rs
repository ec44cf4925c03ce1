//! What can be wrong with a request, each with its status and a sentence.

use axum::{
    Json,
    extract::rejection::QueryRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use thiserror::Error;
use utoipa::IntoResponses;

use super::{model::Problem, protection::Foreign};
use crate::{datapath::DatapathError, lists::ListError, reload::ReloadError};

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The query is not understood.
    #[error("{0}")]
    BadQuery(String),
    /// The body is not understood.
    #[error("the request's body is not understood: {0}")]
    BadBody(String),
    /// The body is too long.
    #[error("the request's body is too long: it may have 64 KiB, and 1 MiB for /explain")]
    TooLong,
    /// What changes something needs the socket.
    #[error("whatever changes something, or takes long, needs the Unix socket; over TCP one can only read")]
    NeedsSocket,
    /// There is no such list.
    #[error("there is no list \"{0}\": the lists are allow and deny")]
    NoSuchList(String),
    /// The list was not changed.
    #[error(transparent)]
    List(#[from] ListError),
    /// There is no such path.
    #[error("there is nothing here: /openapi.json describes the paths there are, and / is the dashboard")]
    NoSuchPath,
    /// A page of another site, or a name that is not ours.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// It is no address.
    #[error("\"{0}\" is no address: as in 198.51.100.7 or 2001:db8::7")]
    NotAnAddress(String),
    /// An answer cannot be written.
    #[error("the answer cannot be written as JSON: {0}")]
    Unwritable(serde_json::Error),
    /// The path does not change anything.
    #[error("this path does not take that method")]
    WrongMethod,
    /// Nothing was reloaded.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// Not yet, or not any more.
    #[error("not ready: {0}")]
    NotReady(&'static str),
    /// The datapath could not be read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::BadQuery(_) | Self::BadBody(_) | Self::NotAnAddress(_) => StatusCode::BAD_REQUEST,
            Self::Reload(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NeedsSocket | Self::Foreign(_) => StatusCode::FORBIDDEN,
            Self::NoSuchPath | Self::NoSuchList(_) => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Datapath(_) | Self::Unwritable(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::List(error) => match error {
                ListError::NotListed { .. } => StatusCode::NOT_FOUND,
                ListError::Full => StatusCode::INSUFFICIENT_STORAGE,
                ListError::Datapath(_) => StatusCode::INTERNAL_SERVER_ERROR,
                ListError::NotANetwork(_) | ListError::TooWide(_) | ListError::BadExpiry(_) | ListError::LongReason => {
                    StatusCode::BAD_REQUEST
                }
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), Json(Problem { error: self.to_string() })).into_response()
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::BadQuery(rejection.body_text())
    }
}

/// For the description of a path that answers from the latest snapshot.
#[derive(IntoResponses)]
pub(super) enum NotReadyYet {
    /// Not yet, or not any more
    #[response(status = SERVICE_UNAVAILABLE)]
    #[expect(dead_code, reason = "for the description alone")]
    NotReady(Problem),
}

/// For the description of a path that takes a query.
#[derive(IntoResponses)]
pub(super) enum QueryRefused {
    /// The request is not understood
    #[response(status = BAD_REQUEST)]
    #[expect(dead_code, reason = "for the description alone")]
    BadQuery(Problem),
}

/// For the description of a path that changes something.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the description alone")]
pub(super) enum ChangeRefused {
    /// The request is not understood
    #[response(status = BAD_REQUEST)]
    BadRequest(Problem),
    /// It did not come by the Unix socket
    #[response(status = FORBIDDEN)]
    NeedsSocket(Problem),
    /// There is no such list, or nothing on it to remove
    #[response(status = NOT_FOUND)]
    NotFound(Problem),
    /// The body is too long
    #[response(status = PAYLOAD_TOO_LARGE)]
    TooLong(Problem),
    /// There is no room for more
    #[response(status = INSUFFICIENT_STORAGE)]
    Full(Problem),
}

/// For the description of reading the configuration anew.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the description alone")]
pub(super) enum ReloadRefused {
    /// It did not come by the Unix socket
    #[response(status = FORBIDDEN)]
    NeedsSocket(Problem),
    /// The configuration is not sound, or names what is not there: nothing was changed
    #[response(status = UNPROCESSABLE_ENTITY)]
    NotSound(Problem),
    /// The daemon is shutting down
    #[response(status = SERVICE_UNAVAILABLE)]
    NotReady(Problem),
}

/// For the description of what takes long, and changes nothing.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the description alone")]
pub(super) enum ExplanationRefused {
    /// The request is not understood
    #[response(status = BAD_REQUEST)]
    BadRequest(Problem),
    /// It did not come by the Unix socket
    #[response(status = FORBIDDEN)]
    NeedsSocket(Problem),
    /// The body is too long
    #[response(status = PAYLOAD_TOO_LARGE)]
    TooLong(Problem),
}
