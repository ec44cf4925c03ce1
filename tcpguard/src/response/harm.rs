//! Whether an attack does harm. Measures have a price for clients (a cookie may cost them window scaling, a lower number of
//! retries their connection), so they wait until more is at stake than a threshold exceeded by a trickle.

use crate::monitor::{PortSnapshot, Snapshot};

/// From this many unanswered SYNs per second on, their processing costs the kernel noticeable CPU time.
const COSTLY_RATE: f64 = 1000.0;

/// Returns `true` if this many SYNs per second cost noticeable CPU time.
pub(super) fn is_costly(unanswered_per_second: f64) -> bool {
    unanswered_per_second >= COSTLY_RATE
}

/// Returns `true` if requests are refused: some listener's queue is full, whatever the port's listeners have together.
pub(super) fn is_refusing(snapshot: &Snapshot) -> bool {
    snapshot.pressure.host.refused > 0
}

/// Returns `true` if requests are refused, the queue of some port is about to overflow, or the SYNs cost noticeable CPU
/// time.
pub(super) fn is_done(snapshot: &Snapshot) -> bool {
    let unanswered = snapshot.rates.syn - snapshot.rates.completed;
    is_refusing(snapshot) || snapshot.ports.busy().any(PortSnapshot::is_queue_filling) || is_costly(unanswered)
}
