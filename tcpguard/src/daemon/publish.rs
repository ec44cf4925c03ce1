//! Passing the result of each tick on to the API.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::TickReport;
use crate::{config::Config, history::Sampler};

/// Sends the result of each tick, and the configuration in effect, to their subscribers.
pub(super) struct Publisher {
    report: watch::Sender<Option<Arc<TickReport>>>,
    /// Updated only once a second and whenever the state changes.
    beat: watch::Sender<Option<Arc<TickReport>>>,
    config: watch::Sender<Arc<Config>>,
    sampler: Sampler,
}

/// The receiving ends of a [`Publisher`].
pub(super) struct Subscriptions {
    pub report: watch::Receiver<Option<Arc<TickReport>>>,
    pub beat: watch::Receiver<Option<Arc<TickReport>>>,
    pub config: watch::Receiver<Arc<Config>>,
}

impl Publisher {
    pub fn new(config: Arc<Config>, sampler: Sampler) -> (Self, Subscriptions) {
        let (report, reports) = watch::channel(None);
        let (beat, beats) = watch::channel(None);
        let (config, configs) = watch::channel(config);
        (Self { report, beat, config, sampler }, Subscriptions { report: reports, beat: beats, config: configs })
    }

    /// Publishes the result of a tick.
    pub fn publish(&mut self, report: Arc<TickReport>) {
        let phase = report.state.phase();
        let is_sampled = self.sampler.note(&report.snapshot, phase, Instant::now());
        let before = self.report.send_replace(Some(Arc::clone(&report)));
        if is_sampled || before.is_none_or(|before| before.state.phase() != phase) {
            drop(self.beat.send_replace(Some(report)));
        }
    }

    /// Publishes a changed configuration.
    pub fn publish_config(&self, config: Arc<Config>) {
        drop(self.config.send_replace(config));
    }
}
