//! Half-open handshakes that the last attack left over, by source and prefix.
//!
//! They expire by themselves, up to [`COUNTED_LIFETIME`] after that attack. An attack that begins before then is classified
//! without them: its kind and its offenders follow from its own handshakes.

use std::time::Duration;

use tcpguard_common::address::Address;

use super::{Observation, State};
use crate::{
    monitor::{PrefixReading, SourceReading},
    time::COUNTED_LIFETIME,
};

/// How many sources are kept: those with the most handshakes.
const MAX_SOURCES: usize = 1024;

/// The handshakes left over. Over a restart they are forgotten: they are too many to be saved with every change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leftover {
    /// The handshakes of each source, in ascending order of addresses.
    sources: Vec<(Address, u64)>,
    /// The handshakes of each prefix, in ascending order of addresses.
    prefixes: Vec<(Address, u64)>,
    /// When all of them have expired.
    until: Duration,
}

impl Leftover {
    /// Returns what `observation`, the last of an attack, shows to be half open.
    pub fn of(observation: &Observation) -> Self {
        let mut sources: Vec<_> = observation.sources.iter().map(|source| (source.source, source.half_open)).collect();
        sources.sort_unstable_by_key(|(_, half_open)| std::cmp::Reverse(*half_open));
        sources.truncate(MAX_SOURCES);
        sources.sort_unstable();
        let mut prefixes: Vec<_> =
            observation.prefixes.iter().map(|prefix| (prefix.network, prefix.half_open)).collect();
        prefixes.sort_unstable();
        Self { sources, prefixes, until: observation.at + COUNTED_LIFETIME }
    }

    /// Takes note of the handshakes that have expired since.
    pub fn expire(&mut self, observation: &Observation) {
        if observation.at >= self.until {
            *self = Self::default();
            return;
        }
        for source in observation.sources {
            lower(&mut self.sources, source.source, source.half_open);
        }
        for prefix in observation.prefixes {
            lower(&mut self.prefixes, prefix.network, prefix.half_open);
        }
    }
}

/// What is half open beside the handshakes left over.
pub(super) struct Standing {
    /// The number of half-open handshakes in the datapath's count, over all scopes.
    pub half_open: u64,
    pub sources: Vec<SourceReading>,
    pub prefixes: Vec<PrefixReading>,
}

impl Standing {
    /// Returns what `observation` shows beside what `state` knows to be left over.
    pub fn of(observation: &Observation, state: &State) -> Self {
        let leftover = &state.leftover;
        let forgiven: u64 = state.scopes().map(|(_, scope)| scope.forgiven()).sum();
        let sources = observation.sources.iter().map(|source| {
            let half_open = source.half_open.saturating_sub(of(&leftover.sources, source.source));
            SourceReading { half_open, ..*source }
        });
        let prefixes = observation.prefixes.iter().map(|prefix| {
            let half_open = prefix.half_open.saturating_sub(of(&leftover.prefixes, prefix.network));
            PrefixReading { half_open, ..*prefix }
        });
        Self {
            half_open: observation.half_open().saturating_sub(forgiven),
            sources: sources.collect(),
            prefixes: prefixes.collect(),
        }
    }
}

fn of(handshakes: &[(Address, u64)], address: Address) -> u64 {
    handshakes.binary_search_by_key(&address, |(other, _)| *other).map_or(0, |place| handshakes[place].1)
}

/// Lowers the handshakes of `address` to at most `half_open`.
fn lower(handshakes: &mut [(Address, u64)], address: Address, half_open: u64) {
    if let Ok(place) = handshakes.binary_search_by_key(&address, |(other, _)| *other) {
        handshakes[place].1 = handshakes[place].1.min(half_open);
    }
}
