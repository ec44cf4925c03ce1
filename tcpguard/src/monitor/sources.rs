//! Finds the top sources without reading the whole source table in every tick.
//!
//! The table is scanned in slices. After each round the top sources of every order are known. A source that becomes busy
//! between two rounds is reported by an event of the datapath. Only the addresses of top sources are kept; their entries are
//! read on request.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tcpguard_common::{address::Address, clock::Clock, tracking::source::SourceEntry};

use crate::{
    datapath::{
        DatapathError,
        maps::{Progress, SourceMap, SourceScan},
    },
    time::Every,
};

/// A source that sends SYNs to this many ports within a period is scanning.
pub const PORTS_OF_A_SCAN: u32 = 32;
/// The number of scanning sources that one round over the table reports.
const MAX_SCANNING: usize = 64;
/// How many sources are kept for each order.
pub const MAX_TOP_SOURCES: usize = 256;
/// How many busy sources are remembered between rounds.
const MAX_BUSY: usize = 1024;
/// How many sources over their limit one round collects.
const MAX_OVER_LIMIT: usize = 4096;
/// Batches of the table read per second, and at least and at most with a tick. A round over a table of 200,000 entries takes
/// five seconds.
const BATCHES_PER_SECOND: f64 = 40.0;
const BATCHES_PER_TICK: std::ops::RangeInclusive<f64> = 1.0..=40.0;
/// The least time from the start of one round to that of the next. A round reads the tags of all places, however few sources
/// have an entry; a source that becomes busy in between is reported by an event.
const ROUND_EVERY: Duration = Duration::from_millis(250);
/// If fewer sources than this have got an entry since the last round began, the next one begins at once: whoever looks sees the
/// new ones. In a flood of new sources there is no end of them.
const FEW: u64 = 64;

/// The value sources are ordered by, largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceOrder {
    /// SYNs received.
    Syn,
    /// Half-open handshakes.
    HalfOpen,
    /// SYNs dropped.
    Dropped,
}

impl SourceOrder {
    const ALL: [Self; 3] = [Self::Syn, Self::HalfOpen, Self::Dropped];

    /// Returns the value of `entry` in this order; `now` is the current period of half-open windows.
    pub fn weight(self, entry: &SourceEntry, now: u32) -> u64 {
        match self {
            Self::Syn => entry.syn,
            Self::HalfOpen => entry.half_open.count(now),
            Self::Dropped => entry.dropped,
        }
    }
}

/// The addresses of the top sources of all orders, sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopSources(Vec<Address>);

impl TopSources {
    fn of(mut addresses: Vec<Address>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        Self(addresses)
    }

    /// Returns the addresses in ascending order.
    pub fn addresses(&self) -> &[Address] {
        &self.0
    }
}

/// The values of one source that a judgement is based on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceReading {
    /// The source address.
    #[serde(with = "as_text")]
    pub source: Address,
    /// Half-open handshakes.
    pub half_open: u64,
    /// The subset of them that began in the last two periods.
    pub recent_half_open: u64,
    /// Handshakes completed in the last two periods.
    pub recent_completed: u64,
    /// The estimated number of different ports it sent SYNs to in the current period.
    pub ports: u32,
    /// SYNs that were not dropped since the source got its entry.
    pub passed: u64,
    /// When its block ends, in jiffies; 0 if it was never blocked.
    pub blocked_until: u64,
}

/// Serializes an address as text.
mod as_text {
    use std::net::IpAddr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tcpguard_common::address::Address;

    pub fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<IpAddr>().map(Address::from).map_err(D::Error::custom)
    }
}

impl SourceReading {
    fn of(source: Address, entry: &SourceEntry, period: u32) -> Self {
        Self {
            source,
            half_open: entry.half_open.count(period),
            recent_half_open: entry.half_open.count_recent(period),
            recent_completed: entry.recent.count(period),
            ports: entry.ports.estimate(),
            passed: entry.syn.saturating_sub(entry.dropped),
            blocked_until: entry.blocked_until,
        }
    }
}

