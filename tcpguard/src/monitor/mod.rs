//! Observation: with each tick, the datapath's counters and the kernel's tables are combined into a [`Snapshot`].

mod accounts;
mod completions;
mod half_open;
mod headers;
mod port_reader;
mod ports;
mod prefixes;
mod pressure;
mod protected;
mod rates;
mod redirected;
mod scope;
mod snapshot;
mod sources;

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tcpguard_common::{abi::counters::Counter, address::Address};
use tracing::warn;

use crate::{
    config::Config,
    cost::ON_ROWS,
    datapath::{
        Datapath, DatapathError,
        maps::{CounterMap, DistinctMap, ListeningPorts, ObservedMaps, Totals},
    },
    interfaces::InterfaceStatus,
    kernel::{HalfOpenTable, KernelView, Listeners, TcpExt},
    time::{Every, Limits, Pace, WallClock},
};
pub use half_open::HalfOpenCounts;
pub use headers::HeaderReading;
pub use ports::{PortSnapshot, Ports};
pub use prefixes::{PrefixReading, PrefixSnapshot};
pub use pressure::Pressure;
pub use rates::Rates;
pub use scope::Readings;
pub use snapshot::Snapshot;
pub use sources::{MAX_TOP_SOURCES, PORTS_OF_A_SCAN, SourceOrder, SourceReading, TopSources};

use half_open::HandshakeWindow;
use headers::HeaderMeter;
use port_reader::PortReader;
use prefixes::PrefixReader;
use pressure::PressureMeter;
use rates::RateMeter;
use scope::Counts;
use sources::SourceWatch;

/// The time between two snapshots while something happens.
pub const TICK: Duration = Duration::from_millis(100);
/// The least time between two lists of the kernel's listeners, since they seldom change. They are also listed in every tick
/// in which requests are refused or a listener changed.
const LISTENERS_EVERY: Duration = Duration::from_millis(450);
/// The least time between two reviews of what the datapath has noted of each port's listeners. Between them only ports are
/// reviewed at which a listener opened or closed; an event that tells it may be lost.
const LISTENING_REVIEW: Duration = Duration::from_secs(60);
/// The part of the daemon's share of one core in calm that dumps of the kernel's half-open handshakes may take, and that
/// those of its listeners may. The kernel walks all its connections for the first and all listeners for the second; on most
/// hosts, each tick can have one.
const DUMPS_PART: f64 = 0.2;

fn half_open_dumps(config: &Config) -> Limits {
    let calm = config.limits.cpu_share * DUMPS_PART;
    Limits { calm, alert: 0.02, longest_calm: Duration::from_secs(60), longest_alert: Duration::from_secs(20) }
}

/// The datapath tells when a listener opens or closes: listing them shows besides whose accept queue is full.
fn listener_dumps(config: &Config) -> Limits {
    Limits { alert: 0.01, longest_alert: Duration::from_secs(5), ..half_open_dumps(config) }
}

/// Rows that were read longer ago do not tell how many handshakes are half open or begin at present.
const RECENT: Duration = Duration::from_secs(2);

