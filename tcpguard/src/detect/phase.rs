//! The phases of one scope and the transitions between them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::thresholds::{Evidence, Limits, Values};
use crate::{
    monitor::{HalfOpenCounts, Readings},
    time::COUNTED_LIFETIME,
};
/// The phase of a scope, ordered by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// No threshold is exceeded.
    #[default]
    Calm,
    /// The attack seems to be over, but the values have not been low for long enough yet.
    Recovering,
    /// A threshold was exceeded, and the attack continues.
    Attack,
}

impl Phase {
    /// Returns the name used in the API, messages and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Recovering => "recovering",
            Self::Attack => "attack",
        }
    }
}

/// How long a threshold must be exceeded before that is an attack. When many clients connect to an idle host at once,
/// their handshakes are half open for the first round trip; from then on those that complete raise the threshold.
const GRACE: Duration = Duration::from_millis(150);

/// The state of one scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScopeState {
    /// The present phase.
    pub phase: Phase,
    /// When the current attack began, or the one it is recovering from.
    pub since: Option<Duration>,
    /// The values that exceeded a threshold most recently in that attack.
    pub evidence: Vec<Evidence>,
    /// Since when all values have been low.
    below_since: Option<Duration>,
    /// Since when a threshold has been exceeded, while calm.
    #[serde(default)]
    above_since: Option<Duration>,
    /// Half-open handshakes left over from the last attack, which do not start another one.
    forgiven: HalfOpenCounts,
    forgiven_until: Duration,
}

impl ScopeState {
    /// Returns the state after these readings.
    #[must_use]
    pub(super) fn advance(&self, readings: &Readings, limits: &Limits, at: Duration) -> Self {
        let mut next = self.clone();
        next.forgive_less(readings, at);
        let values = Values::of(readings, &next.forgiven, limits);
        match self.phase {
            Phase::Calm => {
                let evidence = values.exceeded();
                if evidence.is_empty() {
                    next.above_since = None;
                } else if at.saturating_sub(*next.above_since.get_or_insert(at)) >= GRACE || values.are_urgent() {
                    let (phase, since) = (Phase::Attack, Some(at));
                    next = Self { phase, since, evidence, above_since: None, ..next };
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

    /// Returns whether a threshold is exceeded, and has not been for long enough to be an attack.
    pub const fn is_in_doubt(&self) -> bool {
        self.above_since.is_some()
    }

    /// Returns how many half-open handshakes in the datapath's count are left over from the last attack.
    pub(super) const fn forgiven(&self) -> u64 {
        self.forgiven.datapath
    }

    /// Returns how many more handshakes may be half open before that exceeds a threshold.
    pub(super) fn room(&self, readings: &Readings, limits: &Limits) -> u64 {
        Values::of(readings, &self.forgiven, limits).room()
    }

    fn recover(&mut self, values: &Values, readings: &Readings, limits: &Limits, at: Duration) {
        let evidence = values.still_exceeded();
        if !evidence.is_empty() {
            self.phase = Phase::Attack;
            self.below_since = None;
            self.refresh(evidence);
        } else if !values.are_below(limits.leave_ratio) {
            // Between the two bounds nothing changes, but the quiet period has to start again.
            self.below_since = None;
        } else {
            let below_since = *self.below_since.get_or_insert(at);
            if at.saturating_sub(below_since) >= limits.hold {
                *self = Self { forgiven: readings.half_open, forgiven_until: at + COUNTED_LIFETIME, ..Self::default() };
            }
        }
    }

    fn refresh(&mut self, evidence: Vec<Evidence>) {
        if !evidence.is_empty() {
            self.evidence = evidence;
        }
    }

    /// Reduces the forgiven handshakes as they expire; after the handshake lifetime none are left.
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