pub(super) struct SourceWatch {
    sources: SourceMap,
    /// Half-open handshakes allowed per source.
    limit: u64,
    scan: SourceScan,
    /// When slices of the table were read last.
    advanced: Option<Instant>,
    /// When the next round may begin, whatever was admitted.
    round_due: Every,
    is_in_round: bool,
    /// How many sources had got an entry when the last round began.
    admitted: u64,
    round: Round,
    /// The sources that became busy most recently, oldest first.
    busy: VecDeque<Address>,
    finished: FinishedRound,
}

/// What the current round over the table has found so far.
#[derive(Default)]
struct Round {
    entries: u64,
    leaders: [Leaders; SourceOrder::ALL.len()],
    over_limit: Vec<Address>,
    scanning: Vec<SourceReading>,
}

/// The result of the last complete round.
#[derive(Default)]
struct FinishedRound {
    entries: u64,
    leaders: Vec<Address>,
    max_half_open: Vec<Address>,
    over_limit: Vec<Address>,
    scanning: Vec<SourceReading>,
    /// The leaders and the sources that became busy since.
    top: Arc<TopSources>,
    is_top_stale: bool,
}

impl SourceWatch {
    pub fn new(sources: SourceMap, limit: u32) -> Self {
        Self {
            limit: limit.into(),
            sources,
            scan: SourceScan::default(),
            advanced: None,
            round_due: Every::new(ROUND_EVERY),
            is_in_round: false,
            admitted: 0,
            round: Round::default(),
            busy: VecDeque::new(),
            finished: FinishedRound::default(),
        }
    }

    /// Sets the number of half-open handshakes allowed per source.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit.into();
    }

    /// Reads the next slice of the table, unless the last round has just begun; `period` is the current period of half-open
    /// windows by `clock`, and `admitted` the number of sources that have got an entry.
    pub fn advance(&mut self, period: u32, clock: Clock, admitted: u64, now: Instant) -> Result<(), DatapathError> {
        let elapsed = self.advanced.replace(now).map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if !self.is_in_round {
            let has_few_new = (1..FEW).contains(&admitted.saturating_sub(self.admitted));
            if !self.round_due.is_due(now) && !has_few_new {
                return Ok(());
            }
            (self.is_in_round, self.admitted) = (true, admitted);
        }
        let batches = (BATCHES_PER_SECOND * elapsed.as_secs_f64()).round();
        for _ in 0..batches.clamp(*BATCHES_PER_TICK.start(), *BATCHES_PER_TICK.end()) as usize {
            let (round, limit) = (&mut self.round, self.limit);
            let progress = self.scan.next(&self.sources, |source, entry| {
                round.note(*source, entry, period, limit);
                if period.wrapping_sub(clock.window_period(entry.last_seen)) <= 1 {
                    round.note_scan(*source, entry, period);
                }
            })?;
            if progress == Progress::Complete {
                self.finish_round();
                return Ok(());
            }
        }
        Ok(())
    }

    fn finish_round(&mut self) {
        let round = std::mem::take(&mut self.round);
        self.is_in_round = false;
        let Round { entries, leaders, over_limit, scanning } = round;
        let [by_syn, by_half_open, by_dropped] = leaders.map(Leaders::into_addresses);
        self.finished = FinishedRound {
            entries,
            leaders: [by_syn, by_half_open.clone(), by_dropped].concat(),
            max_half_open: by_half_open,
            over_limit,
            scanning,
            is_top_stale: true,
            ..FinishedRound::default()
        };
    }

    /// Returns the present values of the sources with the most half-open handshakes, of those over their limit, and of
    /// those that became busy.
    pub fn suspects(&self, period: u32) -> Result<Vec<SourceReading>, DatapathError> {
        let finished = &self.finished;
        let all = finished.max_half_open.iter().chain(&finished.over_limit).chain(&self.busy).copied();
        let mut readings = Vec::new();
        for source in TopSources::of(all.collect()).addresses() {
            let entry = self.sources.get(*source)?;
            readings.extend(entry.map(|entry| SourceReading::of(*source, &entry, period)));
        }
        Ok(readings)
    }

    /// Adds a source that became busy to the top sources, until [`MAX_BUSY`] others have become busy since.
    pub fn note_busy(&mut self, source: Address) {
        if self.busy.contains(&source) {
            return;
        }
        if self.busy.len() == MAX_BUSY {
            self.busy.pop_front();
        }
        self.busy.push_back(source);
        self.finished.is_top_stale = true;
    }

    /// Returns the sources that sent SYNs to many ports recently.
    pub fn scanning(&self) -> &[SourceReading] {
        &self.finished.scanning
    }

    pub const fn tracked(&self) -> u64 {
        self.finished.entries
    }

    pub fn top(&mut self) -> Arc<TopSources> {
        if self.finished.is_top_stale {
            let all = self.finished.leaders.iter().chain(&self.busy).copied();
            self.finished.top = Arc::new(TopSources::of(all.collect()));
            self.finished.is_top_stale = false;
        }
        Arc::clone(&self.finished.top)
    }
}

