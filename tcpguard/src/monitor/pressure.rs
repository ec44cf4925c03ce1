//! The values compared with the thresholds, for the host and for each service with thresholds of its own.
//!
//! Each count is accompanied by an *incoming* value: the count that the current rate would lead to if it continued.
//! Counts fall only as handshakes expire, a minute after an attack; incoming values fall as soon as it ends.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use tcpguard_common::abi::counters::{Cause, Counter};

use super::{
    PortSnapshot, Ports,
    protected::ProtectedMeter,
    scope::{Counts, Readings, ScopeWindow, Sums},
};
use crate::{
    config::{Protect, Service},
    datapath::maps::Totals,
    kernel::TcpExt,
};

/// How long a mark of a port's handshakes stays.
const SECOND: Duration = Duration::from_secs(1);
/// The longest round trip that a cookie of the kernel's is given to return.
const ROUND_TRIP: Duration = Duration::from_millis(450);
/// How long a port stays marked as slow after its accept queue was last seen full.
const SLOW_FOR: Duration = Duration::from_secs(10);

/// The readings of the host and of the services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// All ports except those of services.
    pub host: Readings,
    /// Each service, in the order of the configuration.
    pub services: Vec<Readings>,
    /// The networks of each `[[protect]]` section, in the order of the configuration.
    pub protected: Vec<Readings>,
    /// Half-open handshakes of each protected port, in the same order.
    pub protected_half_open: Vec<u64>,
    /// Ports whose application accepts too slowly. Their handshakes are not counted against any scope.
    pub slow_ports: Vec<u16>,
}

/// Keeps the previous counts that pressure is measured against.
pub(super) struct PressureMeter {
    services: Vec<Service>,
    host: ScopeWindow,
    /// Each service, and the counts excluded from it: those of its slow ports.
    by_service: Vec<(ScopeWindow, LeftOut)>,
    protected: ProtectedMeter,
    /// The counts of ports that are excluded from the host's account.
    left_out: LeftOut,
    unreturned: UnreturnedCookies,
    slow: BTreeMap<u16, Instant>,
}

/// Requests that would have been refused for lack of resources if the kernel had not answered them with a cookie, and whose
/// cookie was not returned within [`ROUND_TRIP`].
#[derive(Clone, Debug, Default)]
struct UnreturnedCookies {
    last: Option<TcpExt>,
    /// Cookies sent because a request queue was full.
    sent: u64,
    /// Cookies returned: their clients were served.
    returned: u64,
    /// The totals of cookies sent, up to the newest that is a round trip old.
    past: VecDeque<(Instant, u64)>,
}

impl UnreturnedCookies {
    /// Adds what the kernel counted since the last call, and returns the total. If `is_slow`, an application does not
    /// accept connections: cookies are returned to it in vain, and are not counted.
    fn add(&mut self, counters: &TcpExt, is_slow: bool, now: Instant) -> u64 {
        let last = self.last.replace(*counters).unwrap_or(*counters);
        if !counters.sends_cookies_always {
            self.sent += counters.request_queue_full_cookies.saturating_sub(last.request_queue_full_cookies);
        }
        let returned = counters.syncookies_received.saturating_sub(last.syncookies_received);
        self.returned = if is_slow { self.sent } else { (self.returned + returned).min(self.sent) };
        self.past.push_back((now, self.sent));
        while self.past.get(1).is_some_and(|(then, _)| now.duration_since(*then) >= ROUND_TRIP) {
            self.past.pop_front();
        }
        let due = self.past.front().filter(|(then, _)| now.duration_since(*then) >= ROUND_TRIP);
        due.map_or(0, |(_, sent)| sent.saturating_sub(self.returned))
    }
}

#[derive(Default)]
struct LeftOut {
    /// The accounts at the last call.
    before: Option<Ports>,
    last: BTreeMap<u16, Seen>,
    sums: Sums,
    /// The handshakes of ports that had begun shortly before they were left out: they count as ended.
    outstanding: u64,
}

/// What was last seen of a port.
#[derive(Clone, Copy)]
struct Seen {
    port: PortSnapshot,
    /// The port was left out.
    is_left_out: bool,
    /// Handshakes begun and ended, one to two seconds ago.
    mark: [u64; 2],
    /// The next mark, and when it was set.
    next_mark: [u64; 2],
    marked: Instant,
}

