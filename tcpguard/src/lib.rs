//! tcpguard watches TCP handshakes on a Linux host. This library is the daemon; the life of it is
//! [`run`].
//!
//! | module | subject |
//! | --- | --- |
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

use tcpguard_common::{
    control::Control,
    drops::DropReason,
    event::{Event, kind},
};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    api::{About, ApiState, ListenError, Listeners, Order, StatsCache},
    config::Config,
    cost::{Cost, CostMeter},
    datapath::{
        Datapath, DatapathError, DatapathOptions, Feature,
        maps::{ControlMap, EventRing, GuardedInterfaces, LocalAddresses},
    },
    detect::{Judgement, Observation, Phase, Policy, State, detect},
    enforce::{Enforcer, Measures},
    events::{EventKind, EventLog, Note},
    history::{History, Sampler},
    interfaces::{Guards, LinkChange, LinkWatch, Links},
    kernel::LiveKernel,
    lists::{DatapathTime, FileWatch, ListError, Lists},
    monitor::{Monitor, Snapshot, TICK},
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
        scans: Arc::new(Semaphore::new(1)),
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

/// What runs between start and shutdown.
struct Daemon {
    datapath: Datapath,
    guards: Guards,
    links: Links,
    monitor: Monitor,
    judge: Judge,
    enforcer: Enforcer,
    lists: Lists,
    events: EventLog,
    time: Arc<DatapathTime>,
    control: ControlMap,
    heartbeat_timeout: Duration,
    guarded: GuardedInterfaces,
    local: LocalAddresses,
    /// Every address of the host is known to the datapath.
    knows_local: bool,
    publish: watch::Sender<Option<Arc<Report>>>,
    publish_beat: watch::Sender<Option<Arc<Report>>>,
    sampler: Sampler,
    cost: CostMeter,
    /// The last snapshot could not be taken.
    is_blind: bool,
}

/// What is kept between judgements.
struct Judge {
    policy: Policy,
    state: State,
    started: Instant,
    /// The phase, and since when it is.
    phase_since: (Phase, jiff::Timestamp),
    attack_since: Option<jiff::Timestamp>,
}

impl Judge {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn judge(&mut self, snapshot: &Snapshot, at: Duration) -> Judgement {
        let judgement = detect(&self.policy, &Observation::of(snapshot, at), &self.state);
        self.state = judgement.state.clone();
        self.attack_since = self.state.since().map(|_| self.attack_since.unwrap_or(snapshot.clock.now()));
        if self.state.phase() != self.phase_since.0 {
            self.phase_since = (self.state.phase(), snapshot.clock.now());
        }
        judgement
    }
}

/// Events taken from the ring at once, so that a flood of them does not hold up the rest.
const EVENTS_AT_ONCE: usize = 256;
/// For how long clients may take to bring a cookie back, when the daemon ends.
const UNDER_WAY: Duration = Duration::from_millis(300);
/// Orders that may wait.
const MOST_ORDERS: usize = 64;
/// Time between two reviews of all interfaces; changes are heard of at once.
const REVIEW: Duration = Duration::from_secs(10);
/// Time between two looks at the files of lists.
const FILE_REVIEW: Duration = Duration::from_secs(1);

