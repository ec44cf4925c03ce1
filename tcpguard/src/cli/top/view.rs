//! What is shown: the last that the daemon said, and what the operator wants to see of it.

use std::{cmp::Reverse, collections::VecDeque};

use crate::{
    api::model::{HistoryReport, Source, Stats},
    cli::sort::Sort,
    events::Event,
};

/// Seconds of rates that are kept: as many as the widest terminal has columns.
const MOST_RATES: usize = 400;
/// Events that are kept.
const MOST_EVENTS: usize = 100;

/// What is shown.
pub struct View {
    /// The last `/stats`.
    pub stats: Option<Stats>,
    /// The last `/sources`.
    pub sources: Vec<Source>,
    /// SYNs of each second, the oldest first.
    pub rates: VecDeque<u64>,
    /// Events, the latest first.
    pub events: VecDeque<Event>,
    /// Why there is nothing new.
    pub problem: Option<String>,
    /// What sources are ordered by.
    pub sort: Sort,
    /// What a source's address must contain.
    pub filter: String,
    /// Whether keys go into the filter.
    pub is_typing: bool,
    /// How many sources are above the first that is shown.
    pub scroll: usize,
}

impl View {
    /// Nothing yet.
    pub fn new(sort: Sort, filter: &str) -> Self {
        Self {
            stats: None,
            sources: Vec::new(),
            rates: VecDeque::new(),
            events: VecDeque::new(),
            problem: None,
            sort,
            filter: filter.to_owned(),
            is_typing: false,
            scroll: 0,
        }
    }

    /// The daemon said how things stand.
    pub fn take_stats(&mut self, stats: Stats) {
        let is_next = self.stats.as_ref().is_none_or(|last| stats.time.duration_since(last.time).as_secs_f64() > 0.9);
        if is_next {
            self.rates.push_back(stats.rates.syn_per_second as u64);
        }
        if self.rates.len() > MOST_RATES {
            self.rates.pop_front();
        }
        self.stats = Some(stats);
        self.problem = None;
    }

    /// The daemon said what was before.
    pub fn take_history(&mut self, history: &HistoryReport) {
        let skipped = history.syn_per_second.len().saturating_sub(MOST_RATES);
        self.rates = history.syn_per_second.iter().skip(skipped).map(|rate| *rate as u64).collect();
        self.events.clear();
    }

    /// Something happened.
    pub fn take_event(&mut self, event: Event) {
        // One that was recorded while past ones were asked for comes twice.
        if self.events.iter().any(|known| known.id == event.id) {
            return;
        }
        self.events.push_front(event);
        self.events.truncate(MOST_EVENTS);
    }

    /// The sources that are wanted, in the order that is wanted.
    pub fn wanted_sources(&self) -> Vec<&Source> {
        let filter = self.filter.to_ascii_lowercase();
        let mut sources: Vec<&Source> = self.sources.iter().filter(|source| source.source.contains(&filter)).collect();
        sources.sort_by_key(|source| Reverse(self.sort.weight(source)));
        sources
    }
}