impl Seen {
    fn new(port: PortSnapshot, now: Instant) -> Self {
        let mark = [port.begun, port.ended];
        Self { port, is_left_out: false, mark, next_mark: mark, marked: now }
    }

    /// Sets the account, which was the same from the last call to the last tick.
    fn update(&mut self, port: PortSnapshot, is_left_out: bool, now: Instant) {
        if now.duration_since(self.marked) >= SECOND {
            (self.mark, self.next_mark, self.marked) = (self.mark_at(now), [port.begun, port.ended], now);
        }
        (self.port, self.is_left_out) = (port, is_left_out);
    }

    /// Returns the handshakes begun and ended one to two seconds ago, or more if there was no tick in between.
    fn mark_at(&self, now: Instant) -> [u64; 2] {
        match now.duration_since(self.marked) {
            elapsed if elapsed < SECOND => self.mark,
            elapsed if elapsed < 2 * SECOND => self.next_mark,
            _ => [self.port.begun, self.port.ended],
        }
    }

    /// Returns the handshakes of the last seconds that have not ended.
    fn outstanding(&self, now: Instant) -> u64 {
        let [begun, ended] = self.mark_at(now);
        self.port.begun.saturating_sub(begun).saturating_sub(self.port.ended.saturating_sub(ended))
    }
}

impl PressureMeter {
    pub fn new(services: Vec<Service>, protected: Vec<Protect>) -> Self {
        Self {
            protected: ProtectedMeter::new(protected),
            by_service: services.iter().map(|_| Default::default()).collect(),
            services,
            host: ScopeWindow::default(),
            left_out: LeftOut::default(),
            unreturned: UnreturnedCookies::default(),
            slow: BTreeMap::new(),
        }
    }

    /// Replaces the services and the protected networks. The measurements of a service with the same ports continue.
    pub fn reconfigure(&mut self, services: Vec<Service>, protected: Vec<Protect>) {
        self.protected.reconfigure(protected);
        let mut before: Vec<_> = self.services.drain(..).zip(self.by_service.drain(..)).collect();
        for service in services {
            let known = before.iter().position(|(other, _)| other.ports == service.ports);
            let scope = known.map(|place| before.swap_remove(place).1);
            self.by_service.push(scope.unwrap_or_else(|| (ScopeWindow::from_now(), LeftOut::default())));
            self.services.push(service);
        }
    }

    /// Discards what was counted so far, because it belongs to the previous daemon.
    pub fn forget(&mut self) {
        self.protected.forget();
        for scope in self.by_service.iter_mut().map(|(scope, _)| scope).chain([&mut self.host]) {
            scope.forget();
        }
    }

    pub fn measure(&mut self, counts: &Counts, now: Instant) -> Pressure {
        self.note_slow_ports(counts.ports, now);
        let slow = &self.slow;
        let services = self.services.iter().zip(&mut self.by_service);
        let services = services.map(|(service, scope)| measure_service(service, scope, slow, counts, now)).collect();
        let (protected, protected_half_open) = self.protected.measure(counts, now);
        let slow_ports = self.slow.keys().copied().collect();
        Pressure { host: self.measure_host(counts, now), services, protected, protected_half_open, slow_ports }
    }

    fn note_slow_ports(&mut self, ports: &Ports, now: Instant) {
        self.slow.retain(|_, since| now.duration_since(*since) < SLOW_FOR);
        self.slow.extend(ports.busy().filter(|port| port.is_full).map(|port| (port.port, now)));
    }

    fn measure_host(&mut self, counts: &Counts, now: Instant) -> Readings {
        let (services, slow) = (&self.services, &self.slow);
        let is_left_out =
            |port: u16| slow.contains_key(&port) || services.iter().any(|service| service.ports.contains(&port));
        self.left_out.note(counts.ports, None, is_left_out, now);
        let left_out = self.left_out.sums.plus(self.protected.behind());
        let totals = counts.totals;
        let dropped_by_judgement = totals.dropped_where(|reason| reason.cause() == Cause::Judgement);
        let sums = Sums {
            attempts: (totals.begun() + dropped_by_judgement + totals.get(Counter::SynPrompted))
                .saturating_sub(left_out.attempts + totals.get(Counter::SynCameBack)),
            begun: totals.begun().saturating_sub(left_out.begun),
            ended: (totals.ended() + self.left_out.outstanding).saturating_sub(left_out.ended),
            completed: totals.get(Counter::Completed).saturating_sub(left_out.completed),
            // A full accept queue is the application's fault, not an attack, and is reported separately.
            refused: counts.tcp_ext.listen_drops.saturating_sub(counts.tcp_ext.listen_overflows),
            full_queue_cookies: counts.tcp_ext.request_queue_full_cookies,
            unreturned: self.unreturned.add(counts.tcp_ext, !slow.is_empty(), now),
            malformed: malformed(totals),
            strays: totals.get(Counter::Strays),
        };
        self.host.measure(sums, counts, |port| !is_left_out(port), now)
    }
}

