//! Challenges for SYNs of unproven sources: a cookie in a SYN-ACK, which requires no state, or waiting for the
//! SYN to be retransmitted.
//!
//! | module | subject |
//! | --- | --- |
//! | [`syn_options`] | the TCP options of a SYN |
//! | [`syn_ack`] | the SYN-ACK with a cookie |
//! | [`stamp`] | the timestamp from which the kernel recovers the options when the cookie is returned |
//! | [`first_syn`] | which SYNs are retransmits |
//! | [`spent`] | which cookies were returned already |
//! | [`passing`] | connections that were looked up recently |
//! | [`load`] | the number of SYNs per port in the current slot |

pub mod first_syn;
pub mod load;
pub mod passing;
pub mod spent;
pub mod stamp;
pub mod syn_ack;
pub mod syn_options;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How SYNs of unproven sources to one port are challenged. Written by the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortChallenge {
    /// The number of changes to the port's listeners at the time of writing. The element applies until they
    /// change again, because a new listener has to be prepared for cookies first.
    pub changes: u64,
    /// A combination of the bits in [`port_flag`].
    pub flags: u32,
    /// The largest MSS that an answer may announce over IPv4, in bytes.
    pub most_mss_ipv4: u16,
    /// The largest MSS that an answer may announce over IPv6, in bytes.
    pub most_mss_ipv6: u16,
    /// The receive window of an answer, in bytes.
    pub window: u16,
    /// The window scale that the kernel uses for the connection (RFC 7323 2.2).
    pub window_scale: u8,
    /// The TTL of answers over IPv4.
    pub time_to_live: u8,
    /// The hop limit of answers over IPv6.
    pub hop_limit: u8,
    /// Padding to whole words.
    pub reserved: [u8; 3],
}

/// Bits of [`PortChallenge::flags`].
pub mod port_flag {
    /// SYNs are answered with cookies.
    pub const COOKIE: u32 = 1;
    /// First SYNs are dropped, so that clients retransmit them.
    pub const RETRANSMIT: u32 = 1 << 1;
    /// SYNs are answered with cookies once the port's load exceeds [`crate::control::Control::most_load`].
    pub const TRIGGERS_COOKIE: u32 = 1 << 2;
    /// First SYNs are dropped once the port's load exceeds [`crate::control::Control::most_load`].
    pub const TRIGGERS_RETRANSMIT: u32 = 1 << 3;
    /// A listener accepts connections to any IPv4 address of the host.
    pub const ANY_IPV4: u32 = 1 << 4;
    /// A listener accepts connections to any IPv6 address of the host.
    pub const ANY_IPV6: u32 = 1 << 5;
    /// Listeners accept connections to single addresses, which are looked up ([`super::Endpoint`]).
    pub const SOME_ADDRESSES: u32 = 1 << 6;
    /// Segments received over IPv4 are checked: whether they belong to a connection or return a cookie.
    pub const WATCH_IPV4: u32 = 1 << 7;
    /// Segments received over IPv6 are checked likewise.
    pub const WATCH_IPV6: u32 = 1 << 12;
    /// Stray segments received over IPv4 are dropped.
    pub const GUARD_IPV4: u32 = 1 << 13;
    /// Stray segments received over IPv6 are dropped.
    pub const GUARD_IPV6: u32 = 1 << 14;
    /// Answers may carry timestamps, and with them the other options.
    pub const TIMESTAMPS: u32 = 1 << 8;
    /// Answers may permit selective acknowledgements.
    pub const SACK: u32 = 1 << 9;
    /// Answers may carry a window scale.
    pub const WINDOW_SCALING: u32 = 1 << 10;
    /// Answers may accept explicit congestion notification (ECN).
    pub const ECN: u32 = 1 << 11;
}

impl PortChallenge {
    /// Returns whether any of these bits of [`port_flag`] is set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// The address and port of a listener that does not accept connections to every address of the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// The address that the listener is bound to.
    pub address: crate::address::Address,
    /// The port in host byte order.
    pub port: u64,
}

/// The input of the program that prepares a listener for cookies.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrimeOrder {
    /// The address it listens on; the unspecified address for any.
    address: [crate::packet::Be16; 8],
    port: crate::packet::Be16,
    /// 1 if the listener is looked up over IPv4, 0 over IPv6.
    is_ipv4: crate::packet::Be16,
    /// See [`PrimeOrder::turn`].
    turn: crate::packet::Be16,
}

impl PrimeOrder {
    /// Creates an order for the listener at this address and port; see [`PrimeOrder::turn`].
    pub fn new(address: core::net::IpAddr, port: u16, turn: u16) -> Self {
        use crate::packet::Be16;
        let is_ipv4 = Be16::new(address.is_ipv4().into());
        Self {
            address: crate::address::Address::from(address).fields(),
            port: Be16::new(port),
            is_ipv4,
            turn: Be16::new(turn),
        }
    }

    /// Returns the address it listens on; the unspecified address for any.
    #[inline(always)]
    pub fn address(&self) -> crate::address::Address {
        crate::address::Address::from_ipv6_fields(self.address)
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
