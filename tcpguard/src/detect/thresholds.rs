//! The three tests of Windows' `SynAttackProtect` (half-open, retried, refused), which are OR-ed and
//! strict, and one of our own: segments that no TCP sends.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::monitor::{HalfOpenCounts, Readings};

/// What the host, or a service, may come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Half-open handshakes, by the kernel's count or by the datapath's.
    pub max_half_open: u64,
    /// Of the kernel's, the ones whose SYN-ACK was sent again.
    pub max_retried: u64,
    /// Requests refused a second.
    pub max_refused: Option<u64>,
    /// Segments a second that no TCP sends.
    pub max_malformed: Option<u64>,
    /// Below this share of a threshold it does not count as exceeded any more.
    pub leave_ratio: f64,
    /// For how long all values must be below.
    pub hold: Duration,
}

/// What is compared with a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// Half-open handshakes in the kernel.
    HalfOpenKernel,
    /// Half-open handshakes by the datapath's count.
    HalfOpenDatapath,
    /// Half-open handshakes whose SYN-ACK was sent again.
    Retried,
    /// Requests refused in a second.
    Refused,
    /// Malformed segments in a second.
    Malformed,
}

/// A value that exceeds its threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Of what.
    pub measure: Measure,
    /// The value.
    pub value: u64,
    /// The threshold.
    pub threshold: u64,
}

impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, value, threshold } = self;
        let what = match measure {
            Measure::HalfOpenKernel => "handshakes half open in the kernel",
            Measure::HalfOpenDatapath => "handshakes half open by the datapath's count",
            Measure::Retried => "half-open handshakes whose SYN-ACK was sent again",
            Measure::Refused => "connection requests refused in a second",
            Measure::Malformed => "segments in a second that no TCP sends",
        };
        write!(formatter, "{value} {what} (threshold {threshold})")
    }
}

/// One value: as it stands, and as it would become if what arrives at this moment went on.
struct Value {
    measure: Measure,
    standing: u64,
    coming: u64,
    threshold: u64,
}

/// The values of one moment.
pub(super) struct Values(Vec<Value>);

impl Values {
    /// Of these readings, what was forgiven left out.
    pub fn of(readings: &Readings, forgiven: &HalfOpenCounts, limits: &Limits) -> Self {
        let half_open = |measure, count: u64, forgiven: u64, threshold| {
            let standing = count.saturating_sub(forgiven);
            Value { measure, standing, coming: standing.min(readings.half_open_coming), threshold }
        };
        let counts = &readings.half_open;
        let mut values = vec![
            half_open(Measure::HalfOpenKernel, counts.kernel, forgiven.kernel, limits.max_half_open),
            half_open(Measure::HalfOpenDatapath, counts.datapath, forgiven.datapath, limits.max_half_open),
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

    /// What exceeds its threshold as it stands.
    pub fn exceeded(&self) -> Vec<Evidence> {
        self.evidence(|value| value.standing)
    }

    /// What exceeds its threshold by what still comes.
    pub fn still_exceeded(&self) -> Vec<Evidence> {
        self.evidence(|value| value.coming)
    }

    fn evidence(&self, of: impl Fn(&Value) -> u64) -> Vec<Evidence> {
        let exceeded = self.0.iter().filter(|value| of(value) > value.threshold);
        exceeded
            .map(|value| Evidence { measure: value.measure, value: of(value), threshold: value.threshold })
            .collect()
    }

    /// Whether every value, by what still comes, is below this share of its threshold.
    pub fn are_below(&self, ratio: f64) -> bool {
        self.0.iter().all(|value| value.coming == 0 || (value.coming as f64) < ratio * value.threshold as f64)
    }
}
