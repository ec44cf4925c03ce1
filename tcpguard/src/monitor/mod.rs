//! Observation: ten times a second, the datapath's counters and the kernel's tables are combined into a [`Snapshot`].

mod completions;
mod half_open;
mod headers;
mod pace;
mod ports;
mod prefixes;
mod pressure;
mod rates;
mod snapshot;
mod sources;

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tcpguard_common::address::Address;
use tracing::warn;

use crate::{
    config::Config,
    datapath::{
        Datapath, DatapathError,
        maps::{CounterMap, DistinctMap, ListeningPorts, ObservedMaps, Totals},
    },
    interfaces::InterfaceStatus,
    kernel::{HalfOpenTable, KernelView, Listener, TcpExt},
    time::WallClock,
};
pub use half_open::HalfOpenCounts;
pub use headers::HeaderReading;
pub use ports::PortSnapshot;
pub use prefixes::{PrefixReading, PrefixSnapshot};
pub use pressure::{Pressure, Readings};
pub use rates::Rates;
pub use snapshot::Snapshot;
pub use sources::{MAX_TOP_SOURCES, PORTS_OF_A_SCAN, SourceOrder, SourceReading, TopSources};

use half_open::HandshakeWindow;
use headers::HeaderMeter;
use pace::{Pace, Shares};
use ports::PortReader;
use prefixes::PrefixReader;
use pressure::{Counts, PressureMeter};
use rates::RateMeter;
use sources::SourceWatch;

/// The interval between two snapshots.
pub const TICK: Duration = Duration::from_millis(100);
/// The kernel's listeners are listed once in this many ticks, since they seldom change, and in every tick in which
/// requests are refused or a listener changed.
const TICKS_PER_LISTENER_LIST: u64 = 5;
/// The shares of one core for dumps of the kernel's half-open handshakes and listeners. The kernel walks all its
/// connections for the first and all listeners for the second; on most hosts, each tick can have one.
const DUMPS: Shares = Shares { calm: 0.004, alert: 0.02 };
/// The number of distinct sources is estimated once in this many ticks; it changes once a second.
const TICKS_PER_ESTIMATE: u64 = 5;

/// Takes snapshots, and keeps the state between them.
pub struct Monitor {
    counts: CounterMap,
    distinct: DistinctMap,
    headers: HeaderMeter,
    kernel: Box<dyn KernelView>,
    sources: SourceWatch,
    ports: PortReader,
    prefixes: PrefixReader,
    rates: RateMeter,
    handshakes: HandshakeWindow,
    pressure: PressureMeter,
    listening: ListeningPorts,
    /// The number of half-open handshakes above which sources and prefixes are read.
    suspicion: u64,
    last_drops: u64,
    /// A listener opened or closed since the last tick.
    listeners_changed: bool,
    /// The kernel has listed its listeners.
    knows_listeners: bool,
    half_open: Answer<Arc<HalfOpenTable>>,
    half_open_pace: Pace,
    listeners: Answer<Vec<Listener>>,
    listener_pace: Pace,
    /// Something happened in the last tick that makes the kernel's view more important.
    is_suspicious: bool,
    tcp_ext: Answer<TcpExt>,
    first_tcp_ext: TcpExt,
    ticks: u64,
    last_distinct: f64,
}

impl Monitor {
    /// Creates a monitor. The kernel's present counters are the baseline: only what is counted from now on is reported.
    ///
    /// # Errors
    /// Returns an error if the kernel's counters cannot be read.
    pub fn new(maps: ObservedMaps, mut kernel: Box<dyn KernelView>, config: &Config) -> io::Result<Self> {
        let first_tcp_ext = kernel.tcp_ext()?;
        Ok(Self {
            sources: SourceWatch::new(maps.sources, maps.known, config.source.max_half_open),
            ports: PortReader::new(maps.ports, service_ports(config)),
            pressure: PressureMeter::new(config.services.clone()),
            listening: maps.listening,
            suspicion: suspicion(config),
            last_drops: 0,
            listeners_changed: false,
            knows_listeners: false,
            prefixes: PrefixReader::new(maps.prefixes),
            counts: maps.counts,
            distinct: maps.distinct,
            headers: HeaderMeter::new(maps.headers),
            rates: RateMeter::default(),
            handshakes: HandshakeWindow::default(),
            half_open: Answer::default(),
            half_open_pace: Pace::new(DUMPS),
            listeners: Answer::default(),
            listener_pace: Pace::new(DUMPS),
            is_suspicious: false,
            tcp_ext: Answer { answer: first_tcp_ext, problem: None },
            kernel,
            first_tcp_ext,
            ticks: 0,
            last_distinct: 0.0,
        })
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        self.sources.set_limit(config.source.max_half_open);
        self.ports.set_services(service_ports(config));
        self.pressure.reconfigure(config.services.clone());
        self.suspicion = suspicion(config);
    }

    /// Adds a source that became busy to the top sources at once.
    pub fn note_busy(&mut self, source: Address) {
        self.sources.note_busy(source);
    }

    /// Requests a new list of listeners with the next tick, because one opened or closed.
    pub const fn note_listeners(&mut self) {
        self.listeners_changed = true;
    }

    /// Takes the counters left by the previous daemon as the baseline, so that they do not count as new traffic.
    ///
    /// # Errors
    /// See [`Monitor::tick`].
    pub fn begin_after(&mut self, datapath: &Datapath) -> Result<(), DatapathError> {
        self.tick(datapath, Vec::new(), false)?;
        self.handshakes.forget();
        self.pressure.forget();
        Ok(())
    }

