//! `POST /reload`.

use axum::{Json, extract::State};

use super::{ApiError, ApiState, Order, access::MayChange, error::ReloadRefused};
use crate::reload::Reloaded;

/// Read the configuration anew
///
/// Over the Unix socket only. What is different is taken up at once, but for what only a start reads, which the answer
/// names. A configuration that is not sound changes nothing.
#[utoipa::path(
    post, path = "/reload", tag = "daemon", responses((status = OK, body = Reloaded), ReloadRefused)
)]
pub(super) async fn reload(_: MayChange, State(state): State<ApiState>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(state.order(|done| Order::Reload { done }).await??))
}
