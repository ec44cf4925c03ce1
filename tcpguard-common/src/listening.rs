//! Whether a port has a listener. A SYN to a port that had one a while ago is a client's that meets a
//! restart, not an attacker's: the kernel answers it with a reset, and it is not judged.

/// Holds for a port that has a listener.
pub const LISTENING: u64 = u64::MAX;
/// Holds for a port that never had one.
pub const NEVER: u64 = 0;
/// For how many seconds a port that was closed is taken for one that will open again.
pub const GRACE_SECONDS: u64 = 3600;

/// What holds for a port that is closed at this moment.
#[inline(always)]
pub const fn closed_at(jiffies: u64, ticks_per_second: u64) -> u64 {
    jiffies.saturating_add(GRACE_SECONDS * ticks_per_second)
}

/// Whether a port of this state was closed a while ago.
#[inline(always)]
pub const fn is_closed_for_a_while(state: u64, jiffies: u64) -> bool {
    state != LISTENING && jiffies < state
}
