//! One tick, ten times a second: observe, judge, act, and only then renew the lease.

use std::{sync::Arc, time::Instant};

use tracing::{debug, error, warn};

use super::{Daemon, TickReport};
use crate::{
    datapath::DatapathError,
    detect::Phase,
    events::{EventKind, Note},
    record,
    time::Reading,
};

impl Daemon {
    /// Runs one tick and publishes its result. If it fails, the lease expires and the datapath passes everything.
    pub(super) fn tick(&mut self) {
        if let Some(jump) = self.health.clock_watch.note(Reading::now()) {
            self.events.record(Note::new(EventKind::ClockJumped, jump));
            self.save_situation();
        }
        // It blocks for some milliseconds of system calls, during which other tasks go on.
        match tokio::task::block_in_place(|| self.observe_judge_act()) {
            Ok(report) => {
                self.health.is_blind = false;
                self.health.service_manager.note_tick(&report);
                self.publisher.publish(Arc::new(report));
            }
            Err(error) if self.health.is_blind => debug!("still no snapshot: {error}"),
            Err(error) => {
                self.health.is_blind = true;
                error!("no snapshot could be taken, and nothing is dropped until one succeeds: {error}");
            }
        }
    }

    fn observe_judge_act(&mut self) -> Result<TickReport, DatapathError> {
        self.health.cost.begin_tick(Instant::now());
        let is_alert = self.detector.phase() != Phase::Calm;
        let mut snapshot = self.monitor.tick(&self.datapath, self.network.interfaces.status(), is_alert)?;
        if !self.datapath.features.sees_completions() {
            // No handshake would ever seem to complete: only the kernel's own count can be judged.
            snapshot.leave_datapath_out();
        }
        record::tick(&snapshot);
        self.lease.time.set(snapshot.clock.jiffies());

        let at = self.detector.now();
        let judgement = self.detector.judge(&snapshot, at);

        let surroundings = self.network.surroundings();
        let measures = self.enforcer.act(&judgement, &snapshot, &self.datapath, surroundings, at);
        if self.detector.is_worth_saving(&judgement, at) {
            self.save_situation();
        }
        if let Err(error) = self.lists.expire() {
            warn!("expired list entries could not be removed: {error}");
        }

        let valid_until = snapshot.clock.after(self.lease.lasts);
        self.lease.map.grant(&self.enforcer.lease(&self.datapath, valid_until, surroundings.knows_local))?;

        self.events.tick();
        self.health.cost.end_tick(Instant::now(), &self.datapath);
        Ok(TickReport {
            snapshot,
            state: judgement.state,
            state_since: self.detector.state_since(),
            attack_since: self.detector.attack_since(),
            measures,
            cost: self.health.cost.cost(),
            config: Arc::clone(&self.config),
        })
    }
}
