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
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{
    Report,
    api::Order,
    cost::CostMeter,
    datapath::{
        Datapath, DatapathError,
        maps::{ControlMap, EventRing, GuardedInterfaces, LocalAddresses},
    },
    detect::{Judgement, Observation, Phase, Policy, State, detect},
    enforce::Enforcer,
    events::{EventKind, EventLog, Note},
    history::Sampler,
    interfaces::{Guards, LinkChange, LinkWatch, Links},
    lists::{DatapathTime, Lists},
    monitor::{Monitor, Snapshot, TICK},
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
    pub time: Arc<DatapathTime>,
    pub control: ControlMap,
    pub heartbeat_timeout: Duration,
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
}

/// What is kept between judgements.
pub(crate) struct Judge {
    pub policy: Policy,
    pub state: State,
    pub started: Instant,
    /// The phase, and since when it is.
    pub phase_since: (Phase, jiff::Timestamp),
    pub attack_since: Option<jiff::Timestamp>,
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
/// Time between two reviews of all interfaces; changes are heard of at once.
const REVIEW: Duration = Duration::from_secs(10);

impl Daemon {
    /// Takes snapshots, acts on them and follows interfaces until `shutdown`.
    pub async fn watch(
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
