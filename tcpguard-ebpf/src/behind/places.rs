//! The places of destinations ([`tcpguard_common::abi::place`]).

use aya_ebpf::{
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use tcpguard_common::{
    abi::{
        lease::flag,
        place::{PROTECTED_PLACES, ProtectedPort, is_protected},
    },
    address::Address,
};

use crate::{lease, local};

/// What a SYN is counted under.
#[derive(Clone, Copy)]
pub struct Place {
    /// The number ([`tcpguard_common::abi::place`]).
    pub number: u32,
    /// Its handshakes complete behind this host.
    pub is_behind: bool,
}

impl Place {
    /// A port that has a listener here.
    #[inline(always)]
    pub const fn here(port: u16) -> Self {
        Self { number: port as u32, is_behind: false }
    }
}

/// The protected networks, with the index of their section of the configuration. Written by the daemon.
#[btf_map]
static PROTECTED_NETWORKS: LpmTrie<Address, u32, 4096> = LpmTrie::new();

/// The places of their ports. Written by the daemon.
#[btf_map]
static PROTECTED_PORTS: HashMap<ProtectedPort, u32, PROTECTED_PLACES> = HashMap::new();

/// Returns the place of a destination: that of a protected port, or else the port itself. A port of this host that is served
/// here or redirected is itself, also if its address lies in a protected network.
#[inline(always)]
pub fn of(address: Address, port: u16) -> u32 {
    if lease::flags() & flag::PROTECTED == 0 {
        return port.into();
    }
    let [high, low] = address.words();
    protected_place(high, low, port.into())
}

/// Returns the place of a port of the address that consists of these two words. It is a global function, which the verifier
/// checks on its own: only gateways call it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn protected_place(high: u64, low: u64, port: u32) -> u32 {
    let address = Address::from_words([high, low]);
    if local::has_address(address) && (local::is_listening(port as u16) || local::is_redirected(port as u16)) {
        return port;
    }
    let Some(network) = PROTECTED_NETWORKS.get(&Key::new(128, address)) else { return port };
    let key = ProtectedPort { network: *network, port };
    // SAFETY: the value is one word, which is read at once.
    PROTECTED_PORTS.get_ptr(key).map_or(port, |place| unsafe { *place })
}

/// Returns whether handshakes with a place complete behind this host.
#[inline(always)]
pub fn is_behind(place: u32) -> bool {
    lease::flags() & flag::BEHIND != 0 && (is_protected(place) || local::is_redirected(place as u16))
}
