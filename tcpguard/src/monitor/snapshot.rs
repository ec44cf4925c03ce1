//! One moment, as the daemon saw it.

use std::sync::Arc;

use crate::{
    datapath::maps::Totals,
    interfaces::InterfaceStatus,
    kernel::{HalfOpenTable, Listener, TcpExt},
};

use super::{
    HalfOpenCounts, PortSnapshot, PrefixReading, PrefixSnapshot, Pressure, Rates, SourceReading, TopSources, WallClock,
};

/// What the datapath and the kernel said at one tick. Decisions and answers are made from this alone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When.
    pub clock: WallClock,
    /// Which period of half-open windows that was.
    pub period: u32,
    /// The datapath's counters.
    pub totals: Totals,
    /// Rates over the last second.
    pub rates: Rates,
    /// Half-open handshakes.
    pub half_open: HalfOpenCounts,
    /// The kernel's half-open handshakes.
    pub kernel_half_open: Arc<HalfOpenTable>,
    /// Why the kernel's own view is not up to date.
    pub kernel_problem: Option<String>,
    /// The kernel's counters since the namespace began.
    pub tcp_ext: TcpExt,
    /// Connection requests that the kernel refused for want of resources, since the daemon started.
    pub refused: u64,
    /// Ports.
    pub ports: Vec<PortSnapshot>,
    /// Networks that sent most.
    pub prefixes: Vec<PrefixSnapshot>,
    /// What thresholds are compared with.
    pub pressure: Pressure,
    /// Sources that may have to answer for it; none are read while all is far below the thresholds.
    pub suspects: Vec<SourceReading>,
    /// Networks that may have to.
    pub suspect_prefixes: Vec<PrefixReading>,
    /// Listeners.
    pub listeners: Vec<Listener>,
    /// How many sources have an entry.
    pub tracked_sources: u64,
    /// Who is at the top, in each order.
    pub top_sources: Arc<TopSources>,
    /// How each interface stands.
    pub interfaces: Vec<InterfaceStatus>,
}

impl Snapshot {
    /// Leaves out what only makes sense where completed handshakes are seen.
    pub(crate) fn leave_datapath_out(&mut self) {
        let readings = std::iter::once(&mut self.pressure.host).chain(&mut self.pressure.services);
        readings.for_each(|readings| readings.half_open.datapath = 0);
        self.suspects.clear();
        self.suspect_prefixes.clear();
    }
}
