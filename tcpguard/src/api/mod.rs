//! The HTTP interface: read-only over loopback; over the Unix socket also what changes something.

mod access;
mod dashboard;
mod error;
mod events;
mod explain;
mod half_open;
mod health;
mod heavy;
mod history;
mod lists;
mod live;
mod metrics;
pub mod model;
mod openapi;
mod protection;
mod reload;
mod schema;
mod serve;
mod sources;
mod stats;
mod why;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt},
    routes,
};

use crate::{
    Report,
    config::Config,
    datapath::{Features, LiveState, maps::SourceMap},
    events::EventLog,
    history::History,
    lists::{Lists, Network},
    reload::{ReloadError, Reloaded},
};
pub use access::Access;
pub use error::ApiError;
pub use explain::{MOST_FRAMES, Packets};
pub use half_open::report as half_open_report;
pub use heavy::Turns;
pub use protection::Foreign;
pub use serve::{ListenError, Listeners};
pub use stats::StatsCache;

/// What answers are made from.
#[derive(Clone)]
pub struct ApiState {
    /// The latest report; `None` before the first.
    pub report: watch::Receiver<Option<Arc<Report>>>,
    /// The same once a second, and whenever the state changes.
    pub beat: watch::Receiver<Option<Arc<Report>>>,
    /// The last fifteen minutes.
    pub history: History,
    /// `/stats` as it was last written.
    pub stats_cache: StatsCache,
    /// The source table.
    pub sources: SourceMap,
    /// What a twin of the datapath is made from.
    pub live: LiveState,
    /// What does not change while the daemon runs.
    pub about: Arc<About>,
    /// The configuration that it goes by.
    pub config: watch::Receiver<Arc<Config>>,
    /// Whose turn it is to be answered what takes a while.
    pub turns: Turns,
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
    /// To have the datapath go by the lists as they are now, which it would do from the next tick on.
    HeedLists {
        /// Is told when it does.
        heeded: oneshot::Sender<()>,
    },
    /// To read its configuration anew.
    Reload {
        /// Is told what changed.
        done: oneshot::Sender<Result<Reloaded, ReloadError>>,
    },
}

/// The longest body of a request, in bytes.
const LONGEST_BODY: usize = 64 * 1024;

/// What does not change while the daemon runs.
pub struct About {
    /// Since when it runs.
    pub started: Instant,
    /// What the kernel allows.
    pub features: Features,
}

impl ApiState {
    /// The configuration that the daemon goes by now.
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Has the daemon do something; what it says to it.
    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, ApiError> {
        let (done, answer) = oneshot::channel();
        let ending = || ApiError::NotReady("the daemon is shutting down");
        self.orders.send(order(done)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

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
    let (described, _) = described().split_for_parts();
    described
        .route("/", get(dashboard::page))
        .route("/assets/{file}", get(dashboard::asset))
        .route("/events/stream", get(events::follow))
        .route("/live", get(live::live))
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(DefaultBodyLimit::max(LONGEST_BODY))
        .layer(middleware::from_fn_with_state(state.clone(), protection::protect))
        .with_state(state)
}

/// The paths for programs, each with its description.
fn described() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(stats::stats))
        .routes(routes!(history::history))
        .routes(routes!(sources::sources))
        .routes(routes!(why::why))
        .routes(routes!(explain::explain).layer(DefaultBodyLimit::max(explain::LONGEST_BODY)))
        .routes(routes!(half_open::half_open))
        .routes(routes!(events::list))
        .routes(routes!(metrics::metrics))
        .routes(routes!(lists::show))
        .routes(routes!(lists::add, lists::remove))
        .routes(routes!(reload::reload))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(openapi::openapi))
}

/// The OpenAPI description of every path for programs, as JSON.
pub fn description() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let (_, description) = described().split_for_parts();
        // It is made of constants: a test sees to it that it can be written.
        description.to_pretty_json().unwrap_or_default()
    })
}
