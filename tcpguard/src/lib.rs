//! tcpguard watches TCP handshakes on a Linux host. This library is the daemon; the life of it is
//! [`run`].
//!
//! | module | subject |
//! | --- | --- |
//! | `daemon` | what goes on between start and end |
//! | `clock_watch` | noticing clocks that jump |
//! | `service_manager` | telling systemd how it does |
//! | `judge` | what is kept between judgements |
//! | [`reload`] | taking up another configuration |
//! | [`config`] | what the operator wants |
//! | [`datapath`] | the BPF programs and their maps |
//! | [`interfaces`] | where they are attached |
//! | [`kernel`] | what the kernel itself holds |
//! | [`monitor`] | both sides, ten times a second |
//! | [`detect`] | judging what was seen |
//! | [`enforce`] | acting on it, and taking it back |
//! | [`challenge`] | answering SYNs with cookies, where blocks do not help |
//! | [`lists`] | who is always let in, and who never |
//! | [`events`] | what happened |
//! | [`store`] | what survives restarts |
//! | [`history`] | the last fifteen minutes |
//! | [`cost`] | what tcpguard itself costs |
//! | [`metrics`] | telling Prometheus |
//! | [`explain`] | what would become of a packet, and why |
//! | [`doctor`] | what stands in the way |
//! | [`notify`] | telling others of attacks, unasked |
//! | [`api`] | telling others |
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

/// Why the daemon could not start, or stopped.
#[derive(Debug, Error)]
pub enum RunError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The datapath cannot be loaded, attached or read.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The lists cannot be put in force.
    #[error("the lists of the configuration cannot be put in force: {0}")]
    Lists(#[from] ListError),
    /// The kernel does not tell what it holds.
    #[error("the kernel does not tell what it holds: {0}; its configuration needs CONFIG_INET_DIAG and /proc")]
    Kernel(io::Error),
}

/// Orders that may wait.
const MOST_ORDERS: usize = 64;
/// Time between two looks at the files of lists.
const FILE_REVIEW: Duration = Duration::from_secs(1);

/// One tick: what was seen, what follows from it, and what is done.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was seen.
    pub snapshot: Snapshot,
    /// What follows from it.
    pub state: State,
    /// Since when the phase is what it is.
    pub state_since: jiff::Timestamp,
    /// When the attack began that is going on.
    pub attack_since: Option<jiff::Timestamp>,
    /// What is done.
    pub measures: Measures,
    /// What all this costs.
    pub cost: Cost,
    /// What it was done by.
    pub config: Arc<Config>,
}

impl Report {
    /// Whether anything is dropped at all.
    pub fn drops(&self) -> bool {
        self.config.syn_attack_protect == 2
    }
}

/// How the daemon is run, beside its configuration.
#[derive(Debug, Default)]
pub struct Manner {
    /// Where it reads its configuration anew.
    pub source: Option<ConfigSource>,
    /// Each message has it do so.
    pub reload: Option<mpsc::Receiver<()>>,
    /// Ends it.
    pub shutdown: CancellationToken,
    /// It ends for another one to take over at once: whatever `on_exit` says, everything stays as it is, and whoever
    /// ends it for good runs `tcpguard detach`.
    pub hands_over: bool,
}

/// Runs the daemon until it is told to end. It wants tokio's multi-threaded runtime, since taking a snapshot blocks for
/// some milliseconds.
///
/// # Errors
/// Where something that it cannot do without is missing; what is attached then is what was before.
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
    // From the first event on.
    let happening = events.follow();
    let time = Arc::new(DatapathTime::new(datapath.jiffies()?, datapath.ticks_per_second));
    let kept = (store.clone(), saved.entries.as_slice());
    let (lists, mut files) = Lists::start(&config, others.rules, events.clone(), kept, Arc::clone(&time))?;
    // Before anything is let in: what the files deny, a daemon before this one may have denied.
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
            error!("a part of the daemon ended badly: {error}");
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
        0 => info!("syn_attack_protect = 0: it watches and reports; nothing is changed or dropped"),
        1 => info!("syn_attack_protect = 1: in an attack kernel settings are changed; nothing is dropped"),
        _ => {}
    }
    if config.syn_attack_protect < 2 && !(config.lists.deny.is_empty() && config.lists.deny_files.is_empty()) {
        warn!("who is on the deny list is let in all the same: only syn_attack_protect = 2 drops");
    }
    if !config.listen.http.ip().is_loopback() {
        warn!("statistics are served on {} to whoever reaches that address, without a password", config.listen.http);
    }
}

fn report_missing_features(datapath: &Datapath) {
    if let Feature::Unavailable(reason) = &datapath.features.completions {
        warn!(
            "completed handshakes are not seen on this kernel, so they stay 0; no source is limited or blocked, and only \
             the kernel's own counts are judged by: {reason}"
        );
    }
    if let Feature::Unavailable(reason) = &datapath.features.retries {
        warn!("repeated SYN-ACKs are not seen per source on this kernel: {reason}");
    }
}

/// Reads the files of lists, at once and whenever they change.
async fn follow_files(mut files: FileWatch, shutdown: CancellationToken) {
    let mut looks = interval(FILE_REVIEW);
    while shutdown.run_until_cancelled(looks.tick()).await.is_some() {
        tokio::task::block_in_place(|| files.review());
    }
}
