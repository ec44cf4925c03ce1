//! What the daemon does between its start and its end: ten times a second it looks, judges and acts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tcpguard_common::{
    control::Control,
    drops::DropReason,
    event::{Event, kind},
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

/// What runs between start and shutdown.
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
    /// Every address of the host is known to the datapath.
    pub knows_local: bool,
    pub publish: watch::Sender<Option<Arc<Report>>>,
    pub publish_beat: watch::Sender<Option<Arc<Report>>>,
    pub sampler: Sampler,
    pub cost: CostMeter,
    /// The last snapshot could not be taken.
    pub is_blind: bool,
    pub service_manager: ServiceManager,
    pub clock_watch: ClockWatch,
}

/// Events taken from the ring at once, so that a flood of them does not hold up the rest.
const EVENTS_AT_ONCE: usize = 256;
/// Time between two reviews of all interfaces; changes are heard of at once.
const REVIEW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Begins to guard. What decides over packets is complete before the first one comes by; where a daemon before this
    /// one has left its datapath attached, this one's takes its place from one packet to the next.
    ///
    /// # Errors
    /// Where an interface cannot be guarded.
    pub async fn begin(&mut self) -> Result<(), DatapathError> {
        self.update_local().await;
        self.update_guarded().await;
        if let Inheritance::Maps { dropped } = &self.datapath.inheritance {
            info!("taking over from the daemon before: {}", what_was_kept(dropped));
            self.monitor.begin_after(&self.datapath)?;
        }
        self.tick();
        self.datapath.take_effect()?;
        self.guards.attach(&mut self.datapath)?;
        // From now on a crash leaves everything as it is, for the next start.
        self.datapath.ending = OnExit::Keep;
        self.note_situation();
        Ok(())
    }

    /// Takes back what was done to begin, where nothing was there before; where something was, the next start goes on
    /// from there.
    pub fn give_up(&mut self) {
        if self.datapath.ending == OnExit::Detach {
            self.guards.detach(&mut self.datapath);
            self.enforcer.restore();
        }
    }

    /// Takes snapshots, acts on them and follows interfaces until `shutdown`.
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
            // The datapath goes on as it is for `heartbeat_timeout`, and kernel settings with it.
            info!("everything stays as it is for the next daemon");
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
            OnExit::Keep => info!("still attached to all interfaces; `tcpguard detach` takes it off"),
        }
    }

    /// Writes down how things stand, for the next daemon.
    fn note_situation(&mut self) {
        let situation = self.judge.situation(self.enforcer.attack_so_far());
        self.store.write(Record::Situation(Box::new(situation)));
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
        sleep(COOKIES_UNDER_WAY).await;
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

    /// Who asked may have gone.
    async fn obey(&mut self, order: Order, source: Option<&ConfigSource>) {
        match order {
            Order::Lift { network, lifted } => {
                lifted.send(self.enforcer.lift(network, &self.datapath, self.judge.now())).ok();
            }
            Order::HeedLists { heeded } => {
                if let Err(error) = self.heed_lists() {
                    warn!("the lists hold from the next tick on: {error}");
                }
                heeded.send(()).ok();
            }
            Order::Reload { done } => drop(done.send(self.reload(source).await)),
        }
    }

    /// Gives the daemon's last word again, with the lists as they are now; it is good for no longer than it was.
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
        if let Some(jump) = self.clock_watch.note(Reading::now()) {
            self.events.record(Note::new(EventKind::ClockJumped, jump));
            self.note_situation();
        }
        // Some milliseconds of system calls, which other tasks need not wait for.
        match tokio::task::block_in_place(|| self.watch_and_act()) {
            Ok(report) => {
                self.is_blind = false;
                self.service_manager.note_tick(&report);
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
        let is_alert = self.judge.phase() != Phase::Calm;
        let mut snapshot = self.monitor.tick(&self.datapath, self.guards.status(), is_alert)?;
        if !self.datapath.features.sees_completions() {
            // Nobody would ever seem to complete a handshake: only the kernel's own count can be judged by.
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
            warn!("what has expired on the lists could not be removed: {error}");
        }
        let good_until = snapshot.clock.after(self.heartbeat_timeout);
        self.control.give(&self.enforcer.control(&self.datapath, good_until, self.knows_local))?;
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
        return "all that it has gathered is kept".to_owned();
    }
    format!(
        "what it has gathered is kept, but for what this version, or configuration, keeps otherwise: {}",
        dropped.join(", ")
    )
}

/// The next request to read the configuration anew; never, where nobody makes any.
async fn next_hangup(reload: &mut Option<mpsc::Receiver<()>>) {
    if let Some(requests) = reload {
        if requests.recv().await.is_some() {
            return;
        }
        *reload = None;
    }
    std::future::pending().await
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
