//! What the maps hold for each port: SYNs, handshakes, and how SYNs are challenged.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    abi::place::{HOST_PLACES, PLACES},
    address::Address,
    challenge::port_load::CpuLoad,
};

/// Places in one element of `SYN_BY_PORT` (20 KiB) and of `HANDSHAKES_BY_PORT`.
pub const PORTS_PER_SLAB: usize = 512;
/// The number of elements of `SYN_BY_PORT` and of `HANDSHAKES_BY_PORT`.
pub const PORT_SLABS: usize = PLACES / PORTS_PER_SLAB;
/// The index of the element that holds the protected places.
pub const PROTECTED_SLAB: usize = HOST_PLACES / PORTS_PER_SLAB;
const _: () = assert!(PLACES.is_multiple_of(PORTS_PER_SLAB) && HOST_PLACES.is_multiple_of(PORTS_PER_SLAB));
/// SYNs by place ([`crate::abi::place`]): one element of `SYN_BY_PORT`.
pub type PortSlab = [PortSyns; PORTS_PER_SLAB];

/// SYNs to one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortSyns {
    /// All SYNs.
    pub syn: u64,
    /// The subset of `syn` that began no handshake to be judged: retransmitted, dropped, forwarded, or for a
    /// port without a listener.
    pub not_begun: u64,
    /// The subset of `not_begun` that was dropped by judgement ([`crate::abi::counters::Cause::Judgement`]) or challenged by
    /// reset, less those whose client came back and began a handshake. Of one CPU it may be negative (wrapping).
    pub restrained: u64,
    /// All SYNs that were to be answered with a cookie.
    pub challenged: u64,
    /// SYNs of unproven sources in the current slot.
    pub load: CpuLoad,
}

impl PortSyns {
    /// No SYNs.
    pub const NONE: Self = Self { syn: 0, not_begun: 0, restrained: 0, challenged: 0, load: CpuLoad::NONE };
}

/// The outcome of the handshakes of one place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortHandshakes {
    /// Handshakes completed.
    pub completed: u64,
    /// SYN-ACKs retransmitted.
    pub retried: u64,
    /// Handshakes ended by a reset while half open.
    pub reset: u64,
    /// Handshakes completed on this host by sources that were not proven before.
    pub proved: u64,
    /// Handshakes completed on this host over IPv4, without those completed by containers.
    pub here_ipv4: u64,
    /// Handshakes completed on this host over IPv6, without those completed by containers.
    pub here_ipv6: u64,
    /// Cookies returned over IPv4.
    pub returned_ipv4: u64,
    /// Cookies returned over IPv6.
    pub returned_ipv6: u64,
    /// Cookies returned from a network that is not among the last ones, over either family: what a single host or network
    /// returns counts once.
    pub returned_networks: u64,
    /// The networks that returned cookies last; see [`with_network`].
    pub last_networks: u64,
    /// SYN-ACKs sent by a server behind this host, without retransmits.
    pub replied: u64,
    /// Handshakes whose client acknowledged a SYN-ACK that was not sent through this host: the way back is another one.
    pub one_way: u64,
    /// Handshakes with a server behind this host that ended by a reset before a SYN-ACK was sent.
    pub refused: u64,
}

/// The outcome of handshakes by place: one element of `HANDSHAKES_BY_PORT`.
pub type HandshakeSlab = [PortHandshakes; PORTS_PER_SLAB];

/// When a slab changed last: the number of the daemon's tick ([`crate::abi::watch::WakeAt::tick`]) after which it did.
/// The daemon reads only what changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortMark {
    /// Of `SYN_BY_PORT`, on any CPU.
    pub syn: u32,
    /// Of `HANDSHAKES_BY_PORT`.
    pub handshakes: u32,
}

/// Returns the slab of a place ([`crate::abi::place`]), and its index there.
#[inline(always)]
pub const fn place_in_slabs(place: u32) -> (usize, usize) {
    (place as usize / PORTS_PER_SLAB, place as usize % PORTS_PER_SLAB)
}

/// Adds a network, by the lowest bits of its hash, to the last four; `None` if it is among them.
#[inline(always)]
pub const fn with_network(last: u64, hash: u64) -> Option<u64> {
    // 0 marks an unused place.
    let tag = hash & 0xffff | 1;
    let mut place = 0;
    while place < 64 {
        if last >> place & 0xffff == tag {
            return None;
        }
        place += 16;
    }
    Some(last << 16 | tag)
}

