//! What the programs are told of the kernel and of this host before they are loaded.

use std::os::unix::fs::MetadataExt;

use aya::EbpfLoader;
use nix::time::{ClockId, clock_getres};
use tcpguard_common::{
    abi::{names::setting, packet_layout::PacketLayout, socket_layout::SocketLayout},
    address::{Address, prefix_mask},
    clock::Clock,
    tracking::{admission, source_table},
};

use super::{
    DatapathError, DatapathOptions, btf,
    features::{Feature, probe_cookies},
};
use crate::config::Hook;

/// The values of the programs' variables ([`setting`]), except those that depend on a takeover.
pub(super) struct Environment {
    pub ticks_per_second: u32,
    pub clock: Clock,
    source_slabs: u32,
    max_sources: u32,
    /// How many CPUs have a row of their own in the arrays by CPU.
    pub cpus: u32,
    /// Whether the kernel can make SYN cookies.
    pub cookies: Feature,
    /// Why the tracepoints cannot read sockets, if they cannot.
    pub layout_problem: Option<String>,
    layout: SocketLayout,
    /// Why the kernel's packets cannot be read, if they cannot.
    pub sent_problem: Option<String>,
    packet_layout: PacketLayout,
    masks: [Address; 2],
    long_ticks: u64,
    allowance: u32,
    can_make_cookies: u32,
    namespace: u32,
    chains: u32,
    log_level: u8,
    hook: Hook,
}

impl Environment {
    /// Reads the kernel's properties. The source table may hold `max_sources` entries, and `cpus` CPUs have a row of their own in
    /// the arrays by CPU.
    ///
    /// # Errors
    /// Returns an error if the tick rate or the network namespace cannot be read.
    pub fn read(options: &DatapathOptions, max_sources: u32, cpus: u32) -> Result<Self, DatapathError> {
        let ticks_per_second = ticks_per_second()?;
        let (socket, packet) = match btf::layouts() {
            Ok(layouts) => (layouts.socket.map_err(|e| e.to_string()), layouts.packet.map_err(|e| e.to_string())),
            Err(error) => (Err(error.to_string()), Err(error.to_string())),
        };
        let cookies = probe_cookies();
        Ok(Self {
            ticks_per_second,
            clock: Clock::new(ticks_per_second),
            source_slabs: source_table::slabs(max_sources),
            max_sources,
            cpus,
            can_make_cookies: u32::from(cookies == Feature::Available),
            cookies,
            layout_problem: socket.as_ref().err().cloned(),
            layout: socket.unwrap_or(SocketLayout::UNKNOWN),
            sent_problem: packet.as_ref().err().cloned(),
            packet_layout: packet.unwrap_or(PacketLayout::UNKNOWN),
            masks: [prefix_mask(96 + options.prefix_v4.min(32)), prefix_mask(options.prefix_v6)],
            long_ticks: ticks_per_second.into(),
            allowance: admission::whole_allowance(options.max_sources),
            namespace: namespace_inode()?,
            chains: options.chains.into(),
            log_level: options.log_level.unwrap_or(0),
            hook: options.hook,
        })
    }

    /// Sets the variables.
    pub fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global(setting::PREFIX_MASK_IPV4, &self.masks[0], true)
            .override_global(setting::PREFIX_MASK_IPV6, &self.masks[1], true)
            .override_global(setting::CLOCK, &self.clock, true)
            .override_global(setting::TICKS_PER_SECOND, &self.long_ticks, true)
            .override_global(setting::WHOLE_ALLOWANCE, &self.allowance, true)
            .override_global(setting::SOURCE_SLABS, &self.source_slabs, true)
            .override_global(setting::MAX_SOURCES, &self.max_sources, true)
            .override_global(setting::CPU_ROWS, &self.cpus, true)
            .override_global(setting::CAN_MAKE_COOKIES, &self.can_make_cookies, true)
            .override_global(setting::NAMESPACE, &self.namespace, true)
            .override_global(setting::SOCKET_LAYOUT, &self.layout, true)
            .override_global(setting::PACKET_LAYOUT, &self.packet_layout, true)
            .override_global(setting::LOG_LEVEL, &self.log_level, true);
        if self.hook == Hook::Xdp {
            loader.override_global(setting::CHAINS, &self.chains, true);
        }
    }
}

/// Returns CONFIG_HZ, derived from the resolution of the coarse clocks, which advance once per tick.
fn ticks_per_second() -> Result<u32, DatapathError> {
    const NANOSECONDS: i64 = 1_000_000_000;
    let resolution = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|error| DatapathError::Host { what: "the kernel's tick rate", source: error.into() })?;
    let nanoseconds = resolution.tv_sec() * NANOSECONDS + resolution.tv_nsec();
    let ticks = (NANOSECONDS + nanoseconds / 2).checked_div(nanoseconds).unwrap_or(0);
    Ok(u32::try_from(ticks).unwrap_or(0).clamp(4, 10_000))
}

/// Returns the inode number of the calling thread's network namespace: programs and tests may load a datapath in a thread that
/// has one of its own.
fn namespace_inode() -> Result<u32, DatapathError> {
    let metadata = std::fs::metadata("/proc/thread-self/ns/net")
        .map_err(|source| DatapathError::Host { what: "the network namespace", source })?;
    // ns_common.inum has 32 bits.
    Ok(metadata.ino() as u32)
}
