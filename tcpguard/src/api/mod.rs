//! The HTTP interface: read-only, over loopback and over the Unix socket.

mod error;
mod half_open;
mod health;
pub mod model;
mod serve;
mod sources;
mod stats;

use std::{sync::Arc, time::Instant};

use axum::{Router, routing::get};
use tokio::sync::{Semaphore, watch};

use crate::{
    config::Config,
    datapath::{Features, maps::SourceMap},
    monitor::Snapshot,
};
pub use error::ApiError;
pub use half_open::report as half_open_report;
pub use serve::{ListenError, Listeners};

/// What answers are made from.
#[derive(Clone)]
pub struct ApiState {
    /// The latest snapshot; `None` before the first.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The source table.
    pub sources: SourceMap,
    /// What does not change while the daemon runs.
    pub about: Arc<About>,
    /// Leave to read the whole table.
    pub scans: Arc<Semaphore>,
}

/// What does not change while the daemon runs.
pub struct About {
    /// Since when it runs.
    pub started: Instant,
    /// Its configuration.
    pub config: Config,
    /// What the kernel allows.
    pub features: Features,
}

impl ApiState {
    fn snapshot(&self) -> Result<Arc<Snapshot>, ApiError> {
        self.snapshot.borrow().clone().ok_or(ApiError::NotReady("the first snapshot has not been taken yet"))
    }
}

/// Every path there is.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/stats", get(stats::stats))
        .route("/sources", get(sources::sources))
        .route("/half-open", get(half_open::half_open))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::ReadOnly })
        .with_state(state)
}
