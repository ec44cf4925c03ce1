//! Watching: ten times a second the datapath's counters and the kernel's view become a [`Snapshot`].

mod clock;
mod half_open;
mod ports;
mod prefixes;
mod rates;
mod snapshot;
mod sources;

use std::{io, sync::Arc, time::Duration};

use tcpguard_common::event::SourceBusy;
use tracing::warn;

use crate::{
    datapath::{Datapath, DatapathError, Maps},
    interfaces::InterfaceStatus,
    kernel::{HalfOpenTable, KernelView, Listener, TcpExt},
};
pub use clock::WallClock;
pub use half_open::HalfOpenCounts;
pub use ports::PortSnapshot;
pub use prefixes::PrefixSnapshot;
pub use rates::Rates;
pub use snapshot::Snapshot;
pub use sources::{MOST_TOP_SOURCES, SourceOrder, TopSources};

use half_open::HandshakeWindow;
use ports::PortReader;
use prefixes::PrefixReader;
use rates::RateMeter;
use sources::SourceWatch;

/// Time between two snapshots.
pub const TICK: Duration = Duration::from_millis(100);
/// Listeners come and go seldom: they are asked for once in so many ticks.
const TICKS_PER_LISTENER_LIST: u64 = 5;

/// What is kept between snapshots.
pub struct Monitor {
    maps: MapReaders,
    kernel: Box<dyn KernelView>,
    sources: SourceWatch,
    ports: PortReader,
    prefixes: PrefixReader,
    rates: RateMeter,
    handshakes: HandshakeWindow,
    listeners: Vec<Listener>,
    first_tcp_ext: TcpExt,
    ticks: u64,
    kernel_is_silent: bool,
}

/// The maps that the monitor reads.
struct MapReaders {
    counts: crate::datapath::maps::CounterMap,
    distinct: crate::datapath::maps::DistinctMap,
}

impl Monitor {
    /// Starts with what the kernel's counters say now: only what comes is reported.
    ///
    /// # Errors
    /// Where the kernel's counters cannot be read.
    pub fn new(maps: MonitoredMaps, mut kernel: Box<dyn KernelView>) -> io::Result<Self> {
        let first_tcp_ext = kernel.tcp_ext()?;
        Ok(Self {
            sources: SourceWatch::new(maps.sources, maps.known),
            ports: PortReader::new(maps.ports),
            prefixes: PrefixReader::new(maps.prefixes),
            maps: MapReaders { counts: maps.counts, distinct: maps.distinct },
            rates: RateMeter::default(),
            handshakes: HandshakeWindow::default(),
            listeners: Vec::new(),
            kernel,
            first_tcp_ext,
            ticks: 0,
            kernel_is_silent: false,
        })
    }

    /// Notes that a source became busy, so that it is among the top ones at once.
    pub fn note_busy(&mut self, event: &SourceBusy) {
        self.sources.note_busy(event.source);
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// Where a map cannot be read. What the kernel does not tell is left as it was, with a warning.
    pub fn tick(&mut self, datapath: &Datapath, interfaces: Vec<InterfaceStatus>) -> Result<Snapshot, DatapathError> {
        let clock = WallClock::new(datapath.jiffies()?, datapath.ticks_per_second);
        let totals = self.maps.counts.read()?;
        let last_second = datapath.clock.second(clock.jiffies()).wrapping_sub(1);
        let distinct = self.maps.distinct.estimate(last_second)?;
        let distinct_per_second =
            distinct * f64::from(datapath.ticks_per_second) / datapath.clock.second_in_jiffies() as f64;
        let period = datapath.clock.window_period(clock.jiffies());
        self.sources.advance(period)?;
        self.prefixes.advance()?;
        let kernel_half_open = self.ask_kernel(|kernel| kernel.half_open());
        if self.ticks.is_multiple_of(TICKS_PER_LISTENER_LIST)
            && let Some(listeners) = self.ask_kernel(|kernel| kernel.listeners())
        {
            self.listeners = listeners;
        }
        let tcp_ext = self.ask_kernel(|kernel| kernel.tcp_ext()).unwrap_or(self.first_tcp_ext);
        let kernel_half_open = Arc::new(kernel_half_open.unwrap_or_default());
        self.ticks += 1;
        Ok(Snapshot {
            rates: self.rates.measure(&totals, distinct_per_second),
            half_open: self.count_half_open(&kernel_half_open, &totals, period),
            ports: self.ports.read(&self.listeners, &kernel_half_open)?,
            prefixes: self.prefixes.top(),
            refused: tcp_ext.listen_drops.saturating_sub(self.first_tcp_ext.listen_drops),
            tracked_sources: self.sources.tracked(),
            top_sources: self.sources.top(),
            kernel_half_open,
            tcp_ext,
            clock,
            period,
            totals,
            interfaces,
        })
    }

    fn count_half_open(
        &mut self,
        kernel: &HalfOpenTable,
        totals: &crate::datapath::maps::Totals,
        period: u32,
    ) -> HalfOpenCounts {
        HalfOpenCounts {
            kernel: kernel.total as u64,
            kernel_retried: kernel.retried as u64,
            datapath: self.handshakes.count(totals, period),
        }
    }

    /// The kernel's answer; where there is none, that is said once until there is again.
    fn ask_kernel<T>(&mut self, ask: impl FnOnce(&mut dyn KernelView) -> io::Result<T>) -> Option<T> {
        match ask(self.kernel.as_mut()) {
            Ok(answer) => {
                self.kernel_is_silent = false;
                Some(answer)
            }
            Err(error) => {
                if !self.kernel_is_silent {
                    warn!("the kernel's own view is not to be had: {error}");
                }
                self.kernel_is_silent = true;
                None
            }
        }
    }
}

/// The maps that the monitor takes over.
pub struct MonitoredMaps {
    counts: crate::datapath::maps::CounterMap,
    distinct: crate::datapath::maps::DistinctMap,
    known: crate::datapath::maps::KnownSources,
    ports: crate::datapath::maps::PortMap,
    prefixes: crate::datapath::maps::PrefixMap,
    sources: crate::datapath::maps::SourceMap,
}

/// What is left of the maps for others.
pub struct OtherMaps {
    /// Whose handshakes count.
    pub guarded: crate::datapath::maps::GuardedInterfaces,
    /// What the datapath tells at once.
    pub events: crate::datapath::maps::EventRing,
    /// The source table, which is shared.
    pub sources: crate::datapath::maps::SourceMap,
}

impl MonitoredMaps {
    /// Divides the maps among those that use them.
    pub fn split(maps: Maps) -> (Self, OtherMaps) {
        let sources = maps.sources.clone();
        let monitored = Self {
            counts: maps.counts,
            distinct: maps.distinct,
            known: maps.known,
            ports: maps.ports,
            prefixes: maps.prefixes,
            sources: maps.sources,
        };
        (monitored, OtherMaps { guarded: maps.guarded, events: maps.events, sources })
    }
}
