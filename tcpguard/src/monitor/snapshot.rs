//! What one tick measured.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use crate::{
    datapath::maps::Totals,
    interfaces::InterfaceStatus,
    kernel::{HalfOpenTable, Listeners, TcpExt},
};

use super::{
    HalfOpenCounts, HeaderReading, PortSnapshot, Ports, PrefixReading, PrefixSnapshot, Pressure, Rates, SourceReading,
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
    pub ports: Ports,
    /// The accounts of the ports of protected networks, in the order of the configuration.
    pub protected: Vec<PortSnapshot>,
    /// The ports that are redirected.
    pub redirected: BTreeSet<u16>,
    /// The prefixes that sent the most SYNs.
    pub prefixes: Vec<PrefixSnapshot>,
    /// The values compared with the thresholds.
    pub pressure: Pressure,
    /// So many handshakes are half open that sources and prefixes are read.
    pub is_suspicious: bool,
    /// Candidate offenders among the sources; empty while all counts are far below the thresholds.
    pub suspects: Vec<SourceReading>,
    /// Sources that sent SYNs to many ports recently.
    pub scanning: Vec<SourceReading>,
    /// Candidate offenders among the prefixes.
    pub suspect_prefixes: Vec<PrefixReading>,
    /// The kernel's TCP listeners.
    pub listeners: Arc<Listeners>,
    /// Changes whenever a listener opened or closed, even if another one opened in its place, and now and then without that.
    pub listener_layout: u64,
    /// The ports at which a listener opened or closed since the last tick; all that other hosts can reach if events of that were
    /// lost.
    pub changed_ports: BTreeSet<u16>,
    /// The kernel has listed its listeners at least once.
    pub knows_listeners: bool,
    /// The number of entries in the source table.
    pub tracked_sources: u64,
    /// The top sources of each order.
    pub top_sources: Arc<TopSources>,
    /// The status of each interface.
    pub interfaces: Vec<InterfaceStatus>,
}

#[cfg(test)]
impl Snapshot {
    /// Returns what a host without traffic shows.
    pub(crate) fn of_nothing() -> Self {
        Self {
            clock: WallClock::new(0, 1000),
            period: 0,
            totals: Totals::default(),
            rates: Rates::default(),
            headers: HeaderReading::default(),
            half_open: HalfOpenCounts::default(),
            kernel_half_open: Arc::default(),
            kernel_read: None,
            kernel_problem: None,
            tcp_ext: TcpExt::default(),
            refused: 0,
            ports: Ports::default(),
            protected: Vec::new(),
            redirected: BTreeSet::new(),
            prefixes: Vec::new(),
            pressure: Pressure::default(),
            is_suspicious: false,
            suspects: Vec::new(),
            scanning: Vec::new(),
            suspect_prefixes: Vec::new(),
            listeners: Arc::default(),
            listener_layout: 0,
            changed_ports: BTreeSet::new(),
            knows_listeners: true,
            tracked_sources: 0,
            top_sources: Arc::default(),
            interfaces: Vec::new(),
        }
    }
}

/// There is this much room on each CPU nevertheless: so few SYNs at a time are no news, and whoever sends them must not keep
/// the daemon awake.
const LEAST_QUEUE_ROOM: u64 = 8;
impl Snapshot {
    /// Returns how many more handshakes may be half open until the queue of some listener is half full, on a machine with so
    /// many CPUs.
    pub(crate) fn queue_room(&self, cpus: u64) -> u64 {
        self.ports.queue_room().unwrap_or(u64::MAX).max(LEAST_QUEUE_ROOM * cpus)
    }

    /// Removes the values that are meaningful only where completed handshakes are seen.
    pub(crate) fn leave_datapath_out(&mut self) {
        let Pressure { host, services, protected, .. } = &mut self.pressure;
        let readings = std::iter::once(host).chain(services).chain(protected);
        readings.for_each(|readings| readings.half_open.datapath = 0);
        self.suspects.clear();
        self.suspect_prefixes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_room_on_each_cpu_whatever_is_half_open() {
        let room = |backlog, half_open, cpus| {
            let port = PortSnapshot { backlog, half_open, is_reachable: true, ..Default::default() };
            Snapshot { ports: [port].into_iter().collect(), ..Snapshot::of_nothing() }.queue_room(cpus)
        };
        assert_eq!([1, 16].map(|cpus| room(128, 64, cpus)), [8, 128]);
        assert_eq!([room(128, 30, 2), room(16, 0, 2)], [34, u64::MAX]);
    }
}
