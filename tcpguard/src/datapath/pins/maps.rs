//! The choice of the pinned maps that can be taken over.

use std::{collections::BTreeMap, io};

use aya::maps::{Array, Map, MapData};
use tcpguard_common::abi::{
    names::map,
    takeover::{CARRIED_MAPS, Instance, SOURCE_TABLE},
};
use tracing::{debug, warn};

use super::{
    Pins,
    name::{self, OF},
    object::PinnedObject,
    unpin,
};
use crate::{datapath::DatapathError, fault};

/// The properties that the programs require of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::datapath) struct Expected {
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
}

impl Expected {
    /// Returns the properties of each map in a BPF object, by the map's name.
    pub fn of_object(object: &[u8]) -> Result<BTreeMap<String, Self>, DatapathError> {
        let object = aya_obj::Object::parse(object).map_err(|error| DatapathError::Object(error.to_string()))?;
        let expected = object.maps.iter().map(|(name, map)| {
            let expected = Self {
                map_type: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: map.max_entries(),
                map_flags: map.map_flags(),
            };
            (name.clone(), expected)
        });
        Ok(expected.collect())
    }

    fn is_met_by(&self, object: &PinnedObject) -> bool {
        let described = [
            ("map_type", self.map_type),
            ("key_size", self.key_size),
            ("value_size", self.value_size),
            ("max_entries", self.max_entries),
            ("map_flags", self.map_flags),
        ];
        described.iter().all(|(key, expected)| object.number(key) == Some(*expected))
    }
}

/// The result of examining the previous daemon's maps.
#[derive(Debug, Default)]
pub(in crate::datapath) struct TakenOver {
    /// The parameters the maps were created with; `None` if there is nothing to take over.
    pub instance: Option<Instance>,
    /// The content that could not be taken over.
    pub dropped: Vec<&'static str>,
}

impl Pins {
    /// Examines the pinned maps, and unpins those that do not have the expected properties or that `fits` rejects,
    /// given the parameters they were created with and their name.
    pub(in crate::datapath) fn keep_fitting_maps(
        &self,
        expected: &BTreeMap<String, Expected>,
        fits: impl Fn(&Instance, &str) -> bool,
    ) -> TakenOver {
        let instance = self.instance(expected);
        let mut found = TakenOver { instance, dropped: Vec::new() };
        let mut kept: Vec<String> = Vec::new();
        let fitting = CARRIED_MAPS.into_iter().filter(|carried| {
            let object = PinnedObject::open(&self.map_path(*carried)).ok();
            object.zip(expected.get(carried.map)).is_some_and(|(object, expected)| expected.is_met_by(&object))
                && instance.is_some_and(|instance| fits(&instance, carried.map))
        });
        let fitting: Vec<&str> = fitting.map(|carried| carried.map).collect();
        let has_source_table = SOURCE_TABLE.iter().all(|map| fitting.contains(map));
        for carried in CARRIED_MAPS {
            let is_usable = has_source_table || !SOURCE_TABLE.contains(&carried.map);
            if is_usable && fitting.contains(&carried.map) {
                kept.push(name::of_map(carried));
            } else if instance.is_some() {
                found.dropped.push(carried.content);
            } else if self.map_path(carried).exists() {
                debug!("{} cannot be taken over", self.map_path(carried).display());
            }
        }
        for name in super::names(&self.maps_folder()).iter().filter(|name| !kept.contains(name) && !name.contains(OF)) {
            fault::point("removing the pin of a map");
            unpin(&self.maps_folder().join(name));
        }
        found
    }

    /// Returns the parameters the pinned maps were created with.
    fn instance(&self, expected: &BTreeMap<String, Expected>) -> Option<Instance> {
        let carried = CARRIED_MAPS.into_iter().find(|carried| carried.map == map::INSTANCE)?;
        let object = PinnedObject::open(&self.map_path(carried)).ok()?;
        if !expected.get(carried.map)?.is_met_by(&object) {
            warn!("the object pinned as {} is not a map of tcpguard", self.map_path(carried).display());
            return None;
        }
        let data = MapData::from_fd(object.into_fd()).ok()?;
        // The default value: the map was pinned, but not written before the daemon died.
        read_instance(&Array::try_from(Map::Array(data)).ok()?).ok().filter(|instance| *instance != Instance::default())
    }
}

pub(in crate::datapath) fn read_instance(map: &Array<MapData, Instance>) -> io::Result<Instance> {
    map.get(&0, 0).map_err(io::Error::other)
}

/// Returns whether the object pinned at `path` is attached to an existing interface.
pub(super) fn is_attached(path: &std::path::Path) -> bool {
    PinnedObject::open(path).is_ok_and(|link| link.number("ifindex").is_some_and(|index| index != 0))
}
