//! The interfaces on which completed handshakes count.

/// An interface that is guarded.
pub const GUARDED: u32 = 1;
/// An interface that is stacked on a guarded one (VLAN, bridge, bond, VRF).
pub const STACKED: u32 = 2;
