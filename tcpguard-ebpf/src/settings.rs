//! What the daemon sets before loading (see [`tcpguard_common::layout::setting`]). Each is a value of
//! its own, so that a stage loads what it needs and no more.

use aya_ebpf::Global;
use tcpguard_common::{
    address::{Address, prefix_mask},
    clock::Clock,
    layout::SocketLayout,
};

#[unsafe(no_mangle)]
static HASH_KEY: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static PREFIX_MASK_IPV4: Global<Address> = Global::new(prefix_mask(96 + 24));
#[unsafe(no_mangle)]
static PREFIX_MASK_IPV6: Global<Address> = Global::new(prefix_mask(64));
#[unsafe(no_mangle)]
static CLOCK: Global<Clock> = Global::new(Clock::new(250));
#[unsafe(no_mangle)]
static TICKS_PER_SECOND: Global<u64> = Global::new(250);
#[unsafe(no_mangle)]
static WHOLE_ALLOWANCE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static FILTER_BLOCKS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static CAN_MAKE_COOKIES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static NAMESPACE: Global<u32> = Global::new(0);
#[cfg(not(feature = "tc"))]
#[unsafe(no_mangle)]
static CHAINS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static GENERATION: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static SOCKET_LAYOUT: Global<SocketLayout> = Global::new(SocketLayout::UNKNOWN);

/// Secret of [`tcpguard_common::hash`].
#[inline(always)]
pub fn hash_key() -> u64 {
    HASH_KEY.load()
}

/// The network that `address` is accounted under.
#[inline(always)]
pub fn network_of(address: Address) -> Address {
    address.masked(if address.is_ipv4() { PREFIX_MASK_IPV4.load() } else { PREFIX_MASK_IPV6.load() })
}

/// How long the kernel's jiffies are.
#[inline(always)]
pub fn clock() -> Clock {
    CLOCK.load()
}

/// How many jiffies a second has.
#[inline(always)]
pub fn ticks_per_second() -> u64 {
    TICKS_PER_SECOND.load()
}

/// The whole allowance of [`tcpguard_common::admission`].
#[inline(always)]
pub fn whole_allowance() -> u32 {
    WHOLE_ALLOWANCE.load()
}

/// Blocks of the filter of known sources: a power of two.
#[inline(always)]
pub fn filter_blocks() -> u32 {
    FILTER_BLOCKS.load()
}

/// Whether the kernel can make SYN cookies: 0 or 1. Where it cannot, the verifier never gets to see that it is
/// asked to.
#[inline(always)]
pub fn can_make_cookies() -> u32 {
    CAN_MAKE_COOKIES.load()
}

/// Inode number of the network namespace that is guarded.
#[inline(always)]
pub fn namespace() -> u32 {
    NAMESPACE.load()
}

/// Whether frames that pass are handed on to programs that were there before: 0 or 1.
#[cfg(not(feature = "tc"))]
#[inline(always)]
pub fn chains() -> u32 {
    CHAINS.load()
}

/// Which of the datapaths this is that share maps.
#[inline(always)]
pub fn generation() -> u64 {
    GENERATION.load()
}

/// Where the kernel keeps what the tracepoints need.
#[inline(always)]
pub fn socket_layout() -> SocketLayout {
    SOCKET_LAYOUT.load()
}
