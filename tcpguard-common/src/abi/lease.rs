//! The lease: what the datapath is allowed to do. It expires after some seconds, so that the datapath passes
//! everything if the daemon has died or hangs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    abi::{
        signature::{MAX_SIGNATURES, Signature},
        watch::WakeAt,
    },
    challenge::safe_reset::Secret,
    tracking::bucket::Rate,
};

/// The lease, renewed with each tick of the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Lease {
    /// The last point in time, in jiffies, at which the lease is valid. 0: there is no lease.
    pub valid_until: u64,
    /// A combination of the bits in [`flag`].
    pub flags: u64,
    /// The generation of the rules: changes whenever a rule does; never 0.
    pub generation: u64,
    /// The rate of SYNs permitted per source, and the capacity of its bucket.
    pub rate: Rate,
    /// The number of half-open handshakes up to which a proven source passes unchallenged.
    pub max_half_open: u64,
    /// The number of jiffies for which a completed handshake proves its source.
    pub proven_ticks: u64,
    /// The offset to add to jiffies, converted to milliseconds, for the time of the kernel's TCP timestamp
    /// clock.
    pub timestamp_offset: u64,
    /// The number of SYNs from unproven sources to one port within a slot ([`crate::clock::Clock::slot`])
    /// above which the datapath challenges on its own. 0: no limit.
    pub max_port_load: u64,
    /// The last element in use of the table of first SYNs, one less than a power of two
    /// ([`crate::challenge::first_syn::needed_slabs`]). At least [`crate::challenge::first_syn::MIN_SLABS`] are in use.
    pub last_first_syn_slab: u64,
    /// What the codes of answers are made with that clients reset ([`crate::challenge::safe_reset`]).
    pub secret: Secret,
    /// What they were made with before, while resets may be under way; otherwise the same.
    pub secret_before: Secret,
    /// When the daemon is woken before its next tick.
    pub wake: WakeAt,
    /// The signatures by which SYNs are dropped, with [`flag::SIGNATURES`].
    pub signatures: [Signature; MAX_SIGNATURES],
}

/// Bits of [`Lease::flags`].
pub mod flag {
    /// Frames are dropped. Without this flag, frames that would be dropped are only counted.
    pub const DROP: u64 = 1;
    /// There are rules to look up.
    pub const RULES: u64 = 1 << 1;
    /// SYNs with data are dropped, except at ports of services with a policy of their own
    /// ([`super::payload_policy`]).
    pub const DROP_PAYLOAD: u64 = 1 << 2;
    /// The host's addresses are known. Without this flag, every destination counts as one of the host's.
    pub const LOCAL_KNOWN: u64 = 1 << 3;
    /// Sources are limited to [`Lease::rate`].
    pub const LIMIT: u64 = 1 << 4;
    /// Some ports are challenged, or will be once their load exceeds the limit.
    pub const CHALLENGE: u64 = 1 << 5;
    /// Segments are looked up, and strays dropped, at ports whose [flags](crate::abi::port::port_flag) say so.
    pub const STRAY_FILTER: u64 = 1 << 6;
    /// It is known which ports have a listener. Without this flag, every port counts as having one.
    pub const LISTENERS_KNOWN: u64 = 1 << 7;
    /// First SYNs to ports without a listener are dropped: such ports are flooded, and the kernel answers every SYN with
    /// a reset.
    pub const LIMIT_CLOSED: u64 = 1 << 8;
    /// The headers of SYNs are counted: there is an attack, and they show whether sources are forged.
    pub const OBSERVE_HEADERS: u64 = 1 << 9;
    /// SYNs of proven sources are answered with cookies as well: the kernel is not to answer any for a moment.
    pub const CHALLENGE_PROVEN: u64 = 1 << 10;
    /// Every segment for the host itself that arrives over IPv4 is looked up: strays may be flooding it.
    pub const STRAYS_IPV4: u64 = 1 << 11;
    /// Likewise over IPv6.
    pub const STRAYS_IPV6: u64 = 1 << 12;
    /// The strays found by [`STRAYS_IPV4`] and [`STRAYS_IPV6`] are dropped. Without this flag, they are only counted.
    pub const DROP_STRAYS: u64 = 1 << 13;
    /// There are rules for IPv6 networks of /64 or longer ([`crate::abi::outline`]).
    pub const LISTED_64: u64 = 1 << 14;
    /// Likewise from /48 on.
    pub const LISTED_48: u64 = 1 << 15;
    /// Likewise from /32 on.
    pub const LISTED_32: u64 = 1 << 16;
    /// Likewise from /16 on.
    pub const LISTED_16: u64 = 1 << 17;
    /// There are rules for IPv6 networks wider than /16.
    pub const LISTED_WIDE: u64 = 1 << 18;
    /// The host accepts every address of some networks (routes of type local).
    pub const LOCAL_NETWORKS: u64 = 1 << 19;
    /// SYNs with a signature are dropped ([`super::Lease::signatures`]).
    pub const SIGNATURES: u64 = 1 << 20;
    /// Some ports are challenged by answers that clients reset ([`crate::challenge::safe_reset`]).
    pub const RESETS: u64 = 1 << 21;
    /// SYNs to redirected ports are judged, and the SYN-ACKs that leave through guarded interfaces are observed.
    pub const REDIRECTED: u64 = 1 << 22;
    /// Likewise SYNs to protected networks ([`crate::abi::place`]).
    pub const PROTECTED: u64 = 1 << 23;
    /// The SYN-ACKs of some protected place take another way ([`crate::abi::port::port_flag::ONE_WAY`]).
    pub const ONE_WAY: u64 = 1 << 24;
    /// Any SYNs whose handshakes complete behind this host.
    pub const BEHIND: u64 = REDIRECTED | PROTECTED;
    /// What the lists set: all flags about rules.
    pub const OF_LISTS: u64 = RULES | LISTED_64 | LISTED_48 | LISTED_32 | LISTED_16 | LISTED_WIDE;
    /// Any look-up of segments that are not SYNs.
    pub const ANY_STRAYS: u64 = STRAY_FILTER | STRAYS_IPV4 | STRAYS_IPV6;
}

