//! The HTTP interface: read-only over loopback; over the Unix socket also what changes something.

mod access;
mod error;
mod events;
mod half_open;
mod health;
mod lists;
pub mod model;
mod serve;
mod sources;
mod stats;

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Report,
    config::Config,
    datapath::{Features, maps::SourceMap},
    events::EventLog,
    lists::{Lists, Network},
};
pub use access::Access;
pub use error::ApiError;
pub use half_open::report as half_open_report;
pub use serve::{ListenError, Listeners};

/// What answers are made from.
#[derive(Clone)]
pub struct ApiState {
    /// The latest report; `None` before the first.
    pub report: watch::Receiver<Option<Arc<Report>>>,
    /// The source table.
    pub sources: SourceMap,
    /// What does not change while the daemon runs.
    pub about: Arc<About>,
    /// Leave to read the whole table.
    pub scans: Arc<Semaphore>,
    /// Who is always let in, and who never.
    pub lists: Lists,
    /// What happened.
    pub events: EventLog,
    /// What the daemon is asked to do.
    pub orders: mpsc::Sender<Order>,
    /// Ends what would go on for ever.
    pub shutdown: CancellationToken,
}

/// What the daemon is asked to do.
#[derive(Debug)]
pub enum Order {
    /// To lift the blocks by judgement within a network.
    Lift {
        /// The network.
        network: Network,
        /// Is told how many there were.
        lifted: oneshot::Sender<usize>,
    },
}

/// The longest body of a request, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// What does not change while the daemon runs.
pub struct About {
    /// Since when it runs.
    pub started: Instant,
    /// Its configuration.
    pub config: Config,
    /// What the kernel allows.
    pub features: Features,
}

impl About {
    /// Whether anything is dropped at all.
    fn drops(&self) -> bool {
        self.config.syn_attack_protect == 2
    }
}

impl ApiState {
    fn report(&self) -> Result<Arc<Report>, ApiError> {
        self.report.borrow().clone().ok_or(ApiError::NotReady("the first snapshot has not been taken yet"))
    }
}

/// How many rows are asked for; no more than `most`.
fn limit(typed: Option<usize>, default: usize, most: usize) -> Result<usize, ApiError> {
    match typed.unwrap_or(default) {
        limit if limit > most => Err(ApiError::BadQuery(format!("limit is {limit}, and may be {most} at most"))),
        limit => Ok(limit),
    }
}

/// Runs what makes system calls, or waits, on a thread where nobody waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::NotReady("the daemon is shutting down"))
}

/// Every path there is.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/stats", get(stats::stats))
        .route("/sources", get(sources::sources))
        .route("/half-open", get(half_open::half_open))
        .route("/lists", get(lists::show))
        .route("/lists/{list}", post(lists::add).delete(lists::remove))
        .route("/events", get(events::list))
        .route("/events/stream", get(events::follow))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .with_state(state)
}
