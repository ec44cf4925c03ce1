//! The maps, each with one owner: typed, and taken once when the datapath is loaded.

mod challenges;
mod control;
mod counts;
mod destinations;
mod distinct;
mod events;
mod guarded;
mod known;
mod ports;
mod prefixes;
mod rules;
mod sources;

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
};
use tcpguard_common::layout::map;

use super::{DatapathError, DatapathOptions, LiveState};
pub use challenges::ChallengeMaps;
pub use control::ControlMap;
pub use counts::{CounterMap, Totals};
pub use destinations::{ListeningPorts, LocalAddresses, PayloadPolicies};
pub use distinct::DistinctMap;
pub use events::EventRing;
pub use guarded::GuardedInterfaces;
pub use known::{KnownSources, NewFilter};
pub use ports::PortMap;
pub use prefixes::{PrefixAccount, PrefixMap};
pub use rules::RuleMap;
pub use sources::{SourceMap, SourceScan};

/// Every map that the daemon uses.
pub struct Maps {
    /// Counters.
    pub counts: CounterMap,
    /// The source table.
    pub sources: SourceMap,
    /// The filter of sources that have an entry.
    pub known: KnownSources,
    /// The accounts of networks.
    pub prefixes: PrefixMap,
    /// What came to which port.
    pub ports: PortMap,
    /// How many sources there are.
    pub distinct: DistinctMap,
    /// Whose handshakes count.
    pub guarded: GuardedInterfaces,
    /// What the datapath tells at once.
    pub events: EventRing,
    /// What the datapath may do.
    pub control: ControlMap,
    /// What the lists say of networks.
    pub rules: RuleMap,
    /// The host's own addresses.
    pub local: LocalAddresses,
    /// The ports that have a listener.
    pub listening: ListeningPorts,
    /// What holds for SYNs with data.
    pub payload: PayloadPolicies,
    /// How SYNs are challenged.
    pub challenges: ChallengeMaps,
    /// Further handles of what decides, for twins.
    pub live: LiveState,
}

impl Maps {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        hash_key: u64,
        filter_blocks: u32,
        ticks_per_second: u32,
        options: &DatapathOptions,
    ) -> Result<Self, DatapathError> {
        let live = LiveState::of(ebpf, hash_key, options)?;
        Ok(Self {
            live,
            counts: CounterMap::new(take(ebpf, map::COUNTS)?),
            sources: SourceMap::new(take(ebpf, map::SOURCES)?),
            known: KnownSources::new(take(ebpf, map::KNOWN_SOURCES)?, hash_key, filter_blocks),
            prefixes: PrefixMap::new(take(ebpf, map::PREFIXES)?),
            ports: PortMap::new(take(ebpf, map::SYN_BY_PORT)?, take(ebpf, map::HANDSHAKES_BY_PORT)?),
            distinct: DistinctMap::new(take(ebpf, map::DISTINCT)?),
            guarded: GuardedInterfaces::new(take(ebpf, map::GUARDED_INTERFACES)?),
            events: EventRing::new(take(ebpf, map::EVENTS)?)?,
            control: ControlMap::new(take(ebpf, map::CONTROL)?),
            rules: RuleMap::new(take(ebpf, map::RULES)?),
            local: LocalAddresses::new(take(ebpf, map::LOCAL_ADDRESSES)?),
            listening: ListeningPorts::new(take(ebpf, map::LISTENING)?, ticks_per_second),
            payload: PayloadPolicies::new(take(ebpf, map::PAYLOAD_POLICY)?),
            challenges: ChallengeMaps::new(
                take(ebpf, map::CHALLENGES)?,
                take(ebpf, map::LISTENER_CHANGES)?,
                take(ebpf, map::ENDPOINTS)?,
            ),
        })
    }
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    map.try_into().map_err(DatapathError::map(name))
}

/// An array of which each CPU has its own.
type PerCpu<V> = aya::maps::PerCpuArray<MapData, V>;