impl Round {
    fn note_scan(&mut self, source: Address, entry: &SourceEntry, period: u32) {
        if self.scanning.len() < MAX_SCANNING && entry.ports.estimate() >= PORTS_OF_A_SCAN {
            self.scanning.push(SourceReading::of(source, entry, period));
        }
    }

    fn note(&mut self, source: Address, entry: &SourceEntry, period: u32, limit: u64) {
        self.entries += 1;
        if self.over_limit.len() < MAX_OVER_LIMIT && SourceOrder::HalfOpen.weight(entry, period) > limit {
            self.over_limit.push(source);
        }
        for (order, leaders) in SourceOrder::ALL.into_iter().zip(&mut self.leaders) {
            leaders.note(source, order.weight(entry, period));
        }
    }
}

/// The heaviest sources of one order. Twice as many as needed are collected before the lighter half is discarded, to
/// keep the cost per entry low in a table of many light sources.
#[derive(Default)]
struct Leaders {
    sources: Vec<(u64, Address)>,
    /// Only sources heavier than this are collected.
    least: u64,
}

impl Leaders {
    fn note(&mut self, source: Address, weight: u64) {
        if weight <= self.least {
            return;
        }
        self.sources.push((weight, source));
        if self.sources.len() == 2 * MAX_TOP_SOURCES {
            self.sources.select_nth_unstable_by(MAX_TOP_SOURCES, |left, right| right.cmp(left));
            self.sources.truncate(MAX_TOP_SOURCES);
            self.least = self.sources.iter().map(|(weight, _)| *weight).min().unwrap_or(0);
        }
    }

    fn into_addresses(mut self) -> Vec<Address> {
        self.sources.sort_unstable_by(|left, right| right.cmp(left));
        self.sources.truncate(MAX_TOP_SOURCES);
        self.sources.into_iter().map(|(_, source)| source).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_heaviest_lead() {
        let mut leaders = Leaders::default();
        for n in 0..100_000u32 {
            let weight = u64::from(n.wrapping_mul(2_654_435_761) % 100_003);
            leaders.note(Ipv4Addr::from(n).into(), weight);
        }
        let mut expected: Vec<(u64, Address)> = (0..100_000u32)
            .map(|n| (u64::from(n.wrapping_mul(2_654_435_761) % 100_003), Ipv4Addr::from(n).into()))
            .collect();
        expected.sort_unstable_by(|left, right| right.cmp(left));
        let least = expected[MAX_TOP_SOURCES - 1].0;
        let found: Vec<Address> = leaders.into_addresses();
        assert_eq!(found.len(), MAX_TOP_SOURCES);
        let heavier = expected.iter().filter(|(weight, _)| *weight > least);
        assert!(heavier.clone().count() > MAX_TOP_SOURCES - 5);
        for (_, source) in heavier {
            assert!(found.contains(source), "{source} is missing");
        }
    }

    #[test]
    fn a_round_counts_everything() {
        let mut round = Round::default();
        for n in 0..1000u32 {
            let mut entry = SourceEntry { syn: 1, ..SourceEntry::default() };
            entry.half_open.open(5);
            round.note(Ipv4Addr::from(n).into(), &entry, 5, 0);
        }
        assert_eq!(round.entries, 1000);
        assert_eq!(round.over_limit.len(), 1000);
        let leaders = round.leaders.map(Leaders::into_addresses).concat();
        assert_eq!(TopSources::of(leaders).0.len(), MAX_TOP_SOURCES);
    }
}
