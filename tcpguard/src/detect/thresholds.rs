//! The three tests of Windows' `SynAttackProtect` (half-open, retried, refused), any of which is sufficient, and a test
//! each for malformed segments and for those without a connection. All comparisons are strict.

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
    /// Segments per second that belong to no connection; `None` to not test them.
    pub max_stray: Option<u64>,
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
    /// Segments in one second that belong to no connection.
    Stray,
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
    /// What the handshakes that complete add to the threshold, included in it.
    #[serde(default)]
    pub allowance: u64,
}

impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, value, threshold, allowance } = self;
        let what = match measure {
            Measure::HalfOpenKernel => "handshakes half open in the kernel",
            Measure::HalfOpenDatapath => "handshakes half open by the datapath's count",
            Measure::HalfOpenPrevented => "handshakes that the dropped SYNs would leave half open",
            Measure::Retried => "half-open handshakes whose SYN-ACK was sent again",
            Measure::Refused => "connection requests refused in a second",
            Measure::Malformed => "malformed segments in a second",
            Measure::Stray => "segments in a second that belong to no connection",
        };
        write!(formatter, "{value} {what} (threshold {threshold}")?;
        match allowance {
            0 => formatter.write_str(")"),
            _ => write!(formatter, ", {allowance} of it for handshakes that complete)"),
        }
    }
}

/// One value: the present count, and the count that the current rate would lead to.
struct Value {
    measure: Measure,
    standing: u64,
    coming: u64,
    threshold: u64,
    /// Added to the threshold.
    allowance: u64,
}

/// The share of a busy host's handshakes that may be abandoned without being evidence of an attack.
const ABANDONED: f64 = 0.05;
/// A value that exceeds this many times its threshold is evidence at once; see [`Values::are_urgent`].
const URGENT: u64 = 8;

/// What the handshakes that complete add to each threshold. Where nothing completes, all of it is 0.
struct Allowances {
    /// For half-open handshakes: those in flight at a round-trip time of up to a second (Little's law), and those that are
    /// abandoned.
    half_open: u64,
    /// For handshakes whose SYN-ACK was retransmitted: those that are abandoned.
    retried: u64,
}

impl Allowances {
    fn of(readings: &Readings) -> Self {
        let abandoned = (readings.completed_lifetime as f64 * ABANDONED) as u64;
        Self { half_open: readings.completed_second + abandoned, retried: abandoned }
    }
}

/// The values of one tick.
pub(super) struct Values(Vec<Value>);

impl Values {
    /// Returns the values of `readings`, less the half-open handshakes in `forgiven`.
    pub fn of(readings: &Readings, forgiven: &HalfOpenCounts, limits: &Limits) -> Self {
        let allowances = Allowances::of(readings);
        let half_open = |measure, count: u64, forgiven: u64, threshold, allowance| {
            let standing = count.saturating_sub(forgiven);
            Value { measure, standing, coming: standing.min(readings.half_open_coming), threshold, allowance }
        };
        let counts = &readings.half_open;
        let max = limits.max_half_open;
        let mut values = vec![
            half_open(Measure::HalfOpenKernel, counts.kernel, forgiven.kernel, max, allowances.half_open),
            half_open(Measure::HalfOpenDatapath, counts.datapath, forgiven.datapath, max, allowances.half_open),
            Value {
                measure: Measure::HalfOpenPrevented,
                standing: 0,
                coming: readings.half_open_prevented,
                threshold: max,
                allowance: allowances.half_open,
            },
            half_open(
                Measure::Retried,
                counts.kernel_retried,
                forgiven.kernel_retried,
                limits.max_retried,
                allowances.retried,
            ),
        ];
        values.extend(limits.max_refused.map(|threshold| Value {
            measure: Measure::Refused,
            standing: readings.refused,
            coming: readings.refused_coming,
            threshold,
            allowance: 0,
        }));
        values.extend(limits.max_malformed.map(|threshold| Value {
            measure: Measure::Malformed,
            standing: readings.malformed,
            coming: readings.malformed_coming,
            threshold,
            allowance: 0,
        }));
        values.extend(limits.max_stray.map(|threshold| Value {
            measure: Measure::Stray,
            standing: readings.strays,
            coming: readings.strays_coming,
            threshold,
            allowance: 0,
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
        let exceeded = self.0.iter().filter(|value| of(value) > value.allowed());
        let evidence = exceeded.map(|value| Evidence {
            measure: value.measure,
            value: of(value),
            threshold: value.allowed(),
            allowance: value.allowance,
        });
        evidence.collect()
    }

    /// Returns how many more handshakes may be half open before that exceeds a threshold.
    pub fn room(&self) -> u64 {
        let half_open = |value: &&Value| matches!(value.measure, Measure::HalfOpenKernel | Measure::HalfOpenDatapath);
        let room = self.0.iter().filter(half_open).map(|value| value.allowed().saturating_sub(value.standing));
        room.min().unwrap_or(0)
    }

    /// Returns `true` if a value is so far above its threshold that the handshakes cannot just be in flight: there is no
    /// need to wait for the first round trip.
    pub fn are_urgent(&self) -> bool {
        self.0.iter().any(|value| value.standing > URGENT * value.allowed().max(1))
    }

    /// Returns `true` if every incoming count is below `ratio` of its threshold.
    pub fn are_below(&self, ratio: f64) -> bool {
        self.0.iter().all(|value| value.coming == 0 || (value.coming as f64) < ratio * value.allowed() as f64)
    }
}

impl Value {
    /// Returns the threshold with the allowance.
    const fn allowed(&self) -> u64 {
        self.threshold + self.allowance
    }
}
