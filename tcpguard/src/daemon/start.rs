//! The start of the daemon: all parts are loaded and connected before the datapath sees its first packet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipnet::IpNet;
use tokio::{
    sync::{Notify, mpsc},
    time::interval,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Daemon, Health, Lease, RunError, RunOptions,
    behind::Behind,
    network::Network,
    publish::{Publisher, Subscriptions},
    schedule::Schedule,
};
use crate::{
    api::{self, About, ApiState, KernelRows, Listeners, Permits, StatsCache},
    cli,
    config::Config,
    cost::{CalmPace, CostMeter},
    datapath::{Datapath, DatapathError, DatapathOptions, Feature, Takeover},
    detect::Detector,
    events::EventLog,
    history::{History, Sampler},
    interfaces::{InterfaceSet, LinkWatch, Links},
    kernel::LiveKernel,
    lists::{FileWatch, Lists, SshWatch},
    memory,
    monitor::Monitor,
    notify,
    response::Enforcer,
    service_manager::ServiceManager,
    store::Store,
    time::{ClockWatch, DatapathTime, Every},
};

/// Commands that may be queued.
const MAX_COMMANDS: usize = 64;
/// The least time between two events that say that the daemon looks less often.
const SAID_EVERY: Duration = Duration::from_secs(3600);
/// The time between two checks of the files of lists.
const FILE_REVIEW: Duration = Duration::from_secs(1);

/// Runs the daemon until it is told to end. It needs tokio's multi-threaded runtime, because a tick blocks for some
/// milliseconds.
///
/// # Errors
/// Returns an error if something essential is missing. What was attached before is then attached still.
pub async fn run(config: Config, options: RunOptions) -> Result<(), RunError> {
    let shutdown = options.shutdown.clone();
    warn_of_surprising(&config);
    let datapath_options = DatapathOptions { log_level: cli::datapath_log_level(), ..DatapathOptions::of(&config) };
    let (datapath, maps) = Datapath::load(&datapath_options)?;
    report_missing_features(&datapath);
    let listeners = Listeners::bind(&config.listen).await?;
    let links = Links::open()?;
    let watch = LinkWatch::start()?;
    let kernel = LiveKernel::open().map_err(RunError::Kernel)?;
    let sources = maps.observed.sources.clone();
    let monitor = Monitor::new(maps.observed, Box::new(kernel), &config).map_err(RunError::Kernel)?;
    let (store, saved) = Store::open(&config.store.path);
    let events = EventLog::new(store.clone(), saved.events);
    // Subscribed before the first event is recorded.
    let subscription = events.follow();
    let time = Arc::new(DatapathTime::new(datapath.jiffies()?, datapath.ticks_per_second));
    let kept = (store.clone(), saved.entries.as_slice());
    let (lists, mut files) = Lists::start(&config, maps.rules, events.clone(), kept, Arc::clone(&time))?;
    // Before the first packet: the previous daemon may have denied what the files deny.
    files.review();
    let mut ssh = lists.watch_ssh();
    // Nor is the operator who starts it locked out.
    ssh.review();
    let written = (maps.payload, maps.challenges);
    let mut enforcer = Enforcer::start(&config, written, &datapath, lists.clone(), events.clone(), store.clone())?;
    let detector = Detector::resume(&config, saved.situation, &events);
    enforcer.resume(&saved.blocks, detector.attack.clone(), &datapath, detector.now());
    let interfaces = InterfaceSet::choose(&config, &links).await?;

    let config = Arc::new(config);
    let history = History::default();
    let (publisher, subscriptions) = Publisher::new(Arc::clone(&config), Sampler::new(history.clone()));
    let (commands, requested) = mpsc::channel(MAX_COMMANDS);
    let Subscriptions { report, beat, config: configs } = subscriptions;
    let wanted = Arc::new(Notify::new());
    let router = api::router(ApiState {
        report,
        wanted: Arc::clone(&wanted),
        beat,
        history,
        stats_cache: StatsCache::default(),
        sources,
        kernel_rows: KernelRows::default(),
        live: maps.live,
        about: Arc::new(About {
            started: Instant::now(),
            features: datapath.features.clone(),
            memory: datapath.memory.clone(),
        }),
        config: configs.clone(),
        permits: Permits::default(),
        lists: lists.clone(),
        events: events.clone(),
        commands,
        shutdown: shutdown.clone(),
    });
    let cpus = aya::util::online_cpus().map_or(1, |cpus| cpus.len() as u64);
    let lease = Lease { map: maps.lease, lasts: config.limits.heartbeat_timeout, time, cpus, tick: 0 };
    let network = Network {
        interfaces,
        links,
        guarded: maps.guarded,
        local: maps.local,
        protected: maps.protected,
        behind: networks_behind(&config),
        knows_local: false,
        has_new_addresses: false,
        has_warned: false,
        has_stacked: true,
    };
    let health = Health {
        cost: CostMeter::default(),
        calm_pace: CalmPace::new(config.limits.cpu_share),
        less_often_said: Every::new(SAID_EVERY),
        is_blind: false,
        service_manager: ServiceManager::of_this_process(),
        clock_watch: ClockWatch::default(),
    };
    let mut daemon = Daemon {
        config,
        datapath,
        network,
        behind: Behind::default(),
        monitor,
        detector,
        enforcer,
        lists,
        events: events.clone(),
        store,
        lease,
        publisher,
        schedule: Schedule::new(tokio::time::Instant::now()),
        health,
    };
    if let Err(error) = daemon.begin().await {
        daemon.give_up();
        return Err(error.into());
    }

    memory::trim();
    let server = tokio::spawn(listeners.serve(router, events.clone(), shutdown.clone()));
    let files = tokio::spawn(follow_lists(files, ssh, shutdown.clone()));
    let notify = tokio::spawn(notify::run(configs, events, subscription, shutdown));
    daemon.main_loop(watch, maps.events, requested, wanted, options).await;
    for task in [server, files, notify] {
        if let Err(error) = task.await {
            error!("a task of the daemon failed: {error}");
        }
    }
    Ok(())
}

