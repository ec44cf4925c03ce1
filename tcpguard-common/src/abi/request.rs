//! Requests of the daemon: the packets that it runs programs on which are never attached.

use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{address::Address, wire::Be16};

/// The input of the program that blocks a source.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BlockRequest {
    source: [Be16; 8],
    until: [Be16; 4],
}

impl BlockRequest {
    /// Creates an order to drop the SYNs of `source` until `until`, in jiffies; 0 lifts a block.
    pub fn new(source: Address, until: u64) -> Self {
        let octets = source.octets();
        let field = |bytes: &[u8]| Be16::new_raw(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let until = until.to_be_bytes();
        Self {
            source: core::array::from_fn(|index| field(&octets[2 * index..])),
            until: core::array::from_fn(|index| field(&until[2 * index..])),
        }
    }

    /// Returns the source to block.
    #[inline(always)]
    pub fn source(&self) -> Address {
        Address::from_ipv6_fields(self.source)
    }

    /// Returns the time at which the block ends, in jiffies; 0 lifts a block.
    #[inline(always)]
    pub const fn until(&self) -> u64 {
        let [a, b, c, d] = self.until;
        (a.get() as u64) << 48 | (b.get() as u64) << 32 | (c.get() as u64) << 16 | d.get() as u64
    }
}

/// The input of the program that prepares a listener for cookies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrimeRequest {
    /// The address it listens on; the unspecified address for any.
    address: [Be16; 8],
    port: Be16,
    /// 1 if the listener is looked up over IPv4, 0 over IPv6.
    is_ipv4: Be16,
    /// See [`PrimeRequest::turn`].
    turn: Be16,
}

impl PrimeRequest {
    /// Creates an order for the listener at this address and port; see [`PrimeRequest::turn`].
    pub fn new(address: IpAddr, port: u16, turn: u16) -> Self {
        let is_ipv4 = Be16::new(address.is_ipv4().into());
        Self { address: Address::from(address).fields(), port: Be16::new(port), is_ipv4, turn: Be16::new(turn) }
    }

    /// Returns the address it listens on; the unspecified address for any.
    #[inline(always)]
    pub fn address(&self) -> Address {
        Address::from_ipv6_fields(self.address)
    }

    /// Returns its port in host byte order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port.get()
    }

    /// Returns the source port of the lookup, which selects one of several listeners that share the port.
    #[inline(always)]
    pub const fn turn(&self) -> u16 {
        self.turn.get()
    }

    /// Returns whether the listener is looked up with an IPv4 packet.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.is_ipv4.get() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_was_requested() {
        let source = Address::from(core::net::Ipv4Addr::new(198, 18, 3, 4));
        let order = BlockRequest::new(source, 0x0123_4567_89ab_cdef);
        assert_eq!((order.source(), order.until()), (source, 0x0123_4567_89ab_cdef));
    }

    #[test]
    fn a_listener_is_the_one_that_was_named() {
        for (address, is_ipv4) in [("198.18.3.4", true), ("2001:db8::7", false), ("0.0.0.0", true), ("::", false)] {
            let address: IpAddr = address.parse().expect("an address");
            let request = PrimeRequest::new(address, 8443, 40_001);
            assert_eq!(request.address(), address.into());
            assert_eq!((request.port(), request.turn(), request.is_ipv4()), (8443, 40_001, is_ipv4), "{address}");
        }
    }
}
