//! The HTTP API: read-only over TCP; over the Unix socket it also accepts changes.

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
    time::{Duration, Instant},
};

use axum::{Router, extract::DefaultBodyLimit, middleware, routing::get};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt},
    routes,
};

use crate::{
    config::Config,
    cost::ON_REQUESTS,
    daemon::{TickReport, command::Command},
    datapath::{Features, LiveState, MapMemory, maps::SourceMap},
    events::EventLog,
    history::History,
    lists::Lists,
};
pub use access::Access;
pub use error::{ApiError, Foreign};
pub use explain::{MAX_FRAMES, Packets};
pub use half_open::{KernelRows, report as half_open_report};
pub use heavy::Permits;
pub use serve::{ListenError, Listeners};
pub use stats::StatsCache;

/// What handlers need to build responses.
#[derive(Clone)]
pub struct ApiState {
    /// The latest report; `None` before the first tick.
    pub report: watch::Receiver<Option<Arc<TickReport>>>,
    /// Asks the daemon for a tick before the next one is due.
    pub wanted: Arc<Notify>,
    /// The reports, but updated only once a second and whenever the state changes.
    pub beat: watch::Receiver<Option<Arc<TickReport>>>,
    /// Samples of the last fifteen minutes.
    pub history: History,
    /// The latest rendered `/stats`.
    pub stats_cache: StatsCache,
    /// The source table.
    pub sources: SourceMap,
    /// The kernel's half-open handshakes, for `/half-open`.
    pub kernel_rows: KernelRows,
    /// The state of the datapath from which `/explain` creates its second instance.
    pub live: LiveState,
    /// Facts that do not change while the daemon runs.
    pub about: Arc<About>,
    /// The configuration in effect.
    pub config: watch::Receiver<Arc<Config>>,
    /// Limits how many expensive responses are built at a time.
    pub permits: Permits,
    /// The allow and deny lists.
    pub lists: Lists,
    /// The event log.
    pub events: EventLog,
    /// Sends commands to the main loop.
    pub commands: mpsc::Sender<Command>,
    /// Ends streams at shutdown.
    pub shutdown: CancellationToken,
}

/// A report is recent for this long after its tick began: while something happens, every report is.
const RECENT: Duration = Duration::from_millis(150);
/// How long a request waits for a tick. Then it is answered from the last one.
const PATIENCE: Duration = Duration::from_millis(500);

/// Maximum length of a request's body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// Facts that do not change while the daemon runs.
pub struct About {
    /// When the daemon started.
    pub started: Instant,
    /// Kernel features that are available.
    pub features: Features,
    /// The memory of the datapath's maps.
    pub memory: MapMemory,
}

impl ApiState {
    /// Returns the configuration in effect.
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.borrow())
    }

    /// Sends a command to the main loop and waits for the reply.
    async fn execute<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ApiError> {
        let (done, answer) = oneshot::channel();
        let ending = || ApiError::NotReady("the daemon is shutting down");
        self.commands.send(command(done)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    /// Returns the result of a tick of just now: in calm, the daemon does one for whoever asks. If it does not answer, the
    /// last one.
    async fn report(&self) -> Result<Arc<TickReport>, ApiError> {
        let mut reports = self.report.clone();
        let last = reports.borrow_and_update().clone();
        if let Some(report) = last.filter(|report| report.taken.elapsed() <= RECENT) {
            return Ok(report);
        }
        self.wanted.notify_one();
        timeout(PATIENCE, reports.changed()).await.ok();
        let report = reports.borrow().clone();
        report.ok_or(ApiError::NotReady("the first snapshot has not been taken yet"))
    }
}

/// Returns the requested number of rows, or an error if it is more than `most`.
fn limit(typed: Option<usize>, default: usize, most: usize) -> Result<usize, ApiError> {
    match typed.unwrap_or(default) {
        limit if limit > most => Err(ApiError::BadQuery(format!("limit is {limit}, but may be {most} at most"))),
        limit => Ok(limit),
    }
}

/// Runs `work`, which makes system calls or waits, on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(|| ON_REQUESTS.measure(work))
        .await
        .map_err(|_| ApiError::NotReady("the daemon is shutting down"))
}

/// Returns the router of all paths.
pub fn router(state: ApiState) -> Router {
    let (described, _) = described().split_for_parts();
    described
        .route("/", get(dashboard::page))
        .route("/assets/{file}", get(dashboard::asset))
        .route("/events/stream", get(events::follow))
        .route("/live", get(live::live))
        .fallback(|| async { ApiError::NoSuchPath })
        .method_not_allowed_fallback(|| async { ApiError::WrongMethod })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(state.clone(), protection::protect))
        .with_state(state)
}

/// Returns the routes that are part of the OpenAPI description.
fn described() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(openapi::Description::openapi())
        .routes(routes!(stats::stats))
        .routes(routes!(history::history))
        .routes(routes!(sources::sources))
        .routes(routes!(why::why))
        .routes(routes!(explain::explain).layer(DefaultBodyLimit::max(explain::MAX_BODY)))
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

/// Returns the OpenAPI description, as JSON.
pub fn description() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let (_, description) = described().split_for_parts();
        // The description is constant, and a test checks that it can be written.
        description.to_pretty_json().unwrap_or_default()
    })
}
