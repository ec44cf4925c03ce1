//! The daemon between start and shutdown: ten times a second it observes, judges and acts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tcpguard_common::abi::{
    counters::DropReason,
    event::{Event, kind},
    lease::Lease,
};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, error, info, warn};

use crate::{
    Manner, Report,
    api::Order,
    challenge::COOKIES_UNDER_WAY,
    clock_watch::{ClockWatch, Reading},
    config::{Config, OnExit},
    cost::CostMeter,
    datapath::{
        Datapath, DatapathError, Inheritance,
        maps::{ControlMap, EventRing, GuardedInterfaces, LocalAddresses},
    },
    detect::Phase,
    enforce::Enforcer,
    events::{EventKind, EventLog, Note},
    history::Sampler,
    interfaces::{Guards, LinkChange, LinkWatch, Links},
    judge::Judge,
    lists::{DatapathTime, Lists},
    monitor::{Monitor, TICK},
    record,
    reload::ConfigSource,
    service_manager::ServiceManager,
    store::{Record, Store},
};

/// The state of the running daemon.
pub(crate) struct Daemon {
    pub datapath: Datapath,
    pub guards: Guards,
    pub links: Links,
    pub monitor: Monitor,
    pub judge: Judge,
    pub enforcer: Enforcer,
    pub lists: Lists,
    pub events: EventLog,
    pub store: Store,
    pub time: Arc<DatapathTime>,
    pub control: ControlMap,
    pub heartbeat_timeout: Duration,
    pub on_exit: OnExit,
    pub config: Arc<Config>,
    pub publish_config: watch::Sender<Arc<Config>>,
    pub guarded: GuardedInterfaces,
    pub local: LocalAddresses,
    /// The datapath knows every address of the host.
    pub knows_local: bool,
    pub publish: watch::Sender<Option<Arc<Report>>>,
    pub publish_beat: watch::Sender<Option<Arc<Report>>>,
    pub sampler: Sampler,
    pub cost: CostMeter,
    /// The last snapshot failed.
    pub is_blind: bool,
    pub service_manager: ServiceManager,
    pub clock_watch: ClockWatch,
}

