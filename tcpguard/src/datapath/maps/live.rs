//! Additional handles of the live datapath's maps, from which a twin copies its state.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError, lpm_trie::LpmTrie},
};
use tcpguard_common::{
    abi::{names::map, place::ProtectedPort, port::Endpoint, rule::Rule},
    address::Address,
};

use super::SourceMap;
use crate::datapath::{DatapathError, DatapathOptions};

/// The arrays that verdicts depend on. Counters are left out, as are the per-CPU arrays: they are caches, or decide the
/// admission to the source table.
const DECIDING: [&str; 14] = [
    map::CONTROL,
    map::LISTED_IPV4,
    map::DENIED_IPV4,
    map::LISTED_IPV6,
    map::LOCAL_ADDRESSES,
    map::LISTENING,
    map::LISTENER_CHANGES,
    map::PAYLOAD_POLICY,
    map::CHALLENGES,
    map::PORT_LOADS,
    map::HANDSHAKES,
    map::FIRST_SYNS,
    map::RETURNED_COOKIES,
    map::RELEASED_FLOWS,
];

/// Additional handles of the maps that verdicts depend on. Clones share them.
#[derive(Clone)]
pub struct LiveState(pub(in crate::datapath) Arc<LiveMaps>);

/// The handles behind a [`LiveState`].
pub(in crate::datapath) struct LiveMaps {
    pub arrays: Vec<(&'static str, LiveArray)>,
    pub sources: SourceMap,
    pub rules: LpmTrie<MapData, Address, Rule>,
    pub endpoints: HashMap<MapData, Endpoint, u32>,
    pub local_networks: LpmTrie<MapData, Address, u32>,
    pub protected_networks: LpmTrie<MapData, Address, u32>,
    pub protected_ports: HashMap<MapData, ProtectedPort, u32>,
    pub hash_key: u64,
    pub options: DatapathOptions,
}

/// An array and its size.
pub(in crate::datapath) struct LiveArray {
    pub fd: OwnedFd,
    pub entries: u32,
    pub value_size: u32,
}

impl LiveState {
    pub(super) fn of(ebpf: &Ebpf, hash_key: u64, options: &DatapathOptions) -> Result<Self, DatapathError> {
        let arrays = DECIDING.iter().map(|name| Ok((*name, LiveArray::of(ebpf, name)?)));
        Ok(Self(Arc::new(LiveMaps {
            arrays: arrays.collect::<Result<_, DatapathError>>()?,
            sources: SourceMap::new(
                again(ebpf, map::SOURCE_TAGS, Map::Array)?,
                again(ebpf, map::SOURCES, Map::Array)?,
                hash_key,
            ),
            rules: again(ebpf, map::RULES, Map::LpmTrie)?,
            endpoints: again(ebpf, map::ENDPOINTS, Map::HashMap)?,
            local_networks: again(ebpf, map::LOCAL_NETWORKS, Map::LpmTrie)?,
            protected_networks: again(ebpf, map::PROTECTED_NETWORKS, Map::LpmTrie)?,
            protected_ports: again(ebpf, map::PROTECTED_PORTS, Map::HashMap)?,
            hash_key,
            options: options.clone(),
        })))
    }
}

impl LiveArray {
    fn of(ebpf: &Ebpf, name: &'static str) -> Result<Self, DatapathError> {
        let map = ebpf.map(name).ok_or(DatapathError::Missing(name))?;
        let Map::Array(data) = map else { return Err(DatapathError::Missing(name)) };
        let info = data.info().map_err(DatapathError::map(name))?;
        Ok(Self { fd: duplicate(data, name)?, entries: info.max_entries(), value_size: info.value_size() })
    }
}

/// Returns an additional handle of a map.
fn again<M: TryFrom<Map, Error = MapError>>(
    ebpf: &Ebpf,
    name: &'static str,
    kind: fn(MapData) -> Map,
) -> Result<M, DatapathError> {
    let (Map::Array(data) | Map::LpmTrie(data) | Map::HashMap(data)) =
        ebpf.map(name).ok_or(DatapathError::Missing(name))?
    else {
        return Err(DatapathError::Missing(name));
    };
    let data = MapData::from_fd(duplicate(data, name)?).map_err(DatapathError::map(name))?;
    M::try_from(kind(data)).map_err(DatapathError::map(name))
}

fn duplicate(data: &MapData, name: &'static str) -> Result<OwnedFd, DatapathError> {
    data.fd().as_fd().try_clone_to_owned().map_err(|source| DatapathError::Batch { map: name, source })
}
