//! Typed owners of the maps, created once when the datapath is loaded.

mod by_cpu;
mod challenges;
mod counts;
mod destinations;
mod distinct;
mod events;
mod guarded;
mod headers;
mod lease;
mod live;
mod ports;
mod prefixes;
mod protected;
mod rules;
mod sources;

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError},
};
use tcpguard_common::abi::names::map;

use super::{DatapathError, DatapathOptions};
pub use by_cpu::ByCpu;
pub use challenges::ChallengeMaps;
pub use counts::{CounterMap, Totals};
pub use destinations::{ListeningPorts, LocalAddresses, PayloadPolicies};
pub use distinct::DistinctMap;
pub use events::EventRing;
pub use guarded::GuardedInterfaceMap;
pub use headers::SynHeaderMap;
pub use lease::LeaseMap;
pub(in crate::datapath) use live::LiveMaps;
pub use live::LiveState;
pub use ports::PortMap;
pub use prefixes::{PrefixAccount, PrefixMap};
pub use protected::ProtectedMaps;
pub use rules::{OutlineTable, RuleMap};
pub use sources::{Progress, SourceMap, SourceScan};

/// The maps that the monitor observes.
pub struct ObservedMaps {
    /// The counters.
    pub counts: CounterMap,
    /// The source table.
    pub sources: SourceMap,
    /// The accounts of prefixes.
    pub prefixes: PrefixMap,
    /// SYNs and handshakes per port.
    pub ports: PortMap,
    /// The estimate of distinct sources.
    pub distinct: DistinctMap,
    /// What the headers of SYNs have in common.
    pub headers: SynHeaderMap,
    /// The ports with a listener.
    pub listening: ListeningPorts,
}

/// All maps that the daemon accesses, each with its owner.
pub struct Maps {
    /// What the monitor observes.
    pub observed: ObservedMaps,
    /// The interfaces on which handshakes of sources without an entry count.
    pub guarded: GuardedInterfaceMap,
    /// Events that the datapath reports immediately.
    pub events: EventRing,
    /// The lease and the limits that hold under it.
    pub lease: LeaseMap,
    /// The rules for networks.
    pub rules: RuleMap,
    /// The host's own addresses.
    pub local: LocalAddresses,
    /// The protected networks.
    pub protected: ProtectedMaps,
    /// The policies for SYNs with data, per port.
    pub payload: PayloadPolicies,
    /// The challenge terms per port.
    pub challenges: ChallengeMaps,
    /// Additional handles of the maps that verdicts depend on, for twins.
    pub live: LiveState,
}

impl Maps {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        hash_key: u64,
        cpus: u32,
        options: &DatapathOptions,
    ) -> Result<Self, DatapathError> {
        let live = LiveState::of(ebpf, hash_key, options)?;
        Ok(Self {
            live,
            observed: ObservedMaps {
                counts: CounterMap::new(take(ebpf, map::COUNTS)?),
                sources: SourceMap::new(take(ebpf, map::SOURCE_TAGS)?, take(ebpf, map::SOURCES)?, hash_key),
                prefixes: PrefixMap::new(ByCpu::new(map::PREFIXES, take(ebpf, map::PREFIXES)?, cpus)),
                ports: PortMap::new(
                    ByCpu::new(map::SYN_BY_PORT, take(ebpf, map::SYN_BY_PORT)?, cpus),
                    take(ebpf, map::HANDSHAKES_BY_PORT)?,
                    take(ebpf, map::PORT_MARKS)?,
                ),
                distinct: DistinctMap::new(take(ebpf, map::DISTINCT)?),
                headers: SynHeaderMap::new(take(ebpf, map::SYN_HEADERS)?, take(ebpf, map::COMPLETED_SHAPES)?),
                listening: ListeningPorts::new(take(ebpf, map::LISTENING)?),
            },
            guarded: GuardedInterfaceMap::new(take(ebpf, map::GUARDED_INTERFACES)?),
            events: EventRing::new(take(ebpf, map::EVENTS)?)?,
            lease: LeaseMap::new(take(ebpf, map::CONTROL)?),
            rules: RuleMap::new(take(ebpf, map::RULES)?, take_outline(ebpf)?, hash_key),
            local: LocalAddresses::new(take(ebpf, map::LOCAL_ADDRESSES)?, take(ebpf, map::LOCAL_NETWORKS)?),
            protected: ProtectedMaps::new(take(ebpf, map::PROTECTED_NETWORKS)?, take(ebpf, map::PROTECTED_PORTS)?),
            payload: PayloadPolicies::new(take(ebpf, map::PAYLOAD_POLICY)?),
            challenges: ChallengeMaps::new(
                take(ebpf, map::CHALLENGES)?,
                take(ebpf, map::LISTENER_CHANGES)?,
                take(ebpf, map::ENDPOINTS)?,
            ),
        })
    }
}

fn take_outline(ebpf: &mut Ebpf) -> Result<[Array<MapData, u64>; 3], DatapathError> {
    let [listed, denied, ipv6] = OutlineTable::ALL.map(OutlineTable::name);
    Ok([take(ebpf, listed)?, take(ebpf, denied)?, take(ebpf, ipv6)?])
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    map.try_into().map_err(DatapathError::map(name))
}

/// A per-CPU array.
type PerCpu<V> = aya::maps::PerCpuArray<MapData, V>;
