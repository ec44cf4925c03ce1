//! The pressure on protected networks, and what their ports take from the host's account.

use std::time::{Duration, Instant};

use super::{
    PortSnapshot,
    half_open::HandshakeWindow,
    scope::{Counts, Readings, ScopeWindow, Sums},
};
use crate::{config::Protect, time::Past};

/// The span over which it is measured how many SYNs are answered in calm.
const SPAN: Duration = Duration::from_secs(60);
/// So many SYNs tell it.
const TELLING: u64 = 20;
/// At least this share of SYNs counts, whatever is answered.
const LEAST_SHARE: f64 = 0.05;

/// Measures the pressure on the networks of each `[[protect]]` section.
#[derive(Default)]
pub(super) struct ProtectedMeter {
    sections: Vec<Section>,
    /// Each port.
    ports: Vec<HandshakeWindow>,
    /// The last account of each port, and the sum of what all have received since they were first seen: totals of the datapath
    /// that are not the host's.
    last: Vec<PortSnapshot>,
    behind: Sums,
}

struct Section {
    config: Protect,
    window: ScopeWindow,
    /// The handshakes that the server answered.
    answered: HandshakeWindow,
    past: Past<Instant, Asked>,
    /// The share of SYNs that are answered in calm.
    share: f64,
    /// Handshakes begun, of which only that share counts. Those that the server answered count anyway: whoever made the share
    /// small by SYNs that nobody answers hides no flood.
    begun: f64,
    last: u64,
}

/// Totals of one section.
#[derive(Clone, Copy, Default)]
struct Asked {
    begun: u64,
    /// Those that the server answered, or whose client acknowledged an answer.
    answered: u64,
}

impl Asked {
    fn of(ports: &[PortSnapshot]) -> Self {
        let answered = |port: &PortSnapshot| port.replied + port.one_way;
        Self { begun: ports.iter().map(|port| port.begun).sum(), answered: ports.iter().map(answered).sum() }
    }
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
            self.ports.clear();
        }
    }

    /// Discards what was counted so far, because it belongs to the previous daemon.
    pub fn forget(&mut self) {
        self.sections.iter_mut().for_each(|section| {
            section.window.forget();
            section.answered.forget();
        });
    }

    /// Returns what the ports have received, which the totals of the datapath contain.
    pub const fn behind(&self) -> &Sums {
        &self.behind
    }

    /// Returns the readings of each section, and the half-open handshakes of each port.
    pub fn measure(&mut self, counts: &Counts, is_calm: bool, now: Instant) -> (Vec<Readings>, Vec<u64>) {
        self.note(counts.protected);
        let mut rest = counts.protected;
        let measure = |section: &mut Section| {
            let (ports, others) = rest.split_at(section.config.ports.len().min(rest.len()));
            rest = others;
            section.measure(ports, counts, is_calm, now)
        };
        let readings = self.sections.iter_mut().map(measure).collect();
        self.ports.resize_with(counts.protected.len(), HandshakeWindow::from_now);
        let windows = self.ports.iter_mut().zip(counts.protected);
        // Where the server answers, it holds what it has answered.
        let begun = |port: &PortSnapshot| if port.replied > 0 { port.replied } else { port.begun };
        let half_open = windows.map(|(window, port)| window.count(begun(port), port.ended, counts.period)).collect();
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

impl Section {
    fn new(config: Protect) -> Self {
        Self {
            config,
            window: ScopeWindow::from_now(),
            answered: HandshakeWindow::from_now(),
            past: Past::new(SPAN),
            share: 1.0,
            begun: 0.0,
            last: 0,
        }
    }

    /// Measures the pressure. SYNs to addresses without a server are not answered: in calm that is scans, and only as large a
    /// share of SYNs as is answered then counts as begun, or all that are answered if these are more.
    fn measure(&mut self, ports: &[PortSnapshot], counts: &Counts, is_calm: bool, now: Instant) -> Readings {
        let asked = Asked::of(ports);
        if let Some((before, _)) = self.past.oldest(now).filter(|_| is_calm) {
            let begun = asked.begun.saturating_sub(before.begun);
            let answered = asked.answered.saturating_sub(before.answered);
            if begun >= TELLING {
                self.share = (answered as f64 / begun as f64).clamp(LEAST_SHARE, 1.0);
            }
        }
        self.past.add(now, asked);
        let last = std::mem::replace(&mut self.last, asked.begun);
        self.begun += asked.begun.saturating_sub(last) as f64 * self.share;
        let all = Sums::of_all(ports);
        let held_back = all.attempts.wrapping_sub(all.begun).cast_signed().max(0) as f64 * self.share;
        let begun = self.begun.round() as u64;
        let mut readings = self.window.measure(all.with_begun(begun, begun + held_back as u64), counts, |_| false, now);
        let answered = self.answered.count(asked.answered, all.ended(), counts.period);
        readings.half_open.datapath = readings.half_open.datapath.max(answered);
        readings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

        fn at(&mut self, tenths: u64, begun: u64, replied: u64, ended: u64, is_calm: bool) -> Readings {
            let (totals, tcp_ext, kernel) = (Totals::default(), TcpExt::default(), HalfOpenTable::default());
            let ports = [PortSnapshot { begun, replied, ended, syn: begun, ..PortSnapshot::default() }];
            let counts = Counts {
                totals: &totals,
                tcp_ext: &tcp_ext,
                kernel: &kernel,
                ports: &[],
                protected: &ports,
                period: 3,
            };
            self.0.measure(&counts, is_calm, self.1 + Duration::from_millis(100 * tenths)).0[0]
        }
    }

    #[test]
    fn scans_of_addresses_without_a_server_are_no_half_open_handshakes() {
        let mut gateway = Gateway::new();
        let mut half_open = 0;
        // For a minute, a hundred SYNs a second that nobody answers, and ten clients.
        for tenth in 0..600 {
            half_open = gateway.at(tenth, 11 * tenth, tenth, tenth, true).half_open.datapath;
        }
        assert!(half_open < 500, "{half_open}");
    }

    #[test]
    fn a_flood_that_the_server_does_not_answer_counts_nevertheless() {
        let mut gateway = Gateway::new();
        for tenth in 0..300 {
            gateway.at(tenth, 10 * tenth, 10 * tenth, 10 * tenth, true);
        }
        let flood = gateway.at(300, 13_000, 3128, 3000, false);
        assert!(flood.half_open.datapath > 9000, "{flood:?}");
    }

    #[test]
    fn answers_count_whatever_share_of_syns_was_answered_before() {
        let mut gateway = Gateway::new();
        for tenth in 0..300 {
            gateway.at(tenth, 100 * tenth, 0, 0, true);
        }
        gateway.at(300, 30_000, 0, 0, true);
        let flood = gateway.at(301, 32_000, 2000, 0, false).half_open.datapath;
        assert!(flood >= 2000, "{flood}");
    }
}
