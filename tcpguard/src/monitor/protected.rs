//! The pressure on protected networks, and what their ports take from the host's account.
//!
//! Two counts are kept: of all SYNs, and of those that a server answered. Where answers pass through this host, SYNs that nobody
//! answers count only from a rate on that servers may be too busy to answer: otherwise they are scans of addresses without a
//! server.

use std::time::{Duration, Instant};

use super::{
    PortSnapshot,
    half_open::HandshakeWindow,
    scope::{Counts, Readings, ScopeWindow, Sums},
};
use crate::{
    config::Protect,
    time::{HANDSHAKE_LIFETIME, Past},
};

/// Answers pass through this host if one has within this time.
const SPAN: Duration = Duration::from_secs(60);
/// From this many SYNs per second on that nobody answers, a server may be too busy for it.
const BUSY_RATE: u64 = 1000;

/// Measures the pressure on the networks of each `[[protect]]` section.
#[derive(Default)]
pub(super) struct ProtectedMeter {
    sections: Vec<Section>,
    /// The last account of each port, and the sum of what all have received since they were first seen: totals of the datapath
    /// that are not the host's.
    last: Vec<PortSnapshot>,
    behind: Sums,
}

struct Section {
    config: Protect,
    all: ScopeWindow,
    answered: ScopeWindow,
    /// Both counts of each port.
    ports: Vec<[HandshakeWindow; 2]>,
    /// SYN-ACKs.
    replied: Past<Instant, u64>,
}

impl ProtectedMeter {
    pub fn new(config: Vec<Protect>) -> Self {
        let mut meter = Self::default();
        meter.reconfigure(config);
        meter
    }

    /// Applies changed sections. Measurements continue if none of them has changed: their places follow from the order.
    pub fn reconfigure(&mut self, config: Vec<Protect>) {
        if !self.sections.iter().map(|section| &section.config).eq(&config) {
            self.sections = config.into_iter().map(Section::new).collect();
        }
    }

    /// Discards what was counted so far, because it belongs to the previous daemon.
    pub fn forget(&mut self) {
        for section in &mut self.sections {
            section.all.forget();
            section.answered.forget();
            section.ports.iter_mut().flatten().for_each(HandshakeWindow::forget);
        }
    }

    /// Returns what the ports have received, which the totals of the datapath contain.
    pub const fn behind(&self) -> &Sums {
        &self.behind
    }

    /// Returns the readings of each section, and the half-open handshakes of each port.
    pub fn measure(&mut self, counts: &Counts, now: Instant) -> (Vec<Readings>, Vec<u64>) {
        self.note(counts.protected);
        let mut rest = counts.protected;
        let (mut readings, mut half_open) = (Vec::new(), Vec::new());
        for section in &mut self.sections {
            let (ports, others) = rest.split_at(section.config.ports.len().min(rest.len()));
            rest = others;
            readings.push(section.measure(ports, &mut half_open, counts, now));
        }
        (readings, half_open)
    }

    /// Adds what the ports have received. What they had before they were first seen is not added: a previous daemon may have
    /// counted it.
    fn note(&mut self, ports: &[PortSnapshot]) {
        for (port, last) in ports.iter().zip(&self.last) {
            self.behind = self.behind.plus(&Sums::growth(last, port));
        }
        for (place, port) in ports.iter().enumerate() {
            match self.last.get_mut(place) {
                Some(last) => *last = *port,
                None => self.last.push(*port),
            }
        }
    }
}

/// Returns the account of a port without the handshakes that nobody answered.
fn answered(port: &PortSnapshot) -> PortSnapshot {
    PortSnapshot {
        begun: port.replied,
        restrained: port.restrained,
        ended: port.ended.saturating_sub(port.refused + port.one_way),
        ..*port
    }
}

impl Section {
    fn new(config: Protect) -> Self {
        let ports = config.ports.iter().map(|_| [HandshakeWindow::from_now(), HandshakeWindow::from_now()]).collect();
        let (all, answered) = (ScopeWindow::from_now(), ScopeWindow::from_now());
        Self { config, all, answered, ports, replied: Past::new(SPAN) }
    }