impl Daemon {
    /// Starts to guard. Everything that verdicts depend on is complete before the first packet. A datapath that the
    /// previous daemon left attached is replaced between two packets.
    ///
    /// # Errors
    /// Returns an error if an interface cannot be guarded.
    async fn begin(&mut self) -> Result<(), DatapathError> {
        self.network.update_local().await;
        self.network.update_guarded().await;
        self.network.protected.set(&self.config.protected)?;
        self.observe_behind(None);
        if let Takeover::Maps { dropped } = &self.datapath.takeover {
            info!("taking over from the previous daemon: {}", kept(dropped));
            self.monitor.begin_after(&self.datapath)?;
        }
        self.tick();
        self.datapath.take_effect()?;
        self.network.interfaces.attach(&mut self.datapath)?;
        // From now on a crash leaves everything for the next start.
        self.datapath.keep_when_dropped();
        self.save_situation();
        // The first report is from before the interfaces were attached.
        self.schedule.hurry(tokio::time::Instant::now());
        Ok(())
    }

    /// Undoes a failed start, unless there is a previous daemon's state that the next start can continue with.
    fn give_up(&mut self) {
        if self.datapath.detaches_when_dropped() {
            self.network.interfaces.detach(&mut self.datapath);
            self.enforcer.restore();
        }
    }
}

/// Returns the networks that this host protects as a gateway.
pub(super) fn networks_behind(config: &Config) -> Vec<IpNet> {
    config.protected.iter().flat_map(|section| section.networks.iter().copied()).collect()
}

fn kept(dropped: &[&str]) -> String {
    if dropped.is_empty() {
        return "all that it has gathered is kept".to_owned();
    }
    format!(
        "its state is kept, except for content that this version or configuration stores differently: {}",
        dropped.join(", ")
    )
}

fn warn_of_surprising(config: &Config) {
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

/// Follows the files of lists and the SSH sessions as they change.
async fn follow_lists(mut files: FileWatch, mut ssh: SshWatch, shutdown: CancellationToken) {
    let mut looks = interval(FILE_REVIEW);
    while shutdown.run_until_cancelled(looks.tick()).await.is_some() {
        tokio::task::block_in_place(|| {
            ssh.review();
            files.review();
        });
    }
}
