//! `POST /reload`.

use axum::{Json, extract::State};

use super::{ApiError, ApiState, Order, access::MayChange, error::ReloadRefused};
use crate::reload::Reloaded;

/// Reload the configuration
///
/// Unix socket only. Changes apply at once, except for keys that are only read at startup; the response names them.
/// An invalid configuration changes nothing.
#[utoipa::path(
    post, path = "/reload", tag = "daemon", responses((status = OK, body = Reloaded), ReloadRefused)
)]
pub(super) async fn reload(_: MayChange, State(state): State<ApiState>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(state.order(|done| Order::Reload { done }).await??))
}