    /// Measures the pressure, and adds the half-open handshakes of each port to `half_open`.
    fn measure(&mut self, ports: &[PortSnapshot], half_open: &mut Vec<u64>, counts: &Counts, now: Instant) -> Readings {
        let of_answered: Vec<PortSnapshot> = ports.iter().map(answered).collect();
        let all = self.all.measure(Sums::of_all(ports), counts, |_| false, now);
        let answered = self.answered.measure(Sums::of_all(&of_answered), counts, |_| false, now);
        let replied = ports.iter().map(|port| port.replied).sum();
        let are_answered = self.replied.oldest(now).is_some_and(|(before, _)| replied > *before);
        self.replied.add(now, replied);
        let unanswered_rate = all.half_open_coming / HANDSHAKE_LIFETIME.as_secs();
        let is_for_answered = are_answered && unanswered_rate < BUSY_RATE;
        let windows = self.ports.iter_mut().zip(ports.iter().zip(&of_answered));
        half_open.extend(windows.map(|([all, answered], (port, of_answered))| {
            let all = all.count(port.begun, port.ended, counts.period);
            let answered = answered.count(of_answered.begun, of_answered.ended, counts.period);
            if is_for_answered { answered } else { all }
        }));
        if is_for_answered { answered } else { all }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Ports, *};
    use crate::{
        datapath::maps::Totals,
        kernel::{HalfOpenTable, TcpExt},
    };

    fn shop() -> Protect {
        let networks = vec!["198.18.64.0/20".parse().expect("a network")];
        Protect { name: "shop".to_owned(), networks, ports: vec![80], max_half_open: 500, ..Protect::default() }
    }

    struct Gateway(ProtectedMeter, Instant);

    impl Gateway {
        fn new() -> Self {
            Self(ProtectedMeter::new(vec![shop()]), Instant::now())
        }

        /// Measures with totals of handshakes: begun, answered, completed, and refused.
        fn at(&mut self, tenths: u64, [begun, replied, completed, refused]: [u64; 4]) -> (Readings, u64) {
            let (totals, tcp_ext, kernel) = (Totals::default(), TcpExt::default(), HalfOpenTable::default());
            let ended = completed + refused;
            let ports = [PortSnapshot { begun, replied, completed, refused, ended, ..PortSnapshot::default() }];
            let counts = Counts {
                totals: &totals,
                tcp_ext: &tcp_ext,
                kernel: &kernel,
                is_kernel_recent: true,
                ports: &Ports::default(),
                protected: &ports,
                period: 3,
            };
            let (readings, ports) = self.0.measure(&counts, self.1 + Duration::from_millis(100 * tenths));
            (readings[0], ports[0])
        }
    }

    #[test]
    fn scans_of_addresses_without_a_server_are_no_half_open_handshakes() {
        let mut gateway = Gateway::new();
        for tenth in 0..600 {
            // For a minute, a hundred SYNs a second that nobody answers, and ten clients.
            let (readings, of_port) = gateway.at(tenth, [11 * tenth, tenth, tenth, 0]);
            assert!(tenth < 3 || readings.half_open.datapath == 0 && of_port == 0, "{tenth}: {readings:?}");
        }
    }

    #[test]
    fn a_flood_that_a_busy_server_does_not_answer_counts() {
        let mut gateway = Gateway::new();
        for tenth in 0..300 {
            gateway.at(tenth, [10 * tenth, 10 * tenth, 10 * tenth, 0]);
        }
        let mut flood = (Readings::default(), 0);
        for tenth in 1..20 {
            flood = gateway.at(300 + tenth, [3000 + 1000 * tenth, 3000 + 10 * tenth, 3000, 0]);
        }
        assert!(flood.0.half_open.datapath > 15_000 && flood.1 > 15_000, "{flood:?}");
        assert!(flood.0.half_open_coming > 500_000, "{flood:?}");
    }

    #[test]
    fn refused_handshakes_cancel_no_others() {
        let mut gateway = Gateway::new();
        let mut flood = (Readings::default(), 0);
        for tenth in 0..100 {
            // As many SYNs are refused as are answered and left half open.
            flood = gateway.at(tenth, [20 * tenth, 10 * tenth, 0, 10 * tenth]);
        }
        assert!((900..=1000).contains(&flood.0.half_open.datapath), "{flood:?}");
        assert!(flood.0.half_open_coming > 5000, "{flood:?}");
    }

    #[test]
    fn without_answers_every_syn_counts() {
        let mut gateway = Gateway::new();
        let mut flood = (Readings::default(), 0);
        for tenth in 0..100 {
            flood = gateway.at(tenth, [10 * tenth, 0, 0, 0]);
        }
        assert_eq!((flood.0.half_open.datapath, flood.1), (990, 990));
    }
}
