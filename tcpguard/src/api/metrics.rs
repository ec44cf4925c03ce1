//! `GET /metrics`.

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use super::{ApiError, ApiState, error::NotReadyYet, model::Stats, stats::Rendered};
use crate::metrics::{Format, encode};

impl AsRef<Stats> for Rendered {
    fn as_ref(&self) -> &Stats {
        &self.stats
    }
}

/// Metrics for Prometheus
///
/// OpenMetrics if the `Accept` header asks for it, the Prometheus text format otherwise.
#[utoipa::path(
    get, path = "/metrics", tag = "reading",
    responses((status = OK, body = String, content_type = "text/plain; version=0.0.4; charset=utf-8"), NotReadyYet)
)]
pub(super) async fn metrics(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).map_or("", |accept| accept.to_str().unwrap_or_default());
    let format = Format::accepted_by(accept);
    let text = encode(state.stats().await?, format).map_err(|_| ApiError::NotReady("the metrics cannot be written"))?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], text).into_response())
}