/// The least time between two estimates of the number of distinct sources, which changes once a second.
const ESTIMATE_EVERY: Duration = Duration::from_millis(450);

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
    /// The ports at which a listener opened or closed since they were listed.
    changed_ports: BTreeSet<u16>,
    /// See [`Snapshot::listener_layout`].
    listener_layout: u64,
    /// See [`Snapshot::changed_ports`].
    reopened: BTreeSet<u16>,
    /// Events that the datapath had lost when the listeners were listed.
    events_lost: u64,
    /// The kernel has listed its listeners.
    knows_listeners: bool,
    half_open: Answer<Arc<HalfOpenTable>>,
    half_open_pace: Pace,
    listeners: Answer<Arc<Listeners>>,
    listener_pace: Pace,
    /// Something happened in the last tick that makes the kernel's view more important.
    is_suspicious: bool,
    tcp_ext: Answer<TcpExt>,
    first_tcp_ext: TcpExt,
    listeners_due: Every,
    listening_review: Every,
    estimate_due: Every,
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
            sources: SourceWatch::new(maps.sources, config.source.max_half_open),
            ports: PortReader::new(maps.ports, service_ports(config), protected_ports(config)),
            pressure: PressureMeter::new(config.services.clone(), config.protected.clone()),
            listening: maps.listening,
            suspicion: suspicion(config),
            last_drops: 0,
            changed_ports: BTreeSet::new(),
            listener_layout: 0,
            reopened: BTreeSet::new(),
            events_lost: 0,
            knows_listeners: false,
            prefixes: PrefixReader::new(maps.prefixes),
            counts: maps.counts,
            distinct: maps.distinct,
            headers: HeaderMeter::new(maps.headers),
            rates: RateMeter::default(),
            handshakes: HandshakeWindow::default(),
            half_open: Answer::default(),
            half_open_pace: Pace::new(half_open_dumps(config)),
            listeners: Answer::default(),
            listener_pace: Pace::new(listener_dumps(config)),
            is_suspicious: false,
            tcp_ext: Answer { answer: first_tcp_ext, problem: None },
            kernel,
            first_tcp_ext,
            listeners_due: Every::new(LISTENERS_EVERY),
            listening_review: Every::new(LISTENING_REVIEW),
            estimate_due: Every::new(ESTIMATE_EVERY),
            last_distinct: 0.0,
        })
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&mut self, config: &Config) {
        self.sources.set_limit(config.source.max_half_open);
        self.ports.set_services(service_ports(config), protected_ports(config));
        self.pressure.reconfigure(config.services.clone(), config.protected.clone());
        self.suspicion = suspicion(config);
        self.half_open_pace.set_limits(half_open_dumps(config));
        self.listener_pace.set_limits(listener_dumps(config));
    }

    /// Adds a source that became busy to the top sources at once.
    pub fn note_busy(&mut self, source: Address) {
        self.sources.note_busy(source);
    }

    /// Requests a new list of listeners with the next tick, because one opened or closed at this port.
    pub fn note_listeners(&mut self, port: u16) {
        self.changed_ports.insert(port);
    }

    /// Takes the counters left by the previous daemon as the baseline, so that they do not count as new traffic.
    ///
    /// # Errors
    /// See [`Monitor::tick`].
    pub fn begin_after(&mut self, datapath: &Datapath) -> Result<(), DatapathError> {
        self.ports.begin_after();
        self.tick(datapath, Vec::new(), false, 0)?;
        self.handshakes.forget();
        self.pressure.forget();
        Ok(())
    }

    /// Takes a snapshot. Sources and prefixes are read if `is_alert`, or if many handshakes are half open. `lease` is the
    /// number of the tick that granted the last lease.
    ///
    /// # Errors
    /// Returns an error if a map cannot be read. If the kernel's tables cannot be read, the last known ones are used
    /// and a warning is logged.
    pub fn tick(
        &mut self,
        datapath: &Datapath,
        interfaces: Vec<InterfaceStatus>,
        is_alert: bool,
        lease: u32,
    ) -> Result<Snapshot, DatapathError> {
        let clock = WallClock::new(datapath.jiffies()?, datapath.ticks_per_second);
        let totals = self.counts.read()?;
        let period = datapath.clock.window_period(clock.jiffies());
        self.sources.advance(period, datapath.clock, totals.get(Counter::SourcesAdmitted), Instant::now())?;
        self.is_suspicious |= is_alert;
        self.ask_kernel(totals.get(Counter::EventsLost), Instant::now())?;
        if self.estimate_due.is_due(Instant::now()) {
            self.last_distinct = self.distinct_per_second(datapath, clock.jiffies())?;
        }
        let ports = self.read_ports(lease)?;
        let protected = self.ports.protected();
        let counts = Counts {
            totals: &totals,
            tcp_ext: &self.tcp_ext.answer,
            kernel: &self.half_open.answer,
            is_kernel_recent: !datapath.features.sees_completions()
                || self.half_open_pace.last_end().is_some_and(|end| end.elapsed() < RECENT),
            ports: &ports,
            protected: &protected,
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
            is_suspicious: self.is_suspicious,
            suspects,
            scanning: self.sources.scanning().to_vec(),
            suspect_prefixes: self.prefixes.suspects().to_vec(),
            ports,
            protected,
            redirected: self.ports.redirected().clone(),
            prefixes: self.prefixes.top(),
            listeners: Arc::clone(&self.listeners.answer),
            listener_layout: self.listener_layout,
            changed_ports: std::mem::take(&mut self.reopened),
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
        Ok(snapshot)
    }

    /// Returns the estimated number of different sources per second in the last complete period.
    fn distinct_per_second(&self, datapath: &Datapath, jiffies: u64) -> Result<f64, DatapathError> {
        let last_period = datapath.clock.second(jiffies).wrapping_sub(1);
        let periods_per_second = f64::from(datapath.ticks_per_second) / datapath.clock.second_in_jiffies() as f64;
        Ok(self.distinct.estimate(last_period)? * periods_per_second)
    }

    fn ask_kernel(&mut self, events_lost: u64, now: Instant) -> Result<(), DatapathError> {
        if self.half_open_pace.is_due(self.is_suspicious, now) {
            let answer = self.half_open_pace.measure(|| ON_ROWS.measure(|| self.kernel.half_open()));
            self.half_open.note("half-open handshakes", answer.map(Arc::new));
        }
        self.tcp_ext.note("counters", self.kernel.tcp_ext());
        let drops = self.tcp_ext.answer.listen_drops;
        let is_refusing = drops != std::mem::replace(&mut self.last_drops, drops);
        let is_needed = is_refusing || !self.changed_ports.is_empty() || events_lost != self.events_lost;
        let is_turn = self.listeners_due.is_due(now) || is_needed;
        if is_turn && self.listener_pace.is_due(is_needed || self.is_suspicious, now) {
            self.list_listeners(events_lost, now)?;
        }
        Ok(())
    }

    fn list_listeners(&mut self, events_lost: u64, now: Instant) -> Result<(), DatapathError> {
        let before = Arc::clone(&self.listeners.answer);
        let listed = self
            .listener_pace
            .measure(|| ON_ROWS.measure(|| self.kernel.listeners()))
            .map(|all| Arc::new(Listeners::new(all)));
        let is_known = listed.is_ok();
        self.listeners.note("listeners", listed);
        if !is_known {
            return Ok(());
        }
        self.knows_listeners = true;
        let listeners = &self.listeners.answer;
        let changed = std::mem::take(&mut self.changed_ports);
        // A port at which one of several listeners closed counts as closed until it is reviewed. An event that tells it may
        // have been lost.
        let lost = std::mem::replace(&mut self.events_lost, events_lost) != events_lost;
        let is_review = self.listening_review.is_due(now) || lost || !listeners.are_same(&before);
        if is_review || !changed.is_empty() {
            self.listener_layout += 1;
            self.reopened.extend(if lost { listeners.reachable_ports() } else { &changed });
            // An event may have gone to the previous daemon.
            self.reopened.extend(listeners.differing_ports(&before));
            self.listening.set(listeners.reachable_ports(), |port| is_review || changed.contains(&port))?;
            self.listening.set_redirected(self.ports.redirected(), true)?;
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

    fn read_ports(&mut self, lease: u32) -> Result<Ports, DatapathError> {
        self.ports.advance(lease, &self.listeners.answer, self.listener_layout)?;
        self.listening.set_redirected(self.ports.redirected(), false)?;
        Ok(self.ports.report(&self.listeners.answer, &self.half_open.answer))
    }
}

fn service_ports(config: &Config) -> BTreeSet<u16> {
    config.services.iter().flat_map(|service| service.ports.iter().copied()).collect()
}

fn protected_ports(config: &Config) -> usize {
    config.protected.iter().map(|section| section.ports.len()).sum()
}

/// Returns half of the lowest half-open threshold.
fn suspicion(config: &Config) -> u64 {
    let services = config.services.iter().map(|service| service.max_half_open);
    let protected = config.protected.iter().map(|section| section.max_half_open);
    let least = services.chain(protected).chain([config.thresholds.max_half_open]).min();
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
