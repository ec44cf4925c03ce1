//! What can be wrong with a request, each with its status and a sentence.

use axum::{
    Json,
    extract::rejection::QueryRejection,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use thiserror::Error;

use super::model::Problem;
use crate::datapath::DatapathError;

/// Why a request has no answer.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The query is not understood.
    #[error("{0}")]
    BadQuery(String),
    /// There is no such path.
    #[error("there is nothing here: the paths are /stats, /sources, /half-open, /healthz and /readyz")]
    NoSuchPath,
    /// The path does not change anything.
    #[error("this path can only be read, by GET")]
    ReadOnly,
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
            Self::BadQuery(_) => StatusCode::BAD_REQUEST,
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::ReadOnly => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotReady(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Datapath(_) => StatusCode::INTERNAL_SERVER_ERROR,
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
