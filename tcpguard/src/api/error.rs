//! The errors of requests, each with an HTTP status and a message.

use axum::{
    Json,
    extract::rejection::QueryRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use thiserror::Error;
use utoipa::IntoResponses;

use super::model::Problem;
use crate::{daemon::command::ReloadError, datapath::DatapathError, lists::ListError};

/// Why a request that a browser may have been tricked into is refused.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum Foreign {
    /// The `Host` is not a name of this server: it may be a name made to resolve to it (DNS rebinding).
    #[error(
        "\"{0}\" is not a name of this server: use its address or localhost, or add the name to `listen.hosts` in the configuration"
    )]
    Host(String),
    /// The request comes from another site's page.
    #[error("requests from pages of other sites ({0}) are refused")]
    Origin(String),
}

/// Why a request failed.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The query string is invalid.
    #[error("{0}")]
    BadQuery(String),
    /// The body is invalid.
    #[error("the request's body is not understood: {0}")]
    BadBody(String),
    /// The body is too long.
    #[error("the request's body is too long: the limit is 64 KiB, and 1 MiB for /explain")]
    TooLong,
    /// The request is only allowed over the Unix socket.
    #[error("this request is only allowed over the Unix socket; over TCP the API is read-only")]
    NeedsSocket,
    /// There is no such list.
    #[error("there is no list \"{0}\": the lists are allow and deny")]
    NoSuchList(String),
    /// The list was not changed.
    #[error(transparent)]
    List(#[from] ListError),
    /// There is no such path.
    #[error("no such path: /openapi.json describes all paths, and / is the dashboard")]
    NoSuchPath,
    /// The request came from a page of another site, or names a host that is not this server.
    #[error(transparent)]
    Foreign(#[from] Foreign),
    /// The text is not an IP address.
    #[error("\"{0}\" is not an IP address such as 198.51.100.7 or 2001:db8::7")]
    NotAnAddress(String),
    /// The response could not be serialized.
    #[error("the response cannot be written as JSON: {0}")]
    Unwritable(serde_json::Error),
    /// The path does not support the method.
    #[error("this path does not support that method")]
    WrongMethod,
    /// The configuration was not reloaded.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// The daemon cannot answer at present: it is starting, shutting down, or not attached to any interface.
    #[error("not ready: {0}")]
    NotReady(&'static str),
    /// A map of the datapath could not be read.
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

/// OpenAPI responses of paths that need a snapshot.
#[derive(IntoResponses)]
pub(super) enum NotReadyYet {
    /// The daemon is not ready
    #[response(status = SERVICE_UNAVAILABLE)]
    #[expect(dead_code, reason = "only used for the OpenAPI description")]
    NotReady(Problem),
}

/// OpenAPI responses of paths that take a query.
#[derive(IntoResponses)]
pub(super) enum QueryRefused {
    /// The request is invalid
    #[response(status = BAD_REQUEST)]
    #[expect(dead_code, reason = "only used for the OpenAPI description")]
    BadQuery(Problem),
}

/// OpenAPI responses of paths that change the lists.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only used for the OpenAPI description")]
pub(super) enum ChangeRefused {
    /// The request is invalid
    #[response(status = BAD_REQUEST)]
    BadRequest(Problem),
    /// The request did not come over the Unix socket
    #[response(status = FORBIDDEN)]
    NeedsSocket(Problem),
    /// There is no such list, or the network is not on it
    #[response(status = NOT_FOUND)]
    NotFound(Problem),
    /// The body is too long
    #[response(status = PAYLOAD_TOO_LARGE)]
    TooLong(Problem),
    /// The lists are full
    #[response(status = INSUFFICIENT_STORAGE)]
    Full(Problem),
}

/// OpenAPI responses of `POST /reload`.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only used for the OpenAPI description")]
pub(super) enum ReloadRefused {
    /// The request did not come over the Unix socket
    #[response(status = FORBIDDEN)]
    NeedsSocket(Problem),
    /// The configuration is invalid or names an interface that does not exist; nothing was changed
    #[response(status = UNPROCESSABLE_ENTITY)]
    NotSound(Problem),
    /// The daemon is shutting down
    #[response(status = SERVICE_UNAVAILABLE)]
    NotReady(Problem),
}

/// OpenAPI responses of `POST /explain`.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only used for the OpenAPI description")]
pub(super) enum ExplanationRefused {
    /// The request is invalid
    #[response(status = BAD_REQUEST)]
    BadRequest(Problem),
    /// The request did not come over the Unix socket
    #[response(status = FORBIDDEN)]
    NeedsSocket(Problem),
    /// The body is too long
    #[response(status = PAYLOAD_TOO_LARGE)]
    TooLong(Problem),
}
