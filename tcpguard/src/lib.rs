//! tcpguard watches TCP handshakes on a Linux host. This library is the daemon; the life of it is
//! [`run`].
//!
//! | module | subject |
//! | --- | --- |
//! | `daemon` | what goes on between start and end |
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
pub mod config;
pub mod cost;
mod daemon;
pub mod datapath;
pub mod detect;
pub mod doctor;
pub mod enforce;
pub mod events;
pub mod explain;
pub mod history;
pub mod interfaces;
pub mod kernel;
pub mod lists;
pub mod metrics;
pub mod monitor;
pub mod notify;
#[cfg(test)]
mod reference;

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
    config::Config,
    cost::{Cost, CostMeter},
    daemon::{Daemon, Judge},
    datapath::{Datapath, DatapathError, DatapathOptions, Feature},
    detect::{Phase, Policy, State},
    enforce::{Enforcer, Measures},
    events::EventLog,
    history::{History, Sampler},
    interfaces::{Guards, LinkWatch, Links},
    kernel::LiveKernel,
    lists::{DatapathTime, FileWatch, ListError, Lists},
    monitor::{Monitor, Snapshot},
};

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
}

/// Runs the daemon until `shutdown` is cancelled, and leaves nothing behind. It wants tokio's
/// multi-threaded runtime, since taking a snapshot blocks for some milliseconds.
///
/// # Errors
/// Where something that it cannot do without is missing; nothing is attached then.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    warn_of_what_may_surprise(&config);
    let listeners = Listeners::bind(&config.listen).await?;
    let (mut datapath, maps) = Datapath::load(&datapath_options(&config))?;
    report_missing_features(&datapath);
    let links = Links::open()?;
    let watch = LinkWatch::start()?;
    let kernel = LiveKernel::open().map_err(RunError::Kernel)?;
    let (monitor, others) = Monitor::new(maps, Box::new(kernel), &config).map_err(RunError::Kernel)?;
    let events = EventLog::open(&config.store.path);
    let time = Arc::new(DatapathTime::new(datapath.jiffies()?, datapath.ticks_per_second));
    let (lists, files) = Lists::start(&config, others.rules, events.clone(), Arc::clone(&time))?;
    let maps = (others.payload, others.challenges);
    let enforcer = Enforcer::start(&config, maps, &datapath, lists.clone(), events.clone())?;
    let guards = Guards::attach(&config, &links, &mut datapath).await?;

    let (publish, report) = watch::channel(None);
    let (publish_beat, beat) = watch::channel(None);
    let history = History::default();
    let (give_order, orders) = mpsc::channel(MOST_ORDERS);
    let about = About { started: Instant::now(), features: datapath.features.clone(), config: config.clone() };
    let router = api::router(ApiState {
        report,
        beat,
        history: history.clone(),
        stats_cache: StatsCache::default(),
        sources: others.sources,
        live: others.live,
        about: Arc::new(about),
        turns: Turns::default(),
        lists: lists.clone(),
        events: events.clone(),
        orders: give_order,
        shutdown: shutdown.clone(),
    });
    let server = tokio::spawn(listeners.serve(router, shutdown.clone()));
    let files = tokio::spawn(follow_files(files, shutdown.clone()));
    let notify = notify::run(config.notify.clone(), events.clone(), events.follow(), shutdown.clone());
    let notify = tokio::spawn(notify);

    let judge = Judge {
        policy: Policy::of(&config),
        state: State::default(),
        started: Instant::now(),
        phase_since: (Phase::Calm, jiff::Timestamp::now()),
        attack_since: None,
    };
    let daemon = Daemon {
        datapath,
        guards,
        links,
        monitor,
        judge,
        enforcer,
        lists,
        events,
        time,
        control: others.control,
        heartbeat_timeout: config.limits.heartbeat_timeout,
        guarded: others.guarded,
        local: others.local,
        knows_local: false,
        publish,
        publish_beat,
        sampler: Sampler::new(history),
        cost: CostMeter::default(),
        is_blind: false,
    };
    daemon.watch(watch, others.events, orders, shutdown).await;
    for task in [server, files, notify] {
        if let Err(error) = task.await {
            error!("a part of the daemon ended badly: {error}");
        }
    }
    info!("detached from all interfaces");
    Ok(())
}

fn datapath_options(config: &Config) -> DatapathOptions {
    DatapathOptions {
        max_sources: config.limits.max_sources,
        prefix_v4: config.source.prefix_v4,
        prefix_v6: config.source.prefix_v6,
        syn_per_second: config.source.syn_per_second,
        source_half_open: config.source.max_half_open,
        proven_for: config.challenge.proven_for,
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
    if files.is_empty() {
        return;
    }
    let mut looks = interval(FILE_REVIEW);
    while shutdown.run_until_cancelled(looks.tick()).await.is_some() {
        tokio::task::block_in_place(|| files.review());
    }
}