fn measure_service(
    service: &Service,
    (scope, left_out): &mut (ScopeWindow, LeftOut),
    slow: &BTreeMap<u16, Instant>,
    counts: &Counts,
    now: Instant,
) -> Readings {
    let ours: BTreeSet<u16> = service.ports.iter().copied().collect();
    left_out.note(counts.ports, Some(&ours), |port| slow.contains_key(&port), now);
    let mut sums = Sums::of_all(ours.iter().filter_map(|port| counts.ports.get(*port)));
    sums.completed = sums.completed.saturating_sub(left_out.sums.completed);
    sums.attempts = sums.attempts.saturating_sub(left_out.sums.attempts);
    sums.begun = sums.begun.saturating_sub(left_out.sums.begun);
    sums.ended = (sums.ended + left_out.outstanding).saturating_sub(left_out.sums.ended);
    scope.measure(sums, counts, |port| ours.contains(&port) && !slow.contains_key(&port), now)
}

impl LeftOut {
    /// Adds what the excluded ports received since the last call. What they had received before the first call is not
    /// added: the counts by port may be a previous daemon's while the totals begin at 0.
    ///
    /// `ours` are the ports of the scope; `None` for all.
    ///
    /// An application is found to be slow a round trip after the handshakes began that it does not accept.
    fn note(&mut self, ports: &Ports, ours: Option<&BTreeSet<u16>>, is_left_out: impl Fn(u16) -> bool, now: Instant) {
        let Self { before, last, sums, outstanding } = self;
        let before = before.replace(ports.clone());
        let has_begun = before.is_some();
        let before = before.unwrap_or_default();
        let has_changed = |account: &&PortSnapshot| before.get(account.port) != Some(*account);
        let changed: Vec<&PortSnapshot> = match ours {
            Some(ours) => ours.iter().filter_map(|port| ports.get(*port)).filter(has_changed).collect(),
            None => ports.changed_since(&before).collect(),
        };
        for port in changed {
            let (is_left_out, seen) = (is_left_out(port.port), last.get_mut(&port.port));
            if has_begun && is_left_out {
                *outstanding += seen.as_ref().filter(|seen| !seen.is_left_out).map_or(0, |seen| seen.outstanding(now));
                let before = seen.as_ref().map_or_else(PortSnapshot::default, |seen| seen.port);
                *sums = sums.plus(&Sums::growth(&before, port));
            }
            match seen {
                Some(seen) => seen.update(*port, is_left_out, now),
                None => drop(last.insert(port.port, Seen { is_left_out, ..Seen::new(*port, now) })),
            }
        }
    }
}

