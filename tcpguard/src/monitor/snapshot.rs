//! What one tick measured.

use std::{sync::Arc, time::Instant};

use crate::{
    datapath::maps::Totals,
    interfaces::InterfaceStatus,
    kernel::{HalfOpenTable, Listener, TcpExt},
};

use super::{
    HalfOpenCounts, HeaderReading, PortSnapshot, PrefixReading, PrefixSnapshot, Pressure, Rates, SourceReading,
    TopSources, WallClock,
};

/// The state of the datapath and the kernel at one tick. Judgements and API responses are based on this alone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The time of the tick.
    pub clock: WallClock,
    /// The current period of half-open windows.
    pub period: u32,
    /// The datapath's counters, summed over all CPUs.
    pub totals: Totals,
    /// Rates per second over the last second.
    pub rates: Rates,
    /// What the headers of SYNs have in common.
    pub headers: HeaderReading,
    /// Numbers of half-open handshakes.
    pub half_open: HalfOpenCounts,
    /// The kernel's half-open handshakes, one row each, as of `kernel_read`.
    pub kernel_half_open: Arc<HalfOpenTable>,
    /// When the kernel's half-open handshakes were read; on hosts with many connections, not in each tick.
    pub kernel_read: Option<Instant>,
    /// Why the kernel's tables could not be read in this tick; the last known ones are reported.
    pub kernel_problem: Option<String>,
    /// The kernel's TCP counters since the network namespace was created.
    pub tcp_ext: TcpExt,
    /// Connection requests refused by the kernel since the daemon started.
    pub refused: u64,
    /// The accounts of ports.
    pub ports: Vec<PortSnapshot>,
    /// The prefixes that sent the most SYNs.
    pub prefixes: Vec<PrefixSnapshot>,
    /// The values compared with the thresholds.
    pub pressure: Pressure,
    /// Candidate offenders among the sources; empty while all counts are far below the thresholds.
    pub suspects: Vec<SourceReading>,
    /// Sources that sent SYNs to many ports recently.
    pub scanning: Vec<SourceReading>,
    /// Candidate offenders among the prefixes.
    pub suspect_prefixes: Vec<PrefixReading>,
    /// The kernel's TCP listeners.
    pub listeners: Vec<Listener>,
    /// The kernel has listed its listeners at least once.
    pub knows_listeners: bool,
    /// The number of entries in the source table.
    pub tracked_sources: u64,
    /// The top sources of each order.
    pub top_sources: Arc<TopSources>,
    /// The status of each interface.
    pub interfaces: Vec<InterfaceStatus>,
}

impl Snapshot {
    /// Removes the values that are meaningful only where completed handshakes are seen.
    pub(crate) fn leave_datapath_out(&mut self) {
        let readings = std::iter::once(&mut self.pressure.host).chain(&mut self.pressure.services);
        readings.for_each(|readings| readings.half_open.datapath = 0);
        self.suspects.clear();
        self.suspect_prefixes.clear();
    }
}
