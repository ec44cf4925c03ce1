//! tcpguard watches TCP handshakes on a Linux host and stops SYN floods. This library is the daemon; [`run`] is its
//! entry point.
//!
//! | module | subject |
//! | --- | --- |
//! | `daemon` | the main loop between start and shutdown |
//! | `clock_watch` | detecting clock jumps |
//! | `service_manager` | notifying systemd |
//! | `judge` | the state kept between judgements |
//! | [`reload`] | applying a changed configuration |
//! | [`config`] | the configuration |
//! | [`datapath`] | the BPF programs and their maps |
//! | [`interfaces`] | the interfaces the programs are attached to |
//! | [`kernel`] | the kernel's own view of handshakes |
//! | [`monitor`] | observing the datapath and the kernel, ten times a second |
//! | [`detect`] | judging observations |
//! | [`enforce`] | acting on judgements, and undoing it |
//! | [`challenge`] | answering SYNs with cookies where blocks do not help |
//! | [`lists`] | the allow and deny lists |
//! | [`events`] | the event log |
//! | [`store`] | what survives restarts |
//! | [`history`] | the last fifteen minutes |
//! | [`cost`] | the cost of tcpguard itself |
//! | [`metrics`] | metrics for Prometheus |
//! | [`explain`] | the verdict on a packet, and the reasons for it |
//! | [`doctor`] | finding obstacles on the host |
//! | [`notify`] | notifications of attacks |
//! | [`api`] | the HTTP API |
//! | [`cli`] | the commands |

pub mod api;
pub mod challenge;
pub mod cli;
mod clock_watch;
pub mod config;
pub mod cost;
mod daemon;
pub mod datapath;
pub mod detect;
pub mod doctor;
pub mod enforce;
pub mod events;
pub mod explain;
mod fault;
pub mod history;
pub mod interfaces;
mod judge;
pub mod kernel;
pub mod lists;
pub mod metrics;
pub mod monitor;
pub mod notify;
mod record;
#[cfg(test)]
mod reference;
pub mod reload;
mod service_manager;
pub mod store;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::interval,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    api::{About, ApiState, ListenError, Listeners, StatsCache, Turns},
    clock_watch::ClockWatch,
    config::{Coexist, Config},
    cost::{Cost, CostMeter},
    daemon::Daemon,
    datapath::{Datapath, DatapathError, DatapathOptions, Feature},
    detect::State,
    enforce::{Enforcer, Measures},
    events::EventLog,
    history::{History, Sampler},
    interfaces::{Guards, LinkWatch, Links},
    judge::Judge,
    kernel::LiveKernel,
    lists::{DatapathTime, FileWatch, ListError, Lists},
    monitor::{Monitor, Snapshot},
    reload::ConfigSource,
    service_manager::ServiceManager,
    store::Store,
};

/// Identifies the sources that this library and its BPF programs were built from (`xtask::sources`). The lab compares it
/// with the sources as they are, so that no test runs against a stale build.
pub const BUILD_ID: &str = env!("TCPGUARD_BUILD_ID");

