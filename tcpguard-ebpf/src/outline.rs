//! The outline of the lists ([`tcpguard_common::abi::outline`]), written by the daemon.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use tcpguard_common::{
    abi::{
        lease::flag,
        outline::{LEVELS, block, ipv4_place, ipv6_place},
    },
    address::Address,
};

use crate::{lease::Lease, settings};

#[btf_map]
static LISTED_IPV4: Array<u64, { tcpguard_common::abi::outline::IPV4_WORDS }> = Array::new();

#[btf_map]
static DENIED_IPV4: Array<u64, { tcpguard_common::abi::outline::IPV4_WORDS }> = Array::new();

#[btf_map]
static LISTED_IPV6: Array<u64, { tcpguard_common::abi::outline::IPV6_WORDS }> = Array::new();

/// What the outline tells of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outline {
    /// No rule applies.
    Outside,
    /// A rule may apply.
    Inside,
    /// It is denied.
    Denied,
}

/// Returns what the outline tells of an address.
#[inline(always)]
pub fn of(address: Address, lease: Lease) -> Outline {
    if !address.is_ipv4() {
        return of_ipv6(address, lease);
    }
    let (word, bit) = ipv4_place(block(address));
    if LISTED_IPV4.get(word).is_none_or(|word| *word & bit == 0) {
        return Outline::Outside;
    }
    if DENIED_IPV4.get(word).is_some_and(|word| *word & bit != 0) { Outline::Denied } else { Outline::Inside }
}

#[inline(always)]
fn of_ipv6(address: Address, lease: Lease) -> Outline {
    if lease.has(flag::LISTED_WIDE) {
        return Outline::Inside;
    }
    for (length, flag) in LEVELS {
        let (word, bits) = ipv6_place(settings::hash_key(), address, length);
        if lease.has(flag) && LISTED_IPV6.get(word).is_some_and(|word| *word & bits == bits) {
            return Outline::Inside;
        }
    }
    Outline::Outside
}
