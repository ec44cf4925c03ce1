//! One tick: observe, judge, act, and only then renew the lease.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tcpguard_common::abi::watch::WakeAt;
use tracing::{debug, error, info, warn};

use super::{Daemon, Lease, TickReport};
use crate::{
    cost::Change,
    datapath::DatapathError,
    detect::Phase,
    events::{EventKind, Note},
    record,
    time::Reading,
};

/// The most handshakes that may begin on one CPU before the daemon is woken.
const MOST_OPEN: u64 = 1 << 20;

impl Lease {
    /// Returns when the datapath wakes the daemon: before `room` handshakes more have begun than ended, whichever CPUs
    /// they arrive on.
    fn wake(&mut self, room: u64) -> WakeAt {
        self.tick = self.tick.wrapping_add(1);
        let open = (room / self.cpus.max(1)).clamp(1, MOST_OPEN);
        WakeAt { tick: self.tick, open: u32::try_from(open).unwrap_or(u32::MAX) }
    }
}

impl Daemon {
    /// Runs one tick and publishes its result. If it fails, the lease expires and the datapath passes everything.
    pub(super) fn tick(&mut self) {
        if let Some(jump) = self.health.clock_watch.note(Reading::now()) {
            self.events.record(Note::new(EventKind::ClockJumped, jump));
            self.save_situation();
        }
        // It blocks for some milliseconds of system calls, during which other tasks go on.
        let is_busy = match tokio::task::block_in_place(|| self.observe_judge_act()) {
            Ok(report) => {
                self.health.is_blind = false;
                self.health.service_manager.note_tick(&report);
                let is_busy = report.is_busy();
                self.publisher.publish(Arc::new(report));
                is_busy
            }
            Err(error) => {
                if std::mem::replace(&mut self.health.is_blind, true) {
                    debug!("still no snapshot: {error}");
                } else {
                    error!("no snapshot could be taken, and nothing is dropped until one succeeds: {error}");
                }
                true
            }
        };
        self.keep_to_share(is_busy);
        let calm = self.health.calm_pace.pause().min(self.longest_pause());
        self.schedule.end(is_busy, calm, tokio::time::Instant::now());
    }

    /// Has the daemon look less often in calm while it uses more of the processor than it may.
    fn keep_to_share(&mut self, is_busy: bool) {
        let limit = self.config.limits.cpu_share;
        self.health.calm_pace.set_limit(limit);
        // What readers cost becomes no less by looking less often.
        let cpu = self.health.cost.cpu_without_requests();
        let (longest, now) = (self.longest_pause(), Instant::now());
        match self.health.calm_pace.note(is_busy, cpu, longest, now) {
            Some(Change::Longer(_)) if !self.health.less_often_said.is_due(now) => {}
            Some(Change::Longer(share)) => {
                let message = format!(
                    "the daemon used {:.1} % of a core in calm, more than limits.cpu_share ({:.1} %), and looks less \
                     often; the datapath still wakes it when an attack begins",
                    share * 100.0,
                    limit * 100.0
                );
                self.events.record(Note::new(EventKind::LookingLessOften, message));
            }
            Some(Change::Normal) => info!("the daemon looks once a second again in calm"),
            None => {}
        }
    }

    /// Returns the longest time between two ticks: a lease and a watchdog outlast two.
    fn longest_pause(&self) -> Duration {
        let lease = self.lease.lasts * 2 / 5;
        self.health.service_manager.watchdog().map_or(lease, |watchdog| lease.min(watchdog))
    }

    fn observe_judge_act(&mut self) -> Result<TickReport, DatapathError> {
        let now = Instant::now();
        let late = self.schedule.begin(now.into());
        self.health.cost.begin_tick(now, late);
        let is_alert = self.detector.phase() != Phase::Calm;
        let mut snapshot =
            self.monitor.tick(&self.datapath, self.network.interfaces.status(), is_alert, self.lease.tick)?;
        self.health.cost.end_reading();
        if !self.datapath.features.sees_completions() {
            // No handshake would ever seem to complete: only the kernel's own count can be judged.
            snapshot.leave_datapath_out();
        }
        record::tick(&snapshot);
        self.lease.time.set(snapshot.clock.jiffies());

        let at = self.detector.now();
        let judgement = self.detector.judge(&snapshot, at);

        self.observe_behind(Some(&snapshot));
        let surroundings = self.network.surroundings(self.behind.is_observed());
        let measures = self.enforcer.act(&judgement, &snapshot, &self.datapath, surroundings, at);
        if self.detector.is_worth_saving(&judgement, at) {
            self.save_situation();
        }
        if let Err(error) = self.lists.expire() {
            warn!("expired list entries could not be removed: {error}");
        }

        let valid_until = snapshot.clock.after(self.lease.lasts);
        let lease = self.enforcer.lease(&self.datapath, valid_until, surroundings);
        let wake = self.lease.wake(self.detector.room(&snapshot).min(snapshot.queue_room(self.lease.cpus)));
        self.lease.map.grant(&tcpguard_common::abi::lease::Lease { wake, ..lease })?;

        self.events.tick();
        self.health.cost.end_tick(Instant::now(), &self.datapath);
        Ok(TickReport {
            taken: now,
            snapshot,
            state: judgement.state,
            state_since: self.detector.state_since(),
            attack_since: self.detector.attack_since(),
            measures,
            behind: self.behind.status(),
            cost: self.health.cost.cost(),
            config: Arc::clone(&self.config),
        })
    }
}