/// The maximum number of [`Endpoint`]s.
pub const MAX_ENDPOINTS: u32 = 4096;

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
    /// SYNs are answered with cookies once the port's load exceeds [`crate::abi::lease::Lease::max_port_load`].
    pub const TRIGGERS_COOKIE: u32 = COOKIE << TRIGGERED_BY;
    /// First SYNs are dropped once the port's load exceeds [`crate::abi::lease::Lease::max_port_load`].
    pub const TRIGGERS_RETRANSMIT: u32 = RETRANSMIT << TRIGGERED_BY;
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
    pub const STRAY_FILTER_IPV4: u32 = 1 << 13;
    /// Stray segments received over IPv6 are dropped.
    pub const STRAY_FILTER_IPV6: u32 = 1 << 14;
    /// A listener has keys for MD5 signatures (RFC 2385).
    pub const MD5_KEYS: u32 = 1 << 15;
    /// A listener may have keys for the authentication option (RFC 5925).
    pub const AUTHENTICATION_KEYS: u32 = 1 << 16;
    /// SYNs are answered so that clients reset them ([`crate::challenge::safe_reset`]).
    pub const RESET: u32 = 1 << 17;
    /// SYNs are answered so that clients reset them once the port's load exceeds
    /// [`crate::abi::lease::Lease::max_port_load`].
    pub const TRIGGERS_RESET: u32 = RESET << TRIGGERED_BY;
    /// SYN-ACKs take another way than through this host: a handshake ends as soon as its client acknowledges one.
    pub const ONE_WAY: u32 = 1 << 18;
    /// Answers may carry timestamps, and with them the other options.
    pub const TIMESTAMPS: u32 = 1 << 8;
    /// Answers may permit selective acknowledgements.
    pub const SACK: u32 = 1 << 9;
    /// Answers may carry a window scale.
    pub const WINDOW_SCALING: u32 = 1 << 10;
    /// Answers may accept explicit congestion notification (ECN).
    pub const ECN: u32 = 1 << 11;
    /// The distance from the bit of each way to challenge to that of the way to begin with it.
    pub const TRIGGERED_BY: u32 = 2;
    /// Any way to challenge.
    pub const ON: u32 = COOKIE | RESET | RETRANSMIT;
    /// Clients may be asked for a reset.
    pub const ANY_RESET: u32 = RESET | TRIGGERS_RESET;
    /// Any way to begin to challenge.
    pub const TRIGGERS: u32 = TRIGGERS_COOKIE | TRIGGERS_RESET | TRIGGERS_RETRANSMIT;

    const _: () = assert!(TRIGGERS == ON << TRIGGERED_BY, "each way to challenge has one to begin with it");
}

impl PortChallenge {
    /// Returns whether any of these bits of [`port_flag`] is set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Returns the flags that apply once the port's load has exceeded its limit: the ways to challenge that this begins.
    #[inline(always)]
    pub const fn triggered(&self) -> u32 {
        (self.flags & port_flag::TRIGGERS) >> port_flag::TRIGGERED_BY
    }
}

/// The address and port of a listener that does not accept connections to every address of the host.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Endpoint {
    /// The address that the listener is bound to.
    pub address: Address,
    /// The port in host byte order.
    pub port: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_a_place_of_its_own() {
        for place in 0..PLACES as u32 {
            let (slab, index) = place_in_slabs(place);
            assert!(slab < PORT_SLABS && index < PORTS_PER_SLAB);
            assert_eq!(slab * PORTS_PER_SLAB + index, place as usize);
            assert_eq!(slab == PROTECTED_SLAB, crate::abi::place::is_protected(place));
        }
    }

    #[test]
    fn a_network_counts_once_among_the_last_four() {
        let add = |last, hash| with_network(last, hash);
        let first = add(0, 0x20).expect("the first");
        assert_eq!(add(first, 0xffff_0000_0020), None);
        let four = [0x30, 0x40, 0x50].into_iter().fold(first, |last, hash| add(last, hash).expect("another"));
        assert_eq!(add(four, 0x20), None);
        let five = add(four, 0x60).expect("another");
        assert!(add(five, 0x20).is_some(), "four others came since");
    }

    #[test]
    fn each_flag_has_a_bit_of_its_own() {
        use port_flag::*;
        let flags = [
            COOKIE,
            RETRANSMIT,
            TRIGGERS_COOKIE,
            TRIGGERS_RETRANSMIT,
            ANY_IPV4,
            ANY_IPV6,
            SOME_ADDRESSES,
            WATCH_IPV4,
            WATCH_IPV6,
            STRAY_FILTER_IPV4,
            STRAY_FILTER_IPV6,
            MD5_KEYS,
            AUTHENTICATION_KEYS,
            RESET,
            TRIGGERS_RESET,
            ONE_WAY,
            TIMESTAMPS,
            SACK,
            WINDOW_SCALING,
            ECN,
        ];
        assert!(flags.iter().all(|flag| flag.is_power_of_two()));
        assert_eq!(flags.iter().fold(0, |all, flag| all | flag).count_ones() as usize, flags.len());
    }
}
