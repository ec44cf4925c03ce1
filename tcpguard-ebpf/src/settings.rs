//! The variables that the daemon sets before it loads the programs (see [`tcpguard_common::abi::names::setting`]). Each is
//! a variable of its own, so that a stage loads only what it needs.

use aya_ebpf::Global;
use tcpguard_common::{
    abi::{packet_layout::PacketLayout, socket_layout::SocketLayout},
    address::{Address, prefix_mask},
    clock::Clock,
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
static SOURCE_SLABS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static MAX_SOURCES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static CPU_ROWS: Global<u32> = Global::new(0);
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
#[unsafe(no_mangle)]
static PACKET_LAYOUT: Global<PacketLayout> = Global::new(PacketLayout::UNKNOWN);

/// Returns the key of [`tcpguard_common::hash`].
#[inline(always)]
pub fn hash_key() -> u64 {
    HASH_KEY.load()
}

/// Returns the prefix that `address` is accounted under.
#[inline(always)]
pub fn network_of(address: Address) -> Address {
    address.masked(if address.is_ipv4() { PREFIX_MASK_IPV4.load() } else { PREFIX_MASK_IPV6.load() })
}

/// Returns the lengths of the clock's periods.
#[inline(always)]
pub fn clock() -> Clock {
    CLOCK.load()
}

/// Returns the number of jiffies per second.
#[inline(always)]
pub fn ticks_per_second() -> u64 {
    TICKS_PER_SECOND.load()
}

/// Returns the whole allowance of [`tcpguard_common::tracking::admission`].
#[inline(always)]
pub fn whole_allowance() -> u32 {
    WHOLE_ALLOWANCE.load()
}

/// Returns the number of slabs of the source table.
#[inline(always)]
pub fn source_slabs() -> u32 {
    SOURCE_SLABS.load()
}

/// Returns how many entries the source table may hold.
#[inline(always)]
pub fn max_sources() -> u32 {
    MAX_SOURCES.load()
}

/// Returns how many CPUs have a row of their own in the arrays of [`crate::by_cpu`].
#[inline(always)]
pub fn cpu_rows() -> u32 {
    CPU_ROWS.load()
}

/// Returns 1 if the kernel can make SYN cookies, else 0. With 0 the verifier removes the calls of the helpers, which such a
/// kernel does not have.
#[inline(always)]
pub fn can_make_cookies() -> u32 {
    CAN_MAKE_COOKIES.load()
}

/// Returns the inode number of the guarded network namespace.
#[inline(always)]
pub fn namespace() -> u32 {
    NAMESPACE.load()
}

/// Returns 1 if frames that pass are passed on to chained programs, else 0.
#[cfg(not(feature = "tc"))]
#[inline(always)]
pub fn chains() -> u32 {
    CHAINS.load()
}

/// Returns the generation of this datapath, among those that share maps.
#[inline(always)]
pub fn generation() -> u64 {
    GENERATION.load()
}

/// Returns the offsets of the kernel's fields that the tracepoints read.
#[inline(always)]
pub fn socket_layout() -> SocketLayout {
    SOCKET_LAYOUT.load()
}

/// Returns the offsets of the kernel's fields that are read of packets that it sends.
#[inline(always)]
pub fn packet_layout() -> PacketLayout {
    PACKET_LAYOUT.load()
}