    /// Takes a snapshot. Sources and prefixes are read if `is_alert`, or if many handshakes are half open.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read. If the kernel's tables cannot be read, the last known ones are used
    /// and a warning is logged.
    pub fn tick(
        &mut self,
        datapath: &Datapath,
        interfaces: Vec<InterfaceStatus>,
        is_alert: bool,
    ) -> Result<Snapshot, DatapathError> {
        let clock = WallClock::new(datapath.jiffies()?, datapath.ticks_per_second);
        let totals = self.counts.read()?;
        let period = datapath.clock.window_period(clock.jiffies());
        self.sources.advance(period, datapath.clock)?;
        self.is_suspicious |= is_alert;
        self.ask_kernel(Instant::now())?;
        if self.ticks.is_multiple_of(TICKS_PER_ESTIMATE) {
            self.last_distinct = self.distinct_per_second(datapath, clock.jiffies())?;
        }
        let ports = self.read_ports()?;
        let counts = Counts {
            totals: &totals,
            tcp_ext: &self.tcp_ext.answer,
            kernel: &self.half_open.answer,
            ports: &ports,
            period,
        };
        let pressure = self.pressure.measure(&counts, Instant::now());
        let half_open = self.count_half_open(&totals, period);
        self.is_suspicious = is_alert || half_open.datapath.max(half_open.kernel) > self.suspicion;
        self.prefixes.advance(self.is_suspicious, period)?;
        let suspects = if self.is_suspicious { self.sources.suspects(period)? } else { Vec::new() };
        let snapshot = Snapshot {
            rates: self.rates.measure(&totals, self.last_distinct),
            headers: self.headers.read(is_alert, Instant::now())?,
            half_open,
            pressure,
            suspects,
            scanning: self.sources.scanning().to_vec(),
            suspect_prefixes: self.prefixes.suspects().to_vec(),
            ports,
            prefixes: self.prefixes.top(),
            listeners: self.listeners.answer.clone(),
            knows_listeners: self.knows_listeners,
            refused: self.tcp_ext.answer.listen_drops.saturating_sub(self.first_tcp_ext.listen_drops),
            tracked_sources: self.sources.tracked(),
            top_sources: self.sources.top(),
            kernel_half_open: Arc::clone(&self.half_open.answer),
            kernel_read: self.half_open_pace.last_end(),
            kernel_problem: self.half_open.problem.clone().or_else(|| self.listeners.problem.clone()),
            tcp_ext: self.tcp_ext.answer,
            clock,
            period,
            totals,
            interfaces,
        };
        self.ticks += 1;
        Ok(snapshot)
    }

    /// Returns the estimated number of different sources per second in the last complete period.
    fn distinct_per_second(&self, datapath: &Datapath, jiffies: u64) -> Result<f64, DatapathError> {
        let last_period = datapath.clock.second(jiffies).wrapping_sub(1);
        let periods_per_second = f64::from(datapath.ticks_per_second) / datapath.clock.second_in_jiffies() as f64;
        Ok(self.distinct.estimate(last_period)? * periods_per_second)
    }

    fn ask_kernel(&mut self, now: Instant) -> Result<(), DatapathError> {
        if self.half_open_pace.is_due(self.is_suspicious, now) {
            let answer = self.half_open_pace.measure(|| self.kernel.half_open());
            self.half_open.note("half-open handshakes", answer.map(Arc::new));
        }
        self.tcp_ext.note("counters", self.kernel.tcp_ext());
        let drops = self.tcp_ext.answer.listen_drops;
        let is_refusing = drops != std::mem::replace(&mut self.last_drops, drops);
        let is_needed = is_refusing || self.listeners_changed;
        let is_turn = is_needed || self.ticks.is_multiple_of(TICKS_PER_LISTENER_LIST);
        if is_turn && self.listener_pace.is_due(is_needed || self.is_suspicious, now) {
            self.listeners_changed = false;
            let listeners = self.listener_pace.measure(|| self.kernel.listeners());
            self.knows_listeners |= listeners.is_ok();
            self.listeners.note("listeners", listeners);
            let reachable = self.listeners.answer.iter().filter(|listener| listener.is_reachable());
            let open = reachable.map(|listener| listener.local.port()).collect();
            self.listening.set(open)?;
        }
        Ok(())
    }

    fn count_half_open(&mut self, totals: &Totals, period: u32) -> HalfOpenCounts {
        HalfOpenCounts {
            kernel: self.half_open.answer.total as u64,
            kernel_retried: self.half_open.answer.retried as u64,
            datapath: self.handshakes.count(totals.begun(), totals.ended(), period),
        }
    }

    fn read_ports(&mut self) -> Result<Vec<PortSnapshot>, DatapathError> {
        self.ports.advance(&self.listeners.answer)?;
        self.ports.report(&self.listeners.answer, &self.half_open.answer)
    }
}

fn service_ports(config: &Config) -> BTreeSet<u16> {
    config.services.iter().flat_map(|service| service.ports.iter().copied()).collect()
}

/// Returns half of the lowest half-open threshold.
fn suspicion(config: &Config) -> u64 {
    let services = config.services.iter().map(|service| service.max_half_open);
    let least = services.chain([config.thresholds.max_half_open]).min();
    u64::from(least.unwrap_or(0) / 2)
}

/// The kernel's last answer to a query, and why there is no newer one.
#[derive(Default)]
struct Answer<T> {
    answer: T,
    problem: Option<String>,
}

impl<T> Answer<T> {
    /// Stores an answer. On failure the previous one stays, and a warning is logged once until a query succeeds again.
    fn note(&mut self, what: &str, result: io::Result<T>) {
        match result {
            Ok(answer) => *self = Self { answer, problem: None },
            Err(error) => {
                let problem = format!("the kernel's {what} cannot be read: {error}");
                if self.problem.is_none() {
                    warn!("{problem}");
                }
                self.problem = Some(problem);
            }
        }
    }
}
