//! The state of the screen: the latest data from the daemon, and the operator's sort order and filter.

use std::{cmp::Reverse, collections::VecDeque};

use crate::{
    api::model::{HistoryReport, Source, Stats},
    cli::sort::Sort,
    events::Event,
};

/// Maximum number of per-second rates kept, one for each column of a very wide terminal.
const MAX_RATES: usize = 400;
/// Maximum number of events kept.
const MAX_EVENTS: usize = 100;

/// The state of the screen.
pub struct View {
    /// Latest `/stats`; `None` until the first answer.
    pub stats: Option<Stats>,
    /// Latest `/sources`.
    pub sources: Vec<Source>,
    /// SYNs per second, one value for each second, oldest first.
    pub rates: VecDeque<u64>,
    /// Events, latest first.
    pub events: VecDeque<Event>,
    /// Why the daemon cannot be reached, if it cannot.
    pub problem: Option<String>,
    /// Sort order of the sources.
    pub sort: Sort,
    /// Text that the address of a shown source must contain.
    pub filter: String,
    /// Whether key presses edit the filter.
    pub is_typing: bool,
    /// Number of sources scrolled past.
    pub scroll: usize,
}

impl View {
    /// Creates a view without data.
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

    /// Applies a `/stats` message.
    pub fn take_stats(&mut self, stats: Stats) {
        let is_next = self.stats.as_ref().is_none_or(|last| stats.time.duration_since(last.time).as_secs_f64() > 0.9);
        if is_next {
            self.rates.push_back(stats.rates.syn_per_second as u64);
        }
        if self.rates.len() > MAX_RATES {
            self.rates.pop_front();
        }
        self.stats = Some(stats);
        self.problem = None;
    }

    /// Replaces the rates by the daemon's history and clears the events, which are requested next.
    pub fn take_history(&mut self, history: &HistoryReport) {
        let skipped = history.syn_per_second.len().saturating_sub(MAX_RATES);
        self.rates = history.syn_per_second.iter().skip(skipped).map(|rate| *rate as u64).collect();
        self.events.clear();
    }

    /// Adds an event, unless it is already known.
    pub fn take_event(&mut self, event: Event) {
        // An event recorded while past events are requested arrives twice.
        if self.events.iter().any(|known| known.id == event.id) {
            return;
        }
        self.events.push_front(event);
        self.events.truncate(MAX_EVENTS);
    }

    /// Returns the sources that match the filter, in sort order.
    pub fn wanted_sources(&self) -> Vec<&Source> {
        let filter = self.filter.to_ascii_lowercase();
        let mut sources: Vec<&Source> = self.sources.iter().filter(|source| source.source.contains(&filter)).collect();
        sources.sort_by_key(|source| Reverse(self.sort.weight(source)));
        sources
    }
}
