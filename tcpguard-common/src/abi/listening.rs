//! Whether a port has a listener in the daemon's network namespace. If it has none, it is closed, and the kernel answers with
//! a reset: its SYNs are not judged. Or it is redirected (DNAT, IPVS), and its handshakes complete elsewhere.

/// The state of a port that has a listener.
pub const LISTENING: u64 = u64::MAX;
/// The state of a port that has none, and from which SYN-ACKs are sent nevertheless.
pub const REDIRECTED: u64 = 1;
/// The state of any other port.
pub const CLOSED: u64 = 0;
