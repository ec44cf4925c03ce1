//! The result of one tick.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;

use crate::{
    config::Config,
    cost::Cost,
    datapath::Feature,
    detect::{Phase, State},
    monitor::Snapshot,
    response::Measures,
};

/// The result of one tick: what was observed, what was judged, and what is done.
#[derive(Clone, Debug)]
pub struct TickReport {
    /// When the tick began.
    pub taken: Instant,
    /// What was observed.
    pub snapshot: Snapshot,
    /// The state of the host and of the services.
    pub state: State,
    /// When the host entered its present phase.
    pub state_since: Timestamp,
    /// When the attack in progress began.
    pub attack_since: Option<Timestamp>,
    /// The measures in effect.
    pub measures: Measures,
    /// Whether handshakes that complete behind this host are observed; `None` as long as there was nothing to observe.
    pub behind: Option<Feature>,
    /// What tcpguard itself costs.
    pub cost: Cost,
    /// The configuration that was in effect.
    pub config: Arc<Config>,
}

impl TickReport {
    /// Returns whether something happens that the daemon follows closely.
    pub fn is_busy(&self) -> bool {
        self.state.phase() != Phase::Calm
            || self.state.scopes().any(|(_, scope)| scope.is_in_doubt())
            || self.snapshot.is_suspicious
            || self.measures.are_in_progress()
    }

    /// Returns whether frames are dropped at all.
    pub fn drops(&self) -> bool {
        self.config.syn_attack_protect == 2
    }
}