/// The reason why the daemon could not start or had to stop.
#[derive(Debug, Error)]
pub enum RunError {
    /// A socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The datapath cannot be loaded, attached or read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The configured lists cannot be applied.
    #[error("the configured lists cannot be applied: {0}")]
    Lists(#[from] ListError),
    /// The kernel's TCP state cannot be read.
    #[error("the kernel's TCP state cannot be read: {0}; CONFIG_INET_DIAG and /proc are required")]
    Kernel(io::Error),
}

/// How many commands may be queued.
const MOST_ORDERS: usize = 64;
/// The interval at which the files of lists are checked for changes.
const FILE_REVIEW: Duration = Duration::from_secs(1);

/// The result of one tick: the snapshot, the state it was judged as, and the measures.
#[derive(Clone, Debug)]
pub struct Report {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The state after judging it.
    pub state: State,
    /// When the present phase began.
    pub state_since: jiff::Timestamp,
    /// When the attack in progress began.
    pub attack_since: Option<jiff::Timestamp>,
    /// The measures in force.
    pub measures: Measures,
    /// The cost of tcpguard itself.
    pub cost: Cost,
    /// The configuration in effect.
    pub config: Arc<Config>,
}

impl Report {
    /// Returns `true` if packets are dropped at all.
    pub fn drops(&self) -> bool {
        self.config.syn_attack_protect == 2
    }
}

/// How the daemon is run, apart from its configuration.
#[derive(Debug, Default)]
pub struct Manner {
    /// Where it reads its configuration from when it is reloaded.
    pub source: Option<ConfigSource>,
    /// Each message causes a reload.
    pub reload: Option<mpsc::Receiver<()>>,
    /// Ends the daemon when cancelled.
    pub shutdown: CancellationToken,
    /// The daemon ends for another one to take over at once: regardless of `on_exit`, everything stays in place. To end
    /// it for good, run `tcpguard detach`.
    pub hands_over: bool,
}

/// Runs the daemon until it is shut down. This requires tokio's multi-threaded runtime, because taking a snapshot
/// blocks for some milliseconds.
///
/// # Errors
/// Returns an error if something indispensable is missing; then only what was attached before is attached.
pub async fn run(config: Config, manner: Manner) -> Result<(), RunError> {
    let shutdown = manner.shutdown.clone();
    warn_of_what_may_surprise(&config);
    let (datapath, maps) = Datapath::load(&datapath_options(&config))?;
    report_missing_features(&datapath);
    let listeners = Listeners::bind(&config.listen).await?;
    let links = Links::open()?;
    let watch = LinkWatch::start()?;
    let kernel = LiveKernel::open().map_err(RunError::Kernel)?;
    let (monitor, others) = Monitor::new(maps, Box::new(kernel), &config).map_err(RunError::Kernel)?;
    let (store, saved) = Store::open(&config.store.path);
    let events = EventLog::new(store.clone(), saved.events);
    // Subscribed before the first event is recorded.
    let happening = events.follow();
    let time = Arc::new(DatapathTime::new(datapath.jiffies()?, datapath.ticks_per_second));
    let kept = (store.clone(), saved.entries.as_slice());
    let (lists, mut files) = Lists::start(&config, others.rules, events.clone(), kept, Arc::clone(&time))?;
    // Before any SYN is let in: the previous daemon may have denied what the files contain.
    files.review();
    let maps = (others.payload, others.challenges);
    let mut enforcer = Enforcer::start(&config, maps, &datapath, lists.clone(), events.clone(), store.clone())?;
    let judge = Judge::resume(&config, saved.situation, &events);
    enforcer.resume(&saved.blocks, judge.attack.clone(), &datapath, judge.now());
    let guards = Guards::choose(&config, &links).await?;

    let (publish, report) = watch::channel(None);
    let (publish_beat, beat) = watch::channel(None);
    let history = History::default();
    let (give_order, orders) = mpsc::channel(MOST_ORDERS);
    let config = Arc::new(config);
    let (publish_config, config_now) = watch::channel(Arc::clone(&config));
    let about = About { started: Instant::now(), features: datapath.features.clone() };
    let router = api::router(ApiState {
        report,
        beat,
        history: history.clone(),
        stats_cache: StatsCache::default(),
        sources: others.sources,
        live: others.live,
        about: Arc::new(about),
        config: config_now.clone(),
        turns: Turns::default(),
        lists: lists.clone(),
        events: events.clone(),
        orders: give_order,
        shutdown: shutdown.clone(),
    });
    let mut daemon = Daemon {
        datapath,
        guards,
        links,
        monitor,
        judge,
        enforcer,
        lists,
        events: events.clone(),
        store,
        time,
        control: others.control,
        heartbeat_timeout: config.limits.heartbeat_timeout,
        on_exit: config.on_exit,
        config,
        publish_config,
        guarded: others.guarded,
        local: others.local,
        knows_local: false,
        publish,
        publish_beat,
        sampler: Sampler::new(history),
        cost: CostMeter::default(),
        is_blind: false,
        service_manager: ServiceManager::of_this_process(),
        clock_watch: ClockWatch::default(),
    };
    if let Err(error) = daemon.begin().await {
        daemon.give_up();
        return Err(error.into());
    }

    let server = tokio::spawn(listeners.serve(router, shutdown.clone()));
    let files = tokio::spawn(follow_files(files, shutdown.clone()));
    let notify = notify::run(config_now, events.clone(), happening, shutdown.clone());
    let notify = tokio::spawn(notify);
    daemon.watch(watch, others.events, orders, manner).await;
    for task in [server, files, notify] {
        if let Err(error) = task.await {
            error!("a task of the daemon failed: {error}");
        }
    }
    Ok(())
}

fn datapath_options(config: &Config) -> DatapathOptions {
    DatapathOptions {
        max_sources: config.limits.max_sources,
        prefix_v4: config.source.prefix_v4,
        prefix_v6: config.source.prefix_v6,
        hook: config.attach,
        chains: config.coexist == Coexist::Chain,
        pins: Some(config.pins.path.clone()),
        log_level: cli::datapath_log_level(),
    }
}

fn warn_of_what_may_surprise(config: &Config) {
    match config.syn_attack_protect {
        0 => info!("syn_attack_protect = 0: attacks are only reported; nothing is changed or dropped"),
        1 => info!("syn_attack_protect = 1: kernel settings are changed during an attack; nothing is dropped"),
        _ => {}
    }
    if config.syn_attack_protect < 2 && !(config.lists.deny.is_empty() && config.lists.deny_files.is_empty()) {
        warn!("the deny list has no effect: packets are dropped only with syn_attack_protect = 2");
    }
    if !config.listen.http.ip().is_loopback() {
        warn!("statistics are served on {} to anyone who can reach it, without authentication", config.listen.http);
    }
}

fn report_missing_features(datapath: &Datapath) {
    if let Feature::Unavailable(reason) = &datapath.features.completions {
        warn!(
            "completed handshakes are not seen on this kernel and stay 0; no source is limited or blocked, and only \
             the kernel's own counts are judged: {reason}"
        );
    }
    if let Feature::Unavailable(reason) = &datapath.features.retries {
        warn!("SYN-ACK retransmits are not counted per source on this kernel: {reason}");
    }
}

/// Reads the files of lists, at once and whenever they change.
async fn follow_files(mut files: FileWatch, shutdown: CancellationToken) {
    let mut looks = interval(FILE_REVIEW);
    while shutdown.run_until_cancelled(looks.tick()).await.is_some() {
        tokio::task::block_in_place(|| files.review());
    }
}
