//! `POST /reload`.

use axum::{Json, extract::State};

use super::{ApiError, ApiState, access::MayChange, error::ReloadRefused};
use crate::daemon::command::{Command, Reloaded};

/// Reload the configuration
///
/// Unix socket only. Changes apply at once, except for keys that are only read at startup; the response names them.
/// An invalid configuration changes nothing.
#[utoipa::path(
    post, path = "/reload", tag = "daemon", responses((status = OK, body = Reloaded), ReloadRefused)
)]
pub(super) async fn reload(_: MayChange, State(state): State<ApiState>) -> Result<Json<Reloaded>, ApiError> {
    Ok(Json(state.execute(|done| Command::Reload { done }).await??))
}