impl Lease {
    /// No lease: everything passes.
    pub const NONE: Self = Self {
        valid_until: 0,
        flags: 0,
        generation: 0,
        rate: Rate::NONE,
        max_half_open: 0,
        proven_ticks: 0,
        timestamp_offset: 0,
        max_port_load: 0,
        last_first_syn_slab: 0,
        secret: Secret::NONE,
        secret_before: Secret::NONE,
        wake: WakeAt::NEVER,
        signatures: [Signature::NONE; MAX_SIGNATURES],
    };
}

/// How SYNs with data to one port are handled.
pub mod payload_policy {
    /// The host's policy applies ([`super::flag::DROP_PAYLOAD`]).
    pub const HOST: u32 = 0;
    /// They pass: the port's service is calm.
    pub const PASS: u32 = 1;
    /// They are dropped: the port's service is under attack.
    pub const DROP: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::flag;

    #[test]
    fn each_flag_has_a_bit_of_its_own() {
        let flags = [
            flag::DROP,
            flag::RULES,
            flag::DROP_PAYLOAD,
            flag::LOCAL_KNOWN,
            flag::LIMIT,
            flag::CHALLENGE,
            flag::STRAY_FILTER,
            flag::LISTENERS_KNOWN,
            flag::LIMIT_CLOSED,
            flag::OBSERVE_HEADERS,
            flag::CHALLENGE_PROVEN,
            flag::STRAYS_IPV4,
            flag::STRAYS_IPV6,
            flag::DROP_STRAYS,
            flag::LISTED_64,
            flag::LISTED_48,
            flag::LISTED_32,
            flag::LISTED_16,
            flag::LISTED_WIDE,
            flag::LOCAL_NETWORKS,
            flag::SIGNATURES,
            flag::RESETS,
            flag::REDIRECTED,
            flag::PROTECTED,
            flag::ONE_WAY,
        ];
        assert!(flags.iter().all(|flag| flag.is_power_of_two()));
        let all = flags.iter().fold(0, |all, flag| all | flag);
        assert_eq!(all.count_ones() as usize, flags.len());
        for part in [flag::STRAY_FILTER, flag::STRAYS_IPV4, flag::STRAYS_IPV6] {
            assert_eq!(flag::ANY_STRAYS & part, part);
        }
        assert_eq!(flag::ANY_STRAYS.count_ones(), 3);
        let of_lists =
            [flag::RULES, flag::LISTED_64, flag::LISTED_48, flag::LISTED_32, flag::LISTED_16, flag::LISTED_WIDE];
        assert_eq!(flag::OF_LISTS, of_lists.iter().sum::<u64>());
    }
}