impl Daemon {
    /// Takes snapshots, acts on them and follows interfaces until `shutdown`.
    async fn watch(
        mut self,
        watch: LinkWatch,
        mut events: EventRing,
        mut orders: mpsc::Receiver<Order>,
        shutdown: CancellationToken,
    ) {
        let mut watch = Some(watch);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut reviews = interval(REVIEW);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => self.tick(),
                Some(order) = orders.recv() => self.obey(order),
                change = next_change(&mut watch) => self.follow(&change).await,
                _ = reviews.tick() => self.review(&mut watch).await,
                received = events.receive(EVENTS_AT_ONCE) => match received {
                    Ok(received) => received.iter().for_each(|event| self.note(event)),
                    Err(error) => warn!("the datapath's events cannot be received: {error}"),
                },
            }
        }
        self.stop_challenging().await;
        tokio::task::block_in_place(|| self.enforcer.end());
    }

    /// Cookies that were sent a moment ago are let come back, before the kernel does not take them any more.
    async fn stop_challenging(&mut self) {
        if !self.enforcer.has_cookies_under_way() {
            return;
        }
        if let Err(error) = self.control.give(&Control::NONE) {
            warn!("{error}");
        }
        tokio::task::block_in_place(|| self.enforcer.stop_cookies());
        sleep(UNDER_WAY).await;
    }

    /// What the datapath tells at once.
    fn note(&mut self, event: &Event) {
        match event.kind {
            kind::SOURCE_BUSY => self.monitor.note_busy(event.source),
            kind::FIRST_DROP => {
                let reason = DropReason::ALL.get(event.reason as usize).map_or("unknown", |reason| reason.name());
                let message = format!("a SYN of {} was dropped for the first time ({reason})", event.source);
                self.events.record(Note::new(EventKind::FirstDrop, message).about(event.source));
            }
            kind::LISTENERS_CHANGED => self.monitor.note_listeners(),
            kind::CHALLENGE_TRIGGERED => self.enforcer.note_triggered(event.reason as u16),
            _ => {}
        }
    }

    fn obey(&mut self, Order::Lift { network, lifted }: Order) {
        let count = self.enforcer.lift(network, &self.datapath, self.judge.now());
        // Who asked may have gone.
        lifted.send(count).ok();
    }

    async fn follow(&mut self, change: &LinkChange) {
        if *change == LinkChange::Addresses {
            self.update_local().await;
        } else if self.guards.follow(change, &mut self.datapath) {
            self.update_guarded().await;
        }
    }

    /// Brings everything in line with the interfaces there are: the kernel drops messages about
    /// changes when too many come at once, and may close the channel.
    async fn review(&mut self, watch: &mut Option<LinkWatch>) {
        if watch.is_none() {
            *watch =
                LinkWatch::start().inspect_err(|error| warn!("changes of interfaces are not heard of: {error}")).ok();
        }
        if let Err(error) = self.guards.review(&self.links, &mut self.datapath).await {
            warn!("changes of interfaces may have been missed: {error}");
        }
        self.update_guarded().await;
        self.update_local().await;
    }

    fn tick(&mut self) {
        // Some milliseconds of system calls, which other tasks need not wait for.
        match tokio::task::block_in_place(|| self.watch_and_act()) {
            Ok(report) => {
                self.is_blind = false;
                self.tell(Arc::new(report));
            }
            Err(error) if self.is_blind => debug!("still no snapshot could be taken: {error}"),
            Err(error) => {
                self.is_blind = true;
                error!("no snapshot could be taken, and nothing will be dropped before there is one: {error}");
            }
        }
    }

    fn tell(&mut self, report: Arc<Report>) {
        let phase = report.state.phase();
        let is_sampled = self.sampler.note(&report.snapshot, phase, Instant::now());
        let before = self.publish.send_replace(Some(Arc::clone(&report)));
        if is_sampled || before.is_none_or(|before| before.state.phase() != phase) {
            drop(self.publish_beat.send_replace(Some(report)));
        }
    }

    /// Sees, judges and acts; only then is the datapath given leave to go on.
    fn watch_and_act(&mut self) -> Result<Report, DatapathError> {
        self.cost.begin_tick(Instant::now());
        let is_alert = self.judge.state.phase() != Phase::Calm;
        let mut snapshot = self.monitor.tick(&self.datapath, self.guards.status(), is_alert)?;
        if !self.datapath.features.sees_completions() {
            // Nobody would ever seem to complete a handshake: only the kernel's own count can be judged by.
            snapshot.leave_datapath_out();
        }
        self.time.set(snapshot.clock.jiffies());
        let at = self.judge.now();
        let judgement = self.judge.judge(&snapshot, at);
        let measures = self.enforcer.act(&judgement, &snapshot, &self.datapath, self.knows_local, at);
        if let Err(error) = self.lists.expire() {
            warn!("what has expired on the lists could not be removed: {error}");
        }
        let good_until = snapshot.clock.after(self.heartbeat_timeout);
        self.control.give(&self.enforcer.control(&self.datapath, good_until, self.knows_local))?;
        self.events.tick();
        self.cost.end_tick(Instant::now(), &self.datapath);
        Ok(Report {
            snapshot,
            state: judgement.state,
            state_since: self.judge.phase_since.1,
            attack_since: self.judge.attack_since,
            measures,
            cost: self.cost.cost(),
        })
    }

    /// Tells the datapath which destinations are the host's.
    async fn update_local(&mut self) {
        let result = match self.links.addresses().await {
            Ok(addresses) => self.local.set(&addresses),
            Err(error) => Err(error),
        };
        match result {
            Ok(knows_local) => self.knows_local = knows_local,
            Err(error) => {
                self.knows_local = false;
                warn!("the host's addresses could not be updated, so every destination counts as the host's: {error}");
            }
        }
    }

    /// Tells the datapath whose handshakes count.
    async fn update_guarded(&mut self) {
        let result = match self.links.all().await {
            Ok(links) => self.guarded.set(&self.guards.receiving_indices(&links)),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!("the set of guarded interfaces could not be updated: {error}");
        }
    }
}

/// The next change of an interface; never, while none are heard of.
async fn next_change(watch: &mut Option<LinkWatch>) -> LinkChange {
    if let Some(listening) = watch {
        if let Some(change) = listening.next().await {
            return change;
        }
        *watch = None;
    }
    std::future::pending().await
}