/// Returns the number of malformed segments, dropped or not.
fn malformed(totals: &Totals) -> u64 {
    [Counter::BadFlags, Counter::DropBadFlags, Counter::BadDataOffset, Counter::DropBadDataOffset]
        .map(|counter| totals.get(counter))
        .iter()
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{HalfOpen, HalfOpenTable};

    fn totals(syn: u64, completed: u64) -> Totals {
        Totals::default().with(Counter::SynTracked, syn).with(Counter::Completed, completed)
    }

    struct Fixture {
        meter: PressureMeter,
        start: Instant,
    }

    impl Fixture {
        fn new(services: Vec<Service>) -> Self {
            Self { meter: PressureMeter::new(services, Vec::new()), start: Instant::now() }
        }

        fn at(&mut self, milliseconds: u64, totals: &Totals, ports: &[PortSnapshot]) -> Pressure {
            let (tcp_ext, kernel) = (TcpExt::default(), HalfOpenTable::default());
            let ports = ports.iter().copied().collect();
            let counts = Counts {
                totals,
                tcp_ext: &tcp_ext,
                kernel: &kernel,
                is_kernel_recent: true,
                ports: &ports,
                protected: &[],
                period: 3,
            };
            self.meter.measure(&counts, self.start + Duration::from_millis(milliseconds))
        }
    }

    #[test]
    fn what_comes_falls_when_a_flood_ends_and_the_count_does_not() {
        let mut fixture = Fixture::new(Vec::new());
        fixture.at(0, &totals(0, 0), &[]);
        for tick in 1..=10 {
            fixture.at(tick * 100, &totals(tick * 100, 0), &[]);
        }
        let during = fixture.at(1100, &totals(1100, 0), &[]).host;
        assert_eq!(during.half_open.datapath, 1100);
        assert!((62_000..64_000).contains(&during.half_open_coming), "{during:?}");
        for tick in 12..=15 {
            fixture.at(tick * 100, &totals(1100, 0), &[]);
        }
        let after = fixture.at(1600, &totals(1100, 0), &[]).host;
        assert_eq!((after.half_open.datapath, after.half_open_coming), (1100, 0));
    }

    #[test]
    fn a_second_has_no_more_in_it_however_late_a_tick_is() {
        let mut fixture = Fixture::new(Vec::new());
        let readings = [0, 1000, 2900, 3000].map(|at| fixture.at(at, &totals(at, at), &[]).host.completed_second);
        assert_eq!(readings, [0, 1000, 1000, 1000]);
    }

    #[test]
    fn cookies_that_the_kernel_sends_for_a_full_queue_are_refused_requests() {
        let mut unreturned = UnreturnedCookies::default();
        let counters = |sent, returned, always| TcpExt {
            request_queue_full_cookies: sent,
            syncookies_received: returned,
            sends_cookies_always: always,
            ..TcpExt::default()
        };
        let start = Instant::now();
        let mut add = |milliseconds, counters: TcpExt, is_slow| {
            unreturned.add(&counters, is_slow, start + Duration::from_millis(milliseconds))
        };
        assert_eq!(add(0, counters(1000, 900, false), false), 0, "before tcpguard started");
        assert_eq!(add(100, counters(1700, 900, false), false), 0, "they may be under way");
        assert_eq!(add(500, counters(1700, 900, false), false), 0);
        assert_eq!(add(600, counters(1700, 900, false), false), 700);
        assert_eq!(add(700, counters(1700, 1500, false), false), 100, "their clients were served");
        assert_eq!(add(1300, counters(9700, 1500, true), false), 100, "it sends them to everybody");
        assert_eq!(add(1400, counters(9700, 1500, true), true), 0, "an application is slow");
    }

    #[test]
    fn rows_that_were_read_long_ago_are_not_believed() {
        let mut kernel = HalfOpenTable::default();
        kernel.add(HalfOpen {
            local: ([198, 18, 0, 1], 443).into(),
            remote: ([198, 18, 0, 9], 4000).into(),
            age: Duration::from_millis(500),
            retransmits: 0,
        });
        let coming = |is_kernel_recent| {
            let (totals, tcp_ext, ports) = (Totals::default(), TcpExt::default(), Ports::default());
            let mut meter = PressureMeter::new(Vec::new(), Vec::new());
            let (kernel, protected, period) = (&kernel, &[][..], 3);
            let (totals, tcp_ext, ports) = (&totals, &tcp_ext, &ports);
            let counts = Counts { totals, tcp_ext, kernel, is_kernel_recent, ports, protected, period };
            meter.measure(&counts, Instant::now()).host
        };
        assert_eq!(
            [true, false].map(|is_recent| coming(is_recent).half_open.kernel),
            [1, 0],
            "the datapath counts none"
        );
        assert_eq!(coming(false).half_open_coming, 0);
        assert!(coming(true).half_open_coming > 100);
    }

    #[test]
    fn clients_that_complete_make_nothing_come() {
        let mut fixture = Fixture::new(Vec::new());
        for tick in 0..20 {
            // A round trip of two ticks.
            let begun = tick * 200;
            let readings = fixture.at(tick * 100, &totals(begun, begun.saturating_sub(400)), &[]).host;
            if tick > 6 {
                assert_eq!(readings.half_open_coming, 0);
            }
        }
    }

    #[test]
    fn a_port_that_is_named_twice_counts_once() {
        let mut fixture = Fixture::new(vec![Service { ports: vec![443, 443], max_half_open: 2000 }]);
        fixture.at(0, &totals(0, 0), &[]);
        let port = PortSnapshot { port: 443, syn: 70, begun: 70, ..PortSnapshot::default() };
        assert_eq!(fixture.at(100, &totals(70, 0), &[port]).services[0].half_open.datapath, 70);
    }

    #[test]
    fn counts_by_port_may_be_older_than_the_totals() {
        let mut fixture = Fixture::new(vec![Service { ports: vec![443], max_half_open: 2000 }]);
        let port = |port, begun| PortSnapshot { port, syn: begun, begun, ..PortSnapshot::default() };
        fixture.at(0, &totals(0, 0), &[port(443, 1_000_000)]);
        fixture.meter.forget();
        let pressure = fixture.at(100, &totals(700, 0), &[port(443, 1_000_200), port(80, 500)]);
        assert_eq!(pressure.host.half_open.datapath, 500);
        assert_eq!(pressure.services[0].half_open.datapath, 200);
    }

    #[test]
    fn what_began_before_an_application_was_found_slow_is_not_the_host_s_either() {
        let mut fixture = Fixture::new(Vec::new());
        let port = |port, begun, ended| PortSnapshot { port, syn: begun, begun, ended, ..PortSnapshot::default() };
        fixture.at(0, &totals(0, 0), &[port(80, 0, 0), port(81, 0, 0)]);
        let pressure = fixture.at(100, &totals(700, 0), &[port(80, 600, 0), port(81, 100, 0)]);
        assert_eq!(pressure.host.half_open.datapath, 700);
        // A round trip later some have completed, and the others find the queue full.
        let slow = PortSnapshot { is_full: true, ..port(80, 600, 129) };
        let pressure = fixture.at(200, &totals(700, 129), &[slow, port(81, 100, 0)]);
        assert_eq!(pressure.host.half_open.datapath, 100);
        let pressure = fixture.at(
            300,
            &totals(720, 229),
            &[PortSnapshot { is_full: true, ..port(80, 600, 229) }, port(81, 120, 0)],
        );
        assert_eq!(pressure.host.half_open.datapath, 120);
    }

    #[test]
    fn what_began_long_before_an_application_was_found_slow_has_expired() {
        let mut fixture = Fixture::new(Vec::new());
        let port = |begun| PortSnapshot { port: 80, syn: begun, begun, ..PortSnapshot::default() };
        fixture.at(0, &totals(0, 0), &[port(0)]);
        fixture.at(100, &totals(500, 0), &[port(500)]);
        // For a while nothing happens at the port, which is not even looked at.
        for tick in 2..50 {
            fixture.at(100 * tick, &totals(500, 0), &[port(500)]);
        }
        fixture.at(5000, &totals(520, 0), &[port(520)]);
        let slow = PortSnapshot { is_full: true, ..port(520) };
        let pressure = fixture.at(5100, &totals(520, 0), &[slow]);
        assert_eq!(pressure.host.half_open.datapath, 500, "only the last twenty may still be the application's");
    }

    #[test]
    fn services_and_slow_ports_are_not_the_host_s() {
        let mut fixture = Fixture::new(vec![Service { ports: vec![443], max_half_open: 2000 }]);
        let port = |port, begun| PortSnapshot { port, syn: begun, begun, ..PortSnapshot::default() };
        fixture.at(0, &totals(0, 0), &[]);
        let pressure = fixture.at(100, &totals(600, 0), &[port(443, 500), port(80, 100)]);
        assert_eq!(pressure.host.half_open.datapath, 100);
        assert_eq!(pressure.services[0].half_open.datapath, 500);
        let slow = PortSnapshot { is_full: true, ..port(80, 900) };
        let pressure = fixture.at(200, &totals(1400, 0), &[port(443, 500), slow]);
        assert_eq!(pressure.host.half_open.datapath, 100);
        assert_eq!(pressure.slow_ports, [80]);
        // When it accepts again, earlier handshakes are not counted against it.
        let pressure = fixture.at(20_000, &totals(1410, 0), &[port(443, 500), port(80, 910)]);
        assert_eq!(pressure.host.half_open.datapath, 110);
    }
}
