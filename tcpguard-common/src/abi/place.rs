//! Places: what SYNs and handshakes are counted for. A place is a port of this host, or a port of a network that it protects as
//! a gateway.
//!
//! | place | stands for |
//! | --- | --- |
//! | 0 to 65,535 | the port of this host with that number |
//! | from [`HOST_PLACES`] on | a port of a protected network, in the order of the configuration |

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The number of places of this host: its ports.
pub const HOST_PLACES: usize = 65_536;
/// The number of ports that all protected networks may have together.
pub const PROTECTED_PLACES: usize = 512;
/// The number of places.
pub const PLACES: usize = HOST_PLACES + PROTECTED_PLACES;

/// Returns whether a place is a port of a protected network.
#[inline(always)]
pub const fn is_protected(place: u32) -> bool {
    place >= HOST_PLACES as u32
}

/// Returns the place of the protected port at this index; `None` if there is no room for it.
pub const fn of_protected(index: usize) -> Option<u32> {
    if index < PROTECTED_PLACES { Some((HOST_PLACES + index) as u32) } else { None }
}

/// A port of a protected network: the key of the map of their places.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ProtectedPort {
    /// The index of the section of the configuration that names the network.
    pub network: u32,
    /// The port, in host byte order.
    pub port: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protected_places_follow_those_of_the_host() {
        assert_eq!(of_protected(0), Some(65_536));
        assert_eq!(of_protected(PROTECTED_PLACES - 1), Some(PLACES as u32 - 1));
        assert_eq!(of_protected(PROTECTED_PLACES), None);
        assert!(is_protected(65_536) && !is_protected(65_535));
    }
}