/// Events taken from the ring buffer at once, so that a flood of them does not delay everything else.
const EVENTS_AT_ONCE: usize = 256;
/// The interval between two reviews of all interfaces; changes are normally reported immediately.
const REVIEW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Starts guarding. All state that verdicts depend on is complete before the first packet is processed. If the
    /// previous daemon left its datapath attached, this daemon's replaces it atomically.
    ///
    /// # Errors
    /// Returns an error if an interface cannot be guarded.
    pub async fn begin(&mut self) -> Result<(), DatapathError> {
        self.update_local().await;
        self.update_guarded().await;
        if let Inheritance::Maps { dropped } = &self.datapath.inheritance {
            info!("taking over from the previous daemon: {}", what_was_kept(dropped));
            self.monitor.begin_after(&self.datapath)?;
        }
        self.tick();
        self.datapath.take_effect()?;
        self.guards.attach(&mut self.datapath)?;
        // From now on a crash leaves everything in place for the next start.
        self.datapath.ending = OnExit::Keep;
        self.note_situation();
        Ok(())
    }

    /// Undoes a failed start if there was no previous daemon. Otherwise everything stays in place, and the next start
    /// continues from there.
    pub fn give_up(&mut self) {
        if self.datapath.ending == OnExit::Detach {
            self.guards.detach(&mut self.datapath);
            self.enforcer.restore();
        }
    }

    /// Takes snapshots, acts on them and follows interface changes until shutdown.
    pub async fn watch(
        mut self,
        watch: LinkWatch,
        mut events: EventRing,
        mut orders: mpsc::Receiver<Order>,
        mut manner: Manner,
    ) {
        self.service_manager.ready();
        let mut watch = Some(watch);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut reviews = interval(REVIEW);
        loop {
            tokio::select! {
                biased;
                () = manner.shutdown.cancelled() => break,
                _ = ticks.tick() => self.tick(),
                Some(order) = orders.recv() => self.obey(order, manner.source.as_ref()).await,
                () = next_hangup(&mut manner.reload) => self.reload_unasked(manner.source.as_ref()).await,
                change = next_change(&mut watch) => self.follow(&change).await,
                _ = reviews.tick() => self.review(&mut watch).await,
                received = events.receive(EVENTS_AT_ONCE) => match received {
                    Ok(received) => received.iter().for_each(|event| self.note(event)),
                    Err(error) => warn!("the datapath's events cannot be received: {error}"),
                },
            }
        }
        self.end(manner.hands_over).await;
    }

    async fn end(mut self, hands_over: bool) {
        self.service_manager.stopping();
        self.note_situation();
        self.datapath.ending = if hands_over { OnExit::Keep } else { self.on_exit };
        if hands_over {
            // The datapath continues for `heartbeat_timeout`, and kernel settings stay changed.
            info!("everything stays in place for the next daemon");
        } else {
            self.stop_challenging().await;
            tokio::task::block_in_place(|| self.enforcer.restore());
        }
        tokio::task::block_in_place(|| self.store.flush());
        if self.datapath.ending == OnExit::Detach {
            self.guards.detach(&mut self.datapath);
        }
        match self.datapath.ending {
            OnExit::Detach => info!("detached from all interfaces"),
            OnExit::Keep => info!("still attached to all interfaces; run `tcpguard detach` to detach"),
        }
    }

    /// Saves the situation for the next daemon.
    fn note_situation(&mut self) {
        let situation = self.judge.situation(self.enforcer.attack_so_far());
        self.store.write(Record::Situation(Box::new(situation)));
    }

    /// Waits for recently sent cookies to be returned, before the kernel stops accepting them.
    async fn stop_challenging(&mut self) {
        if !self.enforcer.has_cookies_under_way() {
            return;
        }
        if let Err(error) = self.control.give(&Lease::NONE) {
            warn!("{error}");
        }
        tokio::task::block_in_place(|| self.enforcer.stop_cookies());
        sleep(COOKIES_UNDER_WAY).await;
    }

    /// Processes an event of the datapath.
    fn note(&mut self, event: &Event) {
        match event.kind {
            kind::SOURCE_BUSY => self.monitor.note_busy(event.source),
            kind::FIRST_DROP => {
                let reason = DropReason::ALL.get(event.reason as usize).map_or("unknown", |reason| reason.name());
                let message = format!("a SYN from {} was dropped for the first time ({reason})", event.source);
                self.events.record(Note::new(EventKind::FirstDrop, message).about(event.source));
            }
            kind::LISTENERS_CHANGED => self.monitor.note_listeners(),
            kind::CHALLENGE_TRIGGERED => self.enforcer.note_triggered(event.reason as u16),
            _ => {}
        }
    }

    /// Executes a command. The client that is waiting for the result may be gone.
    async fn obey(&mut self, order: Order, source: Option<&ConfigSource>) {
        match order {
            Order::Lift { network, lifted } => {
                lifted.send(self.enforcer.lift(network, &self.datapath, self.judge.now())).ok();
            }
            Order::HeedLists { heeded } => {
                if let Err(error) = self.heed_lists() {
                    warn!("the changed lists take effect with the next tick: {error}");
                }
                heeded.send(()).ok();
            }
            Order::Reload { done } => drop(done.send(self.reload(source).await)),
        }
    }

    /// Writes the present lease again with the lists as they are now, without extending it.
    fn heed_lists(&mut self) -> Result<(), DatapathError> {
        let word = self.control.read()?;
        self.control.give(&self.lists.within(word))
    }

    async fn reload_unasked(&mut self, source: Option<&ConfigSource>) {
        if let Err(problem) = self.reload(source).await {
            error!("{problem}");
        }
    }

    async fn follow(&mut self, change: &LinkChange) {
        if *change == LinkChange::Addresses {
            self.update_local().await;
        } else if self.guards.follow(change, &mut self.datapath) {
            self.update_guarded().await;
        }
    }

    /// Synchronizes all state with the existing interfaces: the kernel drops notifications if too many changes occur at
    /// once, and may close the socket.
    async fn review(&mut self, watch: &mut Option<LinkWatch>) {
        if watch.is_none() {
            *watch = LinkWatch::start().inspect_err(|error| warn!("interface changes are not monitored: {error}")).ok();
        }
        if let Err(error) = self.guards.review(&self.links, &mut self.datapath).await {
            warn!("interface changes may have been missed: {error}");
        }
        self.update_guarded().await;
        self.update_local().await;
    }

    fn tick(&mut self) {
        if let Some(jump) = self.clock_watch.note(Reading::now()) {
            self.events.record(Note::new(EventKind::ClockJumped, jump));
            self.note_situation();
        }
        // This takes some milliseconds of system calls, which must not block other tasks.
        match tokio::task::block_in_place(|| self.watch_and_act()) {
            Ok(report) => {
                self.is_blind = false;
                self.service_manager.note_tick(&report);
                self.tell(Arc::new(report));
            }
            Err(error) if self.is_blind => debug!("still no snapshot can be taken: {error}"),
            Err(error) => {
                self.is_blind = true;
                error!("no snapshot can be taken; nothing is dropped once the lease has expired: {error}");
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

    /// Observes, judges and acts. Only then is the lease renewed.
    fn watch_and_act(&mut self) -> Result<Report, DatapathError> {
        self.cost.begin_tick(Instant::now());
        let is_alert = self.judge.phase() != Phase::Calm;
        let mut snapshot = self.monitor.tick(&self.datapath, self.guards.status(), is_alert)?;
        if !self.datapath.features.sees_completions() {
            // No source would ever seem to complete a handshake: judgements are based on the kernel's own count alone.
            snapshot.leave_datapath_out();
        }
        record::tick(&snapshot);
        self.time.set(snapshot.clock.jiffies());
        let at = self.judge.now();
        let judgement = self.judge.judge(&snapshot, at);
        let measures = self.enforcer.act(&judgement, &snapshot, &self.datapath, self.knows_local, at);
        if self.judge.is_worth_noting(&judgement, at) {
            self.note_situation();
        }
        if let Err(error) = self.lists.expire() {
            warn!("expired list entries could not be removed: {error}");
        }
        let valid_until = snapshot.clock.after(self.heartbeat_timeout);
        self.control.give(&self.enforcer.control(&self.datapath, valid_until, self.knows_local))?;
        self.events.tick();
        self.cost.end_tick(Instant::now(), &self.datapath);
        Ok(Report {
            snapshot,
            state: judgement.state,
            state_since: self.judge.state_since(),
            attack_since: self.judge.attack_since(),
            measures,
            cost: self.cost.cost(),
            config: Arc::clone(&self.config),
        })
    }

    /// Updates the addresses by which the datapath recognizes the host as destination.
    async fn update_local(&mut self) {
        let result = match self.links.addresses().await {
            Ok(addresses) => self.local.set(&addresses),
            Err(error) => Err(error),
        };
        match result {
            Ok(knows_local) => self.knows_local = knows_local,
            Err(error) => {
                self.knows_local = false;
                warn!("the host's addresses could not be updated, so every destination counts as the host: {error}");
            }
        }
    }

    /// Updates the interfaces whose handshakes the datapath counts.
    pub async fn update_guarded(&mut self) {
        let result = match self.links.all().await {
            Ok(links) => self.guarded.set(&self.guards.receiving_indices(&links)),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            warn!("the set of guarded interfaces could not be updated: {error}");
        }
    }
}

fn what_was_kept(dropped: &[&str]) -> String {
    if dropped.is_empty() {
        return "all of its data is kept".to_owned();
    }
    format!(
        "its data is kept, except for what this version or configuration stores differently: {}",
        dropped.join(", ")
    )
}

/// Waits for the next request to reload; never returns if there is no source of requests.
async fn next_hangup(reload: &mut Option<mpsc::Receiver<()>>) {
    if let Some(requests) = reload {
        if requests.recv().await.is_some() {
            return;
        }
        *reload = None;
    }
    std::future::pending().await
}

/// Waits for the next interface change; never returns if changes are not monitored.
async fn next_change(watch: &mut Option<LinkWatch>) -> LinkChange {
    if let Some(listening) = watch {
        if let Some(change) = listening.next().await {
            return change;
        }
        *watch = None;
    }
    std::future::pending().await
}
