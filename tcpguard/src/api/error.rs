//! What can be wrong with a request, each with its status and a sentence.

use axum::{
    Json,
    extract::rejection::QueryRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use thiserror::Error;

use super::model::Problem;
use crate::{datapath::DatapathError, lists::ListError};

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
    #[error("the request's body is longer than 64 KiB")]
    TooLong,
    /// What changes something needs the socket.
    #[error("whatever changes something needs the Unix socket; over TCP one can only read")]
    NeedsSocket,
    /// There is no such list.
    #[error("there is no list \"{0}\": the lists are allow and deny")]
    NoSuchList(String),
    /// The list was not changed.
    #[error(transparent)]
    List(#[from] ListError),
    /// There is no such path.
    #[error(
        "there is nothing here: the paths are /stats, /sources, /half-open, /lists, /events, /events/stream, /healthz and /readyz"
    )]
    NoSuchPath,
    /// The path does not change anything.
    #[error("this path does not take that method")]
    WrongMethod,
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
            Self::BadQuery(_) | Self::BadBody(_) => StatusCode::BAD_REQUEST,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NeedsSocket => StatusCode::FORBIDDEN,
            Self::NoSuchPath | Self::NoSuchList(_) => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Datapath(_) => StatusCode::INTERNAL_SERVER_ERROR,
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
