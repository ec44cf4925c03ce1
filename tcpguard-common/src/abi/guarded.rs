//! The interfaces on which completed handshakes count, each with a combination of these bits.

/// It is guarded.
pub const GUARDED: u32 = 1;
/// It is stacked on a guarded one (VLAN, bridge, bond, VRF).
pub const STACKED: u32 = 2;
/// It leads to protected networks: their servers' answers arrive there.
pub const INNER: u32 = 4;
