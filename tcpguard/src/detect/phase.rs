//! The phases of one scope, and what moves it from one to the next.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::thresholds::{Evidence, Limits, Values};
use crate::monitor::{HalfOpenCounts, Readings};

/// No handshake is half open for longer.
const LIFETIME: Duration = Duration::from_secs(66);

/// How a scope stands; a graver phase is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// No threshold is exceeded.
    #[default]
    Calm,
    /// The attack seems over; it is, once it has for a while.
    Recovering,
    /// Under attack.
    Attack,
}

impl Phase {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Recovering => "recovering",
            Self::Attack => "attack",
        }
    }
}

/// The state of one scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScopeState {
    /// Its phase.
    pub phase: Phase,
    /// When the attack began that is going on, or that it recovers from.
    pub since: Option<Duration>,
    /// What showed that attack, last.
    pub evidence: Vec<Evidence>,
    /// Since when every value has been below.
    below_since: Option<Duration>,
    /// What the last attack left behind, which does not begin another.
    forgiven: HalfOpenCounts,
    forgiven_until: Duration,
}

impl ScopeState {
    /// The state after these readings.
    #[must_use]
    pub(super) fn advance(&self, readings: &Readings, limits: &Limits, at: Duration) -> Self {
        let mut next = self.clone();
        next.forgive_less(readings, at);
        let values = Values::of(readings, &next.forgiven, limits);
        match self.phase {
            Phase::Calm => {
                let evidence = values.exceeded();
                if !evidence.is_empty() {
                    next = Self { phase: Phase::Attack, since: Some(at), evidence, below_since: None, ..next };
                }
            }
            Phase::Attack if values.are_below(limits.leave_ratio) => {
                next.phase = Phase::Recovering;
                next.below_since = Some(at);
            }
            Phase::Attack => next.refresh(values.still_exceeded()),
            Phase::Recovering => next.recover(&values, readings, limits, at),
        }
        next
    }

    fn recover(&mut self, values: &Values, readings: &Readings, limits: &Limits, at: Duration) {
        let evidence = values.still_exceeded();
        if !evidence.is_empty() {
            self.phase = Phase::Attack;
            self.below_since = None;
            self.refresh(evidence);
        } else if !values.are_below(limits.leave_ratio) {
            // Between the two bounds nothing changes, but the time of quiet has to begin anew.
            self.below_since = None;
        } else {
            let below_since = *self.below_since.get_or_insert(at);
            if at.saturating_sub(below_since) >= limits.hold {
                *self = Self { forgiven: readings.half_open, forgiven_until: at + LIFETIME, ..Self::default() };
            }
        }
    }

    fn refresh(&mut self, evidence: Vec<Evidence>) {
        if !evidence.is_empty() {
            self.evidence = evidence;
        }
    }

    /// What was left behind grows less as handshakes expire, and is gone after their lifetime.
    fn forgive_less(&mut self, readings: &Readings, at: Duration) {
        if at >= self.forgiven_until {
            self.forgiven = HalfOpenCounts::default();
            return;
        }
        let now = &readings.half_open;
        self.forgiven = HalfOpenCounts {
            kernel: self.forgiven.kernel.min(now.kernel),
            kernel_retried: self.forgiven.kernel_retried.min(now.kernel_retried),
            datapath: self.forgiven.datapath.min(now.datapath),
        };
    }
}
