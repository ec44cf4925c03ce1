//! The three tests of Windows' `SynAttackProtect` (half-open, retried, refused), any of which is sufficient, and a test
//! for malformed segments. All comparisons are strict.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::monitor::{HalfOpenCounts, Readings};

/// The thresholds of the host or of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Half-open handshakes, by the kernel's count or the datapath's.
    pub max_half_open: u64,
    /// Half-open handshakes in the kernel whose SYN-ACK was retransmitted.
    pub max_retried: u64,
    /// Connection requests refused per second; `None` to not test them.
    pub max_refused: Option<u64>,
    /// Malformed segments per second; `None` to not test them.
    pub max_malformed: Option<u64>,
    /// An attack can end only while every value is below this share (0 to 1) of its threshold.
    pub leave_ratio: f64,
    /// How long all values must stay below that share before the attack is over.
    pub hold: Duration,
}

/// A value that is compared with a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// Half-open handshakes in the kernel.
    HalfOpenKernel,
    /// Half-open handshakes in the datapath's count.
    HalfOpenDatapath,
    /// Half-open handshakes that dropped SYNs would lead to. It keeps an attack from ending, and begins none.
    HalfOpenPrevented,
    /// Half-open handshakes whose SYN-ACK was retransmitted.
    Retried,
    /// Connection requests refused in one second.
    Refused,
    /// Malformed segments in one second.
    Malformed,
}

/// A value that exceeds its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was measured.
    pub measure: Measure,
    /// The measured value.
    pub value: u64,
    /// The threshold it exceeded.
    pub threshold: u64,
}

impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, value, threshold } = self;
        let what = match measure {
            Measure::HalfOpenKernel => "handshakes half open in the kernel",
            Measure::HalfOpenDatapath => "handshakes half open by the datapath's count",
            Measure::HalfOpenPrevented => "handshakes that the dropped SYNs would leave half open",
            Measure::Retried => "half-open handshakes whose SYN-ACK was sent again",
            Measure::Refused => "connection requests refused in a second",
            Measure::Malformed => "malformed segments in a second",
        };
        write!(formatter, "{value} {what} (threshold {threshold})")
    }
}

/// One value: the present count, and the count that the current rate would lead to.
struct Value {
    measure: Measure,
    standing: u64,
    coming: u64,
    threshold: u64,
}

/// The values of one tick.
pub(super) struct Values(Vec<Value>);

impl Values {
    /// Returns the values of `readings`, less the half-open handshakes in `forgiven`.
    pub fn of(readings: &Readings, forgiven: &HalfOpenCounts, limits: &Limits) -> Self {
        let half_open = |measure, count: u64, forgiven: u64, threshold| {
            let standing = count.saturating_sub(forgiven);
            Value { measure, standing, coming: standing.min(readings.half_open_coming), threshold }
        };
        let counts = &readings.half_open;
        let mut values = vec![
            half_open(Measure::HalfOpenKernel, counts.kernel, forgiven.kernel, limits.max_half_open),
            half_open(Measure::HalfOpenDatapath, counts.datapath, forgiven.datapath, limits.max_half_open),
            Value {
                measure: Measure::HalfOpenPrevented,
                standing: 0,
                coming: readings.half_open_prevented,
                threshold: limits.max_half_open,
            },
            half_open(Measure::Retried, counts.kernel_retried, forgiven.kernel_retried, limits.max_retried),
        ];
        values.extend(limits.max_refused.map(|threshold| Value {
            measure: Measure::Refused,
            standing: readings.refused,
            coming: readings.refused_coming,
            threshold,
        }));
        values.extend(limits.max_malformed.map(|threshold| Value {
            measure: Measure::Malformed,
            standing: readings.malformed,
            coming: readings.malformed_coming,
            threshold,
        }));
        Self(values)
    }

    /// Returns the values whose present count exceeds the threshold.
    pub fn exceeded(&self) -> Vec<Evidence> {
        self.evidence(|value| value.standing)
    }

    /// Returns the values whose incoming count exceeds the threshold.
    pub fn still_exceeded(&self) -> Vec<Evidence> {
        self.evidence(|value| value.coming)
    }

    fn evidence(&self, of: impl Fn(&Value) -> u64) -> Vec<Evidence> {
        let exceeded = self.0.iter().filter(|value| of(value) > value.threshold);
        exceeded
            .map(|value| Evidence { measure: value.measure, value: of(value), threshold: value.threshold })
            .collect()
    }

    /// Returns `true` if every incoming count is below `ratio` of its threshold.
    pub fn are_below(&self, ratio: f64) -> bool {
        self.0.iter().all(|value| value.coming == 0 || (value.coming as f64) < ratio * value.threshold as f64)
    }
}
