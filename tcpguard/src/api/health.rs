//! `GET /healthz` and `/readyz`.

use axum::{Json, extract::State};
use jiff::{SignedDuration, Timestamp};

use super::{ApiError, ApiState, error::NotReadyYet, model::Health};

/// A snapshot older than this means that the daemon no longer ticks.
const STALE: SignedDuration = SignedDuration::from_secs(2);

/// Whether the daemon responds
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = OK, body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// Whether the datapath is attached and snapshots are being taken
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = OK, body = Health), NotReadyYet))]
pub(super) async fn readyz(State(state): State<ApiState>) -> Result<Json<Health>, ApiError> {
    let report = state.report().await?;
    let snapshot = &report.snapshot;
    if Timestamp::now().duration_since(snapshot.clock.now()) > STALE {
        return Err(ApiError::NotReady("snapshots are no longer being taken"));
    }
    if snapshot.interfaces.iter().all(|interface| interface.mode.is_none()) {
        return Err(ApiError::NotReady("the datapath is not attached to any interface"));
    }
    Ok(healthz().await)
}
