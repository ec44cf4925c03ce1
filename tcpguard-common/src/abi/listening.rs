//! Whether a port has a listener in the daemon's network namespace. SYNs to other ports are not judged: the port is
//! closed, and the kernel answers with a reset, or it is redirected, and the handshake completes elsewhere.

/// The state of a port that has a listener.
pub const LISTENING: u64 = u64::MAX;
/// The state of a port that has none.
pub const CLOSED: u64 = 0;
