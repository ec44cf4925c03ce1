//! Challenging the SYNs of sources that have not proved themselves: by a cookie in a SYN-ACK, for which
//! nothing is remembered, or by waiting for the SYN to be sent again.
//!
//! | module | subject |
//! | --- | --- |
//! | [`syn_options`] | what a SYN asks for |
//! | [`syn_ack`] | the answer with a cookie |
//! | [`stamp`] | a timestamp that the kernel reads what was asked for from, when the cookie comes back |
//! | [`first_syn`] | which SYNs were sent before |
//! | [`spent`] | which cookies came back already |
//! | [`passing`] | connections that were found a moment ago |
//! | [`load`] | how many SYNs come to a port at this moment |

pub mod first_syn;
pub mod load;
pub mod passing;
pub mod spent;
pub mod stamp;
pub mod syn_ack;
pub mod syn_options;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What holds for SYNs to one port whose sources are not proven. Written by the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortChallenge {
    /// How often the port's listeners had changed when this was written: it holds until they change again,
    /// since a new listener has to be made ready for cookies first.
    pub changes: u64,
    /// See [`port_flag`].
    pub flags: u32,
    /// The largest segment that an answer may ask for, over IPv4.
    pub most_mss_ipv4: u16,
    /// The same over IPv6.
    pub most_mss_ipv6: u16,
    /// The receive window of an answer, in bytes.
    pub window: u16,
    /// The window scale that the kernel will take for the connection (RFC 7323 2.2).
    pub window_scale: u8,
    /// Of IPv4 packets.
    pub time_to_live: u8,
    /// Of IPv6 packets.
    pub hop_limit: u8,
    /// Keeps the size to whole words.
    pub reserved: [u8; 3],
}

/// Bits of [`PortChallenge::flags`].
pub mod port_flag {
    /// SYNs are answered with cookies.
    pub const COOKIE: u32 = 1;
    /// First SYNs are dropped.
    pub const RETRANSMIT: u32 = 1 << 1;
    /// SYNs are answered with cookies once too many come.
    pub const TRIGGERS_COOKIE: u32 = 1 << 2;
    /// First SYNs are dropped once too many come.
    pub const TRIGGERS_RETRANSMIT: u32 = 1 << 3;
    /// A listener takes what comes to any IPv4 address of the host.
    pub const ANY_IPV4: u32 = 1 << 4;
    /// A listener takes what comes to any IPv6 address of the host.
    pub const ANY_IPV6: u32 = 1 << 5;
    /// Listeners take what comes to addresses that are looked up.
    pub const SOME_ADDRESSES: u32 = 1 << 6;
    /// Of segments that came by IPv4 it is looked up whether they belong to a connection, or bring a cookie back.
    pub const WATCH_IPV4: u32 = 1 << 7;
    /// The same by IPv6.
    pub const WATCH_IPV6: u32 = 1 << 12;
    /// Those that came by IPv4 and do neither are dropped.
    pub const GUARD_IPV4: u32 = 1 << 13;
    /// The same by IPv6.
    pub const GUARD_IPV6: u32 = 1 << 14;
    /// Answers may carry timestamps, and with them the other options.
    pub const TIMESTAMPS: u32 = 1 << 8;
    /// Answers may permit selective acknowledgements.
    pub const SACK: u32 = 1 << 9;
    /// Answers may scale windows.
    pub const WINDOW_SCALING: u32 = 1 << 10;
    /// Answers may take up explicit congestion notification.
    pub const ECN: u32 = 1 << 11;
}

impl PortChallenge {
    /// Whether one of these bits of [`port_flag`] is set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }
}

/// Where a listener takes connections: for those that do not take what comes to any address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// The address.
    pub address: crate::address::Address,
    /// The port.
    pub port: u64,
}

/// A listener that is to be made ready for cookies: what the program that does so is run on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrimeOrder {
    /// Where it listens; the unspecified address for any.
    address: [crate::packet::Be16; 8],
    port: crate::packet::Be16,
    /// 1: by IPv4.
    is_ipv4: crate::packet::Be16,
    /// Who asks.
    turn: crate::packet::Be16,
}

impl PrimeOrder {
    /// For the listener at this address and port.
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

    /// Its address.
    #[inline(always)]
    pub fn address(&self) -> crate::address::Address {
        crate::address::Address::from_ipv6_fields(self.address)
    }

    /// Its port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        self.port.get()
    }

    /// The source port to ask from: of several listeners that share a port it chooses one.
    #[inline(always)]
    pub const fn turn(&self) -> u16 {
        self.turn.get()
    }

    /// Whether it is to be found by an IPv4 packet.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.is_ipv4.get() != 0
    }
}
