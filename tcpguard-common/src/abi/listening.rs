//! Whether a port has a listener. A SYN to a port whose listener closed recently comes from a client during a
//! restart, not from an attacker: the kernel answers it with a reset, and it is not judged.

/// The state of a port that has a listener.
pub const LISTENING: u64 = u64::MAX;
/// The state of a port that never had a listener.
pub const NEVER: u64 = 0;
/// The number of seconds for which a closed port is assumed to open again.
pub const GRACE_SECONDS: u64 = 3600;

/// Returns the state of a port that closes at `jiffies`: the time at which its grace period ends.
#[inline(always)]
pub const fn closed_at(jiffies: u64, ticks_per_second: u64) -> u64 {
    jiffies.saturating_add(GRACE_SECONDS * ticks_per_second)
}

/// Returns whether a port in this state closed within the grace period.
#[inline(always)]
pub const fn is_closed_for_a_while(state: u64, jiffies: u64) -> bool {
    state != LISTENING && jiffies < state
}
